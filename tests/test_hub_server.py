"""The stand-in of the hub, as the real clients see it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hub_server import HubServer, use_in_process
from tests.raising import raises

huggingface_hub = pytest.importorskip("huggingface_hub")

from huggingface_hub import errors  # noqa: E402

pytestmark = pytest.mark.enable_socket

#: Files of a repository: one in git, one in a subfolder, and a large one.
FILES = {"config.json": b"{}", "1_Pooling/config.json": b'{"pooling": 1}', "model.safetensors": bytes(range(256))}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer() as hub:
        use_in_process(hub, tmp_path / "home", monkeypatch)
        yield hub


def read_files(folder: str) -> dict[str, bytes]:
    paths = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.mark.parametrize("repo_id", ["acme/tiny", "tiny"])
def test_a_snapshot_has_the_files_of_the_commit(hub: HubServer, tmp_path: Path, repo_id: str) -> None:
    commit = hub.commit(repo_id, FILES)
    folder = huggingface_hub.snapshot_download(repo_id)
    assert Path(folder) == tmp_path / "home/hub" / f"models--{repo_id.replace('/', '--')}" / "snapshots" / commit
    assert read_files(folder) == FILES


def test_a_data_set_is_another_repository_than_the_model_of_the_same_name(hub: HubServer) -> None:
    hub.commit("acme/tiny", FILES)
    commit = hub.commit("datasets/acme/tiny", {"qrels.txt": b"1 0 d1 1\n"})
    folder = huggingface_hub.snapshot_download("acme/tiny", repo_type="dataset")
    assert read_files(folder) == {"qrels.txt": b"1 0 d1 1\n"}
    assert huggingface_hub.HfApi().dataset_info("acme/tiny").sha == commit


def test_a_single_file_of_each_kind(hub: HubServer, tmp_path: Path) -> None:
    commit = hub.commit("acme/tiny", FILES)
    for name, content in FILES.items():
        path = huggingface_hub.hf_hub_download("acme/tiny", name, cache_dir=tmp_path / "cache")
        assert path.endswith(f"snapshots/{commit}/{name}")
        assert Path(path).read_bytes() == content


def test_metadata(hub: HubServer) -> None:
    commit = hub.commit("acme/tiny", FILES)
    for info in (huggingface_hub.model_info("acme/tiny"), huggingface_hub.HfApi().model_info("acme/tiny")):
        assert (info.id, info.sha) == ("acme/tiny", commit)
        assert {file.rfilename for file in info.siblings} == set(FILES)
    api = huggingface_hub.HfApi()
    sizes = {entry.path: entry.size for entry in api.list_repo_tree("acme/tiny", recursive=True)}
    assert sizes == {path: len(content) for path, content in FILES.items()}
    assert [entry.path for entry in api.list_repo_tree("acme/tiny", "1_Pooling")] == ["1_Pooling/config.json"]
    assert {entry.path for entry in api.list_repo_tree("acme/tiny")} == {"config.json", "model.safetensors"}
    assert api.file_exists("acme/tiny", "model.safetensors")
    assert not api.file_exists("acme/tiny", "README.md")
    assert not api.file_exists("acme/other", "config.json")


def test_large_files_have_the_metadata_of_lfs(hub: HubServer) -> None:
    commit = hub.commit("acme/tiny", FILES)
    url = huggingface_hub.hf_hub_url("acme/tiny", "model.safetensors")
    metadata = huggingface_hub.get_hf_file_metadata(url)
    assert (metadata.commit_hash, metadata.size, len(metadata.etag)) == (commit, 256, 64)
    assert metadata.location != url
    assert metadata.xet_file_data is None
    entries = huggingface_hub.HfApi().list_repo_tree("acme/tiny", recursive=True)
    assert {entry.path: entry.lfs.sha256 for entry in entries if entry.lfs} == {"model.safetensors": metadata.etag}


def test_main_moves_and_old_commits_stay(hub: HubServer) -> None:
    first = hub.commit("acme/tiny", {"config.json": b"1"})
    huggingface_hub.snapshot_download("acme/tiny")
    second = hub.commit("acme/tiny", {"config.json": b"2"})
    assert first != second
    folder = huggingface_hub.snapshot_download("acme/tiny")
    assert folder.endswith(second)
    assert read_files(folder) == {"config.json": b"2"}
    old = huggingface_hub.snapshot_download("acme/tiny", revision=first)
    assert old.endswith(first)
    assert read_files(old) == {"config.json": b"1"}


def test_branches_and_tags_are_revisions(hub: HubServer) -> None:
    main = hub.commit("acme/tiny", {"config.json": b"1"})
    branch = hub.commit("acme/tiny", {"config.json": b"2"}, branch="refs/pr/1")
    hub.tag("acme/tiny", "v1.0", main)
    for revision, commit in (("main", main), ("refs/pr/1", branch), ("v1.0", main)):
        assert huggingface_hub.snapshot_download("acme/tiny", revision=revision).endswith(commit)
        assert huggingface_hub.HfApi().model_info("acme/tiny", revision=revision).sha == commit


def test_commit_ids_are_deterministic() -> None:
    hubs = [HubServer(), HubServer()]
    assert len({hub.commit("acme/tiny", FILES) for hub in hubs}) == 1
    assert len({hub.commit("acme/tiny", FILES) for hub in hubs}) == 1
    assert hubs[0].commit("acme/tiny", FILES) != hubs[1].commit("acme/other", FILES)  # a third and a first commit


def test_what_is_missing_raises_the_errors_of_the_client(hub: HubServer) -> None:
    hub.commit("acme/tiny", FILES)
    with pytest.raises(errors.RepositoryNotFoundError):
        huggingface_hub.snapshot_download("acme/other")
    with pytest.raises(errors.RevisionNotFoundError):
        huggingface_hub.snapshot_download("acme/tiny", revision="v2")
    with pytest.raises(errors.RemoteEntryNotFoundError):
        huggingface_hub.hf_hub_download("acme/tiny", "README.md")


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_repository_refuses_its_files_only(hub: HubServer, status: int) -> None:
    commit = hub.commit("acme/tiny", FILES)
    hub.refuse("acme/tiny", status)
    assert huggingface_hub.HfApi().model_info("acme/tiny").sha == commit
    with raises(errors.GatedRepoError, status):
        huggingface_hub.snapshot_download("acme/tiny")
    with raises(errors.GatedRepoError, status):
        huggingface_hub.hf_hub_download("acme/tiny", "config.json")
    hub.refuse("acme/tiny", None)
    assert read_files(huggingface_hub.snapshot_download("acme/tiny")) == FILES


@pytest.mark.parametrize("name", ["model.safetensors", "vocab.txt"])
def test_ranges(hub: HubServer, name: str) -> None:
    content = bytes(range(256))
    hub.commit("acme/tiny", {name: content})
    url = huggingface_hub.hf_hub_url("acme/tiny", name)
    for byte_range, expected in (("10-19", content[10:20]), ("250-", content[250:]), ("250-999", content[250:])):
        response = huggingface_hub.get_session().get(url, headers={"Range": f"bytes={byte_range}"})
        assert (response.status_code, response.content) == (206, expected)
        assert response.headers["Content-Range"].endswith(f"-{content.index(expected) + len(expected) - 1}/256")
    assert huggingface_hub.get_session().get(url, headers={"Range": "bytes=256-"}).status_code == 416


def test_a_commit_in_the_cache_needs_no_request(hub: HubServer) -> None:
    commit = hub.commit("acme/tiny", FILES)
    folder = huggingface_hub.snapshot_download("acme/tiny")
    hub.requests.clear()
    assert huggingface_hub.snapshot_download("acme/tiny", revision=commit) == folder
    assert hub.requests == []
    assert huggingface_hub.snapshot_download("acme/tiny") == folder
    assert hub.requests == [("GET", "/api/models/acme/tiny/revision/main")]


def test_a_stopped_hub_leaves_the_cache_and_comes_back(hub: HubServer) -> None:
    hub.commit("acme/tiny", FILES)
    folder = huggingface_hub.snapshot_download("acme/tiny")
    hub.stop()
    assert huggingface_hub.snapshot_download("acme/tiny") == folder
    assert huggingface_hub.hf_hub_download("acme/tiny", "config.json") == f"{folder}/config.json"
    with pytest.raises(errors.LocalEntryNotFoundError):
        huggingface_hub.snapshot_download("acme/other")
    with pytest.raises(errors.LocalEntryNotFoundError):
        huggingface_hub.hf_hub_download("acme/tiny", "README.md")
    url = hub.url
    hub.start()
    assert hub.url == url
    commit = hub.commit("acme/tiny", {"config.json": b"2"})
    assert huggingface_hub.snapshot_download("acme/tiny").endswith(commit)


def save_encoder(folder: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    (folder / "tokens").mkdir(parents=True)
    vocabulary = folder / "tokens/vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"]), encoding="utf-8")
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.BertConfig(vocab_size=7, intermediate_size=16, max_position_embeddings=16, **sizes)
    transformers.BertModel(config).save_pretrained(folder)
    transformers.BertTokenizer(str(vocabulary)).save_pretrained(folder)


def test_transformers_and_sentence_transformers_load_from_it(hub: HubServer, tmp_path: Path) -> None:
    save_encoder(tmp_path / "encoder")
    import transformers

    commit = hub.commit("acme/encoder", tmp_path / "encoder")
    assert transformers.AutoConfig.from_pretrained("acme/encoder").hidden_size == 16
    assert transformers.AutoModel.from_pretrained("acme/encoder").num_parameters() > 0
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained("acme/encoder")
    assert tokenizer("a b")["input_ids"] == [2, 5, 6, 3]
    sentence_transformers = pytest.importorskip("sentence_transformers")
    model = sentence_transformers.SentenceTransformer("acme/encoder", device="cpu")
    assert model.encode(["a b"]).shape == (1, 16)
    snapshots = [path.relative_to(tmp_path) for path in tmp_path.glob("home/hub/*/snapshots/*")]
    assert snapshots == [Path(f"home/hub/models--acme--encoder/snapshots/{commit}")]


def test_another_process_uses_it(tmp_path: Path) -> None:
    code = "import huggingface_hub; print(huggingface_hub.snapshot_download('acme/tiny'))"
    with HubServer() as hub:
        commit = hub.commit("acme/tiny", FILES)
        variables = os.environ | hub.environment(tmp_path / "home")
        command = [sys.executable, "-c", code]
        result = subprocess.run(command, env=variables, capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.strip() == str(tmp_path / f"home/hub/models--acme--tiny/snapshots/{commit}")
    assert hub.requests[0] == ("GET", "/api/models/acme/tiny/revision/main")


def test_the_script_serves_a_folder(tmp_path: Path) -> None:
    (tmp_path / "models/acme/tiny").mkdir(parents=True)
    (tmp_path / "models/acme/tiny/config.json").write_bytes(b"{}")
    command = [sys.executable, str(Path(__file__).with_name("hub_server.py")), str(tmp_path / "models")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        url = process.stdout.readline().strip()
        try:
            folder = huggingface_hub.snapshot_download("acme/tiny", endpoint=url, cache_dir=tmp_path / "cache")
        finally:
            process.terminate()
    assert read_files(folder) == {"config.json": b"{}"}

"""The stand-in of the hub, as the real clients see it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub_server import Fault, HubServer, use_in_process

huggingface_hub = pytest.importorskip("huggingface_hub")


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


def test_a_data_set_is_another_repository_than_the_model_of_the_same_name(hub: HubServer) -> None:
    hub.commit("acme/tiny", FILES)
    commit = hub.commit("datasets/acme/tiny", {"qrels.txt": b"1 0 d1 1\n"})
    folder = huggingface_hub.snapshot_download("acme/tiny", repo_type="dataset")
    assert read_files(folder) == {"qrels.txt": b"1 0 d1 1\n"}
    assert huggingface_hub.HfApi().dataset_info("acme/tiny").sha == commit


def test_metadata(hub: HubServer) -> None:
    commit = hub.commit("acme/tiny", FILES)
    for info in (huggingface_hub.model_info("acme/tiny"), huggingface_hub.HfApi().model_info("acme/tiny")):
        assert (info.id, info.sha) == ("acme/tiny", commit)
        assert {file.rfilename for file in info.siblings} == set(FILES)
    api = huggingface_hub.HfApi()
    entries = list(api.list_repo_tree("acme/tiny", recursive=True))
    sizes = {entry.path: entry.size for entry in entries if hasattr(entry, "size")}
    assert sizes == {path: len(content) for path, content in FILES.items()}
    assert [entry.path for entry in api.list_repo_tree("acme/tiny", "1_Pooling")] == ["1_Pooling/config.json"]
    top = ["1_Pooling", "config.json", "model.safetensors"]
    assert [entry.path for entry in api.list_repo_tree("acme/tiny")] == top
    (found,) = api.get_paths_info("acme/tiny", ["model.safetensors", "absent.txt"], expand=True)
    assert (found.lfs.size, found.last_commit.oid, found.xet_hash) == (256, commit, None)
    assert api.file_exists("acme/tiny", "model.safetensors")
    assert not api.file_exists("acme/tiny", "README.md")
    assert not api.file_exists("acme/other", "config.json")


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


def test_a_private_repository_exists_only_for_its_token(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.commit("acme/tiny", FILES)
    hub.hide("acme/tiny", "secret")
    with pytest.raises(huggingface_hub.errors.RepositoryNotFoundError):
        huggingface_hub.snapshot_download("acme/tiny")
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert read_files(huggingface_hub.snapshot_download("acme/tiny")) == FILES


def test_sizes_are_in_the_information_about_a_model(hub: HubServer) -> None:
    hub.commit("acme/tiny", FILES)
    info = huggingface_hub.HfApi().model_info("acme/tiny", files_metadata=True)
    assert {file.rfilename: file.size for file in info.siblings} == {name: len(text) for name, text in FILES.items()}


def test_faults(hub: HubServer) -> None:
    hub.commit("acme/tiny", FILES)
    hub.faults = [Fault(path="^/api", is_silent=True, times=1), Fault(path="/storage/", cut_at=100, times=1)]
    with pytest.raises(Exception, match="timed out"):
        huggingface_hub.HfApi().model_info("acme/tiny", timeout=0.1)
    assert read_files(huggingface_hub.snapshot_download("acme/tiny")) == FILES
    hub.faults = [Fault(path="1_Pooling", status=500)]
    assert huggingface_hub.get_session().get(f"{hub.url}/acme/tiny/resolve/main/config.json").status_code == 200
    pooling = huggingface_hub.get_session().get(f"{hub.url}/acme/tiny/resolve/main/1_Pooling/config.json")
    assert pooling.status_code == 500
    started = time.monotonic()
    hub.faults = [Fault(path="/storage/", bytes_per_second=1000)]
    url = huggingface_hub.hf_hub_url("acme/tiny", "model.safetensors")
    assert huggingface_hub.get_session().get(url).content == FILES["model.safetensors"]
    assert time.monotonic() - started > 0.2


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


def test_listings_have_pages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with HubServer(page_size=2) as hub:
        use_in_process(hub, tmp_path / "home", monkeypatch)
        hub.commit("acme/tiny", {f"{number}.txt": b"" for number in range(5)})
        assert len(list(huggingface_hub.HfApi().list_repo_tree("acme/tiny", recursive=True))) == 5
        assert len([path for _, path in hub.requests if "/tree/" in path]) == 3


def test_branches_tags_pull_requests_and_commits(hub: HubServer) -> None:
    first = hub.commit("acme/tiny", FILES)
    second = hub.commit("acme/tiny", FILES | {"config.json": b"[]"})
    hub.tag("acme/tiny", "v1", first)
    asked = hub.commit("acme/tiny", FILES | {"model.safetensors": b"another"}, branch="refs/pr/1")
    api = huggingface_hub.HfApi()
    refs = api.list_repo_refs("acme/tiny", include_pull_requests=True)
    assert [(ref.ref, ref.target_commit) for ref in refs.branches] == [("refs/heads/main", second)]
    assert [(ref.ref, ref.target_commit) for ref in refs.tags] == [("refs/tags/v1", first)]
    assert [(ref.ref, ref.target_commit) for ref in refs.pull_requests] == [("refs/pr/1", asked)]
    assert [commit.commit_id for commit in api.list_repo_commits("acme/tiny")] == [second, first]
    (discussion,) = api.get_repo_discussions("acme/tiny")
    assert (discussion.author, discussion.git_reference) == ("SFconvertbot", "refs/pr/1")
    path = huggingface_hub.hf_hub_download("acme/tiny", "model.safetensors", revision="refs/pr/1")
    assert Path(path).read_bytes() == b"another"


@pytest.mark.parametrize("token", ["", "hf_other", "hf_mine"])
def test_gated_and_private_repositories(hub: HubServer, token: str) -> None:
    from huggingface_hub import errors

    for name, is_private in (("acme/gated", False), ("acme/private", True)):
        hub.commit(name, FILES)
        (hub.hide if is_private else hub.require_token)(name, "hf_mine")

    def outcome(name: str) -> object:
        try:
            return Path(huggingface_hub.hf_hub_download(name, "config.json", token=token or False)).read_bytes()
        except errors.HfHubHTTPError as error:
            return type(error).__name__, error.response.status_code

    opened = token == "hf_mine"
    status = 403 if token else 401
    assert outcome("acme/gated") == (b"{}" if opened else ("GatedRepoError", status))
    hidden = 404 if token else 401
    assert outcome("acme/private") == (b"{}" if opened else ("RepositoryNotFoundError", hidden))
    assert outcome("acme/absent") == ("RepositoryNotFoundError", hidden)
    assert huggingface_hub.model_info("acme/gated", token=token or False).gated == "manual"

"""Models on the hub, read by the real client from a stand-in: the commit is resolved once, loaded, and recorded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sentence_transformers")

import torch
from safetensors.torch import load_file, save_file

from rerank.assemble import assemble_ranker
from rerank.errors import DataError, MissingResourceError, RerankError, UsageError
from rerank.experiment import prepare_run, run_experiment
from rerank.experiment.execute import execute_run
from rerank.experiment.spec import Execution, RunSpec
from rerank.lm.loading import quiet_transformers
from rerank.lm.model_files import ModelFiles, locate_model, one_commit_per_model
from rerank.models import open_model_backend
from rerank.models.adapters import adapter_folder
from rerank.reranker import Reranker
from rerank.retrieval import open_first_stage
from rerank.tasks import BackendOptions
from rerank.types import Query
from tests.backends.pairs import save
from tests.cli.conftest import Cli, cli
from tests.experiment.conftest import Lists, lists
from tests.hub_server import HubServer, use_in_process
from tests.models.test_lazy_backend import save as save_language_model
from tests.raising import raises
from tests.retrieval.conftest import MakeCorpus, make_corpus
from tests.retrieval.encoders import save_encoder

__all__ = ["cli", "lists", "make_corpus"]

pytestmark = pytest.mark.enable_socket
FLOAT32 = BackendOptions(dtype="float32", device="cpu")
TEXTS = ["w3 w4 w5", "w1 w2", "w9"]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    with HubServer() as server:
        use_in_process(server, tmp_path / "home", monkeypatch)
        yield server


@pytest.fixture
def cross_encoder(hub: HubServer, tmp_path: Path) -> str:
    hub.commit("acme/pairs", save(tmp_path / "pairs"))
    return "acme/pairs"


def change_weights(folder: Path) -> Path:
    """Other weights of the same model."""
    path = next(folder.rglob("model.safetensors"))
    torch.manual_seed(7)
    weights = {name: torch.randn_like(value) if value.ndim == 2 else value for name, value in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})
    return folder


def gate(hub: HubServer, folder: Path, status: int) -> None:
    """A model whose terms the user has not accepted."""
    hub.commit("acme/m", folder)
    hub.refuse("acme/m", status)


def commits(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("snapshots/*"))


def test_the_commit_is_the_identity_and_the_folder_that_is_loaded(hub: HubServer, tmp_path: Path) -> None:
    folder = save(tmp_path / "pairs")
    first = hub.commit("acme/pairs", folder)
    with Reranker.from_pretrained("acme/pairs", dtype="float32") as reranker:
        assert dict(reranker.backend.identity) == {"model": "acme/pairs", "revision": first, "dtype": "float32"}
        before = [hit.score for hit in reranker.rank("w1", TEXTS)]
    second = hub.commit("acme/pairs", change_weights(folder))
    with Reranker.from_pretrained("acme/pairs", dtype="float32") as reranker:
        assert reranker.backend.identity["revision"] == second
        assert [hit.score for hit in reranker.rank("w1", TEXTS)] != before
    with Reranker.from_pretrained("acme/pairs", dtype="float32", revision=first) as reranker:
        assert reranker.backend.identity["revision"] == first
        assert [hit.score for hit in reranker.rank("w1", TEXTS)] == before
    assert commits(tmp_path / "home") == sorted([first, second])


def test_a_run_is_another_run_once_the_branch_has_moved(
    hub: HubServer, tmp_path: Path, lists: Lists, cross_encoder: str
) -> None:
    spec = lists(model=cross_encoder, dtype="float32", queries=2, depth=3)
    first = run_experiment(spec, Execution(out=tmp_path / "run"))
    recorded = json.loads((tmp_path / "run" / "spec.json").read_text())
    commit = recorded["identity"]["model"]["revision"]
    assert recorded["sources"]["model"]["revision"] == commit
    assert recorded["sources"]["model"]["base"]["hub_id"] == "acme/pairs"
    assert commits(tmp_path / "home") == [commit]
    again = run_experiment(spec, Execution(out=tmp_path / "run", resume=True))
    assert (again["hash"], again["reused_calls"]) == (first["hash"], first["calls"])

    moved = hub.commit("acme/pairs", change_weights(tmp_path / "pairs"))
    with raises(UsageError, commit, moved, "--revision"):
        run_experiment(spec, Execution(out=tmp_path / "run", resume=True))
    other = run_experiment(spec, Execution(out=tmp_path / "other"))
    assert other["hash"] != first["hash"]
    assert other["calls"] > other["reused_calls"]
    same = run_experiment(spec.model_copy(update={"revision": commit}), Execution(out=tmp_path / "run", resume=True))
    assert same["hash"] == first["hash"]


def test_a_folder_without_a_commit_is_resumed_with_a_notice(
    hub: HubServer, tmp_path: Path, lists: Lists, cross_encoder: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As if transformers 5.24 had hidden the commit when the run began."""
    spec = lists(model=cross_encoder, dtype="float32", queries=3, depth=3)
    prepared = prepare_run(spec, Execution())
    backend = prepared.backend
    backend.identity = {**backend.identity, "revision": ""}  # type: ignore[misc]
    old = execute_run(prepared, Execution(out=tmp_path / "run"))
    (tmp_path / "run" / "summary.json").unlink()
    (tmp_path / "run" / "run.trec").unlink()
    caplog.clear()
    resumed = run_experiment(spec, Execution(out=tmp_path / "run", resume=True))
    assert (resumed["hash"], resumed["calls"], resumed["reused_calls"]) == (old["hash"], 3, 3)
    (notice,) = [record.getMessage() for record in caplog.records if record.name.startswith("rerank")]
    assert "did not record the commit of acme/pairs" in notice
    assert json.loads((tmp_path / "run" / "spec.json").read_text())["identity"]["model"]["revision"] == ""


def test_the_index_of_a_dense_first_stage_belongs_to_the_commit(
    hub: HubServer, tmp_path: Path, make_corpus: MakeCorpus
) -> None:
    pytest.importorskip("faiss")
    folder = save_encoder(tmp_path / "encoder")
    hub.commit("acme/encoder", folder)
    corpus = make_corpus("w1 w2 w3", "w4", "w5 w6")

    def search() -> list[float]:
        retriever = open_first_stage("dense:acme/encoder,dtype=float32", corpus)
        run = retriever.search([Query(id="q", text="w1 w2 w3")], 3)
        return [score for _, score in sorted(zip(run["q"].doc_ids, run["q"].scores, strict=True))]

    before = search()
    assert before[0] == pytest.approx(1, abs=1e-4)  # the document has the words of the query
    indexes = list((tmp_path / "cache").rglob("embeddings.npy"))
    assert len(indexes) == 1
    assert search() == before
    assert list((tmp_path / "cache").rglob("embeddings.npy")) == indexes
    hub.commit("acme/encoder", change_weights(folder))
    after = search()
    assert after != before
    assert after[0] == pytest.approx(1, abs=1e-4)
    assert len(list((tmp_path / "cache").rglob("embeddings.npy"))) == 2


def test_a_language_model_is_described_and_loaded_at_one_commit(hub: HubServer, tmp_path: Path) -> None:
    folder = save_language_model(tmp_path / "tiny")
    commit = hub.commit("acme/tiny", folder)
    lazy = open_model_backend("acme/tiny", FLOAT32, lazy=True)
    assert lazy.identity["revision"] == commit
    assert not list((tmp_path / "home").rglob("model.safetensors")), "weights are not needed to describe a model"
    hub.commit("acme/tiny", change_weights(folder))
    lazy.warm_up()  # type: ignore[attr-defined]
    assert lazy.identity["revision"] == commit
    assert commits(tmp_path / "home") == [commit]


def test_one_start_asks_for_the_commit_once(hub: HubServer, cross_encoder: str) -> None:
    with Reranker.from_pretrained(cross_encoder, dtype="float32"):
        pass
    assert not [path for _, path in hub.requests if path.endswith(("README.md", ".bin", ".onnx"))]
    hub.requests.clear()
    with Reranker.from_pretrained(cross_encoder, dtype="float32"):
        pass
    assert hub.requests == [("GET", "/api/models/acme/pairs/revision/main?blobs=true")]


def test_a_branch_that_moves_during_a_start_is_read_once(hub: HubServer, tmp_path: Path, cross_encoder: str) -> None:
    with one_commit_per_model():
        first = locate_model(cross_encoder, weights=False)
        hub.commit("acme/pairs", change_weights(tmp_path / "pairs"))
        assert locate_model(cross_encoder).commit == first.commit
    assert locate_model(cross_encoder).commit != first.commit


def test_what_was_downloaded_is_used_without_the_hub(hub: HubServer, cross_encoder: str) -> None:
    with Reranker.from_pretrained(cross_encoder, dtype="float32") as reranker:
        identity, before = dict(reranker.backend.identity), [hit.score for hit in reranker.rank("w1", TEXTS)]
    hub.stop()
    try:
        with Reranker.from_pretrained(cross_encoder, dtype="float32") as reranker:
            assert dict(reranker.backend.identity) == identity
            assert [hit.score for hit in reranker.rank("w1", TEXTS)] == before
        with raises(MissingResourceError, "acme/other", "cannot be downloaded"):
            Reranker.from_pretrained("acme/other")
    finally:
        hub.start()


def test_only_the_files_that_are_needed_are_downloaded(hub: HubServer, tmp_path: Path) -> None:
    folder = save_encoder(tmp_path / "encoder")
    needed = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    needed = {name for name in needed if not name.endswith(".md")} | {"bpe.codes", "artifact.metadata"}
    needed |= {"additional_chat_templates/rag.jinja", "2_Dense/model.safetensors", "2_Dense/config.json"}
    modules = json.loads((folder / "modules.json").read_text())
    modules.append({"idx": 9, "name": "9", "path": "2_Dense", "type": "sentence_transformers.models.Dense"})
    (folder / "modules.json").write_text(json.dumps(modules))
    waste = ["pytorch_model.bin", "onnx/model.onnx", "onnx/config.json", "int8/model.safetensors", "README.md"]
    waste.append("2_Dense/pytorch_model.bin")
    code = "modeling.py", "consolidated.safetensors", "checkpoint-5/model.safetensors"
    for name in [*needed, *waste, *code]:
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        if not (folder / name).exists():
            (folder / name).write_bytes(b"content")
    hub.commit("acme/encoder", folder)

    def downloaded(*, weights: bool = True, code: bool = False) -> set[str]:
        place = locate_model("acme/encoder", weights=weights, code=code).folder
        return {path.relative_to(place).as_posix() for path in place.rglob("*") if not path.is_dir()}

    assert downloaded(weights=False) == {name for name in needed if not name.endswith((".safetensors", ".bin"))}
    assert downloaded() == needed
    assert downloaded(code=True) == needed | {"modeling.py"}


def test_the_files_of_every_tokenizer_of_transformers_are_downloaded() -> None:
    from fnmatch import fnmatch

    import transformers

    from rerank.lm.model_files import _DESCRIPTION

    names = set[str]()
    for kind in dir(transformers):
        if kind.endswith(("Tokenizer", "TokenizerFast")):
            with suppress(ImportError, AttributeError):  # a package of this tokenizer is not installed
                names |= set((getattr(transformers, kind).vocab_files_names or {}).values())
    assert len(names) > 5
    assert {name for name in names if not any(fnmatch(name, pattern) for pattern in _DESCRIPTION)} == set()


def test_an_adapter_as_a_model_says_how_to_use_it_and_can_be_pinned(hub: HubServer, tmp_path: Path) -> None:
    files = {"adapter_config.json": b'{"base_model_name_or_path": "acme/base"}', "adapter_model.safetensors": b"1"}
    first = hub.commit("acme/lora", files)
    hub.commit("acme/lora", files | {"adapter_model.safetensors": b"2"})
    with raises(UsageError, "only an adapter", "--model acme/base --adapter acme/lora"):
        Reranker.from_pretrained("acme/lora")
    assert adapter_folder(f"acme/lora@{first}").name == first
    assert adapter_folder("acme/lora").name != first


def test_a_prefix_of_another_backend_is_named_for_a_classifier(hub: HubServer, cross_encoder: str) -> None:
    with raises(UsageError, "is a cross-encoder (BertForSequenceClassification)", f"Use --model {cross_encoder}"):
        Reranker.from_pretrained(f"hf:{cross_encoder}")


def test_a_run_of_one_revision_is_not_continued_with_another(
    hub: HubServer, tmp_path: Path, lists: Lists, cross_encoder: str
) -> None:
    """Both recorded by a version that wrote the name of the revision in place of the commit."""
    hub.tag("acme/pairs", "v1", locate_model(cross_encoder).commit)
    hub.tag("acme/pairs", "v2", locate_model(cross_encoder).commit)
    spec = lists(model=cross_encoder, dtype="float32", queries=1, depth=3, revision="v1")
    prepared = prepare_run(spec, Execution())
    prepared.backend.identity = {**prepared.backend.identity, "revision": "v1"}  # type: ignore[misc]
    old = execute_run(prepared, Execution(out=tmp_path / "run"))
    with raises(UsageError, "contains another run"):
        run_experiment(spec.model_copy(update={"revision": "v2"}), Execution(out=tmp_path / "run", resume=True))
    assert run_experiment(spec, Execution(out=tmp_path / "run", resume=True))["hash"] == old["hash"]


def test_the_default_folder_of_a_run_without_a_commit_is_found(
    hub: HubServer, tmp_path: Path, lists: Lists, cross_encoder: str
) -> None:
    spec = lists(model=cross_encoder, dtype="float32", queries=2, depth=3)
    prepared = prepare_run(spec, Execution())
    prepared.backend.identity = {**prepared.backend.identity, "revision": ""}  # type: ignore[misc]
    old = execute_run(prepared, Execution())
    again = run_experiment(spec, Execution(resume=True))
    assert (again["folder"], again["reused_calls"]) == (old["folder"], 2)


def test_workers_open_the_commit_that_was_prepared(hub: HubServer, tmp_path: Path, cross_encoder: str) -> None:
    setup = assemble_ranker({"model": cross_encoder, "dtype": "float32"})
    backend = setup.open_backend()
    hub.commit("acme/pairs", change_weights(tmp_path / "pairs"))
    assert setup.open_backend().identity != backend.identity
    assert setup.with_commit_of(backend).open_backend().identity == backend.identity


@pytest.mark.parametrize(
    ("prepare", "kind", "named"),
    [
        (lambda hub, folder: None, MissingResourceError, ("acme/m", "no such repository")),
        (
            lambda hub, folder: (hub.commit("acme/m", folder), hub.refuse("acme/m", 401)),
            MissingResourceError,
            ("HF_T",),
        ),
        (
            lambda hub, folder: (hub.commit("acme/m", folder), hub.refuse("acme/m", 403)),
            MissingResourceError,
            ("HF_T",),
        ),
        (
            lambda hub, folder: hub.commit("acme/m", {"config.json": folder / "config.json", "m.bin": b"x"}),
            DataError,
            ("only pickled weights (m.bin)", "can run code"),
        ),
    ],
)
def test_errors_are_one_line_with_a_remedy(
    hub: HubServer, tmp_path: Path, prepare: Any, kind: type[Exception], named: tuple[str, ...]
) -> None:
    prepare(hub, save(tmp_path / "m"))
    with raises(kind, *named) as caught:
        Reranker.from_pretrained("acme/m", method="cross-encoder")
    assert "\n" not in str(caught.value)


def test_a_fine_tune_has_the_method_of_its_class_or_its_template(hub: HubServer, tmp_path: Path) -> None:
    """By its files, not by its name: a classifier that is called like a language model, and the other way round."""
    hub.commit("acme/Qwen3-Reranker-0.6B-seq", save(tmp_path / "classifier"))
    folder = save_language_model(tmp_path / "tiny", "Qwen3")
    template = "Judge whether the Document meets the requirements based on the Query and the Instruct"
    (folder / "chat_template.jinja").write_text(template)
    hub.commit("acme/support-ranker", folder)

    def method(model: str) -> str:
        return assemble_ranker({"model": model}).method.name

    assert method("acme/Qwen3-Reranker-0.6B-seq") == "cross-encoder"
    assert method("acme/support-ranker") == "pointwise"
    assert assemble_ranker({"model": "acme/support-ranker"}).prompt == "qwen3_reranker"


def test_the_hub_id_of_the_embedded_model_has_its_method(hub: HubServer, tmp_path: Path) -> None:
    hub.commit("HuggingFaceTB/SmolLM2-135M-Instruct", save_language_model(tmp_path / "tiny"))
    setup, preset = (
        assemble_ranker({"model": name}) for name in ("HuggingFaceTB/SmolLM2-135M-Instruct", "smollm2-135m")
    )
    assert (setup.method.name, setup.prompt, setup.limits) == (preset.method.name, preset.prompt, preset.limits)


def test_the_commit_of_an_adapter_is_in_the_run_folder(hub: HubServer, tmp_path: Path, lists: Lists) -> None:
    peft = pytest.importorskip("peft")
    from tests.backends.conftest import make_model

    base = save_language_model(tmp_path / "tiny", max_position_embeddings=2048)
    config = peft.LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    with quiet_transformers():
        peft.get_peft_model(make_model(), config).save_pretrained(str(tmp_path / "lora"))
    commit = hub.commit("acme/lora", tmp_path / "lora")
    assert adapter_folder("acme/lora").name == commit
    spec = lists(model=str(base), adapter="acme/lora", method="icr", dtype="float32", queries=1, depth=3)
    run_experiment(spec, Execution(out=tmp_path / "run"))
    recorded = json.loads((tmp_path / "run" / "spec.json").read_text())["sources"]["adapter"]
    assert (recorded["id"], recorded["revision"]) == ("acme/lora", commit)


def test_the_command_names_the_commit_and_refuses_a_model_without_a_head(
    hub: HubServer, tmp_path: Path, cli: Cli, cross_encoder: str
) -> None:
    row = {"query": {"qid": "q", "text": "w1"}, "candidates": [{"docid": t[-1], "doc": t} for t in TEXTS]}
    (tmp_path / "list.jsonl").write_text(json.dumps(row))
    flags = ("rerank", "--collection", "requests:list.jsonl", "--dtype", "float32", "--out", "run", "--model")
    done = cli(*flags, cross_encoder)
    assert done.returncode == 0, done.stderr
    hub.commit("acme/bare", save(tmp_path / "bare", base=True))
    refused = cli(*flags, "acme/bare", "--overwrite")
    assert refused.returncode not in (0, 1)
    assert "acme/bare" in refused.stderr.splitlines()[-1]
    assert "which generates no text" in refused.stderr.splitlines()[-1]


def test_a_new_process_ranks_twice_the_second_time_without_the_hub(
    hub: HubServer, tmp_path: Path, cross_encoder: str
) -> None:
    code = f"""
from rerank import Reranker
with Reranker.from_pretrained({cross_encoder!r}, dtype="float32") as reranker:
    print(reranker.backend.identity["revision"], [hit.score for hit in reranker.rank("w1", {TEXTS!r})])
"""
    environment = os.environ | hub.environment(tmp_path / "home of its own")

    def run() -> str:
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    first = run()
    hub.stop()
    assert run() == first
    hub.start()


def test_a_specification_names_a_branch_or_a_tag(hub: HubServer, tmp_path: Path) -> None:
    folder = save(tmp_path / "pairs")
    first = hub.commit("acme/pairs", folder)
    hub.tag("acme/pairs", "v1", first)
    hub.commit("acme/pairs", change_weights(folder))
    assert locate_model("acme/pairs", "v1").commit == first
    spec = RunSpec.make({"collection": "pydoc", "model": "acme/pairs", "revision": "no-such-branch"})
    with raises(MissingResourceError, "no-such-branch", "no such revision"):
        prepare_run(spec, Execution())


@pytest.mark.parametrize(
    "files",
    [
        ["checkpoint-5/model.safetensors"],
        ["pytorch_model.bin", "1_Dense/model.safetensors"],
        ["consolidated.safetensors"],
    ],
)
def test_weights_elsewhere_are_not_those_of_the_model(tmp_path: Path, files: list[str]) -> None:
    for name in ("config.json", *files):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    with raises(RerankError, "has only pickled weights" if "pytorch_model.bin" in files else "has no weights"):
        ModelFiles(folder=tmp_path).check_formats()

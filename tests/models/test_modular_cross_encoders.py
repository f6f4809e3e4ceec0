"""Cross-encoders made of modules, such as Ettin: what sentence-transformers loads is ranked, and nothing random."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sentence_transformers")

import torch
from safetensors.torch import load_file, save_file

from rerank.errors import DataError, RerankError, UsageError
from rerank.reranker import Reranker
from tests.backends import modular
from tests.cli.conftest import Cli, cli, own_folders
from tests.hub_server import HubServer, use_in_process
from tests.models.test_models_without_preset import LIST, QUERY, TEXTS, drop_weights, own_scores, rank
from tests.raising import raises

__all__ = ["cli", "own_folders"]

Save = Callable[[Path], Path]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer() as server:
        use_in_process(server, tmp_path / "home", monkeypatch)
        yield server


@pytest.mark.parametrize("method", ["cross-encoder", "auto"])
@pytest.mark.parametrize("save", [modular.save_ettin, modular.save_dense, modular.save_yes_no])
def test_the_score_is_the_logit_of_sentence_transformers(save: Save, method: str, tmp_path: Path) -> None:
    folder = save(tmp_path / "m")
    assert "ForSequenceClassification" not in (folder / "config.json").read_text()
    scores, expected = rank(folder, method=method), own_scores(folder)
    assert [scores[n] for n in range(len(TEXTS))] == pytest.approx(expected, abs=1e-4)
    assert list(scores) == sorted(scores, key=lambda n: -expected[n])
    assert len(set(scores.values())) == len(TEXTS)


def test_two_outputs_are_scored_by_their_difference(tmp_path: Path) -> None:
    folder = modular.save_ettin(tmp_path / "m", outputs=2)
    assert [rank(folder)[n] for n in range(len(TEXTS))] == pytest.approx(own_scores(folder), abs=1e-4)


@pytest.mark.filterwarnings("ignore:.* is a language model")
def test_a_language_model_is_run_as_sentence_transformers_does_if_the_user_says_so(tmp_path: Path) -> None:
    folder = modular.save_language_model(tmp_path / "m")
    assert not (folder / "modules.json").exists()
    scores = rank(folder, method="cross-encoder")
    assert [scores[n] for n in range(len(TEXTS))] == pytest.approx(own_scores(folder), abs=1e-4)
    assert Reranker.from_pretrained(str(folder)).name == "fullrank"


def test_the_weights_of_every_module_are_in_the_identity(tmp_path: Path) -> None:
    folder = modular.save_ettin(tmp_path / "m")

    def identity() -> str:
        with Reranker.from_pretrained(str(folder), dtype="float32") as reranker:
            return reranker.backend.identity["weights"]

    seen = {identity()}
    files = sorted(folder.rglob("*.safetensors"))
    assert [path.parent.name for path in files] == ["2_Dense", "3_LayerNorm", "4_Dense", "m"]
    for path in files:
        save_file({name: value + 1 for name, value in load_file(path).items()}, path, metadata={"format": "pt"})
        seen.add(identity())
    assert len(seen) == 1 + len(files)


def pickle_head(folder: Path) -> Path:
    path = folder / "4_Dense" / "model.safetensors"
    torch.save(load_file(path), path.with_name("pytorch_model.bin"))
    path.unlink()
    return folder


def cut_head(folder: Path) -> Path:
    path = folder / "4_Dense" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    return folder


def drop_head(folder: Path) -> Path:
    path = folder / "4_Dense" / "model.safetensors"
    save_file({name: value for name, value in load_file(path).items() if "bias" not in name}, path)
    return folder


REFUSED: dict[str, tuple[Callable[[Path], Path], type[RerankError], tuple[str, ...]]] = {
    "code": (modular.save_own_head, UsageError, ("modeling_head.Head", "--trust-remote-code")),
    "pickle": (lambda f: pickle_head(modular.save_ettin(f)), DataError, ("4_Dense/pytorch_model.bin", "can run code")),
    "damaged": (lambda f: cut_head(modular.save_ettin(f)), DataError, ("damaged", "again")),
    "incomplete head": (lambda f: drop_head(modular.save_ettin(f)), DataError, ("linear.bias", "again")),
    "incomplete encoder": (lambda f: drop_weights(modular.save_ettin(f), "layers.1.mlp"), DataError, ("layers.1.mlp",)),
    "no scores": (lambda f: modular.save_ettin(f, head="states"), UsageError, ("no module that computes scores",)),
    "three labels": (lambda f: modular.save_ettin(f, outputs=3), UsageError, ("3 labels",)),
    "no yes": (lambda f: modular.save_language_model(f, words=False), UsageError, ("yes and no", "--method pointwise")),
}


@pytest.mark.filterwarnings("ignore:.* is a language model")
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_trusted_or_would_be_random_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    save, kind, named = REFUSED[case]
    with raises(kind, *named) as caught:
        rank(save(tmp_path / "m"), method="cross-encoder")
    assert "\n" not in str(caught.value)


@pytest.mark.enable_socket
def test_a_head_with_code_of_its_own_needs_trust(hub: HubServer, tmp_path: Path, cli: Cli) -> None:
    folder = modular.save_own_head(tmp_path / "m")
    plain = modular.save_dense(tmp_path / "plain")
    expected = [-score for score in own_scores(plain)]
    hub.commit("acme/own-head", folder)
    for name in (str(folder), "acme/own-head"):
        with Reranker.from_pretrained(name, dtype="float32", trust_remote_code=True) as reranker:
            scores = {hit.corpus_id: hit.score for hit in reranker.rank(QUERY, TEXTS)}
        assert [scores[n] for n in range(len(TEXTS))] == pytest.approx(expected, abs=1e-4)
        with raises(UsageError, "modeling_head.Head", "--trust-remote-code"):
            Reranker.from_pretrained(name)


@pytest.mark.enable_socket
def test_a_model_on_the_hub_ranks_in_python_by_the_command_and_in_a_server(
    hub: HubServer, tmp_path: Path, cli: Cli
) -> None:
    pytest.importorskip("fastapi")
    from fastapi.testclient import TestClient

    from rerank.serving.app import create_server_app
    from rerank.serving.ranking_service import open_ranking_service
    from rerank.serving.settings import ServerSettings

    folder = modular.save_ettin(tmp_path / "m")
    expected = sorted(range(len(TEXTS)), key=lambda n: -own_scores(folder)[n])
    commit = hub.commit("acme/small-ranker", folder)
    shutil.rmtree(folder)
    with Reranker.from_pretrained("acme/small-ranker", dtype="float32") as reranker:
        assert reranker.name == "cross-encoder"
        assert dict(reranker.backend.identity) == {"model": "acme/small-ranker", "revision": commit, "dtype": "float32"}
        assert [hit.corpus_id for hit in reranker.rank(QUERY, TEXTS)] == expected
    hub.stop()  # from here on, from the cache
    (tmp_path / "list.jsonl").write_text(json.dumps(LIST))
    flags: tuple[Any, ...] = ("--model", "acme/small-ranker", "--dtype", "float32", "--out", tmp_path / "run")
    done = cli("rerank", "--collection", f"requests:{tmp_path}/list.jsonl", *flags)
    assert done.returncode == 0, done.stderr
    assert [line.split()[2] for line in (tmp_path / "run" / "run.trec").read_text().splitlines()] == [
        str(n) for n in expected
    ]
    service = open_ranking_service({"model": "acme/small-ranker", "dtype": "float32"}, ServerSettings())
    with TestClient(create_server_app(service), base_url="http://127.0.0.1") as client:
        answer = client.post("/v2/rerank", json={"model": "m", "query": QUERY, "documents": TEXTS}).json()
    assert [result["index"] for result in answer["results"]] == expected
    hub.start()

"""Multi-vector models as rerankers: tiny ones with random weights, saved and loaded as users' models are."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sentence_transformers")

import sentence_transformers
import torch

from rerank import Reranker
from rerank.assemble import assemble_ranker
from rerank.backends.late_interaction import LateInteraction
from rerank.errors import MissingPrerequisiteError, UnknownNameError, UsageError
from rerank.prompts.base import Message
from rerank.retrieval import open_first_stage
from rerank.retrieval.base.given_documents import InMemoryCorpus
from rerank.tasks import BackendOptions, CrossEncoderTask, Request, Sampling
from rerank.tasks.interruption import CallInterruptedError, interruptible
from rerank.types import Query
from tests.backends.pairs import save
from tests.raising import raises
from tests.retrieval.encoders import save_encoder, save_multi_vector

TEXTS = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9", "w10 w11", "w1 w2", "w3 w5 w4"]
FLOAT32 = BackendOptions(dtype="float32", device="cpu")
PROMPTS = {"query": "w80 ", "document": "w81 "}


def make_backend() -> LateInteraction:
    return LateInteraction.load(save_multi_vector(Path(tempfile.mkdtemp())), FLOAT32)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_multi_vector(tmp_path_factory.mktemp("plain"), prompts=PROMPTS)


@pytest.fixture
def loaded(folder: Path) -> LateInteraction:
    return LateInteraction.load(folder, FLOAT32)


def request(query: str, *passages: str) -> Request:
    prompt = tuple(Message("user", text) for text in (query, *passages))
    return Request(prompt=prompt, sampling=Sampling(max_tokens=0), task=CrossEncoderTask())


def formula(folder: Path, query: str, texts: Sequence[str]) -> list[float]:
    """The sum over the query's tokens of the largest inner product, one text at a time."""
    library: Any = sentence_transformers.MultiVectorEncoder(str(folder), device="cpu")
    (rows,) = library.encode_query([query])
    found = []
    for text in texts:
        (columns,) = library.encode_document([text])
        found.append(sum(max(float(row @ column) for column in columns) for row in rows))
    return found


@pytest.mark.parametrize("model", ["{}", "late-interaction:{}", "late_interaction:{}"])
def test_a_model_ranks_by_the_formula_whatever_its_name(folder: Path, model: str) -> None:
    reranker = Reranker.from_pretrained(model.format(folder), dtype="float32", device="cpu")
    hits = reranker.rank("w3 w5 w1", TEXTS)
    expected = formula(folder, "w3 w5 w1", TEXTS)
    assert [hit.corpus_id for hit in hits] == sorted(range(len(TEXTS)), key=lambda index: -expected[index])
    assert [hit.score for hit in hits] == pytest.approx(sorted(expected, reverse=True), abs=1e-5)
    assert reranker.name == "late-interaction"


def test_scores_are_those_of_the_first_stage(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    corpus = InMemoryCorpus([f"w1 {text}" for text in TEXTS])
    run = open_first_stage(f"late-interaction:{folder},device=cpu", corpus).search([Query(id="q", text="w1 w4")], 10)
    ranking = run["q"]
    reply = LateInteraction.load(folder, FLOAT32).score(request("w1 w4", *(d.text for d in ranking.docs)).prompt)
    assert list(reply.scores or ()) == pytest.approx(list(ranking.scores), abs=1e-5)


def test_documents_are_cut_to_what_the_model_reads(
    folder: Path, loaded: LateInteraction, caplog: pytest.LogCaptureFixture
) -> None:
    """The model has 24 positions: two marks, the word of the prompt and 21 words."""
    words = [f"w{index}" for index in range(40)]
    fits, too_long = (loaded.score(request("w3", " ".join(words[:count])).prompt) for count in (21, 22))
    assert fits.finish == "stop"
    assert (too_long.finish, too_long.scores) == ("error", ())
    assert "25 tokens" in (too_long.error or "")
    hits = Reranker.from_backend(loaded, min_passage_tokens=4).rank("w3", [" ".join(words), "w4"])
    scores = {hit.corpus_id: hit.score for hit in hits}
    assert scores[0] == pytest.approx((fits.scores or (0.0,))[0], abs=1e-5)
    assert (hits.cut.passages, hits.cut.tokens) == (1, 19)
    assert "Token indices" not in caplog.text  # transformers' warning of errors that do not come


def test_a_query_that_is_cut_is_reported_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    loaded = LateInteraction.load(folder, FLOAT32)
    long = " ".join(f"w{index}" for index in range(22))
    with caplog.at_level(logging.WARNING):
        for query in ("w1", " ".join(long.split()[:21]), long, f"w7 {long}"):
            loaded.score(request(query, "w3").prompt)
    assert [record.getMessage() for record in caplog.records if "first 21 of the 22 tokens" in record.getMessage()]
    assert len([record for record in caplog.records if "tokens of query" in record.getMessage()]) == 1
    reranker = Reranker.from_backend(loaded, min_passage_tokens=4)
    assert reranker.rank(" ".join(long.split()[:21]), ["w3", "w4"]).notes == ()
    (note,) = reranker.rank(long, ["w3", "w4"]).notes
    assert note == "The model reads only the first 21 of the 22 tokens of the query"


def test_the_limits_of_colbert_are_those_of_its_settings(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Queries of 8 tokens, filled up with masks, and documents of 12, as in models saved by Stanford and PyLate."""
    model: Any = sentence_transformers.MultiVectorEncoder(str(save_multi_vector(tmp_path)), device="cpu")
    model[0].document_length = 12
    model[0].query_expansion = {"strategy": "fixed", "length": 8}
    model.save(str(tmp_path / "colbert"), create_model_card=False)
    loaded = LateInteraction.load(tmp_path / "colbert", FLOAT32)
    assert loaded.tokens.context_size == 12
    query = "w1 w2 w3"
    (rows,) = loaded.model.encode_query([query])
    assert len(rows) == 8
    reply = loaded.score(request(query, *TEXTS).prompt)
    assert list(reply.scores or ()) == pytest.approx(formula(tmp_path / "colbert", query, TEXTS), abs=1e-5)
    with caplog.at_level(logging.WARNING):
        loaded.score(request("w1 w2 w3 w4 w5 w6 w7", "w3").prompt)
    assert "first 6 of the 7 tokens" in caplog.text


def test_out_of_memory_on_one_document_is_a_failed_reply(
    loaded: LateInteraction, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(loaded.model, "encode_document", full)
    reply = loaded.score(request("w3", *TEXTS).prompt)
    assert reply.finish == "error"
    assert "Out of memory" in (reply.error or "")


def test_a_call_is_interrupted_between_batches(folder: Path) -> None:
    loaded = LateInteraction.load(folder, FLOAT32.model_copy(update={"batch_size": 2}))
    asked: list[int] = []
    with interruptible(lambda: len(asked.append(1) or asked) > 2), pytest.raises(CallInterruptedError):  # type: ignore[func-returns-value]
        loaded.score(request("w3", *TEXTS).prompt)
    assert len(asked) == 3


def test_other_models_and_options_are_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with raises(UsageError, "not a multi-vector model"):
        LateInteraction.load(save_encoder(tmp_path), FLOAT32)
    with raises(UsageError, "not a multi-vector model", "BertModel"):
        Reranker.from_pretrained(f"late-interaction:{save(tmp_path / 'bert', base=True)}")
    with raises(UsageError, "name of the model is missing", "OWNER/NAME"):
        Reranker.from_pretrained("late-interaction:")
    with raises(UnknownNameError, "nowhere", "check the path if it is a folder"):
        Reranker.from_pretrained("late-interaction:nowhere")
    for model in ("smollm2-135m", "qwen3-reranker-0.6b"):
        with raises(UsageError, f"Model '{model}' is not a multi-vector model", f"--model {model}"):
            assemble_ranker({"model": f"late-interaction:{model}"})
    adapter = {"adapter": "smollm2-135m-attention", "dtype": "float32"}
    with raises(UsageError, "--adapter is smollm2-135m-attention", "stands for a multi-vector model"):
        Reranker.from_pretrained(f"late-interaction:{folder}", **adapter)
    with raises(UsageError, "generates no text", "It is a multi-vector model: omit --method and --adapter"):
        Reranker.from_pretrained(str(folder), **adapter)
    for options in ({"adapter": "x"}, {"device_map": "auto"}):
        with raises(UsageError, "multi-vector model"):
            LateInteraction.load(folder, BackendOptions(**options))  # type: ignore[arg-type]
    monkeypatch.setitem(__import__("sys").modules, "sentence_transformers", None)
    with raises(MissingPrerequisiteError, "A multi-vector model needs sentence-transformers", "pip install"):
        LateInteraction.load(folder, FLOAT32)


def test_a_server_ranks_with_it(folder: Path) -> None:
    pytest.importorskip("fastapi")
    from fastapi.testclient import TestClient

    from rerank.serving.app import create_server_app
    from rerank.serving.ranking_service import open_ranking_service
    from rerank.serving.settings import ServerSettings

    ranker = {"model": f"late-interaction:{folder}", "dtype": "float32"}
    app = create_server_app(open_ranking_service(ranker, ServerSettings()))
    with TestClient(app, base_url="http://127.0.0.1") as client:
        answer = client.post("/v2/rerank", json={"model": "m", "query": "w3 w5 w1", "documents": TEXTS}).json()
    expected = formula(folder, "w3 w5 w1", TEXTS)
    assert [result["index"] for result in answer["results"]] == sorted(range(6), key=lambda index: -expected[index])


def test_the_weights_of_every_module_are_part_of_the_identity(tmp_path: Path) -> None:
    first, second = (save_multi_vector(tmp_path / name) for name in ("a", "b"))
    (dense,) = (second).glob("*_Dense/model.safetensors")
    assert load_identity(first) == load_identity(second)
    library: Any = sentence_transformers.MultiVectorEncoder(str(second), device="cpu")
    with torch.no_grad():
        next(iter(library[1].parameters())).mul_(2)
    library.save(str(second), create_model_card=False)
    assert dense.is_file()
    assert load_identity(first) != load_identity(second)


def load_identity(folder: Path) -> dict[str, str]:
    return {key: value for key, value in LateInteraction.load(folder, FLOAT32).identity.items() if key != "model"}


def test_a_long_prompt_of_queries_leaves_less_for_the_query(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    prompt = " ".join(f"w{index}" for index in range(70, 80)) + " "
    loaded = LateInteraction.load(save_multi_vector(tmp_path, prompts={"query": prompt, "document": ""}), FLOAT32)
    query = " ".join(f"w{index}" for index in range(13))  # 24 positions: two marks, ten words of the prompt and 12
    with caplog.at_level(logging.WARNING):
        loaded.score(request(query.rsplit(" ", 1)[0], "w3").prompt)
        assert not caplog.records
        loaded.score(request(query, "w3").prompt)
    assert "first 12 of the 13 tokens" in caplog.text

"""Late interaction with tiny models of sentence-transformers' class MultiVectorEncoder, random weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sentence_transformers")

import sentence_transformers
import torch

from rerank.collections.base import Corpus
from rerank.errors import BackendError, UnknownNameError, UsageError
from rerank.lm.encoders import MaxSimScorer
from rerank.retrieval import check_first_stage, open_first_stage
from rerank.retrieval.base.given_documents import InMemoryCorpus
from rerank.retrieval.late_interaction import LateInteraction, LateInteractionRetriever
from rerank.types import Document, Query, Ranking
from tests.backends.pairs import save
from tests.raising import raises
from tests.retrieval.encoders import save_encoder, save_multi_vector, save_splade

MakeCorpus = Callable[..., Corpus]
TEXTS = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9", "w10 w11", "w1 w2", "w3 w5 w4"]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_multi_vector(tmp_path_factory.mktemp("plain"), prompts={"query": "w80 ", "document": "w81 "})


@pytest.fixture(scope="session")
def skipping(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that keeps no vectors for the marks and the first words of documents."""
    return save_multi_vector(tmp_path_factory.mktemp("skip"), skiplist=["[CLS]", "[SEP]", "w0", "w1"])


def load(folder: Path, **options: Any) -> MaxSimScorer:
    retriever = LateInteraction(str(folder), device="cpu", **options).over(InMemoryCorpus(["w1"]))
    assert isinstance(retriever, LateInteractionRetriever)
    return retriever.scorer


def formula(folder: Path, query: str, texts: Sequence[str]) -> list[float]:
    """Sum over the query's tokens of the largest inner product, one text at a time."""
    library: Any = sentence_transformers.MultiVectorEncoder(str(folder), device="cpu")
    (rows,) = library.encode_query([query])
    scores = []
    for text in texts:
        (columns,) = library.encode_document([text])
        scores.append(sum(max(float(row @ column) for column in columns) for row in rows))
    return scores


def search(selector: str, corpus: Corpus, query: str = "w1 w4", k: int = 10) -> Ranking:
    return open_first_stage(selector, corpus).search([Query(id="q", text=query)], k)["q"]


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_scores_are_those_of_the_formula(model: Path, batch_size: int) -> None:
    expected = formula(model, "w3 w5 w1", TEXTS)
    assert load(model, batch_size=batch_size).score("w3 w5 w1", TEXTS) == pytest.approx(expected, abs=1e-5)


def test_a_model_with_the_mean_over_tokens_is_scored_so(tmp_path: Path) -> None:
    folder = save_multi_vector(tmp_path, similarity_fn_name="meanmaxsim")
    expected = [score / 4 for score in formula(folder, "w3 w5", TEXTS)]  # two words and two marks
    assert load(folder).score("w3 w5", TEXTS) == pytest.approx(expected, abs=1e-5)


def test_prompts_are_the_models_own_unless_others_are_given(model: Path) -> None:
    own, none = load(model), load(model, query_prompt="none", passage_prompt="none")
    same = load(model, query_prompt="w80 ", passage_prompt="w81 ")
    assert own.score("w3", TEXTS) == same.score("w3", TEXTS) != none.score("w3", TEXTS)


def test_candidates_are_sorted_by_score(model: Path, make_corpus: MakeCorpus) -> None:
    texts = [f"w1 {text}" for text in TEXTS]
    ranking = search(f"late-interaction:{model},device=cpu", make_corpus(*texts))
    scores = dict(zip((f"d{i}" for i in range(1, 7)), formula(model, "w1 w4", texts), strict=True))
    assert list(ranking.doc_ids) == sorted(scores, key=scores.__getitem__, reverse=True)
    assert ranking.scores == pytest.approx(sorted(scores.values(), reverse=True), abs=1e-5)


def test_equal_texts_tie_wherever_they_stand(model: Path, make_corpus: MakeCorpus) -> None:
    texts = ["w1 w2", *(f"w1 w{i} w{i + 1}" for i in range(3, 20)), "w1 w2"]
    ranking = search(f"late-interaction:{model},device=cpu,batch_size=4", make_corpus(*texts), k=19)
    scores = dict(zip(ranking.doc_ids, ranking.scores, strict=True))
    assert scores["d1"] == scores["d19"]
    assert ranking.doc_ids.index("d1") - ranking.doc_ids.index("d19") == 1  # by id, descending


def test_depth_limits_the_candidates_and_a_larger_k_extends_them(model: Path, make_corpus: MakeCorpus) -> None:
    corpus = make_corpus(*(f"w1 w{i}" for i in range(2, 12)))
    bm25 = search("bm25", corpus, "w1", 10)
    for k, expected in ((2, 2), (3, 3), (7, 7)):
        ranking = search(f"late-interaction:{model},device=cpu,depth=3", corpus, "w1", k)
        assert len(ranking) == expected
        assert set(ranking.doc_ids) <= set(bm25.doc_ids[: max(k, 3)])


def test_texts_without_tokens_get_the_lowest_score_and_stay(skipping: Path) -> None:
    scores = load(skipping).score("w3", ["w2 w3", "", "w0 w1", "w7", "w1"])
    assert scores[1] == scores[2] == scores[4] == min(scores[0], scores[3])
    assert load(skipping).score("w3", ["", "w0"]) == [0.0, 0.0]


def test_empty_documents_are_kept(skipping: Path, make_corpus: MakeCorpus, tmp_path: Path) -> None:
    run = tmp_path / "run.trec"
    run.write_text("".join(f"q Q0 d{i} {i} {9 - i} x\n" for i in range(1, 4)))
    corpus = make_corpus("w2", Document(id="d2", text=""), "w3 w4")
    corpus.lookup = lambda ids: {doc.id: doc for doc in corpus.docs() if doc.id in set(ids)}  # type: ignore[attr-defined]
    ranking = search(f"late-interaction:{skipping},device=cpu,candidates=run:{run}", corpus, "w3")
    assert sorted(ranking.doc_ids) == ["d1", "d2", "d3"]
    assert all(map(math.isfinite, ranking.scores))


def test_long_documents_are_cut_by_the_library(model: Path) -> None:
    long = " ".join(f"w{i % 90}" for i in range(5000))
    scorer = load(model)
    (score,) = scorer.score("w3", [long])
    assert score == pytest.approx(formula(model, "w3", [long])[0], abs=1e-5)
    # the model has 24 positions: two marks, the prompt and 21 words
    assert score == pytest.approx(scorer.score("w3", [" ".join(f"w{i}" for i in range(21))])[0], abs=1e-5)


def test_a_batch_that_does_not_fit_is_halved(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = load(model)
    expected, encode = scorer.score("w3", TEXTS), scorer.model.encode_document

    def tight(texts: list[str], batch_size: int, **settings: Any) -> Any:
        if batch_size > 2:
            raise torch.OutOfMemoryError("out of memory")
        return encode(texts, batch_size=batch_size, **settings)

    monkeypatch.setattr(scorer.model, "encode_document", tight)
    assert scorer.score("w3", TEXTS) == pytest.approx(expected, abs=1e-5)


def test_scores_that_are_not_finite(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = load(model)
    monkeypatch.setattr(scorer.model, "similarity", lambda a, b: torch.full((1, len(b)), math.nan))
    with raises(BackendError, "not finite"):
        scorer.score("w3", TEXTS)


def test_candidates_with_options_and_in_a_hybrid(model: Path, make_corpus: MakeCorpus) -> None:
    corpus = make_corpus(*(f"w1 {text}" for text in TEXTS))
    plain = search(f"late-interaction:{model},device=cpu", corpus)
    assert search(f"late-interaction:{model},device=cpu,candidates=(bm25,k1=1.2)", corpus).doc_ids == plain.doc_ids
    assert len(search(f"hybrid:bm25+(late-interaction:{model},device=cpu)", corpus)) == 6


def test_other_models_are_refused(tmp_path: Path) -> None:
    for folder in (save_encoder(tmp_path / "a"), save(tmp_path / "b", base=True), save_splade(tmp_path / "c")):
        with raises(UsageError, "not a multi-vector model"):
            load(folder)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ("depth=0", UsageError, "depth=0"),
        ("batch_size=0", UsageError, "batch_size=0"),
        ("candidates=bm52", UnknownNameError, "bm52"),
        ("candidates=(bm25,b=2)", UsageError, "b=2"),
    ],
)
def test_options_that_cannot_work(options: str, error: type[Exception], message: str) -> None:
    with raises(error, message):
        check_first_stage(f"late-interaction:model,{options}")

"""What goes into a prompt: selected, unique, diverse and fitting hits, and what is known of the dropped ones."""

from __future__ import annotations

import math
import pickle
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank import Reranker
from rerank.errors import UsageError
from rerank.indexing.text_analysis import split_into_terms
from rerank.judges import open_judge
from rerank.judges.attention.evidence import EvidenceSpan
from rerank.prompts import load_prompt
from rerank.reranker import Hit, Hits, RankingReport
from rerank.reranker.choosing import find_near_duplicates, make_shingles, select_diverse, weigh_terms
from rerank.strategies import open_strategy
from rerank.tasks import Reply, Request
from rerank.types import Document
from tests.judges.scripted import Scripted, always
from tests.raising import raises

FLEAS = ["Fleas live for months in carpets.", "Two bakeries.", "fleas LIVE for months, in carpets", "Dogs have fleas."]


def hits_of(texts: Sequence[str], scores: Sequence[float | None] = (), **source: Sequence[Any]) -> Hits:
    """Hits in the order of the texts; a word is a token."""
    found = Hits(
        Hit(
            corpus_id=position,
            rank=position + 1,
            document=Document(id=f"d{position}", text=text, source={k: v[position] for k, v in source.items()}),
            score=scores[position] if scores else None,
            unit_score=1 / (position + 1),
        )
        for position, text in enumerate(texts)
    )
    found.count_tokens = lambda given: [len(text.split()) for text in given]
    return found


def positions(hits: Hits) -> list[int]:
    return [hit.corpus_id for hit in hits]


def selecting(reply: str | Callable[[Request], Reply], method: str = "full") -> Reranker:
    """A reranker whose model writes a selection."""
    backend = Scripted(always(Reply(text=reply)) if isinstance(reply, str) else reply)
    judge = open_judge("select", backend, load_prompt("select"))
    return Reranker(strategy=open_strategy(method), judge=judge)


STEPS: list[Callable[[Hits], Hits]] = [
    lambda hits: hits.unique(0.3),
    lambda hits: hits.diverse(3, 0.3),
    lambda hits: hits.diverse(),
    lambda hits: hits.fit(12),
    lambda hits: hits.top_k(4),
]


@given(st.lists(st.text("ab c", max_size=12), max_size=8), st.lists(st.sampled_from(STEPS), max_size=4))
def test_no_hit_disappears_whatever_is_combined(texts: list[str], steps: list[Callable[[Hits], Hits]]) -> None:
    hits = hits_of(texts)
    chosen = hits
    for step in steps:
        chosen = step(chosen)
    left_out = [dropped.hit for dropped in chosen.dropped]
    assert sorted([*chosen, *left_out], key=lambda hit: hit.rank) == list(hits)
    assert all(dropped.reason and dropped.step for dropped in chosen.dropped)


def test_near_duplicates_name_the_hit_that_is_kept() -> None:
    chosen = hits_of(FLEAS).unique()
    assert positions(chosen) == [0, 1, 3]
    (dropped,) = chosen.dropped
    assert (dropped.hit.corpus_id, dropped.step) == (2, "unique")
    assert dropped.reason == "Jaccard index 1.00 with rank 1, 'd0'"
    assert chosen.notes == ("unique: 1 of 4 hits were near-duplicates",)


@given(st.lists(st.lists(st.sampled_from("abcde"), max_size=7).map(" ".join), max_size=8), st.floats(0.05, 1))
def test_near_duplicates_are_those_of_the_definition(texts: list[str], threshold: float) -> None:
    kept: list[int] = []
    expected = {}
    for position, text in enumerate(texts):
        own = make_shingles(text)
        indexes = {o: len(own & make_shingles(texts[o])) / max(1, len(own | make_shingles(texts[o]))) for o in kept}
        best = max(indexes, key=lambda o: (indexes[o], -o), default=None)
        if own and best is not None and indexes[best] >= threshold:
            expected[position] = (best, indexes[best])
        else:
            kept.append(position)
    assert find_near_duplicates(texts, threshold) == expected


def test_shingles_of_short_texts_and_of_scripts_without_spaces() -> None:
    assert make_shingles("Windows 7") != make_shingles("Windows 8")
    assert len(make_shingles("跳蚤可以活")) == 3
    assert make_shingles("... !") == frozenset()


def test_term_weights_give_the_cosine_of_bm25_vectors() -> None:
    """Against a dense computation with all terms, in which the formula is written once more."""
    texts = ["a cat sat on the mat", "the cat ran", "dogs and dogs", "a mat a mat", ""]
    counts = [split_into_terms(text) for text in texts]
    vocabulary = sorted({term for terms in counts for term in terms})
    average = sum(map(len, counts)) / 5

    def weight(term: str, terms: list[str]) -> float:
        containing = sum(term in other for other in counts)
        f = terms.count(term)
        return math.log((5 + 1) / (containing + 0.5)) * f / (f + 0.9 * (0.6 + 0.4 * len(terms) / average))

    dense = np.array([[weight(term, terms) for term in vocabulary] for terms in counts])
    norms = np.linalg.norm(dense, axis=1, keepdims=True)
    dense /= np.where(norms > 0, norms, 1)
    found = weigh_terms(texts) @ weigh_terms(texts).T
    off_diagonal = ~np.eye(5, dtype=bool)  # a text has terms of its own, which affect only its product with itself
    assert found[off_diagonal] == pytest.approx((dense @ dense.T)[off_diagonal])


@given(st.integers(0, 6), st.integers(0, 8), st.floats(0, 1), st.integers(0, 5))
def test_maximal_marginal_relevance_is_that_of_the_definition(n: int, k: int, weight: float, seed: int) -> None:
    rng = random.Random(seed)
    values = sorted((rng.choice([0.0, 1.0, 2.5, 4.0]) for _ in range(n)), reverse=True)
    vectors = np.array([[rng.choice([-1.0, 0.0, 1.0]) for _ in range(3)] for _ in range(n)]).reshape(n, 3)
    low, high = min(values, default=0), max(values, default=0)
    relevance = [(value - low) / (high - low) if high > low else 1.0 for value in values]
    selected: list[int] = []
    while len(selected) < min(k, n):
        marginal = {
            i: weight * relevance[i] - (1 - weight) * max((vectors[i] @ vectors[j] for j in selected), default=0.0)
            for i in range(n)
            if i not in selected
        }
        selected.append(max(marginal, key=lambda i: (marginal[i], -i)))
    assert select_diverse(values, vectors, k, weight) == selected


def test_the_order_of_relevance_and_the_extremes_of_the_weight() -> None:
    hits = hits_of(FLEAS, scores=[9.0, 4.0, 8.9, 0.0])
    assert positions(hits.diverse(2, 1)) == [0, 1]  # the scores are not in order, so the ranks are used
    assert positions(hits_of(FLEAS, scores=[9.0, 8.9, 8.8, 0.0]).diverse(4, 1)) == [0, 1, 2, 3]
    assert positions(hits_of(FLEAS).diverse(weight=0)) == [0, 1, 3, 2]  # the copy is last
    assert [hit.rank for hit in hits_of(FLEAS).diverse(weight=0)] == [1, 2, 4, 3]


def test_vectors_are_given_or_those_of_the_documents_or_of_terms() -> None:
    along, across = [1.0, 0.0], [0.0, 2.0]
    own = [along, along, along, across]
    for hits, vectors, source in (
        (hits_of(FLEAS), own, "the given vectors"),
        (hits_of(FLEAS, embedding=[np.array(v) for v in own]), None, "the documents' embeddings"),
        (hits_of(FLEAS, embedding=[*own[:3], None]), None, "BM25's term weights"),
    ):
        chosen = hits.diverse(2, 0.1, vectors=vectors)
        assert positions(chosen) == ([0, 1] if "BM25" in source else [0, 3])
        assert chosen.notes == (f"diverse: 2 of 4 hits, by the cosine of {source}",)
    cut = Hits(hits_of(FLEAS)[2:]).diverse(1, 0.1, vectors=own)  # vectors belong to documents, not to hits
    assert positions(cut) == [2]


def test_whole_passages_fit_in_a_budget() -> None:
    chosen = hits_of(FLEAS).fit(9)
    assert positions(chosen) == [0, 1]
    assert [(dropped.hit.corpus_id, dropped.reason) for dropped in chosen.dropped] == [
        (2, "6 tokens, but 1 were left"),
        (3, "3 tokens, but 1 were left"),
    ]
    assert chosen.notes == ("fit: 2 of 4 hits, 8 of 9 tokens by the reranker's tokenizer",)
    assert positions(hits_of(FLEAS).fit(5)) == [1, 3]  # a long passage does not stop the others
    assert positions(hits_of(FLEAS).fit(40, count=len)) == [0]
    real = Reranker.from_pretrained("fake:reversed").rank("q", FLEAS).fit(3)
    assert (positions(real), real.notes[0]) == ([1], "fit: 1 of 4 hits, 3 of 3 tokens by the reranker's tokenizer")


def test_evidence_replaces_the_text_as_far_as_it_fits() -> None:
    text = "Bread is baked. Fleas live for months. It rains."
    spans = [
        EvidenceSpan(start=0, end=15, score=0.1),
        EvidenceSpan(start=16, end=38, score=0.6),
        EvidenceSpan(start=39, end=48, score=0.3),
    ]
    hits = hits_of([text, "Nothing here.", text])
    chosen = hits.fit(8, evidence=[spans, [], spans])
    assert [hit.text for hit in chosen] == ["Fleas live for months. It rains."]
    assert [dropped.reason for dropped in chosen.dropped] == ["no evidence", "4 tokens, but 2 were left"]
    assert chosen[0].document.id == "d0"
    assert hits[0].text == text
    everything = hits.fit(100, evidence=[spans, spans[:0], spans])
    assert everything[0].text == text


def test_selected_documents_of_a_reranker() -> None:
    reply = Reply(text="Selection: [4] > [2]", tokens_in=90, tokens_out=7)
    hits = selecting(always(reply)).rank("q", FLEAS)
    assert positions(hits) == [3, 1, 0, 2]
    chosen = hits.selected()
    assert positions(chosen) == [3, 1]
    assert [dropped.reason for dropped in chosen.dropped] == ["not selected by the model"] * 2
    assert hits.notes == ("The model selected 2 of 4 documents",)
    assert (hits.usage.tokens_in, hits.usage.tokens_out) == (90, 7)
    assert positions(selecting("none").rank("q", FLEAS).selected()) == []
    assert positions(selecting("Selection: [4] > [2]").rank("q", FLEAS, top_k=1).selected()) == [3]


@pytest.mark.parametrize(("reply", "texts"), [("no idea", FLEAS), ("[1]", FLEAS[:1])])
def test_documents_are_kept_if_no_selection_is_known(reply: str, texts: list[str]) -> None:
    chosen = selecting(reply).rank("q", texts).selected()
    assert positions(chosen) == list(range(len(texts)))
    assert "not known" in chosen.notes[-1]


def test_documents_selected_in_one_window_compete_in_the_next() -> None:
    """Windows of three from the tail: d4 is selected twice, d3 only in the first window."""
    replies = iter(["Selection: [3] > [2]", "Selection: [2]"])
    hits = selecting(lambda _: Reply(text=next(replies)), "sliding,size=3,stride=2").rank(
        "q", [f"t{n}" for n in range(5)]
    )
    assert hits.notes == ("The model selected 2 of 5 documents",)
    assert [(hit.corpus_id, hit.score) for hit in hits] == [(1, 1.0), (0, 0.0), (4, 0.0), (3, 1.0), (2, 0.0)]


def test_stored_hits_keep_everything_but_the_tokenizer() -> None:
    chosen = hits_of(FLEAS).unique()
    again = pickle.loads(pickle.dumps(chosen))
    assert (list(again), again.dropped, again.report) == (list(chosen), chosen.dropped, chosen.report)
    with raises(UsageError, "tokenizer", "count="):
        again.fit(3)
    assert positions(again.fit(3, count=len)) == []


HITS = hits_of(FLEAS)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: HITS.unique(0), ("threshold is 0", "Jaccard")),
        (lambda: HITS.unique("x"), ("'x'",)),  # type: ignore[arg-type]
        (lambda: HITS.unique(1.5), ("1.5",)),
        (lambda: HITS.diverse(-1), ("-1",)),
        (lambda: HITS.diverse(2, 2), ("weight is 2",)),
        (lambda: HITS.diverse(2, math.nan), ("nan",)),
        (lambda: HITS.diverse(vectors=[[1]]), ("1 vectors", "at least 4")),
        (lambda: HITS.diverse(vectors=[[1], [1, 2], [1], [1]]), ("matrix",)),
        (lambda: HITS.diverse(vectors=[[math.inf]] * 4), ("finite",)),
        (lambda: HITS.fit(-1), ("-1",)),
        (lambda: HITS.fit(True), ("True",)),
        (lambda: HITS.fit(3, evidence=[[]]), ("1 hits", "4 hits")),
        (lambda: HITS.selected(), ("setr",)),
    ],
)
def test_wrong_arguments_are_named(call: Callable[[], Hits], named: tuple[str, ...]) -> None:
    with raises(UsageError, *named):
        call()


def test_calibrated_relevance_comes_before_the_score() -> None:
    hits = Hits(
        (replace(hit, relevance=p) for hit, p in zip(HITS, (0.9, 0.9, 0.1, 0.0), strict=True)),
        report=RankingReport(unit_kind="probability"),
    )
    assert positions(hits.diverse(2, 0.6)) == [0, 1]
    assert [dropped.reason for dropped in hits.at_least(0.5).dropped] == ["score below 0.5"] * 2

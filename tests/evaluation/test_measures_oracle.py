"""A second implementation of the common measures, straight from their definitions, on random runs with ties."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank.evaluation import evaluate_run
from rerank.types import Document, Qrels, Query, Ranking, Run

Grades = Mapping[str, int]


def ndcg(docs: Sequence[str], grades: Grades, k: int) -> float:
    def dcg(gains: Sequence[int]) -> float:
        return sum(max(gain, 0) / math.log2(rank + 1) for rank, gain in enumerate(gains[:k], 1))

    ideal = dcg(sorted(grades.values(), reverse=True))
    return dcg([grades.get(doc, 0) for doc in docs]) / ideal if ideal else 0.0


def precision(docs: Sequence[str], grades: Grades, k: int, rel: int = 1) -> float:
    return sum(grades.get(doc, 0) >= rel for doc in docs[:k]) / k


def total(grades: Grades, rel: int = 1) -> int:
    return sum(grade >= rel for grade in grades.values())


def recall(docs: Sequence[str], grades: Grades, k: int, rel: int = 1) -> float:
    return precision(docs, grades, k, rel) * k / total(grades, rel) if total(grades, rel) else 0.0


def average_precision(docs: Sequence[str], grades: Grades, rel: int = 1) -> float:
    hits = [k for k, doc in enumerate(docs, 1) if grades.get(doc, 0) >= rel]
    return sum(precision(docs, grades, k, rel) for k in hits) / total(grades, rel) if hits else 0.0


def reciprocal_rank(docs: Sequence[str], grades: Grades, rel: int = 1, k: int = 10**6) -> float:
    return next((1 / rank for rank, doc in enumerate(docs[:k], 1) if grades.get(doc, 0) >= rel), 0.0)


DOCS = [f"d{n:02}" for n in range(15)]


@given(
    st.dictionaries(st.sampled_from(DOCS), st.sampled_from([0.0, 0.5, 1.0, 1.0 + 1e-12, 2.0]), min_size=1),
    st.dictionaries(st.sampled_from(DOCS), st.integers(-1, 3), min_size=1),
)
def test_measures_equal_their_definitions(scored: dict[str, float], grades: dict[str, int]) -> None:
    ranking = Ranking.from_scores(Query(id="q"), [(Document(id=doc), score) for doc, score in scored.items()])
    docs = sorted(scored, key=lambda doc: (scored[doc], doc), reverse=True)  # the tie rule, said again
    expected = {
        "nDCG@5": ndcg(docs, grades, 5),
        "nDCG": ndcg(docs, grades, 10**6),
        "AP": average_precision(docs, grades),
        "AP(rel=2)": average_precision(docs, grades, 2),
        "RR": reciprocal_rank(docs, grades),
        "RR(rel=2)": reciprocal_rank(docs, grades, 2),
        "RR@3": reciprocal_rank(docs, grades, k=3),
        "P@5": precision(docs, grades, 5),
        "P(rel=3)@3": precision(docs, grades, 3, 3),
        "R@5": recall(docs, grades, 5),
        "R(rel=2)@5": recall(docs, grades, 5, 2),
    }
    scores = evaluate_run(Qrels({"q": grades}), Run([ranking]), expected)
    assert scores.summary() == pytest.approx(expected, abs=1e-9)

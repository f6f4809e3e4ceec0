"""Formulas of benchmarks' own measures: by hand, and beside scikit-learn, which INQUIRE's scripts call."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank.evaluation.benchmark_measures import (
    JudgedRanking,
    RatioTerm,
    inquire_ap,
    inquire_ndcg,
    t2ranking_recall,
    t2ranking_rr,
)


def listed(grades: Sequence[int], scores: Sequence[float] = (), missed: Sequence[int] = ()) -> JudgedRanking:
    """A list of judged documents, scored 1/rank unless told otherwise, and the grades of those that it lacks."""
    return JudgedRanking(
        grades=np.array(grades, dtype=np.int64),
        scores=np.array(scores or [1 / rank for rank in range(1, len(grades) + 1)]),
        judged=np.array([*grades, *missed], dtype=np.int64),
    )


def test_inquire_ap_divides_by_what_the_cutoff_has_room_for() -> None:
    four = listed([1, 0, 1, 1], missed=[1])
    assert inquire_ap(four, 1, 3) == pytest.approx((1 + 2 / 3) / 3)
    assert inquire_ap(four, 1, 4) == pytest.approx((1 + 2 / 3 + 3 / 4) / 4)
    assert inquire_ap(four, 1, 50) == pytest.approx((1 + 2 / 3 + 3 / 4) / 4)


def test_inquire_ap_of_ties() -> None:
    """The three that tie stand at ranks 2 to 4 and share the precision at rank 4."""
    tied = [0.9, 0.5, 0.5, 0.5]
    assert inquire_ap(listed([1, 0, 1, 0], tied), 1, 50) == pytest.approx((1 + 2 / 4) / 2)
    assert inquire_ap(listed([1, 1, 0, 0], tied), 1, 50) == pytest.approx((1 + 2 / 4) / 2)
    assert inquire_ap(listed([1, 1, 0, 0], tied), 1, 2) == 1.0, "what is below the cutoff does not tie"


def test_inquire_ndcg() -> None:
    three = listed([0, 1, 1], missed=[1])
    best = 1 + 1 / math.log2(3) + 1 / 2
    assert inquire_ndcg(three, 1, 50) == pytest.approx((1 / math.log2(3) + 1 / 2) / best)
    assert inquire_ndcg(three, 1, 2) == pytest.approx(1 / math.log2(3) / (1 + 1 / math.log2(3)))


def test_inquire_ndcg_of_ties() -> None:
    """Each of the three that tie gains a third."""
    tied = listed([1, 0, 1, 0], [0.9, 0.5, 0.5, 0.5])
    shared = (1 / math.log2(3) + 1 / 2 + 1 / math.log2(5)) / 3
    assert inquire_ndcg(tied, 1, 50) == pytest.approx((1 + shared) / (1 + 1 / math.log2(3)))


def test_shares() -> None:
    assert (RatioTerm(1, 4), RatioTerm(1, 4).part, RatioTerm(1, 4).whole) == (0.25, 1, 4)
    assert RatioTerm(0, 0) == 0.0
    found = t2ranking_recall(listed([2, 0, 3, 1], missed=[2]), 2, 2)
    assert (found.part, found.whole) == (1, 3)
    first = t2ranking_rr(listed([1, 0, 3]), 2, 10)
    assert (first, first.part, first.whole) == (1 / 3, 1 / 3, 1)
    assert t2ranking_rr(listed([1, 0, 3]), 2, 2) == 0.0


@pytest.mark.parametrize("formula", [inquire_ap, inquire_ndcg, t2ranking_recall, t2ranking_rr])
def test_nothing_found(formula: object) -> None:
    assert callable(formula)
    for nothing in (listed([]), listed([], missed=[1, 1]), listed([0, 0, -1]), listed([0], missed=[3])):
        assert formula(nothing, 1, 2**31 - 1) == 0.0


LISTS = st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0.0, 0.25, 0.5, 1.0])), min_size=2, max_size=12)
MISSED = st.lists(st.integers(0, 3), max_size=6)


def sorted_list(rows: Sequence[tuple[int, float]], missed: Sequence[int]) -> JudgedRanking:
    ordered = sorted(rows, key=lambda row: -row[1])
    return listed([grade for grade, _ in ordered], [score for _, score in ordered], missed)


@given(LISTS, MISSED, st.integers(1, 15), st.integers(1, 3))
def test_bounds(rows: list[tuple[int, float]], missed: list[int], cutoff: int, rel: int) -> None:
    one = sorted_list(rows, missed)
    for formula in (inquire_ap, inquire_ndcg, t2ranking_recall, t2ranking_rr):
        assert 0 <= formula(one, rel, cutoff) <= 1 + 1e-9


@given(LISTS, st.integers(1, 15), st.integers(1, 3))
def test_the_best_list_scores_1(rows: list[tuple[int, float]], cutoff: int, rel: int) -> None:
    best = listed(sorted((grade for grade, _ in rows), reverse=True))
    expected = pytest.approx(1.0 if best.positives(rel) else 0.0)
    assert inquire_ap(best, rel, cutoff) == inquire_ndcg(best, rel, cutoff) == expected


@given(LISTS, MISSED, st.integers(2, 12))
def test_scikit_learn_says_the_same(rows: list[tuple[int, float]], missed: list[int], cutoff: int) -> None:
    """As INQUIRE's scripts call it: with as many documents as the cutoff, so that the list ends there."""
    metrics = pytest.importorskip("sklearn.metrics")
    one = sorted_list(rows, missed)
    hits = (one.grades[:cutoff] >= 2).astype(int)
    scores, positives, length = one.scores[:cutoff], one.positives(2), len(hits)
    if not hits.any():
        return
    precision = metrics.average_precision_score(hits, scores) * hits.sum() / min(positives, length)
    assert inquire_ap(one, 2, length) == pytest.approx(precision)
    lacking = positives - hits.sum()
    whole = np.append(hits, np.ones(lacking)), np.append(scores, np.full(lacking, -100.0))
    assert inquire_ndcg(one, 2, length) == pytest.approx(metrics.ndcg_score([whole[0]], [whole[1]], k=length))

"""The formulas of fusion, against values worked out by hand."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank.retrieval.hybrid import (
    FusionValues,
    min_max_fusion,
    reciprocal_rank_fusion,
    weighted_fusion_sum,
    z_score_fusion,
)
from rerank.types import Document, Query, Ranking


def ranking(**scores: float) -> Ranking:
    return Ranking.from_scores(Query(id="q"), ((Document(id=doc_id), score) for doc_id, score in scores.items()))


def test_reciprocal_ranks() -> None:
    votes = reciprocal_rank_fusion(ranking(a=9.0, b=5.0, c=4.0))
    assert votes.values == {"a": 1 / 61, "b": 1 / 62, "c": 1 / 63}
    assert votes["z"] == 0
    assert reciprocal_rank_fusion(ranking(a=9.0, b=5.0), k=0).values == {"a": 1.0, "b": 0.5}


def test_reciprocal_ranks_count_places_where_scores_tie() -> None:
    assert reciprocal_rank_fusion(ranking(a=1.0, b=1.0)).values == {"b": 1 / 61, "a": 1 / 62}


def test_min_max() -> None:
    votes = min_max_fusion(ranking(a=10.0, b=4.0, c=2.0))
    assert votes.values == pytest.approx({"a": 1.0, "b": 0.25, "c": 0.0})
    assert votes["z"] == 0


def test_z_score() -> None:
    # mean 4, squares of the differences 16, 0 and 16, deviation sqrt(32/3)
    unit = math.sqrt(32 / 3)
    votes = z_score_fusion(ranking(a=8.0, b=4.0, c=0.0))
    assert votes.values == pytest.approx({"a": 4 / unit, "b": 0.0, "c": -4 / unit})
    assert votes["z"] == pytest.approx(-4 / unit)


@pytest.mark.parametrize("normalize", [min_max_fusion, z_score_fusion])
def test_lists_whose_scores_say_nothing(normalize: object) -> None:
    assert callable(normalize)
    assert normalize(ranking(a=3.0, b=3.0)) == FusionValues({"a": 1.0, "b": 1.0})
    assert normalize(ranking(a=-3.0)) == FusionValues({"a": 1.0})
    assert normalize(ranking()) == FusionValues({})


numbers = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(numbers, min_size=1, max_size=8))
def test_any_finite_scores_are_normalised_in_their_order(scores: list[float]) -> None:
    given = ranking(**{f"d{i}": score for i, score in enumerate(scores)})
    for votes in (min_max_fusion(given), z_score_fusion(given)):
        values = [votes[doc_id] for doc_id in given.doc_ids]
        assert all(map(math.isfinite, values))
        assert values == sorted(values, reverse=True)
        assert votes["missing"] <= values[-1]
    assert all(0 <= value <= 1 for value in min_max_fusion(given).values.values())


@given(st.lists(st.integers(-50, 50), min_size=2, max_size=9).filter(lambda scores: len(set(scores)) > 1))
def test_normalised_scores_against_exact_arithmetic(scores: list[int]) -> None:
    given = ranking(**{f"d{i}": float(score) for i, score in enumerate(scores)})
    low, span = min(scores), max(scores) - min(scores)
    mean = Fraction(sum(scores), len(scores))
    deviation = math.sqrt(sum((s - mean) ** 2 for s in scores) / len(scores))
    for i, score in enumerate(scores):
        assert min_max_fusion(given)[f"d{i}"] == pytest.approx(float(Fraction(score - low, span)), abs=1e-12)
        assert z_score_fusion(given)[f"d{i}"] == pytest.approx(float(score - mean) / deviation, abs=1e-12)


def test_weighted_sum_of_what_every_list_says_of_every_document() -> None:
    lists = [FusionValues({"a": 1.0, "b": 0.5}, missing=-1.0), FusionValues({"b": 0.25, "c": 4.0})]
    assert weighted_fusion_sum(lists, [2.0, 1.0]) == {"a": 2.0, "b": 1.25, "c": 2.0}
    assert weighted_fusion_sum([], []) == {}

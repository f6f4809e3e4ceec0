"""Categories of pairs and what is counted from them."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rerank.adjudication.conclusions import (
    NAMES,
    RATES,
    PairCategories,
    Procedure,
    SignificanceVerdicts,
    categorise_pairs,
    comparison_row,
    count_errors,
)

T = (Procedure("t", "bh"),)


@pytest.mark.parametrize(
    ("gold", "by_gold", "cheap", "by_cheap", "name"),
    [
        (0.2, True, 0.1, True, "AA"),
        (0.2, True, -0.1, True, "AD"),
        (0.2, True, 0.1, False, "MA_missed"),
        (0.2, False, 0.1, True, "MA_spurious"),
        (0.2, True, -0.1, False, "MD_missed"),
        (0.2, False, -0.1, True, "MD_spurious"),
        (0.2, False, 0.1, False, "PA"),
        (0.2, False, -0.1, False, "PD"),
        (0.0, False, 0.0, False, "PA"),  # no difference is a sign of its own
        (0.0, False, 0.1, False, "PD"),
        (0.2, True, 0.0, False, "MD_missed"),
    ],
)
def test_a_pair(gold: float, by_gold: bool, cheap: float, by_cheap: bool, name: str) -> None:
    (code,) = categorise_pairs(np.array([gold]), np.array([by_gold]), np.array([cheap]), np.array([by_cheap]))
    assert NAMES[code] == name


def test_rates_by_hand() -> None:
    found = PairCategories(AA=50, AD=2, MA_missed=20, MA_spurious=6, MD_missed=8, MD_spurious=4, PA=90, PD=20)
    assert (found.MA, found.MD, found.pairs, found.gold, found.cheap) == (26, 12, 200, 80, 62)
    assert found.precision == 50 / 62
    assert found.recall == 50 / 80
    assert found.f1 == pytest.approx(2 / (62 / 50 + 80 / 50))
    assert found.publication_bias == 1 - 50 / 62
    assert (found.type_1, found.type_2, found.type_3) == (10 / 120, 28 / 80, 2 / 80)
    assert found.balanced_accuracy == pytest.approx((52 / 80 + 110 / 120) / 2)
    assert found.discriminative_power == 62 / 200
    truth = np.repeat([1, 1, 0, 0], [52, 28, 10, 110])
    told = np.repeat([1, 0, 1, 0], [52, 28, 10, 110])
    assert found.mcc == pytest.approx(np.corrcoef(truth, told)[0, 1])


def test_rates_of_nothing_are_none() -> None:
    nothing = PairCategories(AA=0, AD=0, MA_missed=0, MA_spurious=0, MD_missed=0, MD_spurious=0, PA=3, PD=0)
    assert nothing.to_dict()["precision"] is None
    assert nothing.recall is None
    assert nothing.balanced_accuracy is None
    assert nothing.type_1 == 0


def test_by_system() -> None:
    codes = np.array([NAMES.index(name) for name in ("MA_missed", "AA", "MD_spurious")])  # pairs 01, 02, 12
    found = count_errors(codes, 3)
    assert {wrong: counts.tolist() for wrong, counts in found.items()} == {
        "missed": [1, 1, 0],
        "spurious": [0, 1, 1],
        "turned": [0, 0, 0],
    }
    assert count_errors(np.array([NAMES.index("AD")]), 2)["turned"].tolist() == [1, 1]


matrices = st.integers(0, 10**6).map(lambda seed: np.random.default_rng(seed).integers(0, 6, (12, 5)) / 8)
NAMED = tuple("edcba")


@settings(max_examples=40)
@given(matrices, matrices)
def test_the_categories_sum_to_all_pairs(gold: np.ndarray, cheap: np.ndarray) -> None:
    one, two = (
        SignificanceVerdicts.from_scores(cheap, NAMED, T, 0.05),
        SignificanceVerdicts.from_scores(gold, NAMED, T, 0.05),
    )
    (codes,) = one.categorise_against(two)
    found = PairCategories.from_codes(codes)
    assert found.AA + found.AD + found.MA + found.MD + found.PA + found.PD == found.pairs == 10
    assert found.gold == two.significant[0].sum()
    assert found.cheap == one.significant[0].sum()
    same = np.sign(one.differences) == np.sign(two.differences)
    assert same.sum() == found.AA + found.MA + found.PA


def test_a_ranking_of_nothing_is_like_no_other() -> None:
    gold = SignificanceVerdicts.from_scores(np.random.default_rng(1).random((12, 5)), NAMED, T, 0.05)
    nothing = SignificanceVerdicts.from_scores(np.zeros((12, 5)), NAMED, T, 0.05)
    assert set(nothing.compare_ranking(gold).values()) == {None}


@settings(max_examples=40)
@given(matrices)
def test_against_itself_everything_agrees(values: np.ndarray) -> None:
    verdicts = SignificanceVerdicts.from_scores(values, NAMED, T, 0.2)
    (codes,) = verdicts.categorise_against(verdicts)
    found = comparison_row(codes, verdicts.compare_ranking(verdicts))
    assert found["AA"] + found["PA"] == 10
    assert found["precision"] in (1, None)
    assert found["recall"] == found["precision"]
    assert found["tau_ap"] in (1, None)
    assert found["rbo"] == found["tau"] == found["tau_ap"]
    assert found["max_drop"] in (0, None)


@settings(max_examples=40)
@given(matrices, matrices, st.integers(0, 99))
def test_neither_the_order_of_topics_nor_that_of_systems_matters(
    gold: np.ndarray, cheap: np.ndarray, seed: int
) -> None:
    chance = np.random.default_rng(seed)
    rows, columns = chance.permutation(12), chance.permutation(5)
    names = tuple(NAMED[at] for at in columns)
    one, two = (
        SignificanceVerdicts.from_scores(gold, NAMED, T, 0.1),
        SignificanceVerdicts.from_scores(cheap, NAMED, T, 0.1),
    )
    three, four = (SignificanceVerdicts.from_scores(m[np.ix_(rows, columns)], names, T, 0.1) for m in (gold, cheap))
    before, after = (
        comparison_row(two.categorise_against(one)[0], two.compare_ranking(one)),
        comparison_row(four.categorise_against(three)[0], four.compare_ranking(three)),
    )
    assert before == pytest.approx(after)
    code = dict(zip(combinations(NAMED, 2), two.categorise_against(one)[0], strict=True))
    for pair, found in zip(combinations(names, 2), four.categorise_against(three)[0], strict=True):
        assert found == code.get(pair, code.get(pair[::-1]))


def test_all_rates_are_reported() -> None:
    found = PairCategories.from_codes(np.zeros(3, dtype=np.int64)).to_dict()
    assert set(RATES) <= found.keys()
    assert list(found)[:6] == ["AA", "AD", "MA", "MD", "PA", "PD"]

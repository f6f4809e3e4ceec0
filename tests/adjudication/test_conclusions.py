"""Categories of pairs, and correlations of rankings, against other implementations and by hand."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau

from rerank.adjudication.conclusions import (
    NAMES,
    RATES,
    PairCategories,
    Procedure,
    SignificanceVerdicts,
    categorise_pairs,
    comparison_row,
    count_errors,
    kendall_tau,
    rank_biased_overlap,
    rank_changes,
    rank_systems,
    tau_ap,
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
    expected = {"missed": [1, 1, 0], "spurious": [0, 1, 1], "turned": [0, 0, 0]}
    assert {wrong: counts.tolist() for wrong, counts in found.items()} == expected
    assert count_errors(np.array([NAMES.index("AD")]), 2)["turned"].tolist() == [1, 1]


matrices = st.integers(0, 10**6).map(lambda seed: np.random.default_rng(seed).integers(0, 6, (12, 5)) / 8)
NAMED = tuple("edcba")


@settings(max_examples=40)
@given(matrices, matrices)
def test_the_categories_sum_to_all_pairs(gold: np.ndarray, cheap: np.ndarray) -> None:
    one, two = (SignificanceVerdicts.from_scores(values, NAMED, T, 0.05) for values in (cheap, gold))
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
    one, two = (SignificanceVerdicts.from_scores(values, NAMED, T, 0.1) for values in (gold, cheap))
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


means = st.lists(st.integers(0, 6), min_size=2, max_size=12)


@given(st.integers(0, 10**6), st.integers(2, 15))
def test_tau_is_scipys(seed: int, many: int) -> None:
    chance = np.random.default_rng(seed)
    one, two = chance.integers(0, 5, (2, many)) / 4
    expected = kendalltau(one, two).statistic
    found = kendall_tau(one, two)
    assert (found is None) == bool(np.isnan(expected))
    assert found is None or found == pytest.approx(expected)


def places(text: str, other: str) -> tuple[np.ndarray, np.ndarray]:
    """Two rankings of the same letters."""
    return np.arange(len(text)), np.array([text.index(letter) for letter in other])


def test_tau_ap_by_hand() -> None:
    assert tau_ap(*places("abcd", "abcd")) == 1
    assert tau_ap(*places("abcd", "dcba")) == -1
    # bacd: C = 0, 2, 3 -> 2/3 (0/1 + 2/2 + 3/3) - 1
    assert tau_ap(*places("abcd", "bacd")) == pytest.approx(2 / 3 * 2 - 1)
    # abdc: C = 1, 2, 2 -> 2/3 (1 + 1 + 2/3) - 1: a swap at the end costs less
    assert tau_ap(*places("abcd", "abdc")) == pytest.approx(2 / 3 * (2 + 2 / 3) - 1)


def test_rbo_by_hand() -> None:
    assert rank_biased_overlap(*places("abcd", "abcd")) == pytest.approx(1)
    # bac: A = 0, 1, 1; extrapolated: p^3 + (1 - p)/p (p^2 + p^3)
    p = 0.8
    assert rank_biased_overlap(*places("abc", "bac"), p) == pytest.approx(p**3 + (1 - p) / p * (p**2 + p**3))


@given(st.permutations(range(7)), st.permutations(range(7)))
def test_rbo_is_symmetric_and_bounded(one: list[int], two: list[int]) -> None:
    a, b = np.array(one), np.array(two)
    assert rank_biased_overlap(a, b) == pytest.approx(rank_biased_overlap(b, a))
    assert 0 <= rank_biased_overlap(a, b) <= 1 + 1e-12
    assert -1 - 1e-12 <= tau_ap(a, b) <= 1 + 1e-12


def test_max_drop() -> None:
    assert rank_changes(*places("abcd", "bcda")).tolist() == [3, -1, -1, -1]
    assert rank_changes(*places("abcd", "dabc")).max() == 1


def test_equal_means_go_by_name() -> None:
    assert rank_systems(np.array([1.0, 2.0, 1.0]), ("z", "m", "a")).tolist() == [1, 2, 0]

"""The tests of one pair: against SciPy, against counting by hand, and where there is nothing to test."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rerank.evaluation.significance import (
    SMALLEST,
    are_differences_constant,
    holm,
    open_significance_test,
    paired_t,
    signed_rank,
    student_t_interval,
)

differences = st.lists(st.integers(-20, 20).map(lambda n: n / 20), min_size=1, max_size=40)


@given(differences)
def test_p_values_are_never_0_nor_nan(values: list[float]) -> None:
    for p in (paired_t(values), signed_rank(values)):
        assert SMALLEST <= p <= 1


@given(differences)
def test_the_sign_of_the_differences_does_not_matter(values: list[float]) -> None:
    mirrored = [-v for v in values]
    assert paired_t(values) == pytest.approx(paired_t(mirrored), rel=1e-9)
    assert signed_rank(values) == pytest.approx(signed_rank(mirrored), rel=1e-9)


@given(st.lists(st.floats(-1, 1).map(lambda x: round(x, 3)), min_size=3, max_size=40))
def test_t_is_scipys(values: list[float]) -> None:
    if len(set(values)) < 2:
        return
    assert paired_t(values) == pytest.approx(float(stats.ttest_1samp(values, 0).pvalue), rel=1e-6)


def signed_rank_by_hand(values: list[float]) -> float:
    """Every choice of signs, listed."""
    sizes = [abs(v) for v in values if v]
    ranks = [sum(s < size for s in sizes) + (sum(s == size for s in sizes) + 1) / 2 for size in sizes]
    observed = sum(r for r, v in zip(ranks, (v for v in values if v), strict=True) if v > 0)
    middle = sum(ranks) / 2
    sums = [sum(itertools.compress(ranks, signs)) for signs in itertools.product([0, 1], repeat=len(ranks))]
    return sum(abs(s - middle) >= abs(observed - middle) for s in sums) / len(sums)


@given(st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=9))
def test_wilcoxon_of_few_topics_is_exact_ties_included(values: list[float]) -> None:
    assert signed_rank(values) == pytest.approx(signed_rank_by_hand(values))


def test_wilcoxon_without_ties_is_scipys_exact_one() -> None:
    values = [0.01 * n * (-1) ** (n % 3 == 0) for n in range(1, 26)]
    assert signed_rank(values) == pytest.approx(float(stats.wilcoxon(values, method="exact").pvalue))


def test_wilcoxon_of_many_topics_is_scipys_approximation() -> None:
    values = [0.01 * n * (-1) ** (n % 3 == 0) for n in range(1, 31)] + [0.0] * 5
    nonzero = [v for v in values if v]
    assert signed_rank(values) == pytest.approx(
        float(stats.wilcoxon(nonzero, method="approx", correction=False).pvalue)
    )


def test_few_topics_cannot_be_significant() -> None:
    """Five wins out of five: the normal approximation would call it significant."""
    assert signed_rank([0.1] * 5) == pytest.approx(2 / 32)


@pytest.mark.parametrize("values", [[0.0], [0.0] * 50, [-0.0, 0.0]])
def test_identical_runs(values: list[float]) -> None:
    assert paired_t(values) == 1.0
    assert signed_rank(values) == 1.0


def test_two_topics_by_hand() -> None:
    """t = 2 / 1 with one degree of freedom, whose distribution is Cauchy's."""
    assert paired_t([1.0, 3.0]) == pytest.approx(1 - 2 * math.atan(2) / math.pi)


def test_one_topic_tells_nothing() -> None:
    assert paired_t([0.5]) == 1.0
    assert signed_rank([0.5]) == 1.0


@pytest.mark.parametrize("count", [2, 5, 30])
@pytest.mark.parametrize("difference", [0.1, -0.5, 1 / 3])
def test_the_same_difference_everywhere(count: int, difference: float) -> None:
    """Without variance t has no p-value; the tests of ranks and signs have an exact one of 2 / 2^n."""
    scores = np.column_stack([np.full(count, difference), np.zeros(count)])
    assert paired_t([difference] * count) == 1.0
    assert open_significance_test("t").p_values(scores).tolist() == [1.0]
    if count <= 25:
        exact = [
            float(open_significance_test(name).p_values(scores)[0]) for name in ("wilcoxon", "sign", "permutation")
        ]
        assert exact == [signed_rank([difference] * count)] * 3 == [2 / 2**count] * 3


def test_what_underflows_is_bounded() -> None:
    assert paired_t([0.1 + 1e-16 * (n % 2) for n in range(900)]) == SMALLEST


@pytest.mark.parametrize("count", [30, 60])
def test_one_pair_has_the_p_value_that_it_has_among_all_pairs(count: int) -> None:
    scores = np.random.default_rng(count).integers(0, 9, (count, 4)) / 8
    differences = [(scores[:, a] - scores[:, b]).tolist() for a, b in itertools.combinations(range(4), 2)]
    assert open_significance_test("wilcoxon").p_values(scores).tolist() == [signed_rank(d) for d in differences]
    assert open_significance_test("t").p_values(scores) == pytest.approx([paired_t(d) for d in differences], rel=1e-12)


def test_constant() -> None:
    assert are_differences_constant([0.1, 0.1, 0.1])
    assert are_differences_constant([0.0])
    assert not are_differences_constant([0.1, 0.1, 0.1 + 1e-9])


def test_interval() -> None:
    values = [0.2, 0.4, 0.9, 0.1]
    low, high = student_t_interval(values)
    mean, error = 0.4, float(stats.sem(values))
    assert (low, high) == pytest.approx(stats.t.interval(0.95, 3, loc=mean, scale=error))
    assert student_t_interval([0.3, 0.3]) == (0.3, 0.3)
    wide_low, wide_high = student_t_interval(values, 0.99)
    assert wide_low < low < high < wide_high


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(1e-9, 1), min_size=1, max_size=12), st.floats(0.001, 0.2))
def test_holm_rejects_what_the_step_down_rule_rejects(p_values: list[float], alpha: float) -> None:
    adjusted = holm(p_values)
    rejected, m = set(), len(p_values)
    for step, index in enumerate(sorted(range(m), key=p_values.__getitem__)):
        if p_values[index] * (m - step) > alpha:
            break
        rejected.add(index)
    assert {index for index, p in enumerate(adjusted) if p <= alpha} == rejected
    assert all(raw <= p <= 1 for raw, p in zip(p_values, adjusted, strict=True))
    assert not any(math.isnan(p) for p in adjusted)

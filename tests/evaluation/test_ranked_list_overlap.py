"""Similarity of lists with different documents."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank.evaluation.reproduction import kendall_tau_union, rank_biased_overlap

lists = st.lists(st.integers(0, 30).map(str), max_size=20, unique=True)


def test_tau_union_by_hand() -> None:
    assert kendall_tau_union("abc", "abd") == 1  # the example of the paper: 1 2 3 and 1 2 4
    assert kendall_tau_union("abc", "xyz") == 1  # it says nothing about documents that were not found again
    assert kendall_tau_union("abcd", "dcba") == -1
    assert kendall_tau_union("abc", "cab") == pytest.approx(-1 / 3)  # 3 1 2: two of three pairs are inverted
    assert kendall_tau_union("abcdef", "cab") == pytest.approx(-1 / 3)
    assert (kendall_tau_union("a", "a"), kendall_tau_union("", "ab")) == (None, None)


@given(lists, lists)
def test_tau_union_does_not_depend_on_names(first: list[str], second: list[str]) -> None:
    renamed = dict(zip(map(str, range(31)), np.random.default_rng(0).permutation(31).astype(str), strict=True))
    assert kendall_tau_union(first, second) == kendall_tau_union(
        [renamed[doc] for doc in first], [renamed[doc] for doc in second]
    )


@given(lists, lists, st.sampled_from([0.5, 0.9, 0.95]))
def test_rank_biased_overlap_is_the_weighted_mean_of_overlaps(first: list[str], second: list[str], p: float) -> None:
    depths = range(1, max(len(first), len(second)) + 1)
    agreement = [len(set(first[:d]) & set(second[:d])) / d for d in depths]
    weights = [p ** (d - 1) for d in depths]
    expected = sum(a * w for a, w in zip(agreement, weights, strict=True)) / sum(weights) if weights else None
    assert rank_biased_overlap(first, second, p) == (None if expected is None else pytest.approx(expected))


def test_overlap_of_equal_and_disjoint_lists() -> None:
    assert rank_biased_overlap("abc", "abc") == pytest.approx(1)
    assert rank_biased_overlap("abc", "xyz") == 0
    assert rank_biased_overlap("ab", "ba", 0.5) == pytest.approx((0 + 0.5 * 1) / 1.5)

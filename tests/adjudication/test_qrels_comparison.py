"""Whether judgments favour a group of systems."""

from __future__ import annotations

import numpy as np
import pytest

from rerank.adjudication.qrels_comparison import compute_advantage, find_group, resample_advantage
from rerank.errors import UsageError

GROUP = np.array([True, True, *[False] * 8])


def test_lenient_judgments_are_no_advantage() -> None:
    gold = np.linspace(0.2, 0.8, 10)
    assert compute_advantage(gold, 0.4 + 0.5 * gold, GROUP) == pytest.approx((0, 0))


def test_an_advantage_is_found_as_large_as_it_is() -> None:
    gold = np.linspace(0.2, 0.8, 10)
    other = 0.4 + 0.5 * gold + np.where(GROUP, 0.11, 0)
    # neighbouring systems are 1/30 apart: the first of the group passes two others, and the second passes three
    assert compute_advantage(gold, other, GROUP) == pytest.approx((2.5, 0.11))


@pytest.mark.parametrize(("bonus", "found"), [(0.0, False), (0.15, True)])
def test_the_interval_excludes_0_only_with_an_advantage(bonus: float, found: bool) -> None:
    rng = np.random.default_rng(0)
    gold = rng.uniform(0.2, 0.8, 10) + rng.normal(0, 0.1, (60, 10))
    other = gold + rng.normal(0, 0.1, gold.shape) + bonus * GROUP
    low, high = resample_advantage(gold, other, GROUP, resamples=200, seed=0, alpha=0.05)
    assert (low.score > 0) is found
    assert low.score < bonus < high.score


def test_systems_are_found_by_name() -> None:
    systems = ("gpt-a", "gpt-b", "bm25", "splade", "dense")
    assert find_group(systems, "GPT", "gpt*").tolist() == [True, True, False, False, False]
    for pattern in ("llama*", "*"):
        with pytest.raises(UsageError):
            find_group(systems, "GPT", pattern)

"""Significance tests for all pairs of systems, one per module, and corrections for multiple comparisons."""

from __future__ import annotations

from typing import cast

from rerank.evaluation.significance.base import SMALLEST, PairTest
from rerank.evaluation.significance.base.corrections import CORRECTIONS, TITLES, correct, required_p_value
from rerank.evaluation.significance.base.paired_tests import (
    EXACT_UP_TO,
    holm,
    is_constant,
    mean_interval,
    paired_t,
    signed_rank,
)
from rerank.registry import Registry
from rerank.selector import build

__all__ = [
    "CORRECTIONS",
    "EXACT_UP_TO",
    "SMALLEST",
    "TITLES",
    "PairTest",
    "correct",
    "holm",
    "is_constant",
    "mean_interval",
    "open_test",
    "paired_t",
    "required_p_value",
    "signed_rank",
    "tests",
]

tests = Registry("evaluation.significance", "test")


def open_test(selector: str) -> PairTest:
    """Create a test from its selector, such as ``"wilcoxon"`` or ``"permutation,permutations=100000,seed=1"``.

    Raises:
        UnknownNameError: The test or option does not exist.
        UsageError: The value of an option is invalid.
    """
    return cast(PairTest, build(tests, selector))

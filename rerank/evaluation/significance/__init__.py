"""Whether differences between systems are more than chance: tests of all pairs, one a file, and corrections."""

from __future__ import annotations

from typing import cast

from rerank.evaluation.significance.base import SMALLEST, PairTest
from rerank.evaluation.significance.base.corrections import CORRECTIONS, TITLES, correct, least_wanted
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
    "least_wanted",
    "mean_interval",
    "open_test",
    "paired_t",
    "signed_rank",
    "tests",
]

tests = Registry("evaluation.significance", "test")


def open_test(selector: str) -> PairTest:
    """Make a test from its selector, e.g. ``"wilcoxon"`` or ``"permutation,permutations=100000,seed=1"``.

    Raises:
        UnknownNameError: No such test or option.
        UsageError: A value that does not fit.
    """
    return cast(PairTest, build(tests, selector))

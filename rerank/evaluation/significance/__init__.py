"""Significance tests for all pairs of systems, and corrections for multiple comparisons."""

from typing import cast

from rerank.evaluation.significance.base import (
    CORRECTIONS,
    SMALLEST,
    TITLES,
    PairTest,
    correct_p_values,
    required_p_value,
)
from rerank.evaluation.significance.single_pairs import (
    EXACT_UP_TO,
    are_differences_constant,
    holm,
    paired_t,
    signed_rank,
    student_t_interval,
)
from rerank.registry import Registry
from rerank.selector import build_from_selector

__all__ = [
    "CORRECTIONS",
    "EXACT_UP_TO",
    "SMALLEST",
    "TITLES",
    "PairTest",
    "are_differences_constant",
    "correct_p_values",
    "holm",
    "open_significance_test",
    "paired_t",
    "required_p_value",
    "signed_rank",
    "student_t_interval",
    "tests",
]

tests = Registry(
    "evaluation.significance",
    "test",
    shared={
        "evaluation.significance.single_pairs": "t wilcoxon sign",
        "evaluation.significance.resampling": "permutation bootstrap tukey_randomised",
        "evaluation.significance.anova": "tukey_anova",
    },
)


def open_significance_test(selector: str) -> PairTest:
    """Create a test from its selector, such as ``"wilcoxon"`` or ``"permutation,permutations=100000,seed=1"``.

    Raises:
        UnknownNameError: The test or option does not exist.
        UsageError: The value of an option is invalid.
    """
    return cast(PairTest, build_from_selector(tests, selector))

"""Significance tests of many systems against one baseline (one test per module)."""

from __future__ import annotations

from typing import cast

from rerank.errors import UsageError
from rerank.evaluation.baseline_tests.base import BaselineTest
from rerank.evaluation.baseline_tests.base.corrected_pairs import CorrectedPairTest
from rerank.evaluation.significance import open_significance_test, tests
from rerank.evaluation.significance.base.corrections import resolve_correction
from rerank.registry import Registry
from rerank.selector import Selector, build_from_selector

__all__ = ["BaselineTest", "baseline_tests", "is_baseline_test", "open_baseline_test"]

baseline_tests = Registry("evaluation.baseline_tests", "test against a baseline")


def open_baseline_test(selector: str, correction: str = "auto") -> BaselineTest:
    """Create a test against a baseline: ``dunnett``, ``max-t``, or a test of pairs with a correction.

    Args:
        selector: Selector of the test, such as ``"max-t,permutations=100000"`` or ``"wilcoxon"``.
        correction: Correction of a test of pairs over the comparisons with the baseline. ``auto`` selects holm, or none
            for a test that controls the family-wise error itself.

    Raises:
        UnknownNameError: The test, the correction or an option does not exist.
        UsageError: The test cannot be combined with the correction, or it tests all pairs of systems together.
    """
    if is_baseline_test(selector):
        resolve_correction(selector, correction, family_wise=True)
        return cast(BaselineTest, build_from_selector(baseline_tests, selector))
    pair_test = open_significance_test(selector)
    if tests.get(Selector.parse(selector).name).family_wise:
        raise UsageError(
            f"The test {selector!r} tests all pairs of systems together and cannot be used with a baseline",
            expected="a test of single pairs, or one of the tests against a baseline: "
            + ", ".join(name.replace("_", "-") for name in baseline_tests.names()),
            remedy="Omit the baseline, or choose another test",
        )
    return CorrectedPairTest(pair_test, resolve_correction(selector, correction, family_wise=False))


def is_baseline_test(selector: str) -> bool:
    """Return whether a selector names a test that is only defined against a baseline."""
    return Selector.parse(selector).name in baseline_tests

"""Significance tests of many systems against one baseline: tests of their own, and tests of pairs with a correction."""

import re
from dataclasses import dataclass
from typing import cast

import numpy as np

from rerank.errors import UsageError
from rerank.evaluation.significance import correct_p_values, open_significance_test
from rerank.evaluation.significance.base import (
    BaselineP,
    BaselineTest,
    Floats,
    PairTest,
    clip_p_values,
    differences_from_baseline,
    resolve_correction,
    standard_errors,
)
from rerank.registry import Registry
from rerank.selector import Selector, build_from_selector

__all__ = ["BaselineTest", "baseline_tests", "is_baseline_test", "open_baseline_test"]

baseline_tests = Registry(
    "evaluation.baseline_tests",
    "test against a baseline",
    shared={"evaluation.significance.anova": "dunnett", "evaluation.significance.resampling": "max_t"},
)


def open_baseline_test(selector: str, correction: str = "auto") -> BaselineTest:
    """Create a test against a baseline: ``dunnett``, ``max-t``, or a test of pairs with a correction.

    ``auto`` selects the correction holm, or none for a test that controls the family-wise error itself. A `UsageError`
    means that test and correction cannot be combined, or that the test compares all pairs of systems together.
    """
    selector = spell_out(selector)
    if is_baseline_test(selector):
        resolve_correction(selector, correction, family_wise=True)
        return cast(BaselineTest, build_from_selector(baseline_tests, selector))
    pair_test = open_significance_test(selector)
    if pair_test.family_wise:
        raise UsageError(
            f"The test {selector!r} tests all pairs of systems together and cannot be used with a baseline",
            expected="a test of single pairs, or one of the tests against a baseline: "
            + ", ".join(name.replace("_", "-") for name in baseline_tests.names()),
            remedy="Omit the baseline, or choose another test",
        )
    return CorrectedPairTest(pair_test, resolve_correction(selector, correction, family_wise=False))


def is_baseline_test(selector: str) -> bool:
    """Return whether a selector names a test that is only defined against a baseline."""
    return Selector.parse(spell_out(selector)).name in baseline_tests


def spell_out(selector: str) -> str:
    """Return the selector of a test, in which ``max-t,flip`` is ``max-t,flip=true``."""
    return re.sub(r"^(max[-_]t,flip)(?=,|$)", r"\1=true", selector)


@dataclass(frozen=True)
class CorrectedPairTest:
    """Test against a baseline that applies a test of pairs to each system and the baseline, and corrects the p-values.

    Only the pairs that include the baseline are tested, and the correction covers only these pairs. The simultaneous
    intervals are Student's t intervals at level alpha / k (Bonferroni) for k comparisons. Holm's procedure has no
    equally simple intervals; it rejects every hypothesis whose Bonferroni interval excludes 0.
    """

    test: PairTest
    correction: str
    family_wise = False

    @property
    def title(self) -> str:
        return self.test.title

    def p_values(self, scores: Floats, baseline: int) -> BaselineP:
        others = [system for system in range(scores.shape[1]) if system != baseline]
        raw = np.concatenate([self.test.p_values(scores[:, [other, baseline]]) for other in others])
        return BaselineP(clip_p_values(raw), correct_p_values(raw, self.correction))

    def half_widths(self, scores: Floats, baseline: int, alpha: float) -> Floats:
        from scipy.stats import t

        differences = differences_from_baseline(scores, baseline)
        topics, comparisons = differences.shape
        level = alpha if self.correction == "none" else alpha / comparisons
        return np.asarray(standard_errors(differences) * t.isf(level / 2, topics - 1))

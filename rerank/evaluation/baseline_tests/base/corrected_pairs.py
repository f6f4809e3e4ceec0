"""Adapter that uses a test of single pairs as a test against a baseline.

Only the pairs that include the baseline are tested, and the correction covers only these pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rerank.evaluation.baseline_tests.base import BaselineP, differences_from_baseline, standard_errors
from rerank.evaluation.significance.base import Floats, PairTest, clip_p_values
from rerank.evaluation.significance.base.corrections import correct_p_values


@dataclass(frozen=True)
class CorrectedPairTest:
    """Test against a baseline that applies a test of pairs to each system and the baseline, and corrects the p-values.

    The simultaneous intervals are Student's t intervals at level alpha / k (Bonferroni) for k comparisons. Holm's
    procedure has no equally simple intervals; it rejects every hypothesis whose Bonferroni interval excludes 0.

    Attributes:
        test: The test of pairs.
        correction: Name of the correction.
    """

    test: PairTest
    correction: str
    family_wise = False

    @property
    def title(self) -> str:
        """Name of the test of pairs."""
        return self.test.title

    def p_values(self, scores: Floats, baseline: int) -> BaselineP:
        """Return the uncorrected and the corrected p-values of the pairs that include the baseline."""
        others = [system for system in range(scores.shape[1]) if system != baseline]
        raw = np.concatenate([self.test.p_values(scores[:, [other, baseline]]) for other in others])
        return BaselineP(clip_p_values(raw), correct_p_values(raw, self.correction))

    def half_widths(self, scores: Floats, baseline: int, alpha: float) -> Floats:
        """Return half widths of Bonferroni's t intervals; if the correction is ``none``, of uncorrected t intervals."""
        from scipy.stats import t

        differences = differences_from_baseline(scores, baseline)
        topics, comparisons = differences.shape
        level = alpha if self.correction == "none" else alpha / comparisons
        return np.asarray(standard_errors(differences) * t.isf(level / 2, topics - 1))

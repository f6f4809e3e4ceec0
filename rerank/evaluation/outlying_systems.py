"""Systems far below the others, such as failed runs, which distort tests that pool all systems."""

from __future__ import annotations

import numpy as np

from rerank.evaluation.score_matrix import ScoreMatrix

#: Smallest number of systems for which quartiles of means are informative.
_FEWEST = 5


def find_outlying_systems(matrix: ScoreMatrix) -> tuple[str, ...]:
    """Return the systems whose mean is more than 3 interquartile ranges below the lower quartile of all means.

    The result is empty if there are too few systems, or if both quartiles are equal. Source of the rule: Tukey,
    Exploratory data analysis, 1977 (outer fence).
    """
    means = matrix.values.mean(axis=0)
    low, high = np.quantile(means, [0.25, 0.75])
    if len(means) < _FEWEST or high == low:
        return ()
    return tuple(system for system, mean in zip(matrix.systems, means, strict=True) if mean < low - 3 * (high - low))


def note_outlying_systems(matrix: ScoreMatrix) -> list[str]:
    """Return a warning for Tukey's tests if some systems are outliers, since the tests pool or permute all scores.

    A failed run widens the distribution of the largest difference, so pairs of other runs lose their significance.
    """
    names = find_outlying_systems(matrix)
    if not names:
        return []
    listed = ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return [
        f"Far below the other systems: {listed}. Tukey's tests pool all systems, so an outlying one can hide "
        "differences between the others. If they are failed runs, leave them out (compare: --omit-outliers)."
    ]

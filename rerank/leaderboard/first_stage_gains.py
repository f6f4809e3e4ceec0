"""Gain of each run over its own first stage, with significance tests corrected over all gains of a board."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rerank.evaluation.pairwise_decisions import PairwiseDecisions
from rerank.evaluation.significance import TITLES, correct_p_values, student_t_interval
from rerank.evaluation.significance.base import Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstStageGain:
    """Difference in effectiveness between a run and the run that it reranked.

    Attributes:
        before: Index of the first-stage run on the board.
        difference: Mean of the run minus mean of its first stage.
        low: Lower bound of the 95 % confidence interval of the difference (Student's t over queries), not corrected.
        high: Upper bound of the interval.
        p: P-value after the correction over all gains.
        significant: Whether ``p`` is at most the significance level.
    """

    before: int
    difference: float
    low: float
    high: float
    p: float
    significant: bool


def compare_with_first_stages(
    decisions: PairwiseDecisions, before: Sequence[int | None]
) -> tuple[tuple[FirstStageGain | None, ...], str]:
    """Test each run against its first stage. The correction covers all gains, not all pairs of runs.

    Args:
        decisions: The decisions for all pairs of runs, whose p-values, correction and level are used. P-values of tests
            that control the family-wise error cover all pairs, so they are not corrected again.
        before: Index of the first stage of each run; None if it is not on the board.

    Returns:
        The gains, one per run (None if its first stage is not on the board), and a description of the test, which is
        empty if there are no gains.
    """
    values = decisions.matrix.values
    pairs = [(run, first) for run, first in enumerate(before) if first is not None]
    if not pairs:
        return (None,) * len(before), ""
    p = correct_p_values(pair_p_values(decisions, pairs), decisions.correction)
    gains: dict[int, FirstStageGain] = {}
    for (run, first), value in zip(pairs, p, strict=True):
        differences = values[:, run] - values[:, first]
        low, high = student_t_interval(differences.tolist())
        mean = float(differences.mean())
        significant = bool(value <= decisions.alpha)
        gains[run] = FirstStageGain(
            before=first, difference=mean, low=low, high=high, p=float(value), significant=significant
        )
    return tuple(gains.get(run) for run in range(len(before))), _describe_gain_test(decisions, len(pairs))


def pair_p_values(decisions: PairwiseDecisions, pairs: Sequence[tuple[int, int]]) -> Floats:
    """Return the uncorrected p-values of the given pairs of runs; a pair contains the indexes of two runs."""
    count = len(decisions.matrix.systems)
    of_pair = np.zeros((count, count))
    of_pair[np.triu_indices(count, 1)] = decisions.p_values()[0]
    return np.array([of_pair[min(pair), max(pair)] for pair in pairs])


def _describe_gain_test(decisions: PairwiseDecisions, count: int) -> str:
    how = (
        "with the p-values over all pairs"
        if decisions.family_wise
        else "not corrected"
        if decisions.correction == "none"
        else f"after {TITLES[decisions.correction]}'s correction over {count} gain{'s' * (count != 1)}"
    )
    return f"* a gain over the run's own first stage that is significant ({decisions.title}, {how})"

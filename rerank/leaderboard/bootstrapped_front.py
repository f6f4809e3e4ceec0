"""The uncertainty of a Pareto front of effectiveness against cost, by a bootstrap over topics.

site_numbers.js draws the same topics, so that the page can repeat the bootstrap for the runs that a filter leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from rerank.evaluation.significance.base import Floats

#: Largest and smallest number of bootstrap samples, and the number of topics drawn in all samples that is not exceeded
#: between them, because the page repeats the bootstrap while its reader types.
_MOST, _FEWEST, _DRAWN = 1000, 100, 1_000_000
#: Decimals of the means of samples.
_DECIMALS = 9
#: Fraction of the samples below and above the band.
TAIL = 0.025


@dataclass(frozen=True, eq=False, kw_only=True)
class BootstrappedFront:
    """A Pareto front with its uncertainty. The runs are those with a known cost.

    Attributes:
        shares: (runs,) fraction of the bootstrap samples in which the run is on the front.
        levels: (levels,) distinct costs, ascending.
        best: (levels,) the best mean of a run that costs at most this much.
        low: (levels,) lower bound of the central 95 % of the best means of the samples.
        high: (levels,) upper bound.
        draws: Number of bootstrap samples.
        lowest: The lowest lower bound of the mean of a run, below which the band of no selection of runs reaches.
    """

    shares: Floats
    levels: Floats
    best: Floats
    low: Floats
    high: Floats
    draws: int
    lowest: float


def bootstrap_front(costs: Sequence[float], values: Floats) -> BootstrappedFront:
    """Compute the front and its uncertainty.

    Args:
        costs: (runs,) costs.
        values: (runs, topics) scores.
    """
    levels, level_of_run = np.unique(np.asarray(costs, dtype=np.float64), return_inverse=True)
    # (runs, draws) means of the samples; the last column is the mean over the topics themselves
    counts = _count_sampled_topics(values.shape[1])
    # rounded, so that runs with equal means tie however the scores are added up, here and on the page
    means = np.column_stack([values @ counts.T / values.shape[1], values.mean(axis=1)]).round(_DECIMALS)
    highest = np.stack([means[level_of_run == level].max(axis=0) for level in range(len(levels))])
    envelope = np.maximum.accumulate(highest, axis=0)
    cheaper = np.vstack([np.full(means.shape[1], -np.inf), envelope[:-1]])
    on_front = (means == highest[level_of_run]) & (means > cheaper[level_of_run])
    ordered = np.sort(envelope[:, :-1], axis=1)
    draws = len(counts)
    first = int(TAIL * draws)
    return BootstrappedFront(
        shares=on_front[:, :-1].mean(axis=1),
        levels=levels,
        best=envelope[:, -1],
        low=ordered[:, first],
        high=ordered[:, draws - 1 - first],
        draws=draws,
        lowest=float(np.sort(means[:, :-1], axis=1)[:, first].min()),
    )


@cache
def _count_sampled_topics(topics: int) -> Floats:
    """Return (draws, topics) numbers of times that each topic is in each sample."""
    draws = max(_FEWEST, min(_MOST, _DRAWN // topics))
    counts = np.zeros((draws, topics))
    for draw, topic in enumerate(sample_topics(topics, draws * topics)):
        counts[draw // topics, topic] += 1
    return counts


def sample_topics(topics: int, count: int) -> list[int]:
    """Draw topics with replacement by xorshift32, which JavaScript repeats exactly.

    Source: Marsaglia, "Xorshift RNGs", Journal of Statistical Software 2003, with the shifts 13, 17 and 5.
    """
    state, drawn = 2463534242, []
    for _ in range(count):
        state ^= state << 13 & 0xFFFFFFFF
        state ^= state >> 17
        state ^= state << 5 & 0xFFFFFFFF
        drawn.append(state * topics >> 32)
    return drawn

"""Uncertainty of a Pareto front of effectiveness against cost, estimated by a bootstrap over topics.

site_numbers.js draws the same topics, so that the page can repeat the bootstrap for the runs that a filter selects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from rerank.evaluation.significance.base import Floats

#: Maximum and minimum number of bootstrap samples. Between them, all samples together contain at most _DRAWN topics,
#: because the page repeats the bootstrap while its reader types.
_MOST, _FEWEST, _DRAWN = 1000, 100, 1_000_000
#: Decimals of the means of samples.
_DECIMALS = 9
#: Fraction of the samples below and above the band.
TAIL = 0.025


@dataclass(frozen=True, eq=False, kw_only=True)
class BootstrappedFront:
    """Pareto front of effectiveness against cost, with its uncertainty. Only runs with a known cost are included.

    Attributes:
        shares: Fraction of the bootstrap samples in which each run is on the front; shape (runs,).
        levels: Distinct costs in ascending order; shape (levels,).
        best: Best mean among the runs that cost at most each level; shape (levels,).
        low: Lower bound of the central 95 % of the best means of the samples; shape (levels,).
        high: Upper bound of the central 95 %; shape (levels,).
        draws: Number of bootstrap samples.
        lowest: Smallest lower bound of the mean of any run. No selection of runs has a band that extends below it.
    """

    shares: Floats
    levels: Floats
    best: Floats
    low: Floats
    high: Floats
    draws: int
    lowest: float


def bootstrap_front(costs: Sequence[float], values: Floats) -> BootstrappedFront:
    """Compute the Pareto front of mean score against cost, and its uncertainty.

    Args:
        costs: Cost of each run; shape (runs,).
        values: Scores of shape (runs, topics).
    """
    levels, level_of_run = np.unique(np.asarray(costs, dtype=np.float64), return_inverse=True)
    # Means of shape (runs, draws + 1): one column per sample; the last column is the mean over the original topics.
    counts = _count_sampled_topics(values.shape[1])
    # Rounding makes runs with equal means tie whatever the order of addition, here and on the page.
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
    """Return how often each sample contains each topic, as an array of shape (draws, topics)."""
    draws = max(_FEWEST, min(_MOST, _DRAWN // topics))
    counts = np.zeros((draws, topics))
    for draw, topic in enumerate(sample_topics(topics, draws * topics)):
        counts[draw // topics, topic] += 1
    return counts


def sample_topics(topics: int, count: int) -> list[int]:
    """Draw ``count`` topic indexes with replacement by xorshift32, which JavaScript can reproduce exactly.

    Source: Marsaglia, "Xorshift RNGs", Journal of Statistical Software 2003, with the shifts 13, 17 and 5.
    """
    state, drawn = 2463534242, []
    for _ in range(count):
        state ^= state << 13 & 0xFFFFFFFF
        state ^= state >> 17
        state ^= state << 5 & 0xFFFFFFFF
        drawn.append(state * topics >> 32)
    return drawn

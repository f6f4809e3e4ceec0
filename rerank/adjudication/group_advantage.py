"""Advantage of a group of systems: how much higher other judgments rank the group than gold judgments do.

A group may be, for example, the rerankers that use the same model family as the assessor. Systems are fixed and topics
are resampled, so an interval shows how the advantage could vary with other topics. An advantage may be a preference of
the assessor, but also a correction of the gold judgments: the two cannot be told apart without a third kind of
judgments.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

import numpy as np

from rerank.adjudication.pools import Bools, Floats
from rerank.errors import UsageError


class GroupAdvantage(NamedTuple):
    """Advantage of a group of systems under judgments other than the gold judgments.

    Attributes:
        ranks: Mean number of ranks that the group's systems rise. It is 0 if the mean rank of the group is unchanged.
        score: Mean score of the group's systems with the other judgments, minus the mean score expected from their
            scores with gold judgments. The expected score is read off the least-squares line through the systems
            outside the group.
    """

    ranks: float
    score: float


def compute_group_advantage(gold: Floats, other: Floats, group: Bools) -> GroupAdvantage:
    """Compute the advantage of a group of systems under judgments other than the gold judgments.

    More lenient judgments raise all scores, but the scores of good systems less than others. The line through the
    systems outside the group accounts for this effect as far as the effect is linear.

    Args:
        gold: (systems,) mean scores with gold judgments.
        other: (systems,) mean scores with the other judgments.
        group: (systems,) whether the system belongs to the group.
    """
    from scipy.stats import rankdata

    outside = ~group
    rise = rankdata(other) - rankdata(gold)  # ascending: the best system has the largest rank
    centred = gold[outside] - gold[outside].mean()
    spread = float(centred @ centred)
    slope = float(centred @ other[outside]) / spread if spread else 0.0
    expected = other[outside].mean() + slope * (gold[group] - gold[outside].mean())
    return GroupAdvantage(float(rise[group].mean()), float((other[group] - expected).mean()))


def resample_group_advantage(
    gold: Floats, other: Floats, group: Bools, *, resamples: int, seed: int, alpha: float
) -> tuple[GroupAdvantage, GroupAdvantage]:
    """Return the lower and upper bounds of the advantage, by the percentile bootstrap over topics.

    Args:
        gold: (topics, systems) scores with gold judgments.
        other: (topics, systems) scores with the other judgments.
        group: (systems,) whether the system belongs to the group.
        resamples: Number of samples of topics.
        seed: Seed of the samples.
        alpha: Intervals have confidence level 1 - alpha.
    """
    topics = len(gold)
    drawn = np.random.default_rng(seed).multinomial(topics, np.full(topics, 1 / topics), size=resamples) / topics
    samples = [compute_group_advantage(a, b, group) for a, b in zip(drawn @ gold, drawn @ other, strict=True)]
    low, high = np.quantile(np.array(samples), [alpha / 2, 1 - alpha / 2], axis=0).tolist()
    return GroupAdvantage(*low), GroupAdvantage(*high)


def find_systems_of_group(systems: Sequence[str], name: str, pattern: str) -> Bools:
    """Return a boolean array of shape (systems,): whether the name of each system matches a shell pattern."""
    group = np.array([fnmatchcase(system, pattern) for system in systems])
    if not group.any() or (~group).sum() < 3:
        raise UsageError(
            f"The pattern {pattern!r} of {name} matches {group.sum()} of {len(systems)} runs",
            expected="at least one matching run, and at least three other runs",
            remedy=f"Correct the pattern; the names of the runs (at most 20 shown): {', '.join(systems[:20])}",
        )
    return group

"""Whether judgments place a group of systems higher than gold judgments do, such as rerankers of the assessor's family.

Systems are fixed and topics are resampled, so that an interval says what other topics could give. An advantage may be a
preference of the assessor, but also a correction of the gold judgments: the two cannot be told apart without a third
kind of judgments.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

import numpy as np

from rerank.adjudication.pools import Bools, Floats
from rerank.errors import UsageError


class GroupAdvantage(NamedTuple):
    """How much better a group of systems does with the other judgments than with gold.

    Attributes:
        ranks: Mean number of ranks that the group's systems rise. It is 0 if the group keeps its ranks as a whole.
        score: Mean score of the group's systems by the other judgments, minus the score expected of systems with their
            gold scores. The expected score is the least-squares line through the systems outside the group.
    """

    ranks: float
    score: float


def compute_group_advantage(gold: Floats, other: Floats, group: Bools) -> GroupAdvantage:
    """Compute the advantage that the other judgments give a group of systems.

    Judgments that are more lenient raise all scores, and good systems by less. The line through the other systems
    takes account of this as far as it is linear.

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
    """Return the lower and upper bounds of percentile bootstrap intervals over topics.

    Args:
        gold: (topics, systems) scores with gold judgments.
        other: (topics, systems) scores with the other judgments.
        group: (systems,) whether the system belongs to the group.
        resamples: Number of samples of topics.
        seed: Seed of the samples.
        alpha: Intervals cover with 1 - alpha.
    """
    topics = len(gold)
    drawn = np.random.default_rng(seed).multinomial(topics, np.full(topics, 1 / topics), size=resamples) / topics
    samples = [compute_group_advantage(a, b, group) for a, b in zip(drawn @ gold, drawn @ other, strict=True)]
    low, high = np.quantile(np.array(samples), [alpha / 2, 1 - alpha / 2], axis=0).tolist()
    return GroupAdvantage(*low), GroupAdvantage(*high)


def find_systems_of_group(systems: Sequence[str], name: str, pattern: str) -> Bools:
    """Return (systems,) whether a system's name matches a shell pattern.

    Raises:
        UsageError: No system matches, or fewer than three are left outside the group.
    """
    group = np.array([fnmatchcase(system, pattern) for system in systems])
    if not group.any() or (~group).sum() < 3:
        raise UsageError(
            f"{pattern!r} matches {group.sum()} of {len(systems)} runs",
            expected=f"runs of {name}, and at least three others",
            remedy=f"The runs are {', '.join(systems[:20])}",
        )
    return group

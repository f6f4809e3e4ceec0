"""Similarity of two rankings of systems by their means. Ties are broken by the systems' names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rerank.adjudication.pools import Floats, Ints

#: Default persistence of `rank_biased_overlap_of_systems`.
P = 0.9


def tau_of_systems(gold: Floats, cheap: Floats) -> float | None:
    """Compute Kendall's tau-b; None if either ranking has only ties."""
    # signs of all pairwise differences, (pairs,)
    d, e = (np.sign(x[:, None] - x[None])[np.triu_indices(len(x), 1)] for x in (gold, cheap))
    # tau_b = sum d e / sqrt(sum |d| * sum |e|); ties contribute 0
    weight = float(np.abs(d).sum() * np.abs(e).sum())
    return float((d * e).sum()) / weight**0.5 if weight else None


def tau_ap_of_systems(gold: Ints, cheap: Ints) -> float:
    """Compute tau_AP, Kendall's tau with more weight at the top: 2 / (m - 1) sum over i = 2 .. m of C(i) / (i - 1) - 1.

    C(i) is the number of systems above rank i of the cheap ranking that gold also ranks above that system. The
    coefficient is not symmetric. Source: Yilmaz, Aslam and Robertson, A new rank correlation coefficient for
    information retrieval, SIGIR 2008.

    Args:
        gold: (systems,) indices of the systems, best first, as from `rank_systems_for_study`.
        cheap: (systems,) likewise.
    """
    gold_ranks = invert_system_ranking(gold)[cheap]  # gold's ranks, in the cheap order
    count = len(gold_ranks)
    # (systems,) C(i): systems above in both rankings, by a lower-triangular comparison
    concordant = np.tril(gold_ranks[None] < gold_ranks[:, None], -1).sum(axis=1)
    return round(float(2 / (count - 1) * (concordant[1:] / np.arange(1, count)).sum() - 1), 12)


def rank_biased_overlap_of_systems(gold: Ints, cheap: Ints, p: float = P) -> float:
    """Compute rank-biased overlap, extrapolated: A_m p^m + (1 - p) / p sum over d = 1 .. m of A_d p^d.

    A_d is the fraction of the first d systems that both rankings share. Source: Webber, Moffat and Zobel, A similarity
    measure for indefinite rankings, TOIS 2010, for rankings of equal length.

    Args:
        gold: (systems,) indices of the systems, best first.
        cheap: (systems,) likewise.
        p: Persistence; the expected depth of inspection is 1 / (1 - p).
    """
    count = len(gold)
    # (systems,) depth, from 0, from which both rankings contain the system
    joint_depths = np.maximum(invert_system_ranking(gold), invert_system_ranking(cheap))
    depths = np.arange(1, count + 1)
    # (systems,) A_d = overlap of the first d / d
    agreement = np.bincount(joint_depths, minlength=count).cumsum() / depths
    return round(float(agreement[-1] * p**count + (1 - p) / p * (agreement * p**depths).sum()), 12)


def max_drop_of_systems(gold: Ints, cheap: Ints) -> int:
    """Return the largest number of ranks that a system falls from gold's ranking to the cheap one; 0 if none falls."""
    return int((invert_system_ranking(cheap) - invert_system_ranking(gold)).max())


def rank_systems_for_study(means: Floats, names: Sequence[str]) -> Ints:
    """Return the indices of the systems by decreasing mean, (systems,)."""
    # sorting by name first lets the stable sort break ties by name
    order = np.argsort(np.array(names), kind="stable")
    return np.asarray(order[np.argsort(-means[order], kind="stable")])


def invert_system_ranking(order: Ints) -> Ints:
    """Return the rank of each system, from 0, (systems,)."""
    ranks = np.empty_like(order)
    ranks[order] = np.arange(len(order))
    return ranks

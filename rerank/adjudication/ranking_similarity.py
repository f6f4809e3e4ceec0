"""Similarity of two rankings of the same systems. Systems are ranked by mean score, with ties broken by name."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rerank.adjudication.pools import Floats, Ints

#: Default persistence of `rank_biased_overlap_with_gold`.
P = 0.9


def tau_with_gold_judgments(gold: Floats, cheap: Floats) -> float | None:
    """Compute Kendall's tau-b of systems' means with gold and cheap judgments; None if all means in one are equal."""
    # (pairs,) signs of all pairwise differences
    d, e = (np.sign(x[:, None] - x[None])[np.triu_indices(len(x), 1)] for x in (gold, cheap))
    # tau_b = sum d e / sqrt(sum |d| * sum |e|); ties contribute 0
    weight = float(np.abs(d).sum() * np.abs(e).sum())
    return float((d * e).sum()) / weight**0.5 if weight else None


def tau_ap_with_gold_judgments(gold: Ints, cheap: Ints) -> float:
    """Compute tau_AP, a variant of Kendall's tau that gives more weight to the top ranks.

    tau_AP = 2 / (m - 1) * (sum over i = 2 .. m of C(i) / (i - 1)) - 1 for m systems. Take the system at rank i of the
    cheap ranking: C(i) is the number of systems that both rankings place above it. The coefficient is not symmetric.
    Source: Yilmaz, Aslam and Robertson, A new rank correlation coefficient for information retrieval, SIGIR 2008.

    Args:
        gold: (systems,) indices of the systems, best first, as returned by `rank_systems_for_study`.
        cheap: (systems,) indices of the systems with cheap judgments, best first.
    """
    gold_ranks = rank_systems_by_gold_or_cheap(gold)[cheap]  # (systems,) gold ranks in the order of the cheap ranking
    count = len(gold_ranks)
    # (systems,) C(i): row i of the lower triangle counts the systems above it in both rankings
    concordant = np.tril(gold_ranks[None] < gold_ranks[:, None], -1).sum(axis=1)
    return round(float(2 / (count - 1) * (concordant[1:] / np.arange(1, count)).sum() - 1), 12)


def rank_biased_overlap_with_gold(gold: Ints, cheap: Ints, p: float = P) -> float:
    """Compute extrapolated rank-biased overlap: A_m p^m + (1 - p) / p * (sum over d = 1 .. m of A_d p^d).

    m is the number of systems, and A_d is the fraction of the first d systems that both rankings share. Source: Webber,
    Moffat and Zobel, A similarity measure for indefinite rankings, TOIS 2010, for rankings of equal length.

    Args:
        gold: (systems,) indices of the systems with gold judgments, best first.
        cheap: (systems,) indices of the systems with cheap judgments, best first.
        p: Persistence; the expected depth of inspection is 1 / (1 - p).
    """
    count = len(gold)
    # (systems,) smallest depth, counted from 0, at which both rankings contain the system
    joint_depths = np.maximum(rank_systems_by_gold_or_cheap(gold), rank_systems_by_gold_or_cheap(cheap))
    depths = np.arange(1, count + 1)
    # (systems,) A_d = number of systems shared by the first d, divided by d
    agreement = np.bincount(joint_depths, minlength=count).cumsum() / depths
    return round(float(agreement[-1] * p**count + (1 - p) / p * (agreement * p**depths).sum()), 12)


def rank_changes_from_gold_judgments(gold: Ints, cheap: Ints) -> Ints:
    """Return an array of shape (systems,): by how many ranks each system falls from the gold to the cheap ranking."""
    return rank_systems_by_gold_or_cheap(cheap) - rank_systems_by_gold_or_cheap(gold)


def rank_systems_for_study(means: Floats, names: Sequence[str]) -> Ints:
    """Return an array of shape (systems,): the indices of the systems, sorted by decreasing mean and then by name."""
    # sorting by name first lets the stable sort break ties by name
    order = np.argsort(np.array(names), kind="stable")
    return np.asarray(order[np.argsort(-means[order], kind="stable")])


def rank_systems_by_gold_or_cheap(order: Ints) -> Ints:
    """Return an array of shape (systems,): the rank of each system, counted from 0."""
    ranks = np.empty_like(order)
    ranks[order] = np.arange(len(order))
    return ranks

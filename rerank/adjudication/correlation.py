"""How alike two rankings of systems are, each given by the systems' means. Equal means go by the systems' names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rerank.adjudication.pools import Floats, Ints

#: Persistence of `rbo`.
P = 0.9


def tau(gold: Floats, cheap: Floats) -> float | None:
    """Kendall's tau-b; None where either has all means equal."""
    d, e = (np.sign(x[:, None] - x[None])[np.triu_indices(len(x), 1)] for x in (gold, cheap))
    weight = float(np.abs(d).sum() * np.abs(e).sum())
    return float((d * e).sum()) / weight**0.5 if weight else None


def tau_ap(gold: Ints, cheap: Ints) -> float:
    """Kendall's tau that counts more what happens at the top: 2 / (m - 1) sum over i = 2 .. m of C(i) / (i - 1) - 1.

    C(i): how many of the systems above the i-th of the cheap ranking stand above it in gold's too. Not symmetric.
    Source: Yilmaz, Aslam and Robertson, A new rank correlation coefficient for information retrieval, SIGIR 2008.

    Args:
        gold: (systems,) their places, best first; see `ranked`.
        cheap: (systems,) likewise.
    """
    at = places(gold)[cheap]  # gold's ranks, in the cheap order
    many = len(at)
    right = np.tril(at[None] < at[:, None], -1).sum(axis=1)
    return round(float(2 / (many - 1) * (right[1:] / np.arange(1, many)).sum() - 1), 12)


def rbo(gold: Ints, cheap: Ints, p: float = P) -> float:
    """Rank-biased overlap, extrapolated: A_m p^m + (1 - p) / p sum over d = 1 .. m of A_d p^d.

    A_d: the share of the first d that both rankings have. Source: Webber, Moffat and Zobel, A similarity measure for
    indefinite rankings, TOIS 2010, for rankings of the same length.

    Args:
        gold: (systems,) as `tau_ap`.
        cheap: (systems,) likewise.
        p: How far down a reader looks; the mean depth is 1 / (1 - p).
    """
    many = len(gold)
    later = np.maximum(places(gold), places(cheap))  # the depth at which both have the system
    depths = np.arange(1, many + 1)
    agreement = np.bincount(later, minlength=many).cumsum() / depths
    return round(float(agreement[-1] * p**many + (1 - p) / p * (agreement * p**depths).sum()), 12)


def max_drop(gold: Ints, cheap: Ints) -> int:
    """The most places that any system falls from gold's ranking to the cheap one; 0 if none falls."""
    return int((places(cheap) - places(gold)).max())


def ranked(means: Floats, names: Sequence[str]) -> Ints:
    """(systems,) their places, the largest mean first."""
    order = np.argsort(np.array(names), kind="stable")
    return np.asarray(order[np.argsort(-means[order], kind="stable")])


def places(order: Ints) -> Ints:
    """(systems,) the rank of each, from 0."""
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return back

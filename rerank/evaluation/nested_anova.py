"""Analysis of variance of systems over several collections, whose topics are nested in the collections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from rerank.errors import DataError
from rerank.evaluation.significance.base import Floats, clip_p_values

#: Sums of squares below this fraction of the total are rounding errors.
_ROUNDING = 1e-14


@dataclass(frozen=True, slots=True, kw_only=True)
class AnovaEffect:
    """One row of the table of an analysis of variance.

    Attributes:
        effect: Name of the effect, or ``error``.
        ss: Sum of squares.
        df: Degrees of freedom.
        ms: Mean square, ss / df.
        error: Name of the effect whose mean square is the denominator of F; empty for the error itself.
        f: F statistic; None if it cannot be computed.
        p: p-value of F; None if ``f`` is None.
        omega_squared: Partial omega squared; None if ``f`` is None. Estimated fraction of variance that the effect
            explains, among the variance that other effects do not explain. It is negative if F is less than 1.
    """

    effect: str
    ss: float
    df: int
    ms: float
    error: str = ""
    f: float | None = None
    p: float | None = None
    omega_squared: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dictionary."""
        return asdict(self)


def analyse_nested_variance(values: Sequence[Floats]) -> tuple[AnovaEffect, ...]:
    """Decompose the variance of scores: system + collection + topic(collection) + system:collection + error.

    Every system has one score on every topic. The sums of squares are those of type I and of type II, which are equal:
    all systems have the same topics, so the effects are orthogonal (type III differs for the systems if the
    collections have different numbers of topics). Topics are a random sample, so the effect of collections is tested
    against topics; all other effects are tested against the error, the interaction of systems and topics. Collections
    are fixed: the result says nothing about other collections.

    Partial omega squared = df (F - 1) / (df (F - 1) + N), with N scores, or N topics for collections, which are
    compared by topic means. Sources: Olejnik and Algina, Generalized eta and omega squared statistics, Psychological
    Methods 2003; Ferro, Kim and Sanderson, Using collection shards to study retrieval performance effect sizes,
    TOIS 2019.

    Args:
        values: One (topics, systems) array of scores per collection, with the same systems.
    """
    systems, collections, total = values[0].shape[1], len(values), sum(map(len, values))
    if systems < 2 or collections < 2 or total <= collections:
        raise DataError(
            f"The scores cover {systems} systems, {collections} collections and {total} topics",
            expected="at least two systems, at least two collections, and more topics than collections",
        )
    rows = {
        name: AnovaEffect(effect=name, ss=ss, df=df, ms=ss / df) for name, (ss, df) in _sums_of_squares(values).items()
    }
    counts = dict.fromkeys(rows, total * systems) | {"collection": total}
    return tuple(
        row
        if name == "error"
        else _compare_effect(row, rows["topic(collection)" if name == "collection" else "error"], counts[name])
        for name, row in rows.items()
    )


def _sums_of_squares(values: Sequence[Floats]) -> dict[str, tuple[float, int]]:
    """Return a mapping from each effect to its sum of squares and degrees of freedom.

    Sums of squares within rounding error of 0 are set to 0.
    """
    pooled = np.concatenate(values)
    sizes = np.array([len(scores) for scores in values])
    total, systems, collections = len(pooled), pooled.shape[1], len(values)
    grand, of_system, of_topic = pooled.mean(), pooled.mean(axis=0), pooled.mean(axis=1)
    of_collection = np.array([scores.mean() for scores in values])
    # (collections, systems) means
    cells = np.array([scores.mean(axis=0) for scores in values])
    nested = of_topic - np.repeat(of_collection, sizes)
    interaction = cells - of_system - of_collection[:, None] + grand
    rest = pooled - of_topic[:, None] - np.repeat(cells - of_collection[:, None], sizes, axis=0)
    sums = {
        "system": (total * ((of_system - grand) ** 2).sum(), systems - 1),
        "collection": (systems * (sizes @ (of_collection - grand) ** 2), collections - 1),
        "topic(collection)": (systems * (nested**2).sum(), total - collections),
        "system:collection": (sizes @ (interaction**2).sum(axis=1), (systems - 1) * (collections - 1)),
        "error": ((rest**2).sum(), (systems - 1) * (total - collections)),
    }
    smallest = _ROUNDING * float((pooled**2).sum())
    return {name: (float(ss) if ss > smallest else 0.0, df) for name, (ss, df) in sums.items()}


def _compare_effect(row: AnovaEffect, error: AnovaEffect, count: int) -> AnovaEffect:
    """Add F, p and partial omega squared to the row of an effect. All are None if the mean square of the error is 0."""
    from scipy.stats import f as f_distribution

    if not error.ms:
        return replace(row, error=error.effect)
    f = row.ms / error.ms
    explained = row.df * (f - 1)
    p = float(clip_p_values(np.array([f_distribution.sf(f, row.df, error.df)]))[0])
    return replace(row, error=error.effect, f=f, p=p, omega_squared=explained / (explained + count))

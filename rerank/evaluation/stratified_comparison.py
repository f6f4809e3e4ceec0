"""Comparison of the same systems over several collections, in which every collection counts equally.

The analysis of variance has systems, collections, and topics that are nested in the collections.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from rerank.errors import DataError, ensure
from rerank.evaluation.comparison_family import ComparisonOptions, library_versions
from rerank.evaluation.pairwise_decisions import check_significance_level
from rerank.evaluation.scores import ScoreMatrix
from rerank.evaluation.significance import TITLES, correct_p_values
from rerank.evaluation.significance.base import Floats, clip_p_values, resolve_correction, sample_variances
from rerank.evaluation.tables import format_interval, format_p_value, format_score
from rerank.io.reports import Cell, Grid, Report, TableReport

#: Sums of squares below this fraction of the total are rounding errors.
_ROUNDING = 1e-14


@dataclass(frozen=True, slots=True, kw_only=True)
class AnovaEffect:
    """One row of the table of an analysis of variance."""

    effect: str  #: Name of the effect, or ``error``.
    ss: float  #: Sum of squares.
    df: int  #: Degrees of freedom.
    ms: float  #: Mean square, ss / df.
    error: str = ""  #: Name of the effect whose mean square is the denominator of F; empty for the error itself.
    f: float | None = None  #: F statistic; None if it cannot be computed.
    p: float | None = None  #: p-value of F; None if ``f`` is None.
    #: Partial omega squared; None if ``f`` is None. Estimated fraction of variance that the effect explains, among the
    #: variance that other effects do not explain. It is negative if F is less than 1.
    omega_squared: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StratifiedComparison(Report):
    """Comparison of systems over several collections on one measure."""

    rows_key = "pairs"

    rows_key = "pairs"

    measure: str
    topics: Mapping[str, int]  #: Number of topics of each collection.
    alpha: float
    correction: str  #: Name of the correction over the pairs.
    #: One row per system, the best first: ``system``, ``means`` (mean score in each collection) and ``mean`` (the
    #: unweighted mean of ``means``).
    systems: tuple[dict[str, Any], ...]
    #: One row per pair: ``a``, ``b``, ``differences`` (mean of a minus mean of b, in each collection), ``difference``
    #: (the unweighted mean of ``differences``), ``interval``, ``df`` (degrees of freedom), ``p`` and ``adjusted_p``.
    pairs: tuple[dict[str, Any], ...]
    anova: tuple[AnovaEffect, ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object of ``rerank anova --format json``."""
        return {
            "measure": self.measure,
            "collections": [{"collection": name, "topics": count} for name, count in self.topics.items()],
            "alpha": self.alpha,
            "correction": self.correction,
            "versions": library_versions(),
            "anova": [asdict(row) for row in self.anova],
            "systems": list(self.systems),
            "pairs": list(self.pairs),
            "notes": list(self.notes),
        }

    def tables(self, digits: int = 4) -> TableReport:
        names = list(self.topics)
        best = [max(row["means"][name] for row in self.systems) for name in names]
        means = [
            [
                row["system"],
                format_score(row["mean"], digits),
                *(
                    Cell(format_score(row["means"][name], digits), "", row["means"][name] == top)
                    for name, top in zip(names, best, strict=True)
                ),
            ]
            for row in self.systems
        ]
        pairs = [
            [
                row["a"],
                row["b"],
                f"{row['difference']:+.{digits}f}",
                format_interval(row["interval"][0], row["interval"][1], digits),
                *(f"{row['differences'][name]:+.{digits}f}" for name in names),
                format_p_value(row["adjusted_p"]),
            ]
            for row in self.pairs
        ]
        effects = []
        for effect in self.anova:
            tested = ["-", "-", "-"]
            if effect.f is not None and effect.omega_squared is not None:
                tested = [f"{effect.f:.2f}", format_p_value(effect.p), f"{effect.omega_squared:.3f}"]
            effects.append([effect.effect, f"{effect.ss:.4f}", str(effect.df), f"{effect.ms:.4f}", *tested])
        grids = [
            Grid(["system", "mean", *names], means),
            Grid(["a", "b", "difference", "interval", *names, "p"], pairs, left=2),
            Grid(["effect", "SS", "df", "MS", "F", "p", "omega^2"], effects),
        ]
        counted = ", ".join(f"{name} {count}" for name, count in self.topics.items())
        legend = [
            f"{self.measure}; topics: {counted}. Means and differences weigh collections equally; p and the interval "
            f"({1 - self.alpha:.0%}, for one pair) are from the stratified t-test, p after the correction "
            f"{TITLES[self.correction]} over {len(pairs)} pair{'s' * (len(pairs) != 1)}.",
            "Analysis of variance: sums of squares of type I (equal to type II), topics nested in collections; F of "
            "collection: against topic(collection), other F: against error; partial omega squared.",
        ]
        return TableReport(grids, legend, self.notes, after=1)


def compare_over_collections(
    matrices: Mapping[str, ScoreMatrix], options: ComparisonOptions | None = None, *, notes: Sequence[str] = ()
) -> StratifiedComparison:
    """Compare systems over several collections.

    The difference of two systems is the unweighted mean of its means d_k in the collections. Its variance is the sum of
    s_k^2 / n_k over the collections, divided by the square of the number of collections, where s_k is the standard
    deviation of the n_k per-topic differences. The t-test has the degrees of freedom of Welch and Satterthwaite
    (Biometrics Bulletin 1946); with one collection, it would be the paired t-test.

    Args:
        matrices: Scores of the same systems by the same measure, for each collection; at least two collections.
        options: Correction and significance level; the test is the stratified t-test.
    """
    options = options or ComparisonOptions()
    check_significance_level(options.alpha)
    correction = resolve_correction("t", options.correction, family_wise=False)
    ensure(
        len(matrices) >= 2,
        f"The number of collections is {len(matrices)}",
        expected="2 or more",
        remedy="For one, use rerank compare",
    )
    aligned = _align_systems(matrices)
    names = next(iter(matrices.values())).systems
    means = {name: values.mean(axis=0) for name, values in aligned.items()}
    macro = np.mean(list(means.values()), axis=0)
    pairs = []
    for a, b in combinations(np.argsort(-macro, kind="stable").tolist(), 2):
        deltas = {name: values[:, a] - values[:, b] for name, values in aligned.items()}
        row = {"a": names[a], "b": names[b], "differences": {name: float(d.mean()) for name, d in deltas.items()}}
        pairs.append({**row, **stratified_t_test(list(deltas.values()), options.alpha)})
    adjusted = correct_p_values(np.array([row["p"] for row in pairs]), correction)
    return StratifiedComparison(
        measure=" and ".join(dict.fromkeys(matrix.measure for matrix in matrices.values())),
        topics={name: len(values) for name, values in aligned.items()},
        alpha=options.alpha,
        correction=correction,
        systems=tuple(
            {"system": names[i], "mean": float(macro[i]), "means": {k: float(row[i]) for k, row in means.items()}}
            for i in np.argsort(-macro, kind="stable").tolist()
        ),
        pairs=tuple({**row, "adjusted_p": float(p)} for row, p in zip(pairs, adjusted, strict=True)),
        anova=analyse_nested_variance(list(aligned.values())),
        notes=tuple(notes),
    )


def stratified_t_test(differences: Sequence[Floats], alpha: float = 0.05) -> dict[str, Any]:
    """Test whether the mean difference of two systems is 0, where each stratum (a collection) has the same weight.

    Args:
        differences: One (topics,) array per stratum, each with at least two topics.
        alpha: Probability that the interval does not cover the true mean.

    Returns:
        ``difference``, ``interval``, ``df`` and ``p``. If all differences in each stratum are equal, their variance
        cannot be estimated: df is None, the interval is a point, and p is 1.
    """
    from scipy.stats import t

    mean = float(np.mean([d.mean() for d in differences]))
    parts = np.array([sample_variances(d, tolerance=1e-12) / len(d) for d in differences])
    if not parts.any():
        return {"difference": mean, "interval": [mean, mean], "df": None, "p": 1.0}
    df = float(parts.sum() ** 2 / (parts**2 / [len(d) - 1 for d in differences]).sum())
    error = float(np.sqrt(parts.sum())) / len(differences)
    half = error * float(t.isf(alpha / 2, df))
    p = float(clip_p_values(np.array([2 * t.sf(abs(mean) / error, df)]))[0])
    return {"difference": mean, "interval": [mean - half, mean + half], "df": df, "p": p}


def _align_systems(matrices: Mapping[str, ScoreMatrix]) -> dict[str, Floats]:
    """Return the (topics, systems) scores of each collection, with the systems in the order of the first collection."""
    first = next(iter(matrices))
    systems = matrices[first].systems
    for name, matrix in matrices.items():
        if odd := sorted(set(matrix.systems) ^ set(systems)):
            raise DataError(
                f"{first!r} and {name!r} do not have the same systems; systems in only one of them (at most 5 shown): "
                f"{', '.join(odd[:5])}",
                expected="runs of the same systems, with the same names, in all collections",
            )
    return {name: matrix.values[:, [matrix.systems.index(s) for s in systems]] for name, matrix in matrices.items()}


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

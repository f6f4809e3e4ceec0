"""Comparison of the same systems over several collections, in which every collection counts equally."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from rerank.errors import DataError, UsageError
from rerank.evaluation.comparison_family import ComparisonOptions, library_versions
from rerank.evaluation.nested_anova import AnovaEffect, analyse_nested_variance
from rerank.evaluation.pairwise_decisions import check_significance_level
from rerank.evaluation.score_matrix import ScoreMatrix
from rerank.evaluation.significance import TITLES, correct_p_values
from rerank.evaluation.significance.base import Floats, clip_p_values, resolve_correction
from rerank.evaluation.tables import format_confidence_interval, format_measure_score, format_p_value
from rerank.io.reports import Cell, Grid, Report, TableReport


@dataclass(frozen=True, slots=True, kw_only=True)
class StratifiedComparison(Report):
    """Comparison of systems over several collections on one measure.

    Attributes:
        measure: Name of the measure.
        topics: Number of topics of each collection.
        alpha: Significance level.
        correction: Name of the correction over the pairs.
        systems: One row per system, the best first: ``system``, ``means`` (mean score in each collection) and ``mean``
            (the unweighted mean of ``means``).
        pairs: One row per pair: ``a``, ``b``, ``differences`` (mean of a minus mean of b, in each collection),
            ``difference`` (the unweighted mean of ``differences``), ``interval``, ``df`` (degrees of freedom), ``p``
            and ``adjusted_p``.
        anova: Rows of the analysis of variance.
        notes: Caveats for the reader.
    """

    rows_key = "pairs"

    measure: str
    topics: Mapping[str, int]
    alpha: float
    correction: str
    systems: tuple[dict[str, Any], ...]
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
            "anova": [row.to_dict() for row in self.anova],
            "systems": list(self.systems),
            "pairs": list(self.pairs),
            "notes": list(self.notes),
        }

    def tables(self, digits: int = 4) -> TableReport:
        """Return tables of means, of pairs and of the analysis of variance."""
        names = list(self.topics)
        best = [max(row["means"][name] for row in self.systems) for name in names]
        means = [
            [
                row["system"],
                format_measure_score(row["mean"], digits),
                *(
                    Cell(format_measure_score(row["means"][name], digits), "", row["means"][name] == top)
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
                format_confidence_interval(row["interval"][0], row["interval"][1], digits),
                *(f"{row['differences'][name]:+.{digits}f}" for name in names),
                format_p_value(row["adjusted_p"]),
            ]
            for row in self.pairs
        ]
        grids = [
            Grid(["system", "mean", *names], means),
            Grid(["a", "b", "difference", "interval", *names, "p"], pairs, left=2),
            Grid(["effect", "SS", "df", "MS", "F", "p", "omega^2"], [_cells_of_effect(row) for row in self.anova]),
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
        notes: Caveats about the scores.
    """
    options = options or ComparisonOptions()
    check_significance_level(options.alpha)
    correction = resolve_correction("t", options.correction, family_wise=False)
    if len(matrices) < 2:
        raise UsageError(
            f"The number of collections is {len(matrices)}", expected="2 or more", remedy="For one, use rerank compare"
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
    # rounding in the mean of constant differences must not look like variance
    parts = np.array([0.0 if np.ptp(d) < 1e-12 else d.var(ddof=1) / len(d) for d in differences])
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


def _cells_of_effect(row: AnovaEffect) -> list[str]:
    numbers = [f"{row.ss:.4f}", str(row.df), f"{row.ms:.4f}"]
    if row.f is None or row.omega_squared is None:
        return [row.effect, *numbers, "-", "-", "-"]
    return [row.effect, *numbers, f"{row.f:.2f}", format_p_value(row.p), f"{row.omega_squared:.3f}"]

"""Comparison of the same systems over several collections, in which every collection counts equally."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from rerank.errors import DataError, ensure
from rerank.evaluation.pairwise_decisions import ComparisonOptions, check_significance_level
from rerank.evaluation.scores import ScoreMatrix, format_interval, format_p_value, format_score, library_versions
from rerank.evaluation.significance import TITLES, correct_p_values
from rerank.evaluation.significance.base import Floats, clip_p_values, resolve_correction, sample_variances
from rerank.io.reports import Cell, Grid, PlainReport, TableReport, format_cell

#: Sums of squares below this fraction of the total are rounding errors.
_ROUNDING = 1e-14


def compare_over_collections(
    matrices: Mapping[str, ScoreMatrix], options: ComparisonOptions | None = None, *, notes: Sequence[str] = ()
) -> PlainReport:
    """Compare systems over two or more collections, from their scores by the same measure.

    The difference of two systems is the unweighted mean of its means d_k in the collections. Its variance is the sum of
    s_k^2 / n_k over the collections, divided by the square of the number of collections, where s_k is the standard
    deviation of the n_k per-topic differences. The t-test has the degrees of freedom of Welch and Satterthwaite
    (Biometrics Bulletin 1946); with one collection, it would be the paired t-test. Of the options, only the correction
    and the significance level are used.

    The result is the JSON object of ``rerank anova``. ``systems`` has one row per system, the best first: ``system``,
    ``means`` (mean score in each collection) and ``mean`` (the unweighted mean of ``means``). ``pairs`` has ``a``,
    ``b``, ``differences`` (mean of a minus mean of b, in each collection), ``difference`` (their unweighted mean),
    ``interval``, ``df`` (degrees of freedom), ``p`` and ``adjusted_p``. ``anova`` are the rows of
    `analyse_nested_variance`.
    """
    options = options or ComparisonOptions()
    check_significance_level(options.alpha)
    correction = resolve_correction("t", options.correction, family_wise=False)
    found = f"The number of collections is {len(matrices)}"
    ensure(len(matrices) >= 2, found, expected="2 or more", remedy="For one, use rerank compare")
    first = next(iter(matrices))
    names = matrices[first].systems
    for name, matrix in matrices.items():
        if odd := sorted(set(matrix.systems) ^ set(names)):
            raise DataError(
                f"{first!r} and {name!r} do not have the same systems; systems in only one of them (at most 5 shown): "
                f"{', '.join(odd[:5])}",
                expected="runs of the same systems, with the same names, in all collections",
            )
    aligned = {name: m.values[:, [m.systems.index(system) for system in names]] for name, m in matrices.items()}
    means = {name: values.mean(axis=0) for name, values in aligned.items()}
    macro = np.mean(list(means.values()), axis=0)
    pairs = []
    for a, b in combinations(np.argsort(-macro, kind="stable").tolist(), 2):
        deltas = {name: values[:, a] - values[:, b] for name, values in aligned.items()}
        row = {"a": names[a], "b": names[b], "differences": {name: float(d.mean()) for name, d in deltas.items()}}
        pairs.append({**row, **stratified_t_test(list(deltas.values()), options.alpha)})
    adjusted = correct_p_values(np.array([row["p"] for row in pairs]), correction)
    topics = {name: len(values) for name, values in aligned.items()}
    anova = analyse_nested_variance(list(aligned.values()))
    measure = " and ".join(dict.fromkeys(matrix.measure for matrix in matrices.values()))
    systems = [
        {"system": names[i], "mean": float(macro[i]), "means": {k: float(row[i]) for k, row in means.items()}}
        for i in np.argsort(-macro, kind="stable").tolist()
    ]
    pairs = [{**row, "adjusted_p": float(p)} for row, p in zip(pairs, adjusted, strict=True)]
    content = {
        "measure": measure,
        "collections": [{"collection": name, "topics": count} for name, count in topics.items()],
        "alpha": options.alpha,
        "correction": correction,
        "versions": library_versions(),
        "anova": anova,
        "systems": systems,
        "pairs": pairs,
        "notes": list(notes),
    }
    legend = [
        f"{measure}; topics: {', '.join(f'{name} {count}' for name, count in topics.items())}. Means and differences "
        f"weigh collections equally; p and the interval ({1 - options.alpha:.0%}, for one pair) are from the "
        f"stratified t-test, p after the correction {TITLES[correction]} over {len(pairs)} "
        f"pair{'s' * (len(pairs) != 1)}.",
        "Analysis of variance: sums of squares of type I (equal to type II), topics nested in collections; F of "
        "collection: against topic(collection), other F: against error; p with both df times epsilon (Greenhouse and "
        "Geisser); partial omega squared.",
    ]

    def table(digits: int) -> TableReport:
        best = {name: max(row["means"][name] for row in systems) for name in topics}
        of_systems = [
            [
                row["system"],
                format_score(row["mean"], digits),
                *(Cell(format_score(mean, digits), "", mean == best[name]) for name, mean in row["means"].items()),
            ]
            for row in systems
        ]
        of_pairs = [
            [
                row["a"],
                row["b"],
                f"{row['difference']:+.{digits}f}",
                format_interval(row["interval"][0], row["interval"][1], digits),
                *(f"{difference:+.{digits}f}" for difference in row["differences"].values()),
                format_p_value(row["adjusted_p"]),
            ]
            for row in pairs
        ]
        of_effects = [
            [
                row["effect"],
                f"{row['ss']:.4f}",
                str(row["df"]),
                f"{row['ms']:.4f}",
                format_cell(row["f"], 2),
                format_cell(row["epsilon"], 3),
                format_p_value(row["p"]),
                format_cell(row["omega_squared"], 3),
            ]
            for row in anova
        ]
        grids = [
            Grid(["system", "mean", *topics], of_systems),
            Grid(["a", "b", "difference", "interval", *topics, "p"], of_pairs, left=2),
            Grid(["effect", "SS", "df", "MS", "F", "epsilon", "p", "omega^2"], of_effects),
        ]
        return TableReport(grids, legend, list(notes), after=1)

    return PlainReport(content=content, key=("systems", "pairs", "anova"), table=table)


def stratified_t_test(differences: Sequence[Floats], alpha: float = 0.05) -> dict[str, Any]:
    """Test whether the mean difference of two systems is 0, where each stratum (a collection) has the same weight.

    ``differences`` has one (topics,) array per stratum, each with at least two topics. The interval has confidence
    level 1 - alpha. If all differences in each stratum are equal, df is None, the interval is a point, and p is 1.
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


def analyse_nested_variance(values: Sequence[Floats]) -> list[dict[str, Any]]:
    """Decompose the variance of scores: system + collection + topic(collection) + system:collection + error.

    ``values`` has one (topics, systems) array per collection, with the same systems. The sums of squares are those of
    type I and of type II, which are equal: all systems have the same topics, so the effects are orthogonal (type III
    differs for the systems if the collections have different numbers of topics). Topics are a random sample, so the
    effect of collections is tested against topics; all other effects are tested against the error, the interaction of
    systems and topics. Collections are fixed: the result says nothing about other collections.

    F of the systems and of their interaction with collections assumes sphericity: equal variances of the differences of
    all pairs of systems. Without it both degrees of freedom are multiplied by `greenhouse_geisser_epsilon`. That
    collections have the same covariance of systems remains an assumption.

    Partial omega squared = df (F - 1) / (df (F - 1) + N), with N scores, or N topics for collections, which are
    compared by topic means. It estimates the fraction of variance that the effect explains, among the variance that
    other effects do not explain, and is negative if F is less than 1. Sources: Olejnik and Algina, Generalized eta and
    omega squared statistics, Psychological Methods 2003; Ferro, Kim and Sanderson, Using collection shards to study
    retrieval performance effect sizes, TOIS 2019.

    The result has one row per effect: ``effect``, ``ss`` (sum of squares), ``df``, ``ms`` (mean square, ss / df),
    ``error`` (the effect whose mean square is the denominator of F; empty for the error itself), ``f``, ``epsilon``
    (the factor of both degrees of freedom), ``p``, ``uncorrected_p`` (with factor 1) and ``omega_squared``, which are
    None if the mean square of the error is 0.
    """
    from scipy.stats import f as f_distribution

    systems, collections, total = values[0].shape[1], len(values), sum(map(len, values))
    if systems < 2 or collections < 2 or total <= collections:
        raise DataError(
            f"The scores cover {systems} systems, {collections} collections and {total} topics",
            expected="at least two systems, at least two collections, and more topics than collections",
        )
    sums = _sums_of_squares(values)
    means, epsilon = {name: ss / df for name, (ss, df) in sums.items()}, greenhouse_geisser_epsilon(values)
    rows = []
    for name, (ss, df) in sums.items():
        row = {"effect": name, "ss": ss, "df": df, "ms": means[name], "error": ""}
        row |= dict.fromkeys(("f", "epsilon", "p", "uncorrected_p", "omega_squared"))
        if name != "error":
            error = row["error"] = "topic(collection)" if name == "collection" else "error"
            if means[error]:
                f = row["f"] = means[name] / means[error]
                row["epsilon"] = epsilon if "system" in name else 1.0
                factors = np.array([row["epsilon"], 1.0])
                tails = f_distribution.sf(f, factors * df, factors * sums[error][1])
                row["p"], row["uncorrected_p"] = clip_p_values(np.asarray(tails)).tolist()
                explained = df * (f - 1)
                row["omega_squared"] = explained / (explained + (total if name == "collection" else total * systems))
        rows.append(row)
    return rows


def greenhouse_geisser_epsilon(values: Sequence[Floats]) -> float:
    """Return the factor of the degrees of freedom, from the covariance of systems, pooled within collections.

    ``values`` has one (topics, systems) array per collection. With C the covariance after double centring and m
    systems, epsilon = tr(C)^2 / ((m - 1) tr(C C)): from 1 / (m - 1) to 1, and 1 under sphericity. Source: Greenhouse
    and Geisser, Psychometrika 1959.
    """
    centred = np.concatenate([scores - scores.mean(axis=0) for scores in values])
    centred = centred - centred.mean(axis=1, keepdims=True)
    covariance = centred.T @ centred
    squares = float((covariance**2).sum())
    return min(1.0, float(np.trace(covariance)) ** 2 / ((len(covariance) - 1) * squares)) if squares else 1.0


def _sums_of_squares(values: Sequence[Floats]) -> dict[str, tuple[float, int]]:
    """Return sum of squares, 0 if within rounding error of 0, and degrees of freedom of each effect."""
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

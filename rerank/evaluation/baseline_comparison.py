"""Comparison of many systems with one baseline, on one or several measures.

Equivalence and non-inferiority of paired scores by two one-sided t-tests (TOST).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from rerank.errors import UnknownNameError, UsageError
from rerank.evaluation.baseline_report import BaselineComparison, BaselineRow
from rerank.evaluation.baseline_tests import BaselineTest, CorrectedPairTest, open_baseline_test
from rerank.evaluation.comparison import note_missing_queries, with_rounding_for_wilcoxon
from rerank.evaluation.comparison_family import ComparisonFamily, ComparisonOptions, missing_topics, options_of_test
from rerank.evaluation.pairwise_decisions import check_significance_level, note_few_topics
from rerank.evaluation.power import smallest_detectable_difference
from rerank.evaluation.score_matrix import ScoreMatrix
from rerank.evaluation.scores import Scores
from rerank.evaluation.significance import correct_p_values
from rerank.evaluation.significance.base import (
    BaselineP,
    Floats,
    clip_p_values,
    differences_from_baseline,
    standard_errors,
)
from rerank.selector import Selector

#: Power at which the smallest detectable difference of a row is stated.
POWER = 0.8


def compare_with_baseline(
    scores: Sequence[Scores],
    measures: Sequence[str],
    baseline: str,
    options: ComparisonOptions | None = None,
    *,
    judged: Mapping[tuple[str, str], float] | None = None,
) -> BaselineComparison:
    """Test every run other than the baseline for a significant difference from the baseline.

    Args:
        scores: Scores of at least two runs with different names, over the same judged queries.
        measures: The measures, as ir_measures prints them; all scores must include them.
        baseline: Name of the baseline among the runs.
        options: Test, correction and significance level; the test may also be ``dunnett`` or ``max-t``.
        judged: Known fractions of judged documents among the run's top documents, for each pair (run, measure).

    Raises:
        UnknownNameError: The baseline, the test or the correction does not exist.
        UsageError: The test cannot be combined with the correction, or an option is out of range.
        DataError: The runs were evaluated on different queries, or on fewer than two.
    """
    options, judged = options or ComparisonOptions(), judged or {}
    check_significance_level(options.alpha)
    test = open_baseline_test(with_rounding_for_wilcoxon(options.test), options.correction)
    matrices = tuple(ScoreMatrix.from_scores(scores, measure) for measure in measures)
    systems, topics = matrices[0].systems, len(matrices[0].topics)
    if baseline not in systems:
        raise UnknownNameError("baseline", baseline, systems)
    index = systems.index(baseline)
    p_values = _p_values_of_measures([m.values for m in matrices], index, test, options)
    family = _family_of_baseline_test(test, options, scores, tuple(measures))
    rows = [
        replace(row, judged=judged.get((row.run, row.measure)))
        for matrix, p in zip(matrices, p_values, strict=True)
        for row in _rows_of_measure(matrix, index, p, test, family, options.margin)
    ]
    return BaselineComparison(
        baseline=baseline,
        family=family,
        matrices=matrices,
        rows=tuple(rows),
        margin=options.margin,
        baseline_judged={measure: judged.get((baseline, measure)) for measure in measures},
        notes=(*note_missing_queries(scores), *note_few_topics(topics, "queries")),
    )


def _family_of_baseline_test(
    test: BaselineTest, options: ComparisonOptions, scores: Sequence[Scores], measures: tuple[str, ...]
) -> ComparisonFamily:
    return ComparisonFamily(
        test=options.test,
        title=test.title,
        correction=test.correction,
        family_wise=test.family_wise,
        alpha=options.alpha,
        pairs=len(scores) - 1,
        measures=measures,
        across_measures=options.across_measures,
        topics=len(scores[0].queries),
        missing=missing_topics(scores),
        options=options_of_test(test.test if isinstance(test, CorrectedPairTest) else test),
    )


def _p_values_of_measures(
    matrices: Sequence[Floats], baseline: int, test: BaselineTest, options: ComparisonOptions
) -> list[BaselineP]:
    """Return the p-values of every measure. If requested, adjusted p-values also account for the number of measures."""
    found = [test.p_values(values, baseline) for values in matrices]
    if not options.across_measures:
        return found
    if test.family_wise:
        return [BaselineP(p.raw, np.minimum(1.0, p.adjusted * len(found))) for p in found]
    adjusted = correct_p_values(np.concatenate([p.raw for p in found]), test.correction)
    parts = np.split(adjusted, len(found))
    return [BaselineP(p.raw, part) for p, part in zip(found, parts, strict=True)]


def _rows_of_measure(
    matrix: ScoreMatrix,
    baseline: int,
    p: BaselineP,
    test: BaselineTest,
    family: ComparisonFamily,
    margin: float | None,
) -> list[BaselineRow]:
    """Return the results on one measure: one row per system other than the baseline, in the order of the matrix."""
    from scipy.stats import t

    d = differences_from_baseline(matrix.values, baseline)
    topics, mean, errors = len(d), d.mean(axis=0), standard_errors(d)
    half = errors * t.isf(family.alpha / 2, topics - 1)
    wide = test.half_widths(matrix.values, baseline, family.alpha / family.measures_together)
    # the t-test cannot be computed if all differences are equal and not 0
    unknown = (errors == 0) & (mean != 0) & (Selector.parse(family.test).name == "t")
    level = family.level_of_single_test
    claims = _claims_within_margin(d, margin, level < family.alpha)
    names = np.delete(np.array(matrix.systems, dtype=object), baseline)
    means = np.delete(matrix.values.mean(axis=0), baseline)
    return [
        BaselineRow(
            run=str(names[j]),
            measure=matrix.measure,
            mean=float(means[j]),
            difference=float(mean[j]),
            interval=(float(mean[j] - half[j]), float(mean[j] + half[j])),
            simultaneous_interval=(float(mean[j] - wide[j]), float(mean[j] + wide[j])),
            p=None if unknown[j] else float(p.raw[j]),
            adjusted_p=None if unknown[j] else float(p.adjusted[j]),
            significant=bool(p.adjusted[j] <= family.alpha and not unknown[j]),
            detectable=smallest_detectable_difference(topics, float(errors[j] * np.sqrt(topics)), level, POWER),
            claims={name: float(values[j]) for name, values in claims.items()},
        )
        for j in range(len(names))
    ]


def _claims_within_margin(d: Floats, margin: float | None, corrected: bool) -> dict[str, Floats]:
    """Return the p-values of the tests of equivalence and non-inferiority, by name; empty without a margin.

    Args:
        d: (topics, systems) differences from the baseline.
        margin: Largest difference that does not matter, in units of the measure; None to omit these tests.
        corrected: Whether to correct these p-values by Holm's method.
    """
    if margin is None:
        return {}
    found = equivalence_p_values(d, margin)
    name = "holm" if corrected else "none"
    return {
        "equivalent_p": correct_p_values(found.equivalent, name),
        "not_inferior_p": correct_p_values(found.not_inferior, name),
    }


class EquivalenceP(NamedTuple):
    """P-values of tests with a margin, as arrays of shape (pairs,). Small values are evidence for the claim.

    Attributes:
        equivalent: P-values against the null hypothesis that the true difference is at least the margin in size.
        not_inferior: P-values against the null hypothesis that the true difference is at most minus the margin.
    """

    equivalent: Floats
    not_inferior: Floats


def equivalence_p_values(differences: Floats, margin: float) -> EquivalenceP:
    """Test whether mean differences lie within a margin.

    The p-value of equivalence is the larger of the p-values of two one-sided t-tests, for d > -margin and for
    d < margin. Equivalence holds at level alpha if and only if the 1 - 2 alpha confidence interval lies within the
    margins. If all differences are equal, their variance cannot be estimated: p is the smallest reported p-value if all
    differences are 0, and 1 otherwise. Source: Schuirmann, J. Pharmacokinetics and Biopharmaceutics
    1987; Lakens, SPPS 2017.

    Args:
        differences: (topics, pairs) scores of a system minus those of the baseline.
        margin: Largest difference that does not matter, in units of the measure.
    """
    from scipy.stats import t

    if not (np.isfinite(margin) and margin > 0):
        raise UsageError(f"margin is {margin}", expected="a number above 0, in units of the measure")
    topics = len(differences)
    constant = differences.min(axis=0) == differences.max(axis=0)
    mean = differences.mean(axis=0)
    error = differences.std(axis=0, ddof=1) / np.sqrt(topics)
    with np.errstate(divide="ignore", invalid="ignore"):
        above = t.sf((mean + margin) / error, topics - 1)
        below = t.sf((margin - mean) / error, topics - 1)
    limit = np.where(differences[0] == 0, 0.0, 1.0)
    not_inferior = clip_p_values(np.where(constant, limit, above))
    return EquivalenceP(np.maximum(not_inferior, clip_p_values(np.where(constant, limit, below))), not_inferior)

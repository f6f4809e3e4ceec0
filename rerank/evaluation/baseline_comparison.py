"""Comparison of many systems with one baseline, on one or several measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from rerank.errors import UnknownNameError
from rerank.evaluation.baseline_report import BaselineComparison, BaselineRow
from rerank.evaluation.baseline_tests import BaselineTest, open_baseline_test
from rerank.evaluation.baseline_tests.base import BaselineP, differences_from_baseline, standard_errors
from rerank.evaluation.comparison_family import ComparisonFamily, options_of_test
from rerank.evaluation.equivalence import equivalence_p_values
from rerank.evaluation.pairwise_decisions import check_significance_level, note_few_topics
from rerank.evaluation.power import smallest_detectable_difference
from rerank.evaluation.score_matrix import ScoreMatrix
from rerank.evaluation.significance import correct_p_values
from rerank.evaluation.significance.base import Floats
from rerank.selector import Selector

#: Power at which the smallest detectable difference of a row is stated.
POWER = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineOptions:
    """How systems are compared with a baseline.

    Attributes:
        test: Selector of a test of single pairs, ``dunnett`` or ``max-t``.
        correction: Correction of a test of single pairs; ``auto`` selects holm.
        alpha: Significance level, applied to the corrected p-values.
        across_measures: Correct over all systems and measures together, not for each measure alone. Tests that control
            the family-wise error over the systems are multiplied by the number of measures (Bonferroni).
        margin: Also test equivalence and non-inferiority with this margin; None for no such test.
    """

    test: str = "t"
    correction: str = "auto"
    alpha: float = 0.05
    across_measures: bool = False
    margin: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedScores:
    """Scores of the same systems on the same topics by several measures, and what is known about the systems.

    Attributes:
        matrices: One matrix per measure.
        missing: System -> number of topics without results.
        judged: (system, measure) -> fraction of the system's top documents that are judged.
        notes: Caveats for the reader.
    """

    matrices: tuple[ScoreMatrix, ...]
    missing: Mapping[str, int] = field(default_factory=dict)
    judged: Mapping[tuple[str, str], float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def compare_with_baseline(
    scores: ComparedScores, baseline: str, options: BaselineOptions | None = None
) -> BaselineComparison:
    """Test every other system against the baseline.

    Args:
        scores: The scores.
        baseline: Name of the baseline among the systems.
        options: Test, correction and level.

    Raises:
        UnknownNameError: The baseline, the test or the correction does not exist.
        UsageError: The test does not take the correction, or an option is out of range.
    """
    options = options or BaselineOptions()
    check_significance_level(options.alpha)
    test = open_baseline_test(options.test, options.correction)
    systems, topics = scores.matrices[0].systems, scores.matrices[0].topics
    if baseline not in systems:
        raise UnknownNameError("baseline", baseline, systems)
    index = systems.index(baseline)
    p_values = _p_values_of_measures([m.values for m in scores.matrices], index, test, options)
    family = ComparisonFamily(
        test=options.test,
        title=test.title,
        correction=test.correction,
        family_wise=test.family_wise,
        alpha=options.alpha,
        pairs=len(systems) - 1,
        measures=tuple(m.measure for m in scores.matrices),
        across_measures=options.across_measures,
        topics=len(topics),
        missing=scores.missing,
        options=options_of_test(test if test.family_wise else getattr(test, "test", test)),
    )
    rows = [
        row
        for matrix, p in zip(scores.matrices, p_values, strict=True)
        for row in _rows_of_measure(matrix, index, p, test, options, family)
    ]
    return BaselineComparison(
        baseline=baseline,
        family=family,
        matrices=scores.matrices,
        rows=tuple(replace(row, judged=scores.judged.get((row.run, row.measure))) for row in rows),
        margin=options.margin,
        baseline_judged={m.measure: scores.judged.get((baseline, m.measure)) for m in scores.matrices},
        notes=(*scores.notes, *note_few_topics(len(topics), "queries")),
    )


def _p_values_of_measures(
    matrices: Sequence[Floats], baseline: int, test: BaselineTest, options: BaselineOptions
) -> list[BaselineP]:
    """Return the p-values of every measure, corrected across measures if requested."""
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
    options: BaselineOptions,
    family: ComparisonFamily,
) -> list[BaselineRow]:
    """Return one row per system other than the baseline, in the order of the systems."""
    from scipy.stats import t

    d = differences_from_baseline(matrix.values, baseline)
    topics, mean, errors = len(d), d.mean(axis=0), standard_errors(d)
    half = errors * t.isf(options.alpha / 2, topics - 1)
    level = options.alpha / (len(family.measures) if options.across_measures else 1)
    wide = test.half_widths(matrix.values, baseline, level)
    # the t-test cannot be computed if all differences are equal and not 0
    unknown = (errors == 0) & (mean != 0) & (Selector.parse(options.test).name == "t")
    single = options.alpha if test.correction == "none" and not test.family_wise else options.alpha / family.size
    claims = _claims_within_margin(d, options.margin, single != options.alpha)
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
            significant=bool(p.adjusted[j] <= options.alpha and not unknown[j]),
            detectable=smallest_detectable_difference(topics, float(errors[j] * np.sqrt(topics)), single, POWER),
            claims={name: float(values[j]) for name, values in claims.items()},
        )
        for j in range(len(names))
    ]


def _claims_within_margin(d: Floats, margin: float | None, corrected: bool) -> dict[str, Floats]:
    """Return the p-values of equivalence and non-inferiority, corrected by Holm if differences are corrected, too."""
    if margin is None:
        return {}
    found = equivalence_p_values(d, margin)
    name = "holm" if corrected else "none"
    return {
        "equivalent_p": correct_p_values(found.equivalent, name),
        "not_inferior_p": correct_p_values(found.not_inferior, name),
    }

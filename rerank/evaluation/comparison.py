"""Comparison of runs on one measure: means with confidence intervals, and a significance test for every pair.

Tests are paired by query and corrected for the number of pairs in the comparison.

Comparisons of the same runs on several measures, as one result.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rerank.errors import UsageError
from rerank.evaluation.comparison_family import ComparisonOptions, missing_topics
from rerank.evaluation.comparison_report import Comparison, PairComparison, RunSummary
from rerank.evaluation.evaluator import evaluate_runs
from rerank.evaluation.grade_notes import evaluation_overlap_note, measure_grade_note, relevance_threshold_note
from rerank.evaluation.measures import check_measure_has_query_values, parse_measures
from rerank.evaluation.pairwise_decisions import (
    PairwiseDecisions,
    check_significance_level,
    compare_all_runs,
    correct_across_measures,
    list_caveats_of_test,
)
from rerank.evaluation.score_matrix import ScoreMatrix
from rerank.evaluation.scores import Scores
from rerank.evaluation.significance import correct_p_values, open_significance_test, student_t_interval
from rerank.evaluation.significance.base import DECIMALS, Floats, clip_p_values, iterate_paired_differences
from rerank.io.reports import Form, Report, TableReport
from rerank.selector import Selector
from rerank.types import Qrels, Run


def compare_runs(
    qrels: Qrels,
    runs: Iterable[Run],
    measure: str,
    *,
    relevant: int = 1,
    test: str = "t",
    correction: str = "auto",
    alpha: float = 0.05,
) -> Comparison:
    """Evaluate runs and test every pair of them for a significant difference.

    Args:
        qrels: The relevance judgments.
        runs: At least two runs with different names.
        measure: Name of one measure, in a form that `rerank.evaluation.measures.parse_measures` accepts.
        relevant: Lowest grade that counts as relevant in binary measures whose name does not specify one.
        test: Selector of the main test, such as ``"t"`` or ``"permutation,permutations=100000"``.
        correction: Correction for multiple comparisons: none, bonferroni, holm, hochberg, bh or by. ``auto`` selects
            holm, or none for Tukey's tests, which control the family-wise error themselves.
        alpha: Significance level, applied to the corrected p-values.

    Raises:
        UsageError: There are fewer than two runs, two runs have the same name, ``measure`` stands for several measures
            or has no per-query values, alpha is not between 0 and 1, or the test cannot be combined with the
            correction.
        UnknownNameError: The measure, test or correction does not exist.
        DataError: Fewer than two queries are judged, or a run shares no query with the judgments.
        MissingPrerequisiteError: The measure needs a library or program that is not installed.
    """
    runs = list(runs)
    names = [str(m) for m in parse_measures([measure], relevant=relevant)]
    if len(names) != 1:
        raise UsageError(f"{measure!r} stands for {len(names)} measures", expected="a single measure")
    check_measure_has_query_values(names[0])
    check_names_of_compared_runs([run.name for run in runs])
    scores = evaluate_runs(qrels, runs, [measure], relevant=relevant)
    comparison = compare_evaluated_runs(scores, names[0], test=test, correction=correction, alpha=alpha)
    return replace(comparison, notes=(*comparison.notes, *notes_on_judgments(qrels, runs, names)))


def notes_on_judgments(qrels: Qrels, runs: Sequence[Run], measures: Sequence[str], relevant: int = 1) -> list[str]:
    """Return notes on runs without judged documents, and on lowest relevant grades that may not suit the judgments."""
    overlaps = (evaluation_overlap_note(qrels, run) for run in runs)
    grades = measure_grade_note(qrels, measures), relevance_threshold_note(qrels, measures, relevant)
    return [note for note in (*overlaps, *grades) if note]


def compare_evaluated_runs(
    scores: Sequence[Scores], measure: str, *, test: str = "t", correction: str = "auto", alpha: float = 0.05
) -> Comparison:
    """Test every pair of runs for a significant difference, given their scores.

    Args:
        scores: Scores of at least two runs with different names, over the same judged queries.
        measure: The measure, as ir_measures prints it; all scores must include it.
        test: Selector of the main test.
        correction: Correction for multiple comparisons, as in `compare_runs`.
        alpha: Significance level, applied to the corrected p-values.

    Raises:
        UsageError: The scores of a run do not include the measure, or a reason listed in `compare_runs` applies.
        UnknownNameError: The test or correction does not exist.
        DataError: The runs were evaluated on different queries, or on fewer than two.
    """
    options = ComparisonOptions(test=test, correction=correction, alpha=alpha)
    return compare_evaluated_measures(scores, [measure], options).comparisons[0]


def compare_evaluated_measures(
    scores: Sequence[Scores], measures: Sequence[str], options: ComparisonOptions
) -> ComparisonSet:
    """Test every pair of runs on each of several measures.

    Args:
        scores: Scores of at least two runs with different names, over the same judged queries.
        measures: The measures, as ir_measures prints them; all scores must include them.
        options: Test, correction and significance level.

    Raises:
        UsageError: A reason listed in `compare_evaluated_runs` applies.
        UnknownNameError: The test or correction does not exist.
        DataError: The runs were evaluated on different queries, or on fewer than two.
    """
    check_names_of_compared_runs([entry.run for entry in scores])
    check_significance_level(options.alpha)
    decisions = [
        compare_all_runs(
            ScoreMatrix.from_scores(scores, measure),
            with_rounding_for_wilcoxon(options.test),
            options.correction,
            alpha=options.alpha,
        )
        for measure in measures
    ]
    if options.across_measures and len(measures) > 1:
        decisions = correct_across_measures(decisions)
    return ComparisonSet(tuple(_comparison_of_decisions(scores, entry, options) for entry in decisions))


def _comparison_of_decisions(
    scores: Sequence[Scores], decisions: PairwiseDecisions, options: ComparisonOptions
) -> Comparison:
    measure, pairs = decisions.matrix.measure, compare_pairs(decisions)
    return Comparison(
        measure=measure,
        alpha=options.alpha,
        queries=len(decisions.matrix.topics),
        runs=tuple(_summary_of_compared_run(entry, measure, options.alpha) for entry in scores),
        pairs=pairs,
        decisions=decisions,
        missing=missing_topics(scores),
        simultaneous=options.simultaneous,
        notes=_notes_on_comparison(scores, pairs, decisions),
    )


def check_names_of_compared_runs(names: Sequence[str]) -> None:
    """Check that there are at least two runs and that their names differ."""
    if len(names) < 2:
        raise UsageError(f"The number of runs to compare is {len(names)}", expected="at least two runs")
    for name in names:
        if names.count(name) > 1:
            raise UsageError(
                f"Two runs are named {name!r}",
                expected="a different name for each run",
                remedy="Remove the duplicate, or rename one of the runs",
            )


def with_rounding_for_wilcoxon(selector: str) -> str:
    """Return the selector of a test; for Wilcoxon's test, add an option that rounds the differences.

    Scores of runs are sums of fractions, so equal differences may not be equal in their last bits. Rounding restores
    the ties.
    """
    parsed = Selector.parse(selector)
    if parsed.name == "wilcoxon" and "decimals" not in parsed.options:
        return f"{selector},decimals={DECIMALS}"
    return selector


def _summary_of_compared_run(entry: Scores, measure: str, alpha: float) -> RunSummary:
    low, high = student_t_interval(list(entry.values[measure].values()), 1 - alpha)
    return RunSummary(run=entry.run, mean=entry.mean(measure), low=low, high=high, missing=len(entry.missing))


def compare_pairs(decisions: PairwiseDecisions) -> tuple[PairComparison, ...]:
    """Return one comparison per pair of systems: effect sizes, intervals and p-values."""
    matrix = decisions.matrix
    # (queries, pairs), first run minus second, in the order of itertools.combinations
    deltas = np.concatenate(list(iterate_paired_differences(matrix.values)), axis=1)
    low, mean, high, effect = _effect_sizes_of_pair(deltas, decisions.alpha)
    raw, adjusted = decisions.p_values()
    # the t-test cannot estimate the variance of constant differences
    is_unknown = (low == high) & (mean != 0) & (Selector.parse(decisions.test).name == "t")
    # Wilcoxon's test is always computed as a second opinion, with the correction of the main test, or with Holm's if
    # the main test controls the family-wise error itself
    signed = clip_p_values(open_significance_test(with_rounding_for_wilcoxon("wilcoxon")).p_values(matrix.values))
    columns: dict[str, Any] = {
        "difference": mean,
        "low": low,
        "high": high,
        "effect": effect,
        "wins": (deltas > 0).sum(axis=0),
        "ties": (deltas == 0).sum(axis=0),
        "losses": (deltas < 0).sum(axis=0),
        "p": np.where(is_unknown, None, raw),  # type: ignore[call-overload]
        "p_adjusted": np.where(is_unknown, None, adjusted),  # type: ignore[call-overload]
        "p_wilcoxon": signed,
        "p_wilcoxon_adjusted": correct_p_values(signed, decisions.correction_of_second_test),
        "significant": decisions.significant,
    }
    # tolist() turns NumPy scalars into Python numbers, which JSON can encode
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    system_pairs = itertools.combinations(matrix.systems, 2)
    return tuple(
        PairComparison(a=a, b=b, **dict(zip(columns, row, strict=True)))
        for (a, b), row in zip(system_pairs, rows, strict=True)
    )


def _effect_sizes_of_pair(deltas: Floats, alpha: float) -> tuple[Floats, Floats, Floats, Floats]:
    """Return, for each pair, the lower end of the t-interval, the mean, the upper end, and Cohen's d_z.

    Args:
        deltas: (queries, pairs) differences of scores.
        alpha: Probability that an interval does not cover the true difference.
    """
    from scipy.stats import t

    # rounding in the mean of constant differences must not look like variance
    constant = deltas.min(axis=0) == deltas.max(axis=0)
    mean = np.where(constant, deltas[0], deltas.mean(axis=0))
    spread = np.where(constant, 0.0, deltas.std(axis=0, ddof=1))
    # half = t_{1 - alpha/2, n-1} s / sqrt(n);  d_z = mean / s
    half = float(t.isf(alpha / 2, len(deltas) - 1)) * spread / math.sqrt(len(deltas))
    with np.errstate(divide="ignore", invalid="ignore"):
        effect = np.where(mean == 0, 0.0, mean / spread)
    return mean - half, mean, mean + half, effect


def note_missing_queries(scores: Sequence[Scores]) -> list[str]:
    """Return a note for every run that has no results for some judged queries."""
    return [
        f"Run {entry.run!r} has no results for {len(entry.missing)} of {len(entry.queries)} judged queries; "
        "they score 0."
        for entry in scores
        if entry.missing
    ]


def _notes_on_comparison(
    scores: Sequence[Scores], pairs: Sequence[PairComparison], decisions: PairwiseDecisions
) -> tuple[str, ...]:
    """Return notes on missing queries, on pairs for which the t-test cannot be computed, and on the test in general."""
    count = len(decisions.matrix.topics)
    notes = note_missing_queries(scores)
    tester = open_significance_test(decisions.test)
    if Selector.parse(decisions.test).name == "t":
        notes += [
            f"{pair.a!r} and {pair.b!r}: all {count} differences are equal, so the t-test cannot be computed; "
            "use the Wilcoxon p-value."
            for pair in pairs
            if pair.untestable
        ]
    caveats = list_caveats_of_test(decisions.matrix, tester, decisions.correction, decisions.alpha, noun="queries")
    return (*notes, *caveats)


@dataclass(frozen=True, slots=True)
class ComparisonSet(Report):
    """One comparison per measure.

    Attributes:
        comparisons: The comparisons, at least one.
    """

    comparisons: tuple[Comparison, ...]

    def with_notes(self, notes: Sequence[str]) -> ComparisonSet:
        """Return a copy with further notes on the runs, which are shown only with the first measure."""
        first, *rest = self.comparisons
        return ComparisonSet((replace(first, notes=(*first.notes, *notes)), *rest))

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object of ``rerank compare``: one comparison, or several in a list ``comparisons``."""
        if len(self.comparisons) == 1:
            return self.comparisons[0].to_dict()
        first = self.comparisons[0].family.to_dict()
        measures = [comparison.measure for comparison in self.comparisons]
        return {
            "family": {**first, "measures": measures},
            "comparisons": [comparison.to_dict() for comparison in self.comparisons],
            "notes": list(self.notes()),
        }

    def notes(self) -> dict[str, None]:
        """Return the notes of all comparisons in order, as dictionary keys, which removes repetitions."""
        return dict.fromkeys(note for comparison in self.comparisons for note in comparison.notes)

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield one row per measure and pair."""
        for comparison in self.comparisons:
            for pair in comparison.to_dict()["pairs"]:
                yield {"measure": comparison.measure, **pair}

    def parts(self) -> list[TableReport]:
        """Return the tables of the comparisons, one report per measure."""
        return [comparison.tables() for comparison in self.comparisons]

    def to_table(self, form: Form, digits: int = 4) -> str:
        return "\n\n".join(comparison.to_table(form, digits) for comparison in self.comparisons)

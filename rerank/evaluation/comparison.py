"""Comparison of runs: means with confidence intervals, and a significance test for every pair."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from rerank.errors import UsageError, ensure
from rerank.evaluation.evaluator import checked_runs, evaluate_runs
from rerank.evaluation.measures import (
    check_measure_has_query_values,
    evaluation_overlap_note,
    measure_grade_note,
    parse_measures,
    relevance_threshold_note,
)
from rerank.evaluation.pairwise_decisions import (
    ComparisonFamily,
    ComparisonOptions,
    PairwiseDecisions,
    check_significance_level,
    compare_all_runs,
    correct_across_measures,
    find_outlying_systems,
    list_caveats,
    missing_topics,
    note_missing_queries,
    with_rounding_for_wilcoxon,
)
from rerank.evaluation.scores import ScoreMatrix, Scores, format_interval, format_p_value, format_score
from rerank.evaluation.significance import TITLES, correct_p_values, open_significance_test, student_t_interval
from rerank.evaluation.significance.base import iterate_paired_differences, sample_variances
from rerank.io.reports import LETTERS, Cell, Form, Grid, Report, TableReport, format_csv_table
from rerank.io.text_files import replace_text_file
from rerank.selector import Selector
from rerank.types import Qrels, Run

#: Cutoff of the fraction of judged documents for measures without a cutoff.
_CUTOFF = 10


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

    ``measure`` is one measure, in a form that `rerank.evaluation.measures.parse_measures` accepts, and ``relevant`` its
    lowest relevant grade if it is binary and its name does not specify one. ``test`` is a selector, such as
    ``"permutation,permutations=100000"``. ``correction`` is none, bonferroni, holm, hochberg, bh, by, or ``auto`` for
    holm, or none for Tukey's tests, which control the family-wise error themselves.

    Raises:
        UsageError: There are fewer than two runs, two runs have the same name, ``measure`` stands for several measures
            or has no per-query values, alpha is not between 0 and 1, the test cannot be combined with the correction,
            or an argument has another type.
        UnknownNameError: The measure, test or correction does not exist.
        DataError: Fewer than two queries are judged, or a run shares no query with the judgments.
        MissingPrerequisiteError: The measure needs a library or program that is not installed.
    """
    runs = list(checked_runs(qrels, runs))
    name = parse_single_measure(measure, relevant)
    check_names([run.name for run in runs])
    scores = evaluate_runs(qrels, runs, [measure], relevant=relevant)
    comparison = compare_evaluated_runs(scores, name, test=test, correction=correction, alpha=alpha)
    return replace(comparison, notes=(*comparison.notes, *notes_on_judgments(qrels, runs, [name])))


def parse_single_measure(measure: str, relevant: int) -> str:
    """Return the name of the measure as ir_measures prints it; the measure must have per-query values."""
    names = [str(m) for m in parse_measures([measure], relevant=relevant)]
    ensure(len(names) == 1, f"{measure!r} stands for {len(names)} measures", expected="a single measure")
    check_measure_has_query_values(names[0])
    return names[0]


def notes_on_judgments(qrels: Qrels, runs: Sequence[Run], measures: Sequence[str], relevant: int = 1) -> list[str]:
    """Return notes on runs without judged documents, and on lowest relevant grades that may not suit the judgments."""
    overlaps = (evaluation_overlap_note(qrels, run) for run in runs)
    grades = measure_grade_note(qrels, measures), relevance_threshold_note(qrels, measures, relevant)
    return [note for note in (*overlaps, *grades) if note]


def compare_evaluated_runs(
    scores: Sequence[Scores], measure: str, *, test: str = "t", correction: str = "auto", alpha: float = 0.05
) -> Comparison:
    """Test every pair of runs, as `compare_runs` does, given their scores over the same judged queries."""
    options = ComparisonOptions(test=test, correction=correction, alpha=alpha)
    return compare_evaluated_measures(scores, [measure], options).comparisons[0]


def compare_evaluated_measures(
    scores: Sequence[Scores], measures: Sequence[str], options: ComparisonOptions
) -> ComparisonSet:
    """Test every pair of runs on each of several measures; scores and errors are those of `compare_evaluated_runs`."""
    check_names([entry.run for entry in scores])
    check_significance_level(options.alpha)
    test = with_rounding_for_wilcoxon(options.test)
    matrices = [ScoreMatrix.from_scores(scores, measure) for measure in measures]
    decisions = [compare_all_runs(matrix, test, options.correction, alpha=options.alpha) for matrix in matrices]
    if options.across_measures and len(measures) > 1:
        decisions = correct_across_measures(decisions)
    return ComparisonSet(tuple(_describe(scores, entry, options) for entry in decisions))


def _describe(scores: Sequence[Scores], decisions: PairwiseDecisions, options: ComparisonOptions) -> Comparison:
    measure, pairs, queries = decisions.matrix.measure, compare_pairs(decisions), len(decisions.matrix.topics)
    runs = []
    for entry in scores:
        low, high = student_t_interval(list(entry.values[measure].values()), 1 - options.alpha)
        summary = RunSummary(run=entry.run, mean=entry.mean(measure), low=low, high=high, missing=len(entry.missing))
        runs.append(summary)
    notes = note_missing_queries(scores)
    if Selector.parse(decisions.test).name == "t":
        notes += [
            f"{pair.a!r} and {pair.b!r}: all {queries} differences are equal, so the t-test cannot be computed; "
            "use the Wilcoxon p-value."
            for pair in pairs
            if pair.untestable
        ]
    tester = open_significance_test(decisions.test)
    notes += list_caveats(decisions.matrix, tester, decisions.correction, decisions.alpha, noun="queries")
    return Comparison(
        measure=measure,
        alpha=options.alpha,
        queries=queries,
        runs=tuple(runs),
        pairs=pairs,
        decisions=decisions,
        missing=missing_topics(scores),
        simultaneous=options.simultaneous,
        notes=tuple(notes),
    )


def check_names(names: Sequence[str]) -> None:
    """Check that there are at least two runs and that their names differ."""
    ensure(len(names) >= 2, f"The number of runs to compare is {len(names)}", expected="at least two runs")
    for name in names:
        if names.count(name) > 1:
            raise UsageError(
                f"Two runs are named {name!r}",
                expected="a different name for each run",
                remedy="Remove the duplicate, or rename one of the runs",
            )


def compare_pairs(decisions: PairwiseDecisions) -> tuple[PairComparison, ...]:
    """Return one comparison per pair of systems: effect sizes, intervals and p-values."""
    from scipy.stats import t

    matrix = decisions.matrix
    # (queries, pairs), first run minus second, in the order of itertools.combinations
    deltas = np.concatenate(list(iterate_paired_differences(matrix.values)), axis=1)
    spread = np.sqrt(sample_variances(deltas))
    mean = np.where(spread == 0, deltas[0], deltas.mean(axis=0))  # the mean of equal differences is not rounded
    # half = t_{1 - alpha/2, n-1} s / sqrt(n);  d_z = mean / s
    half = float(t.isf(decisions.alpha / 2, len(deltas) - 1)) * spread / math.sqrt(len(deltas))
    low, high = mean - half, mean + half
    with np.errstate(divide="ignore", invalid="ignore"):
        effect = np.where(mean == 0, 0.0, mean / spread)
    raw, adjusted = decisions.p_values()
    # the t-test cannot estimate the variance of constant differences
    is_unknown = (low == high) & (mean != 0) & (Selector.parse(decisions.test).name == "t")
    # Wilcoxon's test is always computed as a second opinion, with the correction of the main test, or with Holm's if
    # the main test controls the family-wise error itself
    signed = open_significance_test(with_rounding_for_wilcoxon("wilcoxon")).p_values(matrix.values)
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


@dataclass(frozen=True, slots=True)
class ComparisonSet(Report):
    """One comparison per measure; there is at least one."""

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
        """Return the notes of all comparisons in order, without repetitions."""
        return dict.fromkeys(note for comparison in self.comparisons for note in comparison.notes)

    def records(self) -> Iterator[dict[str, Any]]:
        for comparison in self.comparisons:
            for pair in comparison.to_dict()["pairs"]:
                yield {"measure": comparison.measure, **pair}

    def parts(self) -> list[TableReport]:
        return [comparison.tables() for comparison in self.comparisons]

    def to_table(self, form: Form, digits: int = 4) -> str:
        return "\n\n".join(comparison.to_table(form, digits) for comparison in self.comparisons)


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedRuns:
    """Scores of the runs of a comparison on the same queries, with how much of each run is judged."""

    scores: tuple[Scores, ...]
    measures: tuple[str, ...]  #: The measures that are compared, as ir_measures prints them.
    #: Mean fraction of judged documents among the first k, for each pair (run, measure), where k is the cutoff of the
    #: measure, or 10 if it has none. Empty if the scores do not come from runs.
    judged: Mapping[tuple[str, str], float]
    notes: tuple[str, ...] = ()

    def without_outliers(self, keep: str = "") -> ComparedRuns:
        """Return the scores, except for ``keep``, without runs far below others on the first measure, and a note."""
        outlying = find_outlying_systems(ScoreMatrix.from_scores(self.scores, self.measures[0]))
        names = [name for name in outlying if name != keep]
        if not names:
            return self
        note = f"Omitted, because far below the others on {self.measures[0]}: {', '.join(names)}."
        kept = tuple(entry for entry in self.scores if entry.run not in names)
        return replace(self, scores=kept, notes=(*self.notes, note))

    def write_query_differences(self, path: str | Path, baseline: str = "") -> None:
        """Write a CSV file with a line per measure, pair of runs (all, or those with a baseline as ``b``) and query."""
        by_name = {entry.run: entry for entry in self.scores}
        all_pairs = itertools.combinations(by_name, 2)
        pairs = [(name, baseline) for name in by_name if name != baseline] if baseline else [*all_pairs]
        rows: list[tuple[object, ...]] = []
        for measure in self.measures:
            matrix = ScoreMatrix.from_scores(self.scores, measure)
            for a, b in pairs:
                columns = [matrix.values[:, matrix.systems.index(name)].tolist() for name in (a, b)]
                columns.append(matrix.deltas(a, b).tolist())
                rows += [(measure, q, a, b, *numbers) for q, *numbers in zip(matrix.topics, *columns, strict=True)]
        with replace_text_file(path) as stream:
            stream.write(format_csv_table(("measure", "query", "a", "b", "score_a", "score_b", "difference"), rows))


def score_compared_runs(
    qrels: Qrels, runs: Sequence[Run], measures: Sequence[str], *, relevant: int = 1
) -> ComparedRuns:
    """Evaluate the runs of a comparison per query, and note problems with the judgments."""
    parsed = parse_measures(measures, relevant=relevant)
    names = [str(measure) for measure in parsed]
    for name in names:
        check_measure_has_query_values(name)
    check_names([run.name for run in runs])
    judged = {name: f"Judged@{m.params.get('cutoff', _CUTOFF)}" for name, m in zip(names, parsed, strict=True)}
    scores = evaluate_runs(qrels, runs, [*names, *dict.fromkeys(judged.values())], relevant=relevant)
    return ComparedRuns(
        scores=tuple(scores),
        measures=tuple(names),
        judged={(entry.run, name): entry.mean(share) for entry in scores for name, share in judged.items()},
        notes=tuple(notes_on_judgments(qrels, runs, names)),
    )


def compared_runs_of_matrix(matrix: ScoreMatrix) -> ComparedRuns:
    """Create `ComparedRuns` from a score matrix; fractions of judged documents are unknown."""
    return ComparedRuns(scores=tuple(matrix.to_scores()), measures=(matrix.measure or "score",), judged={})


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """Mean score of one run in a comparison, with its confidence interval."""

    run: str
    mean: float  #: Mean score over all judged queries.
    low: float  #: Lower end of the mean's 1 - alpha confidence interval (Student's t over queries).
    high: float
    missing: int  #: Number of judged queries that are missing from the run; they score 0.


@dataclass(frozen=True, slots=True, kw_only=True)
class PairComparison:
    """Comparison of two runs, a and b."""

    a: str
    b: str
    difference: float  #: Mean of a minus mean of b.
    low: float  #: Lower end of the difference's 1 - alpha confidence interval (paired t, for this pair alone).
    high: float
    #: Cohen's d_z, the mean of the differences divided by their standard deviation; infinite if only the latter is 0.
    effect: float
    wins: int  #: Number of queries on which a is better.
    ties: int
    losses: int
    p: float | None  #: Two-sided p-value of the main test; None if it is the t-test and the pair is `untestable`.
    p_adjusted: float | None  #: ``p`` after the correction; None if ``p`` is None.
    p_wilcoxon: float  #: Two-sided p-value of Wilcoxon's signed-rank test, with zero differences dropped.
    #: ``p_wilcoxon`` after the same correction, or Holm's if the main test controls the family-wise error itself.
    p_wilcoxon_adjusted: float
    significant: bool  #: Whether the main test finds a difference at the comparison's significance level.

    @property
    def untestable(self) -> bool:  # all differences are equal, so the t-test has no estimate of their variance
        return self.low == self.high and self.difference != 0

    @property
    def hedges(self) -> float:
        """Hedges' g: J(n - 1) times `effect`, which corrects the bias of small samples.

        J(v) = gamma(v / 2) / (sqrt(v / 2) gamma((v - 1) / 2)). Source: Hedges, Journal of Educational Statistics 1981.
        """
        freedom = self.wins + self.ties + self.losses - 1
        if freedom < 2 or not self.effect:
            return 0.0
        # log-gamma avoids overflow with many queries
        logarithm = math.lgamma(freedom / 2) - math.lgamma((freedom - 1) / 2)
        return self.effect * math.exp(logarithm) / math.sqrt(freedom / 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison(Report):
    """Results of comparing runs on one measure."""

    rows_key = "pairs"

    measure: str  #: Name of the measure, as ir_measures prints it.
    alpha: float
    queries: int  #: Number of judged queries, which is the sample size of every test.
    runs: tuple[RunSummary, ...]
    pairs: tuple[PairComparison, ...]  #: One entry per pair of runs; ``a`` is the run that comes first in the input.
    decisions: PairwiseDecisions = field(repr=False, compare=False)  #: The scores, the test and its results as arrays.
    missing: Mapping[str, int] = field(default_factory=dict)  #: Number of judged queries without results, if any.
    simultaneous: bool = False  #: Whether simultaneous intervals of the differences are shown.
    notes: tuple[str, ...] = ()

    @property
    def family(self) -> ComparisonFamily:
        return self.decisions.family(self.missing)

    @property
    def test(self) -> str:
        return self.decisions.test

    @property
    def correction(self) -> str:
        return self.decisions.correction

    def to_markdown(self, digits: int = 4) -> str:
        return self.to_table("markdown", digits)

    def to_latex(self, digits: int = 4) -> str:
        """Return the tables in LaTeX, which requires the package booktabs."""
        return self.to_table("latex", digits)

    def to_html(self, digits: int = 4) -> str:
        return self.to_table("html", digits)

    def deltas(self, a: str, b: str) -> dict[str, float]:
        """Return, for each query id, the score of run ``a`` minus the score of run ``b``."""
        matrix = self.decisions.matrix
        return dict(zip(matrix.topics, (float(d) for d in matrix.deltas(a, b)), strict=True))

    def plot(self, path: str | Path) -> None:
        """Plot per-query differences of two runs, or a heat map of the p-values of more, to a png, svg or pdf file."""
        from rerank.evaluation.plots import plot_comparison

        plot_comparison(self.decisions, path)

    def to_dict(self) -> dict[str, Any]:
        pairs, effects = [], []
        for pair in self.pairs:
            entry = asdict(pair)
            ci = [entry.pop("low"), entry.pop("high")]
            sizes = {"d_z": entry.pop("effect"), "hedges_g": pair.hedges}
            pairs.append({**entry, "ci": ci})
            finite = {key: v if math.isfinite(v) else None for key, v in sizes.items()}
            effects.append({"a": pair.a, "b": pair.b, **finite})
        content: dict[str, Any] = {
            "measure": self.measure,
            "alpha": self.alpha,
            "queries": self.queries,
            "runs": [
                {"run": r.run, "queries": self.queries, "missing": r.missing, "mean": r.mean, "ci": [r.low, r.high]}
                for r in self.runs
            ],
            "pairs": pairs,
            "effects": effects,
            "tests": {
                "p": f"{self.decisions.title}, two-sided",
                "p_wilcoxon": "Wilcoxon signed-rank, two-sided, zeros dropped",
            },
            "test": Selector.parse(self.test).name,
            "options": self.decisions.options,
            "correction": self.correction,
            "family": self.family.to_dict(),
        }
        if self.simultaneous:
            intervals = zip(self.pairs, self._simultaneous_intervals(), strict=True)
            content["simultaneous"] = [{"a": pair.a, "b": pair.b, "ci": list(ends)} for pair, ends in intervals]
        return {**content, "notes": list(self.notes)}

    def tables(self, digits: int = 4) -> TableReport:
        """Return a table of means (best run first), a table of pairs, the legend of both tables, and the notes.

        Letters at a mean show the runs with a significantly lower mean, or a count if there are too many runs. On a
        narrow terminal, the table of pairs shows each run as its letter.
        """
        order = sorted(range(len(self.runs)), key=lambda index: -self.runs[index].mean)
        letters = dict(zip(order, LETTERS, strict=False)) if len(self.runs) <= len(LETTERS) else {}
        legend = [
            f"* significant: {self.family.describe_p()}",
            f"{'Letters at a mean: runs that it is significantly above. ' if letters else ''}d: mean of the "
            "differences divided by their standard deviation.",
            self.family.describe_data(),
        ]
        grids = [self._table_of_means(order, letters, digits), self._table_of_pairs(letters, digits)]
        return TableReport(grids, legend, self.notes, measure=self.measure)

    def _simultaneous_intervals(self) -> list[tuple[float, float]]:
        half_widths = self.decisions.simultaneous_half_widths().tolist()
        return [(p.difference - half, p.difference + half) for p, half in zip(self.pairs, half_widths, strict=True)]

    def _table_of_means(self, order: list[int], letters: Mapping[int, str], digits: int) -> Grid:
        beats = self.decisions.beats()
        rows: list[list[str | Cell]] = []
        for index in order:
            run = self.runs[index]
            marks = "".join(sorted(letters[other] for other in beats[index])) if letters else ""
            mean = Cell(format_score(run.mean, digits), marks, run.mean == self.runs[order[0]].mean)
            cells: list[str | Cell] = [run.run, mean, format_interval(run.low, run.high, digits)]
            rows.append([letters[index], *cells] if letters else [*cells, str(len(beats[index]))])
        heads = ["run", self.measure, f"{100 * (1 - self.alpha):g}% interval"]
        return Grid(["", *heads], rows, left=2) if letters else Grid([*heads, "beats"], rows)

    def _table_of_pairs(self, letters: Mapping[int, str], digits: int) -> Grid:
        level, name = f"{100 * (1 - self.alpha):g}%", Selector.parse(self.test).name
        is_corrected = self.correction != "none"
        heads = ["a", "b", "a - b", f"{level} interval", *([f"simultaneous {level}"] if self.simultaneous else [])]
        heads += ["d", "win/tie/loss", f"p ({name})", *([TITLES[self.correction]] if is_corrected else [])]
        minor = {heads.index("win/tie/loss")} if self.simultaneous else set()
        second: list[str] = []
        if name != "wilcoxon":
            correction = self.decisions.correction_of_second_test
            second = ["p (Wilcoxon)", *([TITLES[correction]] if correction != "none" else [])]
            minor |= set(range(len(heads), len(heads) + len(second)))
        short = {self.runs[index].run: letter for index, letter in letters.items()}
        simultaneous = self._simultaneous_intervals() if self.simultaneous else []
        rows: list[list[str | Cell]] = []
        for number, pair in enumerate(self.pairs):
            p_values = [pair.p, *([pair.p_adjusted] if is_corrected else [])]
            stars = [*([""] if is_corrected else []), "*" if pair.significant else ""]
            rows.append(
                [
                    *(Cell(run, short=short.get(run, "")) for run in (pair.a, pair.b)),
                    f"{pair.difference:+.{digits}f}",
                    format_interval(pair.low, pair.high, digits),
                    *(format_interval(*ends, digits) for ends in simultaneous[number : number + 1]),
                    f"{pair.effect:+.2f}",
                    f"{pair.wins}/{pair.ties}/{pair.losses}",
                    *(Cell(format_p_value(p), star) for p, star in zip(p_values, stars, strict=True)),
                    *map(format_p_value, (pair.p_wilcoxon, pair.p_wilcoxon_adjusted)[: len(second)]),
                ]
            )
        return Grid([*heads, *second], rows, left=2, minor=minor)

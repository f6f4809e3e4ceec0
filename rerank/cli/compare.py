"""`rerank compare`: test differences between systems for significance, from runs and qrels or a matrix of scores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rerank.cli.option_groups import expand_option_groups
from rerank.cli.output import TableFormatOption, WideOption, emit_output, print_note, print_reports
from rerank.cli.run_files import NamesOption, expand_run_arguments, read_named_runs, short_run_names
from rerank.errors import UnknownNameError, UsageError
from rerank.io.text_files import check_file_writable

if TYPE_CHECKING:
    from rerank.evaluation.compared_runs import ComparedRuns
    from rerank.evaluation.comparison_family import ComparisonOptions
    from rerank.io.reports import TableReport

#: Number of pairs that a table on a terminal shows without --all.
_PAIRS_ON_TERMINAL = 20


def register_cli_commands(app: typer.Typer) -> None:
    """Add the command ``compare``."""
    example = "Example: rerank compare a.trec b.trec --qrels qrels.txt -m nDCG@10 --test permutation --correction bh"
    app.command("compare", epilog=example)(compare_command)


@dataclass(frozen=True, kw_only=True)
class MeasureOptions:
    """Options for scoring runs: relevance judgments and measures."""

    qrels: Annotated[
        str | None, typer.Option("--qrels", help="Relevance judgments: a file, or the selector of a collection.")
    ] = None
    measures: Annotated[
        list[str] | None, typer.Option("--measure", "-m", help="Measure; repeatable. (default: nDCG@10)")
    ] = None
    relevant: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Lowest grade that binary measures count as relevant; 2 for TREC Deep Learning. (default: 1)",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class SignificanceOptions:
    """Options for the significance test of pairs of systems."""

    test: Annotated[
        str,
        typer.Option(help="Paired test: t, wilcoxon, sign, permutation, bootstrap, tukey-randomised or tukey-anova."),
    ] = "t"
    correction: Annotated[
        str,
        typer.Option(
            help="Correction for multiple comparisons: none, bonferroni, holm, hochberg, bh, by, or auto (none for "
            "Tukey's tests, otherwise holm)."
        ),
    ] = "auto"
    alpha: Annotated[float, typer.Option(help="Significance level.")] = 0.05
    permutations: Annotated[
        int | None,
        typer.Option(
            min=1, help="Number of resamples of a resampling test. (default: 10000; tukey-randomised: 100000)"
        ),
    ] = None
    seed: Annotated[int | None, typer.Option(min=0, help="Seed for the resamples. (default: 0)")] = None

    @property
    def selector(self) -> str:
        """The test and its options as a selector, the text from which library functions create the test."""
        from rerank.evaluation.pairwise_decisions import build_significance_test_selector

        return build_significance_test_selector(self.test, permutations=self.permutations, seed=self.seed)

    def comparison_options(self, family: FamilyOptions) -> ComparisonOptions:
        """Return the comparison options that the library functions accept."""
        from rerank.evaluation.comparison_family import ComparisonOptions

        return ComparisonOptions(
            test=self.selector,
            correction=self.correction,
            alpha=self.alpha,
            across_measures=family.across_measures,
            simultaneous=family.simultaneous,
            margin=family.margin,
        )


@dataclass(frozen=True, kw_only=True)
class FamilyOptions:
    """Options for which pairs are compared, and which comparisons are corrected together as a family of tests."""

    baseline: Annotated[
        str | None,
        typer.Option(
            help="Compare all other runs with this run only: a run file or the name of a run. --test then also accepts "
            "dunnett and max-t."
        ),
    ] = None
    margin: Annotated[
        float | None,
        typer.Option(help="With --baseline: also test equivalence and non-inferiority (TOST) with this margin."),
    ] = None
    across_measures: Annotated[
        bool, typer.Option("--across-measures", help="Correct over all measures together, not per measure.")
    ] = False
    simultaneous: Annotated[
        bool, typer.Option("--simultaneous", help="Also show simultaneous confidence intervals.")
    ] = False
    omit_outliers: Annotated[
        bool,
        typer.Option(
            "--omit-outliers", help="Omit runs more than 3 interquartile ranges below the lower quartile of means."
        ),
    ] = False


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Options for the output of a comparison."""

    names: NamesOption = None
    picture: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            help="Plot file (png, svg or pdf): per-topic differences of two systems, p-values of more than two, or "
            "intervals of the differences from a baseline.",
        ),
    ] = None
    per_query: Annotated[
        Path | None, typer.Option("--per-query", help="CSV file for the differences of every pair on every query.")
    ] = None
    show_all: Annotated[
        bool, typer.Option("--all", help=f"Show all pairs on a terminal, not only the first {_PAIRS_ON_TERMINAL}.")
    ] = False
    wide: WideOption = False
    form: TableFormatOption = "text"


@expand_option_groups
def compare_command(
    scoring: MeasureOptions,
    significance: SignificanceOptions,
    family: FamilyOptions,
    report: ReportOptions,
    *,
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="RUN...", help="Run files (TREC, MS MARCO or JSON; may be gzipped), or folders of run files."
        ),
    ] = None,
    matrix: Annotated[
        Path | None,
        typer.Option(
            help="CSV file of scores instead of runs: one row per topic, one column per system, names in the first row."
        ),
    ] = None,
) -> None:
    """Compare runs pair by pair, or with a baseline: differences, intervals, a paired test with a correction.

    With --matrix, compare given scores: report how many pairs differ significantly, and how many systems each system
    outperforms.
    """
    from rerank.evaluation.plots import check_comparison_plot

    _check_compare_options(scoring, significance, family, report)
    for path, check in ((report.picture, check_comparison_plot), (report.per_query, check_file_writable)):
        if path is not None:
            check(path)
    if matrix is not None:
        check_matrix_without_runs(matrix, runs or [], scoring)
        compared, baseline = _read_compared_matrix(matrix, report.names or []), family.baseline
    else:
        compared, baseline = read_compared_runs(runs or [], scoring, report.names or [], family.baseline)
    if family.omit_outliers:
        compared = compared.without_outliers(baseline or "")
    options = significance.comparison_options(family)
    if report.per_query is not None:
        compared.write_query_differences(report.per_query, baseline or "")
        print_note(f"differences per query: {report.per_query}")
    if baseline is not None:
        _emit_baseline_comparison(compared, baseline, options, report)
    elif matrix is not None:
        _emit_matrix_decisions(compared, options, report)
    else:
        _emit_comparison_of_pairs(compared, options, report)


def _check_compare_options(
    scoring: MeasureOptions, significance: SignificanceOptions, family: FamilyOptions, report: ReportOptions
) -> None:
    """Check for options that cannot be combined, before any file is read."""
    from rerank.evaluation.baseline_tests import is_baseline_test
    from rerank.evaluation.pairwise_decisions import check_significance_level

    check_significance_level(significance.alpha)
    selector = significance.selector  # reports an invalid test
    without_baseline = {"--margin": family.margin is not None, f"--test {selector}": is_baseline_test(selector)}
    for flag, is_used in without_baseline.items():
        if is_used and family.baseline is None:
            raise UsageError(f"{flag} needs --baseline", expected="a baseline", remedy="Add --baseline RUN")
    if report.picture is not None and len(scoring.measures or []) > 1:
        raise UsageError(f"--plot {report.picture} is given with several measures", expected="one measure per plot")


def check_matrix_without_runs(matrix: Path, runs: list[Path], scoring: MeasureOptions) -> None:
    """Check that options for runs are not combined with a matrix of scores."""
    flags = {"--qrels": scoring.qrels, "--measure": scoring.measures, "--relevant": scoring.relevant}
    conflicting = [*map(str, runs[:1]), *(flag for flag, value in flags.items() if value)]
    if conflicting:
        raise UsageError(
            f"{conflicting[0]} is given together with --matrix {matrix}",
            expected="either runs with qrels, or a matrix of scores alone",
            remedy=f"Omit either {conflicting[0]} or --matrix",
        )


def _read_compared_matrix(path: Path, names: list[str]) -> ComparedRuns:
    from dataclasses import replace

    from rerank.evaluation.compared_runs import compared_runs_of_matrix
    from rerank.evaluation.score_matrix import read_score_matrix

    matrix = read_score_matrix(path)
    if names and len(names) != len(matrix.systems):
        raise UsageError(f"--name is given {len(names)} times", expected=f"once per system ({len(matrix.systems)})")
    return compared_runs_of_matrix(replace(matrix, systems=tuple(names) or matrix.systems))


def read_compared_runs(
    runs: list[Path], scoring: MeasureOptions, names: list[str], baseline: str | None
) -> tuple[ComparedRuns, str | None]:
    """Return the scores of the runs, and the name of the baseline run (None without a baseline)."""
    from rerank.collections import open_collection_qrels
    from rerank.evaluation.compared_runs import score_compared_runs

    if scoring.qrels is None:
        raise UsageError("--qrels is missing", expected="runs and qrels, or --matrix", remedy="Add --qrels FILE")
    judged, lowest = open_collection_qrels(scoring.qrels)
    files = expand_run_arguments(runs)
    place = None if baseline is None else _place_of_baseline(baseline, files, names)
    opened = read_named_runs(files, names)
    compared = score_compared_runs(judged, opened, scoring.measures or ["nDCG@10"], relevant=scoring.relevant or lowest)
    return compared, None if place is None else opened[place].name


def _place_of_baseline(baseline: str, files: list[Path], names: list[str]) -> int:
    """Return the index of the baseline in ``files``. If the baseline is not in ``files``, insert it at the start."""
    known = names if len(names) == len(files) else short_run_names(files)
    if baseline in known:
        return known.index(baseline)
    if not Path(baseline).exists():
        raise UnknownNameError("baseline", baseline, [*known, *map(str, files)])
    file, *more = expand_run_arguments([Path(baseline)])
    if more:
        raise UsageError(f"--baseline {baseline} contains {1 + len(more)} runs", expected="one run")
    same = [index for index, other in enumerate(files) if other.resolve() == file.resolve()]
    if not same:
        files.insert(0, file)
        if names:
            names.insert(0, file.name)
    return same[0] if same else 0


def _emit_baseline_comparison(
    compared: ComparedRuns, baseline: str, options: ComparisonOptions, report: ReportOptions
) -> None:
    from dataclasses import replace

    from rerank.evaluation.baseline_comparison import compare_with_baseline
    from rerank.evaluation.plots import plot_baseline_comparison

    result = compare_with_baseline(compared.scores, compared.measures, baseline, options, judged=compared.judged)
    result = replace(result, notes=(*result.notes, *compared.notes))
    _emit_compared(result.to_dict(), [result.tables()], report, rows="rows")
    if report.picture is not None:
        plot_baseline_comparison(result, report.picture)
        print_note(f"plot: {report.picture}")


def _emit_compared(content: dict[str, Any], reports: list[TableReport], report: ReportOptions, **rows: Any) -> None:
    most_rows = None if report.show_all else _PAIRS_ON_TERMINAL

    def text() -> None:
        print_reports(reports, wide=report.wide, most_rows=most_rows)

    emit_output(content, form=report.form, text=text, reports=reports, **rows)


def _emit_matrix_decisions(compared: ComparedRuns, options: ComparisonOptions, report: ReportOptions) -> None:
    from dataclasses import replace

    from rerank.evaluation.pairwise_decisions import compare_all_runs
    from rerank.evaluation.plots import plot_comparison
    from rerank.evaluation.score_matrix import ScoreMatrix

    matrix = replace(ScoreMatrix.from_scores(compared.scores, compared.measures[0]), measure="")
    decisions = compare_all_runs(matrix, options.test, options.correction, alpha=options.alpha)
    decisions = replace(decisions, notes=(*decisions.notes, *compared.notes))
    _emit_compared(decisions.to_dict(), [decisions.tables()], report, rows="means")
    if report.picture is not None:
        plot_comparison(decisions, report.picture)
        print_note(f"plot: {report.picture}")


def _emit_comparison_of_pairs(compared: ComparedRuns, options: ComparisonOptions, report: ReportOptions) -> None:
    from rerank.evaluation.comparison import compare_evaluated_measures

    result = compare_evaluated_measures(compared.scores, compared.measures, options).with_notes(compared.notes)
    _emit_compared(result.to_dict(), result.reports(), report, records=result.pairs())
    if report.picture is not None:
        result.comparisons[0].plot(report.picture)
        print_note(f"plot: {report.picture}")

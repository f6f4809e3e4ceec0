"""`compare`, `power`, `worth`, `anova`, `reproduce`: compare systems and experiments."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from rerank.cli.app import command
from rerank.cli.options import (
    AlphaOption,
    IntervalAlpha,
    MeasureOptions,
    MeasuresOption,
    NamesOption,
    OptionalRuns,
    OptionGroup,
    QrelsOption,
    RunsArgument,
    SignificanceOptions,
    TableFormatOption,
    WideOption,
)
from rerank.cli.output import emit, print_note
from rerank.cli.run_files import expand_folders, read_named_runs, short_run_names
from rerank.collections import open_collection_qrels
from rerank.errors import GateError, UnknownNameError, UsageError, ensure
from rerank.evaluation.baseline_comparison import compare_with_baseline
from rerank.evaluation.baseline_tests import is_baseline_test
from rerank.evaluation.comparison import (
    ComparedRuns,
    compare_evaluated_measures,
    compared_runs_of_matrix,
    score_compared_runs,
)
from rerank.evaluation.gate import Condition, GateDecision, decide_gate
from rerank.evaluation.pairwise_decisions import ComparisonOptions, check_significance_level, compare_all_runs
from rerank.evaluation.scores import ScoreMatrix, read_score_matrix
from rerank.io.text_files import check_file_writable

_PAIRS_ON_TERMINAL = 20  #: Number of pairs that a table on a terminal shows without --all.


class FamilyOptions(OptionGroup):
    """Options for which pairs are compared, and which comparisons are corrected together as a family of tests."""

    baseline: Annotated[
        str | None,
        "Compare all other runs with this run only: a run file or the name of a run. --test then also accepts "
        "dunnett and max-t.",
    ] = None
    margin: Annotated[
        float | None, "With --baseline or --fail-if: also test equivalence and non-inferiority (TOST) with this margin."
    ] = None
    fail_if: Annotated[
        Condition | None,
        "Compare two runs, the first of which is the baseline, and exit with code 8 if the second is significantly "
        "worse, not significantly better, or not equivalent within --margin.",
    ] = None
    across_measures: Annotated[bool, "Correct over all measures together, not per measure."] = False
    simultaneous: Annotated[bool, "Also show simultaneous confidence intervals."] = False
    omit_outliers: Annotated[bool, "Omit runs more than 3 interquartile ranges below the lower quartile of means."] = (
        False
    )


class ReportOptions(OptionGroup):
    """Options for the output of a comparison."""

    names: NamesOption = None
    picture: Annotated[
        Path | None,
        Option(
            "--plot",
            help="Plot file (png, svg or pdf): per-topic differences of two systems, p-values of more than two, or "
            "intervals of the differences from a baseline.",
        ),
    ] = None
    per_query: Annotated[Path | None, "CSV file for the differences of every pair on every query."] = None
    show_all: Annotated[
        bool, Option("--all", help=f"Show all pairs on a terminal, not only the first {_PAIRS_ON_TERMINAL}.")
    ] = False
    wide: WideOption = False
    form: TableFormatOption = "text"


@command("compare", "rerank compare a.trec b.trec --qrels qrels.txt -m nDCG@10 --test permutation --correction bh")
def compare(
    scoring: MeasureOptions,
    significance: SignificanceOptions,
    family: FamilyOptions,
    report: ReportOptions,
    *,
    runs: OptionalRuns = None,
    matrix: Annotated[
        Path | None,
        "CSV file of scores instead of runs: one row per topic, one column per system, names in the first row.",
    ] = None,
) -> None:
    """Compare runs pair by pair, or with a baseline: differences, intervals, a paired test with a correction.

    With --matrix, compare given scores: report how many pairs differ significantly, and how many systems each system
    outperforms.
    """
    from rerank.evaluation import plots

    # options that cannot be combined raise an error before any file is read
    check_significance_level(significance.alpha)
    selector = significance.selector  # reports an invalid test
    without_baseline = {"--margin": family.margin is not None, f"--test {selector}": is_baseline_test(selector)}
    for flag, is_used in without_baseline.items():
        if is_used and family.baseline is None and family.fail_if is None:
            raise UsageError(f"{flag} needs --baseline", expected="a baseline", remedy="Add --baseline RUN")
    names = report.names or []
    if family.fail_if is not None:
        ensure(family.baseline is None, "--fail-if is given with --baseline", expected="BASE NEW, without --baseline")
        ensure(len(runs or ()) in (0, 2), f"--fail-if is given with {len(runs or ())} runs", expected="two: BASE NEW")
    if report.picture is not None:
        if len(scoring.measures or []) > 1:
            raise UsageError(f"--plot {report.picture} is given with several measures", expected="one measure per plot")
        plots.check_path(report.picture)
    if report.per_query is not None:
        check_file_writable(report.per_query, "table of differences")
    if matrix is not None:
        flags = {"--qrels": scoring.qrels, "--measure": scoring.measures, "--relevant": scoring.relevant}
        if conflicting := [*map(str, (runs or [])[:1]), *(flag for flag, value in flags.items() if value)]:
            raise UsageError(
                f"{conflicting[0]} is given together with --matrix {matrix}",
                expected="either runs with qrels, or a matrix of scores alone",
                remedy=f"Omit either {conflicting[0]} or --matrix",
            )
        given = read_score_matrix(matrix)
        if names and len(names) != len(given.systems):
            raise UsageError(f"--name is given {len(names)} times", expected=f"once per system ({len(given.systems)})")
        compared = compared_runs_of_matrix(replace(given, systems=tuple(names) or given.systems))
        baseline = family.baseline
    else:
        if family.fail_if is not None and not names:
            names = short_run_names(expand_folders(runs or []))
            if len(names) == 2 and names[0] == names[1]:  # both runs may be the same file
                names = [f"{names[0]} (base)", f"{names[0]} (new)"]
        compared, baseline = read_compared_runs(runs or [], scoring, names, family.baseline)
    if family.fail_if is not None:
        baseline = compared.scores[0].run
    if family.omit_outliers:
        compared = compared.without_outliers(baseline or "")
    options = significance.comparison_options(
        across_measures=family.across_measures, simultaneous=family.simultaneous, margin=family.margin
    )
    if report.per_query is not None:
        compared.write_query_differences(report.per_query, baseline or "")
        print_note(f"differences per query: {report.per_query}")

    result: Any
    decision: GateDecision | None = None
    if baseline is not None:
        result = compare_with_baseline(compared.scores, compared.measures, baseline, options, judged=compared.judged)
        if family.fail_if is not None:
            decision = decide_gate(result, family.fail_if)
        result = replace(result, notes=(*result.notes, *compared.notes), gate=decision)
        plot = partial(plots.plot_baseline_comparison, result)
    elif matrix is not None:
        scores = replace(ScoreMatrix.from_scores(compared.scores, compared.measures[0]), measure="")
        result = compare_all_runs(scores, options.test, options.correction, alpha=options.alpha)
        result = replace(result, notes=(*result.notes, *compared.notes))
        plot = partial(plots.plot_comparison, result)
    else:
        result = compare_evaluated_measures(compared.scores, compared.measures, options).with_notes(compared.notes)
        plot = result.comparisons[0].plot
    emit(result, report.form, wide=report.wide, most_rows=None if report.show_all else _PAIRS_ON_TERMINAL)
    if report.picture is not None:
        plot(report.picture)
        print_note(f"plot: {report.picture}")
    if decision is not None:
        if decision.fails:
            raise GateError(decision.sentence)
        print_note(decision.sentence)


def read_compared_runs(
    runs: list[Path], scoring: MeasureOptions, names: list[str], baseline: str | None
) -> tuple[ComparedRuns, str | None]:
    """Return the scores of the runs, and the name of the baseline, which is added as the first run if necessary."""
    if scoring.qrels is None:
        raise UsageError("--qrels is missing", expected="runs and qrels, or --matrix", remedy="Add --qrels FILE")
    judged, lowest = open_collection_qrels(scoring.qrels)
    files = expand_folders(runs)
    place = None
    if baseline is not None:
        known = names if len(names) == len(files) else short_run_names(files)
        if (place := known.index(baseline) if baseline in known else None) is None:
            if not Path(baseline).exists():
                raise UnknownNameError("baseline", baseline, known)
            file, *more = expand_folders([Path(baseline)])
            ensure(not more, f"--baseline {baseline} contains {1 + len(more)} runs", expected="one run")
            place = next((index for index, other in enumerate(files) if other.resolve() == file.resolve()), None)
            if place is None:
                place = 0
                files.insert(0, file)
                if names:
                    names.insert(0, file.name)
    opened = read_named_runs(files, names)
    compared = score_compared_runs(judged, opened, scoring.measures or ["nDCG@10"], relevant=scoring.relevant or lowest)
    return compared, None if place is None else opened[place].name


@command("power", "rerank power a.trec b.trec --qrels qrels.txt -m nDCG@10 --difference 0.02")
def power(
    scoring: MeasureOptions,
    *,
    runs: RunsArgument,
    baseline: Annotated[
        str | None, "Compare all other runs with this run only: a run file or the name of a run."
    ] = None,
    difference: Annotated[
        float | None, "Smallest difference that matters; adds the number of topics it requires."
    ] = None,
    power: Annotated[float, "Probability of detecting a true difference."] = 0.8,
    alpha: Annotated[float, "Significance level, which is divided by the number of pairs."] = 0.05,
    form: TableFormatOption = "text",
) -> None:
    """Report the differences that a paired t-test can detect, and the number of topics needed for a difference.

    Only the standard deviations of the per-topic differences are taken from the runs.
    """
    from rerank.evaluation.power import report_power_of_runs

    compared, name = read_compared_runs(runs, scoring, [], baseline)
    ensure(len(compared.measures) <= 1, f"{len(compared.measures)} measures are given", expected="one measure")
    report = report_power_of_runs(
        compared.scores,
        compared.measures[0],
        options=ComparisonOptions(alpha=alpha),
        power=power,
        difference=difference,
        baseline=name or "",
    )
    emit(report, form)
    for note in compared.notes:
        print_note(note)


@command("worth", "rerank worth a.trec b.trec --qrels qrels.txt -m nDCG@10")
def worth(
    scoring: MeasureOptions,
    *,
    first: Annotated[Path, Argument(metavar="FIRST", help="Run of the first stage.")],
    runs: RunsArgument,
    depth: Annotated[
        int | None, Option(min=1, help="Number of candidates per query that are reranked. (default: all)")
    ] = None,
    alpha: IntervalAlpha = 0.05,
    names: NamesOption = None,
    form: TableFormatOption = "text",
) -> None:
    """Report the gain of rerankers over the first stage, and its share of the gain of a perfect order.

    The perfect order sorts the first stage's candidates by their relevance grades.
    """
    from rerank.evaluation.worth import WorthOptions, measure_gains

    check_significance_level(alpha)
    measures = scoring.measures or ["nDCG@10"]
    if scoring.qrels is None or len(measures) > 1:
        raise UsageError(
            "--qrels is missing" if scoring.qrels is None else f"{len(measures)} measures are given",
            expected="--qrels and one measure",
        )
    qrels, lowest = open_collection_qrels(scoring.qrels)
    before, *methods = read_named_runs(expand_folders([first, *runs]), names or [])
    options = WorthOptions(relevant=scoring.relevant or lowest, depth=depth, alpha=alpha)
    emit(measure_gains(qrels, before, methods, measures[0], options), form)


@command("anova", "rerank anova one/ two/ --qrels one.txt --qrels two.txt -m nDCG@10")
def anova(
    folders: Annotated[
        list[Path], Argument(metavar="FOLDER...", help="Folder of runs per collection; file names identify systems.")
    ],
    qrels: Annotated[
        list[str], "Relevance judgments: a file, or the selector of a collection; once per folder, in order."
    ],
    measure: Annotated[str, Option("--measure", "-m", help="Measure with per-query values.")] = "nDCG@10",
    relevant: Annotated[
        int | None, Option(min=1, help="Lowest grade that counts as relevant. (default: as in each collection, or 1)")
    ] = None,
    correction: Annotated[
        str, "Correction over the pairs: none, bonferroni, holm, hochberg, bh, by, or auto (holm)."
    ] = "auto",
    alpha: AlphaOption = 0.05,
    form: TableFormatOption = "text",
) -> None:
    """Compare the same systems over several collections: means, a stratified test of all pairs, analysis of variance.

    Each collection counts equally in means and differences, however many topics it has.
    """
    from rerank.evaluation.stratified_comparison import compare_over_collections

    if len(folders) != len(qrels):
        raise UsageError(
            f"--qrels is given {len(qrels)} times for {len(folders)} folders",
            expected="one --qrels per folder, in the order of the folders",
        )
    matrices, notes = {}, []
    names = short_run_names(folders)
    if len(set(names)) < len(names):
        raise UsageError(
            f"The folders contain a duplicate: {', '.join(map(str, folders))}", expected="different folders"
        )
    for name, folder, selector in zip(names, folders, qrels, strict=True):
        judged, lowest = open_collection_qrels(selector)
        runs = read_named_runs(expand_folders([folder]))
        compared = score_compared_runs(judged, runs, [measure], relevant=relevant or lowest)
        if len(compared.measures) > 1:
            raise UsageError(
                f"--measure {measure!r} refers to {len(compared.measures)} measures", expected="one measure"
            )
        matrices[name] = ScoreMatrix.from_scores(compared.scores, compared.measures[0])
        notes += [f"{name}: {note}" for note in compared.notes]
    emit(compare_over_collections(matrices, ComparisonOptions(correction=correction, alpha=alpha), notes=notes), form)


@command("reproduce", "rerank reproduce a.trec b.trec again/a.trec again/b.trec --qrels qrels.txt -m nDCG@10")
def reproduce(
    runs: Annotated[
        list[Path],
        Argument(
            metavar="BASELINE ADVANCED BASELINE_AGAIN ADVANCED_AGAIN",
            help="Baseline and advanced run of the original experiment, then of the repeated experiment.",
        ),
    ],
    qrels: QrelsOption,
    qrels_again: Annotated[str | None, "Judgments of the repeated experiment, if it was on another collection."] = None,
    measures: MeasuresOption = None,
    relevant: Annotated[
        int | None, Option(min=1, help="Lowest grade that counts as relevant. (default: as in --qrels, or 1)")
    ] = None,
    depth: Annotated[int, Option(min=2, help="Number of documents whose order is compared.")] = 1000,
    form: TableFormatOption = "text",
) -> None:
    """Report how well an experiment was reproduced: order of documents, scores per topic, effect, and t-tests."""
    from rerank.evaluation.reproduction import Experiment, measure_reproduction

    if len(runs) != 4:
        raise UsageError(f"{len(runs)} runs are given", expected="four: baseline and advanced run of both experiments")
    judged, lowest = open_collection_qrels(qrels)
    judged_again = judged if qrels_again is None else open_collection_qrels(qrels_again)[0]
    baseline, advanced, baseline_again, advanced_again = read_named_runs(runs)
    result = measure_reproduction(
        Experiment(baseline=baseline, advanced=advanced, qrels=judged),
        Experiment(baseline=baseline_again, advanced=advanced_again, qrels=judged_again),
        measures or ["nDCG@10"],
        relevant=relevant or lowest,
        depth=depth,
    )
    emit(result, form)

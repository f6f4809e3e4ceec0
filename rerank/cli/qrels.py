"""`qrels`: create relevance judgments, compare them, and study cheaper judging strategies."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from typer import Argument, Option

from rerank.cli.app import command, command_group
from rerank.cli.options import (
    MOST_REPETITIONS,
    MOST_SAMPLES,
    AlphaOption,
    FormatOption,
    IntervalAlpha,
    LowestGrade,
    MeasuresOption,
    NamesOption,
    OptionGroup,
    PoolDepth,
    QrelsOption,
    RunsArgument,
    SampleSeed,
    TableFormatOption,
    WideOption,
)
from rerank.cli.output import emit, emit_content, print_note
from rerank.cli.run import progress_bar
from rerank.cli.run_files import (
    expand_folders,
    read_named_runs,
    read_run_arguments,
    read_runs_and_pool,
    short_run_names,
)
from rerank.collections import open_collection_qrels
from rerank.errors import StorageError, UsageError
from rerank.evaluation import read_query_groups
from rerank.evaluation.pairwise_decisions import check_significance_level
from rerank.io.reports import Grid, TableReport, format_cell, make_grid, value_with_interval
from rerank.io.run_files import write_qrels, write_run
from rerank.io.text_files import check_file_writable
from rerank.types import Qrels

#: Figures whose intervals are printed; --format json contains all intervals.
_WITH_INTERVAL = ("precision", "recall", "balanced_accuracy", "tau", "tau_ap")

group = command_group("qrels", "Create relevance judgments and study cheaper judging strategies.")


class ProcedureOptions(OptionGroup):
    """Options for measures and significance tests."""

    measures: MeasuresOption = None
    test: Annotated[
        list[str] | None,
        "Paired test: t, wilcoxon, sign, permutation, bootstrap, tukey-randomised or tukey-anova; repeatable. "
        "(default: t)",
    ] = None
    correction: Annotated[
        list[str] | None,
        "Correction for multiple comparisons: none, bonferroni, holm, hochberg, bh, by, or auto "
        "(none for Tukey's tests, otherwise holm); repeatable. (default: auto, as in rerank compare)",
    ] = None
    alpha: AlphaOption = 0.05
    relevant: LowestGrade = None

    @property
    def procedures(self) -> Any:
        """All combinations of tests and corrections."""
        from rerank.adjudication.conclusions import cross_significance_procedures

        return cross_significance_procedures(self.test or ["t"], self.correction or ["auto"])


class TableOptions(OptionGroup):
    """Options for the output of a command whose result is a wide table."""

    wide: WideOption = False
    form: TableFormatOption = "text"


class StudyOptions(OptionGroup):
    """Options for simulations in which only a part of the documents is judged."""

    method: Annotated[
        list[str] | None,
        "Judging order: docid, random, depth, ntcir, borda, combmnz, condorcet, rrf, dcg, rbp-a, rbp-b, "
        "rbp-c, mtf, mtf-global, hedge, mm, mm-ns, ts, ucb1-tuned, eps-n-greedy, llm:RUN, or all (except llm:RUN); "
        "repeatable. (default: depth and mtf)",
    ] = None
    budget: Annotated[
        list[str] | None,
        "Budget: 10 (documents per topic), 10% (of each pool) or total:5000; repeatable. (default: 10% to 100%)",
    ] = None
    depth: PoolDepth = 100
    unjudged: Annotated[bool, "Also pool documents without a gold judgment; they count as not relevant."] = False
    seeds: Annotated[
        int, Option(min=1, max=MOST_REPETITIONS, help="Number of repetitions of each stochastic method.")
    ] = 10
    seed: Annotated[int, Option(min=0, help="First seed.")] = 0
    resamples: Annotated[
        int,
        Option(
            min=0,
            max=MOST_SAMPLES,
            help="Number of bootstrap samples for intervals and tests of methods, such as 1000.",
        ),
    ] = 0
    pool_from: Annotated[
        list[Path] | None,
        Option("--from", metavar="RUN", help="Form the pool from these runs only, and evaluate all RUNs; repeatable."),
    ] = None
    repeats: Annotated[
        list[str] | None,
        Option(
            metavar="SYSTEM=PATTERN",
            help="Runs whose names match are repeats of one system, as in gpt='gpt-3.5*'; repeatable.",
        ),
    ] = None


@command(
    "study",
    "rerank qrels study a.trec b.trec --qrels qrels.txt --method depth --method mtf --budget 10% --budget 20% "
    "--out study",
    group=group,
)
def study(
    options: StudyOptions,
    procedure: ProcedureOptions,
    table: TableOptions,
    *,
    runs: RunsArgument,
    qrels: Annotated[str, "Gold qrels: a file, or the selector of a collection."],
    out: Annotated[Path | None, "Folder for study.json, study.csv, systems.csv and report.html."] = None,
    names: NamesOption = None,
) -> None:
    """Simulate judging fewer documents and report which significant differences between runs are preserved.

    Judgments are looked up in the gold qrels. An HTML report is written to --out.
    """
    from rerank.adjudication.orders import open_judging_order, orders
    from rerank.adjudication.studies import StudyDesign, run_study
    from rerank.adjudication.study_report import write_study_report
    from rerank.adjudication.walks import AdjudicationBudget

    # invalid options raise an error before any file is read
    every = [name.replace("_", "-") for name in orders.names() if name != "llm"]
    chosen = options.method or ["depth", "mtf"]
    methods = tuple(dict.fromkeys(name for text in chosen for name in (every if text == "all" else [text])))
    for name in methods:
        open_judging_order(name)
    design = StudyDesign(
        methods=methods,
        budgets=tuple(map(AdjudicationBudget.parse, options.budget or [f"{share}%" for share in range(10, 101, 10)])),
        measures=tuple(procedure.measures or ["nDCG@10"]),
        procedures=procedure.procedures,
        depth=options.depth,
        unjudged=options.unjudged,
        alpha=procedure.alpha,
        seeds=options.seeds,
        seed=options.seed,
        resamples=options.resamples,
        repeats=_parse_patterns("--repeats", options.repeats or []),
    )
    gold, lowest = open_collection_qrels(qrels)
    design = replace(design, relevant=procedure.relevant or lowest)
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"The folder {out} cannot be created: {error.strerror}", remedy="Choose another --out"
            ) from error
        for name in ("study.json", "study.csv", "systems.csv", "report.html"):
            check_file_writable(out / name, "study")
    evaluated, pooled = read_runs_and_pool(runs, options.pool_from, names or [])
    with progress_bar("judging", len(design.walks)) as on_walk:
        result = run_study(evaluated, gold, design, pool_from=pooled, on_walk=on_walk)
    if out is not None:  # written before anything is printed, because the reader of a pipe may close it
        for path in [*result.write(out), write_study_report(result, out / "report.html")]:
            print_note(f"written: {path}")
    emit(result, table.form, wide=table.wide)


def _parse_patterns(option: str, texts: Sequence[str]) -> tuple[tuple[str, str], ...]:
    pairs = [text.partition("=") for text in texts]
    for text, (system, _, pattern) in zip(texts, pairs, strict=True):
        if not (system and pattern):
            raise UsageError(f"{option} is {text!r}", expected="NAME=PATTERN, as in gpt='gpt-3.5*'")
    return tuple((system, pattern) for system, _, pattern in pairs)


class SamplingOptions(OptionGroup):
    """Options for bootstrap intervals and, only with intervals, for whether the qrels favour groups of runs."""

    resamples: Annotated[
        int, Option(min=0, max=MOST_SAMPLES, help="Number of bootstrap samples for intervals, such as 1000.")
    ] = 0
    seed: SampleSeed = 0
    groups: Annotated[
        list[str] | None,
        Option(
            "--group",
            metavar="NAME=PATTERN",
            help="Report whether QRELS_B favour the runs whose names match, as in gpt='*rankgpt*'; repeatable.",
        ),
    ] = None


@command(
    "compare",
    "rerank qrels compare qrels.txt pydoc --runs a.trec b.trec -m nDCG@10 --test t --correction bh",
    group=group,
)
def compare(
    procedure: ProcedureOptions,
    sampling: SamplingOptions,
    table: TableOptions,
    *,
    files: Annotated[
        list[str], Argument(metavar="QRELS_A QRELS_B", help="Reference qrels, and the qrels to compare with them.")
    ],
    runs: Annotated[list[Path], Option("--runs", metavar="RUN...", help="Run files, or folders of run files.")],
    names: NamesOption = None,
) -> None:
    """Compare the conclusions drawn from two sets of relevance judgments on their common topics.

    The agreement on common documents (Cohen's kappa) is also reported. With --group, the advantage of a group of runs
    under QRELS_B is reported as well, such as that of rerankers from an assessor's own family.
    """
    from rerank.adjudication.conclusions import verdict_tables
    from rerank.adjudication.qrels_comparison import compare_with_gold_qrels

    procedures, groups = procedure.procedures, _parse_patterns("--group", sampling.groups or [])
    if groups and not sampling.resamples:
        raise UsageError(
            "--group is given without --resamples", expected="samples for intervals", remedy="Add --resamples 1000"
        )
    if len(files) < 2:
        raise UsageError(
            f"Only one qrels is given: {files[0]}", expected="two qrels: rerank qrels compare A B --runs RUN..."
        )
    gold, other, *more = files  # an option takes one value, so all runs after the first are parsed as arguments
    reference, lowest = open_collection_qrels(gold)
    result = compare_with_gold_qrels(
        read_named_runs(expand_folders([*runs, *map(Path, more)]), names or []),
        reference,
        open_collection_qrels(other)[0],
        procedure.measures or ["nDCG@10"],
        procedures=procedures,
        relevant=procedure.relevant or lowest,
        alpha=procedure.alpha,
    )
    families = [entry.family(result.gold, procedure.alpha) for entry in result.procedures]
    content = {
        **result.to_dict(resamples=sampling.resamples, seed=sampling.seed, groups=groups),
        "families": [family.to_dict() for family in families],
    }
    papers = [verdict_tables(content, families)]
    emit_content(content, _comparison_parts(content), table.form, wide=table.wide, key="results", papers=papers)


def _comparison_parts(content: dict[str, Any]) -> Iterator[Grid | str]:
    from rerank.adjudication.conclusions import procedure_of_row, verdict_grid

    yield verdict_grid(content["results"])
    for row in content["results"]:
        bounds = {name: row["interval"][name] for name in _WITH_INTERVAL if row.get("interval", {}).get(name)}
        if shown := [f"{name} [{low:.3f}, {high:.3f}]" for name, (low, high) in bounds.items()]:
            yield f"intervals of {row['measure']}, {procedure_of_row(row)}: {', '.join(shown)}"
    agreement = {name: format_cell(value, 3) for name, value in content["agreement"].items()}
    yield f"{content['topics']} common topics ({content['topics_left_out']} topics omitted), {content['systems']} runs"
    yield (
        f"{agreement['documents']} common documents: same grade {agreement['overlap']}, kappa {agreement['kappa']}, "
        f"weighted (quadratic) {agreement['kappa_quadratic']}"
    )
    yield (
        f"binary relevance (grade {content['relevant']} or higher): same {agreement['binary_overlap']}, "
        f"kappa {agreement['binary_kappa']}"
    )
    for row in content.get("groups", ()):
        yield (
            f"{row['group']} (runs: {row['systems']}), {row['measure']}: ranks gained {row['ranks']:+.1f} "
            f"[{row['ranks_interval'][0]:+.1f}, {row['ranks_interval'][1]:+.1f}]; score above the one expected from "
            f"other runs {row['score']:+.4f} [{row['score_interval'][0]:+.4f}, {row['score_interval'][1]:+.4f}]"
        )
    yield from (f"note: {text}" for text in content["notes"])


class AgreementOptions(OptionGroup):
    """Options for the agreement of assessors and its intervals."""

    relevant: Annotated[
        list[str] | None,
        Option(
            metavar="[NAME=]GRADE",
            help="Lowest relevant grade of one assessor or, without NAME, of all others, to compare binary relevance; "
            "repeatable. (default: compare the grades, which must have the same meaning)",
        ),
    ] = None
    weights: Annotated[
        Literal["none", "linear", "quadratic"], "Disagreement weights of the kappas in the printed table."
    ] = "none"
    by_topic: Annotated[bool, "Also print alpha for every topic."] = False
    alpha: IntervalAlpha = 0.05

    def lowest_grades(self, assessors: Sequence[str]) -> list[int] | None:
        """Return the lowest relevant grade of every assessor; None if no option is given."""
        grades: dict[str, int] = {}
        for text in self.relevant or ():
            name, _, grade = text.rpartition("=")
            if not grade.isdigit() or int(grade) < 1 or (name and name not in assessors):
                raise UsageError(
                    f"--relevant is {text!r}",
                    expected=f"GRADE or NAME=GRADE, where NAME is one of: {', '.join(assessors)}",
                )
            grades[name] = int(grade)
        if not grades:
            return None
        if missing := [name for name in assessors if name not in grades and "" not in grades]:
            raise UsageError(
                f"--relevant is missing for {', '.join(missing)}", expected="--relevant GRADE for all assessors"
            )
        return [grades.get(name, grades.get("", 0)) for name in assessors]


@command("agreement", "rerank qrels agreement qrels.txt pydoc --relevant 1 --by-topic", group=group)
def agreement(
    options: AgreementOptions,
    *,
    files: Annotated[list[str], Argument(metavar="QRELS...", help="Qrels of two or more assessors.")],
    names: Annotated[
        list[str] | None,
        Option("--name", help="Name of an assessor; repeat it for all assessors, in order. (default: end of the path)"),
    ] = None,
    form: TableFormatOption = "text",
) -> None:
    """Measure the agreement of any number of assessors: kappa of every pair, and Krippendorff's alpha.

    Assessors need not have judged the same topics or documents. Intervals are over topics (jackknife).
    """
    from rerank.adjudication.agreement import AssessorPanel

    check_significance_level(options.alpha)
    assessors = names or short_run_names(list(map(Path, files)))
    if len(assessors) != len(files) or len(set(assessors)) != len(files):
        raise UsageError(
            f"The names for {len(files)} files are {', '.join(assessors)}", expected="one name per file, all different"
        )
    lowest = options.lowest_grades(assessors)
    judgments = {name: open_collection_qrels(file)[0] for name, file in zip(assessors, files, strict=True)}
    content = AssessorPanel.from_qrels(judgments, lowest).to_dict(alpha=options.alpha)
    kappa = "kappa" if options.weights == "none" else f"kappa_{options.weights}"
    alphas = (f"{level} {value_with_interval(**found)}" for level, found in content["alpha"].items())
    legend = [
        f"{kappa.replace('_', ' ')}, with {content['confidence']:.0%} intervals over {content['topics']} topics "
        "(jackknife).",
        f"Krippendorff's alpha: {'; '.join(alphas)}.",
    ]
    emit_content(
        content,
        _agreement_parts(content, kappa, by_topic=options.by_topic),
        form,
        key="pairs",
        papers=[TableReport([_kappa_matrix(content, kappa, intervals=True)], legend)],
    )


def _kappa_matrix(content: Mapping[str, Any], kappa: str, *, intervals: bool) -> Grid:
    """Return a table with one row per assessor: the kappas between this assessor and each of the others."""
    cells = {}
    for row in content["pairs"]:
        interval = row[f"{kappa}_interval"] if intervals else None
        cells[row["a"], row["b"]] = cells[row["b"], row["a"]] = value_with_interval(row[kappa], interval)
    assessors = content["assessors"]
    rows = [[a, *(cells.get((a, b), "") for b in assessors)] for a in assessors]
    return make_grid(["" if intervals else kappa.replace("_", " "), *assessors], rows)


def _agreement_parts(content: Mapping[str, Any], kappa: str, *, by_topic: bool) -> Iterator[Grid | str]:
    from rerank.adjudication.agreement import LEAST_TOPICS

    yield _kappa_matrix(content, kappa, intervals=False)._replace(further=by_topic)
    levels = content["alpha"]
    if content["relevant"] is not None:
        levels = {"nominal": levels["nominal"]}  # all levels are the same for two grades
    rows = [[level, value_with_interval(**found)] for level, found in levels.items()]
    yield make_grid(["alpha", ""], rows, further=True)
    if by_topic:
        rows = [[row["topic"], row["documents"], *(row[level] for level in levels)] for row in content["by_topic"]]
        yield make_grid(["topic", "documents", *levels], rows, digits=3)
    yield f"{content['topics']} topics and {content['documents']} documents judged by two or more assessors"
    if all(found["interval"] is None for found in levels.values()):
        yield f"No intervals: they need {LEAST_TOPICS} topics, and grades that differ without any one of them"
    else:
        yield (
            f"Intervals: {content['confidence']:.0%}, over topics (jackknife); --format csv, json or markdown shows "
            "those of the kappas"
        )


class EstimateOptions(OptionGroup):
    """Options for estimates that correct a model's judgments by those of people (prediction-powered inference)."""

    people: Annotated[str, "Qrels of a random sample of topics, judged by people."]
    predicted: Annotated[str, "Qrels of all topics, judged by a model."]
    measures: MeasuresOption = None
    relevant: Annotated[
        int | None, Option(min=1, help="Lowest grade that counts as relevant in both qrels. (default: 1)")
    ] = None
    baseline: Annotated[str | None, "Name of a run: estimate the differences of the other runs from it."] = None
    alpha: IntervalAlpha = 0.05


@command(
    "estimate",
    "rerank qrels estimate a.trec b.trec --people qrels.txt --predicted pydoc --baseline a.trec",
    group=group,
)
def estimate(
    options: EstimateOptions, *, runs: RunsArgument, names: NamesOption = None, form: TableFormatOption = "text"
) -> None:
    """Estimate measures from people's judgments of few topics and a model's judgments of all topics.

    The topics that people judged must be a random sample. Prediction-powered inference then corrects any errors of the
    model.
    """
    from rerank.adjudication.few_judgments import estimate_from_few_judgments

    check_significance_level(options.alpha)
    judged, lowest = open_collection_qrels(options.people)
    report = estimate_from_few_judgments(
        read_named_runs(expand_folders(runs), names or []),
        judged,
        open_collection_qrels(options.predicted)[0],
        options.measures or ["nDCG@10"],
        relevant=options.relevant or lowest,
        baseline=options.baseline or "",
        alpha=options.alpha,
    )
    emit(report, form)


@command("pool", "rerank qrels pool a.trec b.trec --depth 50 --out pool.trec", group=group)
def pool(
    runs: RunsArgument,
    out: Annotated[Path, "File for the pool, a TREC run."],
    depth: PoolDepth = 100,
    method: Annotated[str, "Judging order that sorts the pool and needs no judgments."] = "rrf",
    qrels: Annotated[str | None, "Judgments to write to --qrels-out: a file, or the selector of a collection."] = None,
    qrels_out: Annotated[
        Path | None, "Qrels file for the pool: unjudged documents have grade -1, which infAP needs."
    ] = None,
    form: FormatOption = "text",
) -> None:
    """Write the pool of several runs as a single run that can be reranked.

    The reranked pool can be used as a judging order: rerank qrels study --method llm:reranked.trec.
    """
    from rerank.adjudication.orders import open_judging_order
    from rerank.adjudication.pools import add_unjudged_documents, pool_runs
    from rerank.adjudication.walks import pool_as_run

    order = open_judging_order(method)
    if any(out.resolve() == file.resolve() for file in expand_folders(runs)):
        raise UsageError(
            f"--out {out} is one of the runs", expected="another file", remedy="Choose another --out to keep the run"
        )
    check_file_writable(out, "TREC run")
    if qrels_out is not None:
        check_file_writable(qrels_out, "qrels file")
    pooled = pool_runs(read_run_arguments(runs), depth=depth)
    write_run(pool_as_run(pooled, order), out)
    if qrels_out is not None:
        judged = open_collection_qrels(qrels)[0] if qrels is not None else Qrels({})
        write_qrels(add_unjudged_documents(judged, pooled), qrels_out)
    content = {**pooled.to_dict(), "out": str(out)}
    emit_content(content, [make_grid(content, [map(str, content.values())])], form)


class LeaveOutOptions(OptionGroup):
    """Options for the pool, and for the groups of runs that are left out together."""

    depth: PoolDepth = 100
    group: Annotated[
        list[str] | None,
        Option(
            metavar="GROUP=PATTERN",
            help="Runs that are left out together, as in idst='idst*', or a file with the columns run and group; "
            "repeatable. (default: each run alone)",
        ),
    ] = None
    relevant: LowestGrade = None


@command("leave-out", "rerank qrels leave-out a.trec b.trec --qrels qrels.txt --depth 10 -m nDCG@10", group=group)
def leave_out(
    options: LeaveOutOptions,
    *,
    runs: RunsArgument,
    qrels: QrelsOption,
    measures: MeasuresOption = None,
    names: NamesOption = None,
    form: TableFormatOption = "text",
) -> None:
    """Report the score of each run as if this run, or its group, had not contributed to the judged pool.

    For each group, the judgments of documents that only its runs put into the pool are removed.
    """
    from rerank.adjudication.leave_out import leave_groups_out

    judged, lowest = open_collection_qrels(qrels)
    result = leave_groups_out(
        read_named_runs(expand_folders(runs), names or []),
        judged,
        measures or ["nDCG@10"],
        groups=_parse_groups(options.group or []),
        depth=options.depth,
        relevant=options.relevant or lowest,
    )
    emit(result, form)


def _parse_groups(texts: Sequence[str]) -> list[tuple[str, str]]:
    """Return pairs of group name and pattern of run names. Run names from a file are escaped, to match literally."""
    from glob import escape

    pairs = []
    for text in texts:
        name, _, pattern = text.partition("=")
        if Path(text).is_file():
            pairs += [(of, escape(run)) for run, of in read_query_groups(text, of="run").items()]
        elif name and pattern:
            pairs.append((name, pattern))
        else:
            raise UsageError(
                f"--group is {text!r}",
                expected="GROUP=PATTERN, as in idst='idst*', or the path of a file that defines groups",
            )
    return pairs

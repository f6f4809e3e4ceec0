"""`qrels`: create relevance judgments and study cheaper judging strategies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rerank.cli import qrels_judge as judging
from rerank.cli import qrels_leave_out as leave_out
from rerank.cli.option_groups import expand_option_groups
from rerank.cli.output import (
    FormatOption,
    TableFormatOption,
    emit_output,
    format_number_cell,
    print_note,
    print_table,
)
from rerank.cli.run import show_command_progress_bar
from rerank.cli.run_files import (
    NamesOption,
    RunsArgument,
    expand_run_arguments,
    read_named_runs,
    read_run_arguments,
    read_runs_and_pool,
)
from rerank.errors import StorageError, UsageError

if TYPE_CHECKING:
    from rerank.adjudication.study_design import StudyDesign
    from rerank.evaluation.comparison_family import ComparisonFamily

_STUDY = (
    "Example: rerank qrels study a.trec b.trec --qrels qrels.txt --method depth --method mtf --budget 10% --budget 20% "
    "--out study"
)
_COMPARE = "Example: rerank qrels compare qrels.txt pydoc --runs a.trec b.trec -m nDCG@10 --test t --correction bh"
_POOL = "Example: rerank qrels pool a.trec b.trec --depth 50 --out pool.trec"


def register_cli_commands(app: typer.Typer) -> None:
    """Add the command group."""
    qrels = typer.Typer(help="Create relevance judgments and study cheaper judging strategies.", no_args_is_help=True)
    qrels.command("study", epilog=_STUDY)(study_command)
    qrels.command("compare", epilog=_COMPARE)(compare_qrels_command)
    qrels.command("pool", epilog=_POOL)(pool_command)
    judging.register_cli_commands(qrels)
    leave_out.register_cli_commands(qrels)
    app.add_typer(qrels, name="qrels")


@dataclass(frozen=True, kw_only=True)
class ProcedureOptions:
    """Options for measures and significance tests. Most of them are repeatable."""

    measures: Annotated[
        list[str] | None, typer.Option("--measure", "-m", help="Measure; repeatable. (default: nDCG@10)")
    ] = None
    test: Annotated[
        list[str] | None,
        typer.Option(
            help="Paired test: t, wilcoxon, sign, permutation, bootstrap, tukey-randomised or tukey-anova; repeatable. "
            "(default: t)"
        ),
    ] = None
    correction: Annotated[
        list[str] | None,
        typer.Option(
            help="Correction for multiple comparisons: none, bonferroni, holm, hochberg, bh, by, or auto "
            "(none for Tukey's tests, otherwise holm); repeatable. (default: auto, as in rerank compare)"
        ),
    ] = None
    alpha: Annotated[float, typer.Option(help="Significance level.")] = 0.05
    relevant: Annotated[
        int | None,
        typer.Option(min=1, help="Lowest grade that counts as relevant; 2 for TREC Deep Learning. (default: 1)"),
    ] = None

    @property
    def procedures(self) -> Any:
        """All combinations of tests and corrections."""
        from rerank.adjudication.significance_verdicts import cross_significance_procedures

        return cross_significance_procedures(self.test or ["t"], self.correction or ["auto"])


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """Options for simulated judging."""

    method: Annotated[
        list[str] | None,
        typer.Option(
            help="Judging order: docid, random, depth, ntcir, borda, combmnz, condorcet, rrf, dcg, rbp-a, rbp-b, "
            "rbp-c, mtf, mtf-global, hedge, mm, mm-ns, ts, ucb1-tuned, eps-n-greedy, llm:RUN, or all (except llm:RUN); "
            "repeatable. (default: depth and mtf)"
        ),
    ] = None
    budget: Annotated[
        list[str] | None,
        typer.Option(
            help="Budget: 10 (documents per topic), 10% (of each pool) or total:5000; repeatable. (default: 10% to "
            "100%)"
        ),
    ] = None
    depth: Annotated[int, typer.Option(min=1, help="Pool depth: number of documents pooled from each run.")] = 100
    unjudged: Annotated[
        bool,
        typer.Option("--unjudged", help="Also pool documents without a gold judgment; they count as not relevant."),
    ] = False
    seeds: Annotated[int, typer.Option(min=1, help="Number of repetitions of each stochastic method.")] = 10
    seed: Annotated[int, typer.Option(min=0, help="First seed.")] = 0
    resamples: Annotated[
        int, typer.Option(min=0, help="Samples of topics and systems for intervals and tests of methods, such as 1000.")
    ] = 0
    pool_from: Annotated[
        list[Path] | None,
        typer.Option(
            "--from", metavar="RUN", help="Form the pool from these runs only, and evaluate all RUNs; repeatable."
        ),
    ] = None
    repeats: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SYSTEM=PATTERN",
            help="Runs whose names match are repeats of one system, as in gpt='gpt-3.5*'; repeatable.",
        ),
    ] = None


@expand_option_groups
def study_command(
    options: StudyOptions,
    procedure: ProcedureOptions,
    *,
    runs: RunsArgument,
    qrels: Annotated[str, typer.Option("--qrels", help="Gold qrels: a file, or the selector of a collection.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for study.json, study.csv, systems.csv and report.html.")
    ] = None,
    names: NamesOption = None,
    form: TableFormatOption = "text",
) -> None:
    """Simulate judging fewer documents and report which significant differences between runs are preserved.

    Judgments are looked up in the gold qrels. An HTML report is written to --out.
    """
    from rerank.adjudication.studies import run_study
    from rerank.adjudication.study_report import write_study_report
    from rerank.collections import open_collection_qrels

    design = _study_design_of_options(options, procedure)
    gold, lowest = open_collection_qrels(qrels)
    design = replace(design, relevant=procedure.relevant or lowest)
    if out is not None:
        check_output_folder_option(out)
    evaluated, pooled = read_runs_and_pool(runs, options.pool_from, names or [])
    with show_command_progress_bar("judging", len(design.walks)) as on_walk:
        result = run_study(evaluated, gold, design, pool_from=pooled, on_walk=on_walk)
    if out is not None:  # written before anything is printed, because the reader of a pipe may close it
        for path in [*result.write(out), write_study_report(result, out / "report.html")]:
            print_note(f"written: {path}")
    families = [procedure.family(result.gold, design.alpha) for procedure in design.procedures]
    content = result.to_dict()
    emit_output(
        content,
        form=form,
        text=lambda: _print_study(content),
        rows="results",
        table=lambda chosen: _study_table(content, families, chosen, ("method", "budget")),
    )


@expand_option_groups
def compare_qrels_command(
    procedure: ProcedureOptions,
    *,
    files: Annotated[
        list[str],
        typer.Argument(metavar="QRELS_A QRELS_B", help="Reference qrels, and the qrels to compare with them."),
    ],
    runs: Annotated[list[Path], typer.Option("--runs", metavar="RUN...", help="Run files, or folders of them.")],
    names: NamesOption = None,
    form: TableFormatOption = "text",
) -> None:
    """Compare the conclusions drawn from two sets of relevance judgments on their common topics.

    The agreement on common documents (Cohen's kappa) is also reported.
    """
    from rerank.adjudication.qrels_comparison import compare_with_gold_qrels
    from rerank.collections import open_collection_qrels

    procedures = procedure.procedures
    if len(files) < 2:
        raise UsageError(f"One qrels file: {files[0]}", expected="two, as in rerank qrels compare A B --runs RUN...")
    gold, other, *more = files  # an option takes one value, so all runs after the first are parsed as arguments
    reference, lowest = open_collection_qrels(gold)
    result = compare_with_gold_qrels(
        read_named_runs(expand_run_arguments([*runs, *map(Path, more)]), names or []),
        reference,
        open_collection_qrels(other)[0],
        procedure.measures or ["nDCG@10"],
        procedures=procedures,
        relevant=procedure.relevant or lowest,
        alpha=procedure.alpha,
    )
    families = [entry.family(result.gold, procedure.alpha) for entry in result.procedures]
    content = {**result.to_dict(), "families": [family.to_dict() for family in families]}
    emit_output(
        content,
        form=form,
        text=lambda: _print_qrels_comparison(content),
        rows="results",
        table=lambda chosen: _study_table(content, families, chosen),
    )


def pool_command(
    runs: RunsArgument,
    out: Annotated[Path, typer.Option(help="File for the pool, a TREC run.")],
    depth: Annotated[int, typer.Option(min=1, help="Pool depth: number of documents pooled from each run.")] = 100,
    method: Annotated[str, typer.Option(help="Judging order that sorts the pool and needs no judgments.")] = "rrf",
    qrels: Annotated[
        str | None, typer.Option(help="Judgments to write to --qrels-out: a file, or the selector of a collection.")
    ] = None,
    qrels_out: Annotated[
        Path | None, typer.Option(help="Qrels file for the pool: unjudged documents have grade -1, which infAP needs.")
    ] = None,
    form: FormatOption = "text",
) -> None:
    """Write the pool of several runs as a single run that can be reranked.

    The reranked pool can be used as a judging order: rerank qrels study --method llm:reranked.trec.
    """
    from rerank.adjudication.judging_sequence import open_judging_order, pool_as_run
    from rerank.adjudication.pools import add_unjudged_documents, pool_runs
    from rerank.collections import open_collection_qrels
    from rerank.io.run_files import write_qrels, write_run
    from rerank.types import Qrels

    order = open_judging_order(method)
    if any(out.resolve() == file.resolve() for file in expand_run_arguments(runs)):
        raise UsageError(
            f"--out {out} is one of the runs", expected="another file", remedy="Choose another --out to keep the run"
        )
    pooled = pool_runs(read_run_arguments(runs), depth=depth)
    write_run(pool_as_run(pooled, order), out)
    if qrels_out is not None:
        judged = open_collection_qrels(qrels)[0] if qrels is not None else Qrels({})
        write_qrels(add_unjudged_documents(judged, pooled), qrels_out)
    content = {**pooled.to_dict(), "out": str(out)}
    emit_output(content, form=form, text=lambda: print_table(list(content), [list(content.values())]))


def check_output_folder_option(path: Path) -> None:
    """Create a folder for results and check that it is writable. Call this before the work starts.

    Raises:
        StorageError: The folder cannot be created or written.
    """
    from rerank.io.text_files import check_file_writable

    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"The folder {path} cannot be created: {error.strerror}", remedy="Choose another --out"
        ) from error
    check_file_writable(path / "report.html")


def _study_design_of_options(options: StudyOptions, procedure: ProcedureOptions) -> StudyDesign:
    """Return the design of a study. Invalid options raise an error before any file is read."""
    from rerank.adjudication.budgets import AdjudicationBudget
    from rerank.adjudication.study_design import StudyDesign

    budgets = options.budget or [f"{share}%" for share in range(10, 101, 10)]
    return StudyDesign(
        methods=_judging_orders_of_option(options.method or ["depth", "mtf"]),
        budgets=tuple(map(AdjudicationBudget.parse, budgets)),
        measures=tuple(procedure.measures or ["nDCG@10"]),
        procedures=procedure.procedures,
        depth=options.depth,
        unjudged=options.unjudged,
        alpha=procedure.alpha,
        seeds=options.seeds,
        seed=options.seed,
        resamples=options.resamples,
        repeats=_repeats_of_option(options.repeats or []),
    )


def _repeats_of_option(texts: Sequence[str]) -> tuple[tuple[str, str], ...]:
    pairs = [text.partition("=") for text in texts]
    for text, (system, _, pattern) in zip(texts, pairs, strict=True):
        if not (system and pattern):
            raise UsageError(f"--repeats {text}", expected="SYSTEM=PATTERN, as in gpt='gpt-3.5*'")
    return tuple((system, pattern) for system, _, pattern in pairs)


def _judging_orders_of_option(names: Sequence[str]) -> tuple[str, ...]:
    """Return the named judging orders, with ``all`` replaced by all orders that need no argument."""
    from rerank.adjudication.judging_sequence import open_judging_order, orders

    every = [name.replace("_", "-") for name in orders.names() if name != "llm"]
    methods = dict.fromkeys(name for text in names for name in (every if text == "all" else [text]))
    for name in methods:
        open_judging_order(name)  # reports an unknown order before files are read
    return tuple(methods)


_COLUMNS = ("AA", "AD", "MA", "MD", "PA", "PD", "precision", "recall", "balanced_accuracy", "tau", "tau_ap")


def _study_table(
    content: dict[str, Any], families: Sequence[ComparisonFamily], form: Any, about: Sequence[str] = ()
) -> str:
    """Return the results as a table for a paper, with the tests in its caption."""
    from rerank.io.table_formats import Grid, convert_tables_with_legend

    rows = [
        [*(str(r[key]) for key in about), r["measure"], _printed_procedure_cell(r), *_printed_study_cells(r)]
        for r in content["results"]
    ]
    heads = [*about, "measure", "test", *(name.replace("_", " ") for name in _COLUMNS)]
    legend = [f"Significant: {family.describe_p()}" for family in families] + [families[0].describe_data()]
    return convert_tables_with_legend([Grid(heads, rows, left=len(about) + 2)], legend, content["notes"], form)


def _print_study(content: dict[str, Any]) -> None:
    for row in content["gold"]["all"]:
        print_note(
            f"gold: {row['significant']} of {row['pairs']} pairs differ significantly by {row['measure']}, "
            f"{_printed_procedure_cell(row)}, {content['gold']['topics']} topics"
        )
    heads = ["method", "budget", "measure", "test"]
    cells = [
        [r["method"], r["budget"], r["measure"], _printed_procedure_cell(r), *_printed_study_cells(r)]
        for r in content["results"]
    ]
    print_table([*heads, *(name.replace("_", " ") for name in _COLUMNS)], cells)
    for row in content.get("repeats", ()):
        print_note(
            f"{row['system']}: mean of {row['runs']} runs, {row['measure']} {row['mean']:.4f}; standard deviation of "
            f"the runs' means {row['sd_of_means']:.4f}, between runs on a topic {row['sd_per_topic']:.4f}"
        )
    if "pooled_systems" in content:
        print_note(
            f"{content['pooled_systems']} of {content['gold']['systems']} systems contributed to the pool; --format "
            "json has the pairs with and without them (by_contribution)"
        )
    _print_study_notes(content)
    if any(row["seeds"] > 1 for row in content["results"]):
        print_note("stochastic methods: means over seeds; --format json includes the spread")
    if not content["options"].get("resamples"):
        print_note("no intervals: --resamples 1000 adds them, and tests of the methods against each other")


def _print_qrels_comparison(content: dict[str, Any]) -> None:
    cells = [[r["measure"], _printed_procedure_cell(r), *_printed_study_cells(r)] for r in content["results"]]
    print_table(["measure", "test", *(name.replace("_", " ") for name in _COLUMNS)], cells)
    agreement = content["agreement"]
    print_note(
        f"{content['topics']} common topics ({content['topics_left_out']} topics omitted), {content['systems']} runs"
    )
    print_note(
        f"{agreement['documents']} common documents: same grade {format_number_cell(agreement['overlap'], 3)}, kappa "
        f"{format_number_cell(agreement['kappa'], 3)}, weighted (quadratic) "
        f"{format_number_cell(agreement['kappa_quadratic'], 3)}"
    )
    print_note(
        f"binary relevance (grade {content['relevant']} or higher): same "
        f"{format_number_cell(agreement['binary_overlap'], 3)}, "
        f"kappa {format_number_cell(agreement['binary_kappa'], 3)}"
    )
    _print_study_notes(content)


def _print_study_notes(content: dict[str, Any]) -> None:
    for text in content["notes"]:
        print_note(f"note: {text}")


def _printed_procedure_cell(row: dict[str, Any]) -> str:
    return str(row["test"]) if row["correction"] == "none" else f"{row['test']} + {row['correction']}"


def _printed_study_cells(row: dict[str, Any]) -> list[str]:
    """Format the columns: counts as integers, means of counts with one decimal, rates with three decimals."""
    return [
        f"{row[name]:g}" if isinstance(row[name], int) else format_number_cell(row[name], 1 if name.isupper() else 3)
        for name in _COLUMNS
    ]

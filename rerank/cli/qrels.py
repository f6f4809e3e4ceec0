"""`qrels`: create relevance judgments and study cheaper judging strategies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rerank.cli import qrels_assessors as assessors
from rerank.cli import qrels_compare as comparing
from rerank.cli import qrels_judge as judging
from rerank.cli import qrels_leave_out as leave_out
from rerank.cli.option_groups import expand_option_groups
from rerank.cli.output import FormatOption, TableOptions, emit_output, print_note, print_table
from rerank.cli.qrels_verdicts import (
    MINOR_COLUMNS,
    VERDICT_COLUMNS,
    ProcedureOptions,
    format_procedure_cell,
    format_verdict_cells,
    parse_named_patterns,
    print_qrels_notes,
    table_of_qrels_study,
)
from rerank.cli.run import show_command_progress_bar
from rerank.cli.run_files import (
    NamesOption,
    RunsArgument,
    expand_run_arguments,
    read_run_arguments,
    read_runs_and_pool,
)
from rerank.errors import StorageError, UsageError

if TYPE_CHECKING:
    from rerank.adjudication.studies import StudyDesign

_STUDY = (
    "Example: rerank qrels study a.trec b.trec --qrels qrels.txt --method depth --method mtf --budget 10% --budget 20% "
    "--out study"
)
_POOL = "Example: rerank qrels pool a.trec b.trec --depth 50 --out pool.trec"


def register_cli_commands(app: typer.Typer) -> None:
    """Add the command group ``qrels``."""
    qrels = typer.Typer(help="Create relevance judgments and study cheaper judging strategies.", no_args_is_help=True)
    qrels.command("study", epilog=_STUDY)(study_command)
    comparing.register_cli_commands(qrels)
    assessors.register_cli_commands(qrels)
    qrels.command("pool", epilog=_POOL)(pool_command)
    judging.register_cli_commands(qrels)
    leave_out.register_cli_commands(qrels)
    app.add_typer(qrels, name="qrels")


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """Options for simulations in which only a part of the documents is judged."""

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
        int, typer.Option(min=0, help="Number of bootstrap samples for intervals and tests of methods, such as 1000.")
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
    table: TableOptions,
    *,
    runs: RunsArgument,
    qrels: Annotated[str, typer.Option("--qrels", help="Gold qrels: a file, or the selector of a collection.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for study.json, study.csv, systems.csv and report.html.")
    ] = None,
    names: NamesOption = None,
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
        form=table.form,
        text=lambda: _print_study(content, wide=table.wide),
        rows="results",
        reports=[table_of_qrels_study(content, families, ("method", "budget"))],
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
    from rerank.adjudication.orders import open_judging_order
    from rerank.adjudication.pools import add_unjudged_documents, pool_runs
    from rerank.adjudication.walks import pool_as_run
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
    """Create a folder for results and check that it is writable. Call this before the work starts."""
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
    from rerank.adjudication.studies import StudyDesign
    from rerank.adjudication.walks import AdjudicationBudget

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
        repeats=parse_named_patterns("--repeats", options.repeats or []),
    )


def _judging_orders_of_option(names: Sequence[str]) -> tuple[str, ...]:
    """Return the named judging orders, with ``all`` replaced by all orders that need no argument."""
    from rerank.adjudication.orders import open_judging_order, orders

    every = [name.replace("_", "-") for name in orders.names() if name != "llm"]
    methods = dict.fromkeys(name for text in names for name in (every if text == "all" else [text]))
    for name in methods:
        open_judging_order(name)  # reports an unknown order before files are read
    return tuple(methods)


def _print_study(content: dict[str, Any], *, wide: bool) -> None:
    for row in content["gold"]["all"]:
        print_note(
            f"gold: {row['significant']} of {row['pairs']} pairs differ significantly by {row['measure']}, "
            f"{format_procedure_cell(row)}, {content['gold']['topics']} topics"
        )
    heads = ["method", "budget", "measure", "test"]
    cells = [
        [r["method"], r["budget"], r["measure"], format_procedure_cell(r), *format_verdict_cells(r)]
        for r in content["results"]
    ]
    print_table([*heads, *(name.replace("_", " ") for name in VERDICT_COLUMNS)], cells, minor=MINOR_COLUMNS, wide=wide)
    for row in content.get("repeats", ()):
        print_note(
            f"{row['system']}: mean of {row['runs']} runs, {row['measure']} {row['mean']:.4f}; standard deviation of "
            f"the runs' means {row['sd_of_means']:.4f}, between runs on a topic {row['sd_per_topic']:.4f}"
        )
    if "pooled_systems" in content:
        print_note(
            f"{content['pooled_systems']} of {content['gold']['systems']} systems contributed to the pool; --format "
            "json lists the pairs with and without these systems (by_contribution)"
        )
    print_qrels_notes(content)
    if any(row["seeds"] > 1 for row in content["results"]):
        print_note("stochastic methods: means over seeds; --format json includes the spread")
    if not content["options"].get("resamples"):
        print_note("no intervals: --resamples 1000 adds intervals, and tests of the methods against each other")

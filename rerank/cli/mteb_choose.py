"""`mteb choose`: find smaller benchmarks (fewer tasks, queries or documents) that lead to the same conclusions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rerank.cli.option_groups import expand_option_groups
from rerank.cli.output import FormatOption, emit_output, format_number_cell, print_note, print_table
from rerank.cli.run_files import RunsArgument, read_run_arguments
from rerank.errors import DataError, UsageError

if TYPE_CHECKING:
    from rerank.downsampling import Goal, ReducedBenchmark, ScoreTable, SignificanceCriterion

_EXAMPLES = {
    "tasks": "Example: rerank mteb choose tasks scores.csv --keep ranking --min-tau 0.9",
    "queries": "Example: rerank mteb choose queries scores.jsonl --keep significance",
    "pool": "Example: rerank mteb choose pool a.trec b.trec --qrels qrels.txt --from a --keep significance",
}
Scores = Annotated[
    Path,
    typer.Argument(
        metavar="SCORES",
        help="CSV with one row per model and one column per task; CSV or JSON lines with model, task, score and "
        "optionally query; or a folder of mteb results.",
    ),
]
DropIncomplete = Annotated[bool, typer.Option("--drop-incomplete", help="Omit models that lack a score.")]


def register_cli_commands(group: typer.Typer) -> None:
    """Add the commands to the group ``mteb``."""
    choose = typer.Typer(help="Find smaller benchmarks that lead to the same conclusions.", no_args_is_help=True)
    choose.command("tasks", epilog=_EXAMPLES["tasks"])(choose_tasks_command)
    choose.command("queries", epilog=_EXAMPLES["queries"])(choose_queries_command)
    choose.command("pool", epilog=_EXAMPLES["pool"])(choose_pool_command)
    group.add_typer(choose, name="choose")


@dataclass(frozen=True, kw_only=True)
class GoalOptions:
    """Options for the conclusions about systems that a smaller benchmark must preserve, and their significance test."""

    keep: Annotated[str, typer.Option(help="Conclusions to preserve: ranking, significance or both.")] = "ranking"
    min_tau: Annotated[
        float, typer.Option(help="Minimum Kendall's tau between the rankings of systems on reduced and on full data.")
    ] = 0.9
    min_recall: Annotated[
        float, typer.Option(help="Minimum fraction of the significant differences on full data that are preserved.")
    ] = 0.9
    min_precision: Annotated[
        float,
        typer.Option(help="Minimum fraction of the significant differences on reduced data that full data confirm."),
    ] = 0.9
    test: Annotated[str, typer.Option(help="Paired test: t, wilcoxon, sign, permutation, bootstrap ...")] = "t"
    correction: Annotated[
        str, typer.Option(help="Correction for multiple comparisons: none, bonferroni, holm, hochberg, bh or by.")
    ] = "bh"
    alpha: Annotated[float, typer.Option(help="Significance level.")] = 0.05

    @property
    def goal(self) -> Goal:
        """The conclusions about systems that a smaller benchmark must preserve."""
        from rerank.downsampling import Goal

        if self.keep not in ("ranking", "significance", "both"):
            raise UsageError(f"--keep is {self.keep!r}", expected="ranking, significance or both")
        differences = self.keep != "ranking"
        return Goal(
            tau=None if self.keep == "significance" else self.min_tau,
            recall=self.min_recall if differences else None,
            precision=self.min_precision if differences else None,
        )

    @property
    def criterion(self) -> SignificanceCriterion:
        """The significance test and its level."""
        from rerank.adjudication.conclusions import cross_significance_procedures
        from rerank.downsampling import SignificanceCriterion

        (procedure,) = cross_significance_procedures([self.test], [self.correction])
        return SignificanceCriterion(procedure=procedure, alpha=self.alpha)


@dataclass(frozen=True, kw_only=True)
class TaskDropOptions:
    """Options for dropping tasks from a benchmark."""

    order: Annotated[
        str,
        typer.Option(
            help="Task to drop first: correlation (the task that the others predict best) or significance (the task "
            "whose removal changes the significant differences least)."
        ),
    ] = "correlation"
    unit: Annotated[
        str | None, typer.Option(help="Unit of the test: task or query. (default: query if there are per-query scores)")
    ] = None
    least: Annotated[int, typer.Option(min=1, help="Minimum number of tasks to keep.")] = 2
    always: Annotated[list[str] | None, typer.Option(help="Task that is never dropped; repeatable.")] = None
    hold_out: Annotated[float, typer.Option(min=0, max=0.9, help="Fraction of models held out to test the choice.")] = (
        0.0
    )
    seed: Annotated[int, typer.Option(min=0, help="Seed for drawing the held-out models.")] = 0


@expand_option_groups
def choose_tasks_command(
    goal: GoalOptions,
    drop: TaskDropOptions,
    *,
    scores: Scores,
    drop_incomplete: DropIncomplete = False,
    form: FormatOption = "text",
) -> None:
    """Drop tasks one by one as long as the conclusions from all tasks are preserved."""
    from rerank.downsampling import TaskReductionDesign, choose_fewest_tasks

    table = _read_table_argument(scores, drop_incomplete)
    design = TaskReductionDesign(
        goal=goal.goal,
        order=_check_choice_option("order", drop.order, ("correlation", "significance")),
        unit=_check_choice_option("unit", drop.unit or ("query" if table.by_query else "task"), ("task", "query")),
        criterion=goal.criterion,
        least=drop.least,
        always=tuple(drop.always or ()),
        hold_out=drop.hold_out,
        seed=drop.seed,
    )
    _emit_reduced_benchmark(choose_fewest_tasks(table, design), form)


@dataclass(frozen=True, kw_only=True)
class QueryDrawOptions:
    """Options for drawing random samples of queries from a benchmark."""

    sizes: Annotated[
        list[int] | None, typer.Option("--size", help="Number of queries to try; repeatable. (default: twelve sizes)")
    ] = None
    seeds: Annotated[int, typer.Option(min=1, help="Number of random draws per size.")] = 20
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first draw.")] = 0


@expand_option_groups
def choose_queries_command(
    goal: GoalOptions,
    draws: QueryDrawOptions,
    *,
    scores: Scores,
    as_matrix: Annotated[
        bool,
        typer.Option("--matrix", help="SCORES has one row per query and one column per system, as in rerank compare."),
    ] = False,
    drop_incomplete: DropIncomplete = False,
    form: FormatOption = "text",
) -> None:
    """Find the smallest number of randomly drawn queries that preserves the conclusions from all queries."""
    from rerank.downsampling import choose_fewest_queries
    from rerank.evaluation import read_score_matrix

    matrix = read_score_matrix(scores) if as_matrix else _read_table_argument(scores, drop_incomplete).matrix()
    sizes = draws.sizes or ()
    reduced = choose_fewest_queries(
        matrix, goal.goal, criterion=goal.criterion, sizes=sizes, seeds=draws.seeds, seed=draws.seed
    )
    _emit_reduced_benchmark(reduced, form)


@dataclass(frozen=True, kw_only=True)
class PoolOptions:
    """Options for pools of hard negatives, and for the measure by which systems are compared."""

    makers: Annotated[
        list[str] | None,
        typer.Option("--from", help="Run that contributes to the pools; repeatable. (default: all runs)"),
    ] = None
    measure: Annotated[str, typer.Option("--measure", "-m", help="Measure by which systems are compared.")] = "nDCG@10"
    depths: Annotated[
        list[int] | None, typer.Option("--k", help="Pool depth to try; repeatable. (default: twelve from 1 to 250)")
    ] = None


@expand_option_groups
def choose_pool_command(
    goal: GoalOptions,
    pools: PoolOptions,
    *,
    runs: RunsArgument,
    qrels: Annotated[
        str, typer.Option("--qrels", help="Relevance judgments: a file, or the selector of a collection.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="JSON lines file for the document ids of the chosen corpus, which is the union of all pools."
        ),
    ] = None,
    form: FormatOption = "text",
) -> None:
    """Find the smallest depth of hard-negative pools at which the conclusions from the full runs are preserved."""
    from rerank.collections import open_collection_qrels
    from rerank.downsampling import choose_smallest_pool
    from rerank.downsampling.pools import DEPTHS
    from rerank.io.text_files import check_file_writable

    if out is not None:
        check_file_writable(out)
    systems, judged = read_run_arguments(runs), open_collection_qrels(qrels)[0]
    makers, depths = pools.makers or (), pools.depths or DEPTHS
    reduced = choose_smallest_pool(
        systems, judged, goal.goal, makers=makers, measure=pools.measure, depths=depths, criterion=goal.criterion
    )
    if out is not None and reduced.chosen is not None:
        _write_corpus_of_choose_command(
            out, [run for run in systems if not makers or run.name in makers], judged, reduced.chosen.size
        )
    _emit_reduced_benchmark(reduced, form)
    if out is not None and reduced.chosen is None:
        raise DataError(
            f"No depth meets the goal, so {out} was not written",
            expected="a depth that meets the goal, as all larger depths also do",
            remedy="Lower --min-tau, --min-recall or --min-precision, or try deeper pools with --k",
        )


def _write_corpus_of_choose_command(out: Path, makers: list[Any], judged: Any, depth: int) -> None:
    import json

    from rerank.downsampling.pools import documents_of_reduced_pools, union_of_reduced_pools
    from rerank.io.text_files import replace_text_file

    with replace_text_file(out) as file:
        for doc_id in sorted(union_of_reduced_pools(documents_of_reduced_pools(makers, judged, depth))):
            file.write(json.dumps({"id": doc_id}, ensure_ascii=False) + "\n")
    print_note(f"written: {out}")


def _read_table_argument(path: Path, drop_incomplete: bool) -> ScoreTable:
    from rerank.downsampling import read_benchmark_table

    return read_benchmark_table(path, drop_incomplete=drop_incomplete)


def _check_choice_option(name: str, value: str, known: tuple[str, ...]) -> Any:
    if value not in known:
        raise UsageError(f"--{name} is {value!r}", expected=" or ".join(known))
    return value


_SHOWN = ("tau", "spearman", "AA", "AD", "MA_missed", "MA_spurious", "recall", "precision")


def _emit_reduced_benchmark(reduced: ReducedBenchmark, form: Literal["text", "json", "jsonl"]) -> None:
    content = reduced.to_dict()
    emit_output(content, form=form, text=lambda: _print_reduction_steps(content), rows="steps")


def _print_reduction_steps(content: dict[str, Any]) -> None:
    print_note(
        f"all: {content['systems']} systems, {content['rows']} rows, {content['significant']} of {content['pairs']} "
        "pairs differ significantly"
    )
    extra = [name for name in ("predicted", "draws_that_meet", "documents") if name in content["steps"][0]]
    rows = [
        [
            step["size"],
            step["label"],
            "yes" if step["met"] else "no",
            *(_printed_reduction_cell(step[name]) for name in (*extra, *_SHOWN)),
        ]
        for step in content["steps"]
    ]
    heads = ["size", "change", "met", *extra, *_SHOWN]
    print_table([head.replace("_", " ") for head in heads], rows)
    chosen = content["chosen"]
    print_note(
        f"chosen: {_printed_chosen_size(content['kind'], chosen['size'])}" if chosen else "no size meets the goal"
    )
    if chosen and (checked := chosen.get("held_out")):
        print_note(
            "on the held-out systems: "
            + ", ".join(f"{name} {_printed_reduction_cell(value)}" for name, value in checked.items())
        )
    if content["kept"]:
        print_note(
            ", ".join(content["kept"][:20]) + (f" and {len(content['kept']) - 20} more" if content["kept"][20:] else "")
        )
    fates = {fate: len(pairs) for fate, pairs in content["differences"].items()}
    print_note("significant differences: " + ", ".join(f"{count} {fate}" for fate, count in fates.items()))
    for text in content["notes"]:
        print_note(f"note: {text}")


def _printed_chosen_size(kind: str, size: int) -> str:
    return f"k = {size}" if kind == "pool" else f"{size} {kind}"


def _printed_reduction_cell(value: Any) -> str:
    return str(value) if isinstance(value, int) else format_number_cell(value, 3)

"""`mteb`: evaluate rerankers on mteb benchmarks, and find smaller benchmarks that lead to the same conclusions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from rerank.cli.app import command, command_group
from rerank.cli.options import MOST_REPETITIONS, AlphaOption, FormatOption, OptionGroup, QrelsOption, RunsArgument
from rerank.cli.output import emit, emit_content, format_windows, print_note
from rerank.cli.run_files import read_run_arguments
from rerank.cli.spec_options import takes_run_spec
from rerank.collections import open_collection_qrels
from rerank.errors import DataError, PartialFailureError, RerankError, UsageError, ensure
from rerank.evaluation import read_score_matrix
from rerank.experiment.spec import Execution, RunSpec
from rerank.io.reports import format_cell, make_grid
from rerank.io.text_files import check_file_writable, replace_text_file

if TYPE_CHECKING:
    from rerank.downsampling import Goal, SignificanceCriterion
    from rerank.mmteb import TaskResult

#: Fields of a run specification that the tasks determine.
_OF_TASKS = {"collection", "max_queries", "queries", "qrels", "measures", "relevant", "out", "resume"}

Benchmark = Annotated[str, 'Name or alias of the benchmark in mteb, such as "MTEB(eng, v2)".']
Tasks = Annotated[list[str] | None, Option("--task", "--tasks", help="Use only this task; repeatable.")]
Kinds = Annotated[
    list[str] | None,
    Option("--type", help="Use only tasks of this type: Retrieval, Reranking or InstructionReranking; repeatable."),
]

group = command_group("mteb", "Evaluate rerankers on MTEB and MMTEB, and find smaller benchmarks.")


@command("tasks", 'rerank mteb tasks --benchmark "MTEB(eng, v2)" --type Reranking', group=group)
def list_tasks(benchmark: Benchmark = "", task: Tasks = None, kind: Kinds = None, form: FormatOption = "text") -> None:
    """List the retrieval and reranking tasks of a benchmark, with the licences of their data."""
    from rerank.mmteb import list_mteb_tasks
    from rerank.mmteb.evaluation import KINDS, describe_task

    content = [describe_task(task_object) for task_object in list_mteb_tasks(benchmark, task or (), kind or KINDS)]
    columns = ("task", "type", "subsets", "main_score", "licence", "data")
    emit_content(content, [make_grid(columns, [[row[name] for name in columns] for row in content])], form)


@command(
    "run",
    'rerank mteb run --benchmark "MTEB(eng, v2)" --task AskUbuntuDupQuestions --method fullrank '
    "--model Qwen/Qwen3-4B --out results",
    group=group,
)
@takes_run_spec(
    only=[name for name in (*RunSpec.model_fields, *Execution.model_fields) if name not in _OF_TASKS], collection="mteb"
)
def run_tasks(
    spec: RunSpec,
    execution: Execution,
    *,
    out: Annotated[Path, Option("--out", "-o", help="Folder for all results; use the same folder to continue.")],
    benchmark: Benchmark = "",
    task: Tasks = None,
    kind: Kinds = None,
    form: FormatOption = "text",
) -> None:
    """Rerank the tasks of a benchmark and let mteb score the rankings. Results are saved in mteb's folder layout.

    Retrieval tasks use the candidates of --first-stage: a selector such as bm25, or a folder of predictions saved by
    mteb. Reranking tasks have their own candidates, which are shuffled. Tasks that already have scores are not
    repeated.
    """
    from rerank import mmteb
    from rerank.mmteb.evaluation import KINDS

    chosen = mmteb.list_mteb_tasks(benchmark, task or (), kind or KINDS)
    first = mmteb.parse_mteb_first_stage(spec.first_stage)
    retrieves = any(task_object.metadata.type == "Retrieval" for task_object in chosen)
    lists = mmteb.describe_mteb_candidates(first, spec.depth) if retrieves else {}
    reranker = mmteb.MtebReranker(spec, out=out, execution=execution, first_stage=lists)
    results: list[TaskResult] = []
    failed: dict[str, RerankError] = {}
    for task_object in chosen:
        name = task_object.metadata.name
        print_note(f"{name} ({len(results) + len(failed) + 1} of {len(chosen)})")
        try:
            results.append(
                mmteb.evaluate_mteb_task(
                    task_object, reranker, out=out, first_stage=first, depth=spec.depth, overwrite=execution.overwrite
                )
            )
        except RerankError as error:  # continue with the other tasks; failed tasks are reported at the end
            failed[name] = error
            print_note(f"{name}: {error}")
    rows: list[dict[str, Any]] = [
        {"task": r.task, "revision": r.revision, "main_score": r.main_score, **row, "path": str(r.path)}
        for r in results
        for row in r.rows
    ]
    content = {
        "model": reranker.mteb_model_meta.name,
        "first_stage": reranker.first_stage,
        "results": rows,
        "failed": {name: str(error) for name, error in failed.items()},
    }
    cells = [
        [
            *(row[name] for name in ("task", "subset", "split", "main_score")),
            *(format_cell(row[name]) for name in ("first_stage_score", "score")),
            format_windows(row["windows"]) if "windows" in row else "read from its file",
        ]
        for row in rows
    ]
    heads = ["task", "subset", "split", "main score", "first stage", "reranked", "windows"]
    revisions = " and ".join(dict.fromkeys(row["revision"] for row in rows)) or "unknown: there are no results yet"
    emit_content(content, [make_grid(heads, cells), f"{content['model']}, revision {revisions}"], form, key="results")
    if len(failed) == 1 and not rows:
        raise next(iter(failed.values()))
    if failed:
        raise PartialFailureError(
            f"{len(failed)} tasks have no score: {', '.join(failed)}",
            remedy="Read the messages above; the same command repeats these tasks",
        )
    if bad := [row for row in rows if row.get("failure_rate", 0.0) > spec.max_failure_rate]:
        raise PartialFailureError(
            f"{bad[0]['failure_rate']:.0%} of the windows of {bad[0]['task']} failed "
            f"({format_windows(bad[0]['windows'])})"
            + (f"; {len(bad) - 1} other parts also exceed the limit" if len(bad) > 1 else ""),
            expected=f"at most {spec.max_failure_rate:.0%} (--max-failure-rate)",
            remedy="The scores are saved. Try another --prompt or model, or accept the failures with "
            "--max-failure-rate",
        )


choose = command_group("choose", "Find smaller benchmarks that lead to the same conclusions.", parent=group)
Scores = Annotated[
    Path,
    Argument(
        metavar="SCORES",
        help="CSV with one row per model and one column per task; CSV or JSON lines with model, task, score and "
        "optionally query; or a folder of mteb results.",
    ),
]
DropIncomplete = Annotated[bool, Option("--drop-incomplete", help="Omit models that lack a score.")]


class GoalOptions(OptionGroup):
    """Options for the conclusions about systems that a smaller benchmark must preserve, and their significance test."""

    keep: Annotated[str, "Conclusions to preserve: ranking, significance or both."] = "ranking"
    min_tau: Annotated[float, "Minimum Kendall's tau between the rankings of systems on reduced and on full data."] = (
        0.9
    )
    min_recall: Annotated[float, "Minimum fraction of the significant differences on full data that are preserved."] = (
        0.9
    )
    min_precision: Annotated[
        float, "Minimum fraction of the significant differences on reduced data that full data confirm."
    ] = 0.9
    test: Annotated[str, "Paired test: t, wilcoxon, sign, permutation, bootstrap ..."] = "t"
    correction: Annotated[str, "Correction for multiple comparisons: none, bonferroni, holm, hochberg, bh or by."] = (
        "bh"
    )
    alpha: AlphaOption = 0.05

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


class TaskDropOptions(OptionGroup):
    """Options for dropping tasks from a benchmark."""

    order: Annotated[
        str,
        "Task to drop first: correlation (the task that the others predict best) or significance (the task "
        "whose removal changes the significant differences least).",
    ] = "correlation"
    unit: Annotated[str | None, "Unit of the test: task or query. (default: query if there are per-query scores)"] = (
        None
    )
    least: Annotated[int, Option(min=1, help="Minimum number of tasks to keep.")] = 2
    always: Annotated[list[str] | None, "Task that is never dropped; repeatable."] = None
    hold_out: Annotated[float, Option(min=0, max=0.9, help="Fraction of models held out to test the choice.")] = 0.0
    seed: Annotated[int, Option(min=0, help="Seed for drawing the held-out models.")] = 0


@command("tasks", "rerank mteb choose tasks scores.csv --keep ranking --min-tau 0.9", group=choose)
def choose_tasks(
    goal: GoalOptions,
    drop: TaskDropOptions,
    *,
    scores: Scores,
    drop_incomplete: DropIncomplete = False,
    form: FormatOption = "text",
) -> None:
    """Drop tasks one by one as long as the conclusions from all tasks are preserved."""
    from rerank.downsampling import TaskReductionDesign, choose_fewest_tasks, read_benchmark_table

    table = read_benchmark_table(scores, drop_incomplete=drop_incomplete)
    design = TaskReductionDesign(
        goal=goal.goal,
        order=_check_choice("order", drop.order, ("correlation", "significance")),
        unit=_check_choice("unit", drop.unit or ("query" if table.by_query else "task"), ("task", "query")),
        criterion=goal.criterion,
        least=drop.least,
        always=tuple(drop.always or ()),
        hold_out=drop.hold_out,
        seed=drop.seed,
    )
    emit(choose_fewest_tasks(table, design), form)


class QueryDrawOptions(OptionGroup):
    """Options for drawing random samples of queries from a benchmark."""

    sizes: Annotated[
        list[int] | None, Option("--size", help="Number of queries to try; repeatable. (default: twelve sizes)")
    ] = None
    seeds: Annotated[int, Option(min=1, max=MOST_REPETITIONS, help="Number of random draws per size.")] = 20
    seed: Annotated[int, Option(min=0, help="Seed of the first draw.")] = 0


@command("queries", "rerank mteb choose queries scores.jsonl --keep significance", group=choose)
def choose_queries(
    goal: GoalOptions,
    draws: QueryDrawOptions,
    *,
    scores: Scores,
    as_matrix: Annotated[
        bool, Option("--matrix", help="SCORES has one row per query and one column per system, as in rerank compare.")
    ] = False,
    drop_incomplete: DropIncomplete = False,
    form: FormatOption = "text",
) -> None:
    """Find the smallest number of randomly drawn queries that preserves the conclusions from all queries."""
    from rerank.downsampling import choose_fewest_queries, read_benchmark_table

    if as_matrix:
        matrix = read_score_matrix(scores)
    else:
        matrix = read_benchmark_table(scores, drop_incomplete=drop_incomplete).matrix()
    reduced = choose_fewest_queries(
        matrix, goal.goal, criterion=goal.criterion, sizes=draws.sizes or (), seeds=draws.seeds, seed=draws.seed
    )
    emit(reduced, form)


class PoolOptions(OptionGroup):
    """Options for pools of hard negatives, and for the measure by which systems are compared."""

    makers: Annotated[
        list[str] | None, Option("--from", help="Run that contributes to the pools; repeatable. (default: all runs)")
    ] = None
    measure: Annotated[str, Option("--measure", "-m", help="Measure by which systems are compared.")] = "nDCG@10"
    depths: Annotated[
        list[int] | None, Option("--k", help="Pool depth to try; repeatable. (default: twelve from 1 to 250)")
    ] = None


@command("pool", "rerank mteb choose pool a.trec b.trec --qrels qrels.txt --from a --keep significance", group=choose)
def choose_pool(
    goal: GoalOptions,
    pools: PoolOptions,
    *,
    runs: RunsArgument,
    qrels: QrelsOption,
    out: Annotated[
        Path | None, "JSON lines file for the document ids of the chosen corpus, which is the union of all pools."
    ] = None,
    form: FormatOption = "text",
) -> None:
    """Find the smallest depth of hard-negative pools at which the conclusions from the full runs are preserved."""
    from rerank.downsampling import choose_smallest_pool
    from rerank.downsampling.reduction import DEPTHS, documents_per_query

    if out is not None:
        check_file_writable(out, "list of document ids")
    systems, judged = read_run_arguments(runs), open_collection_qrels(qrels)[0]
    makers, depths = pools.makers or (), pools.depths or DEPTHS
    reduced = choose_smallest_pool(
        systems, judged, goal.goal, makers=makers, measure=pools.measure, depths=depths, criterion=goal.criterion
    )
    if out is not None and reduced.chosen is not None:
        pooled = [run for run in systems if not makers or run.name in makers]
        corpus = frozenset[str]().union(*documents_per_query(pooled, judged, reduced.chosen.size).values())
        with replace_text_file(out) as file:
            file.writelines(json.dumps({"id": doc_id}, ensure_ascii=False) + "\n" for doc_id in sorted(corpus))
        print_note(f"written: {out}")
    emit(reduced, form)
    if out is not None and reduced.chosen is None:
        raise DataError(
            f"No depth meets the goal, so {out} was not written",
            expected="a depth that meets the goal, as all larger depths also do",
            remedy="Lower --min-tau, --min-recall or --min-precision, or try deeper pools with --k",
        )


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> Any:
    ensure(value in known, f"--{name} is {value!r}", expected=" or ".join(known))
    return value

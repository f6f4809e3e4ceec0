"""`mteb`: evaluate rerankers on mteb benchmarks, and find smaller benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rerank.cli import mteb_choose as choosing
from rerank.cli.output import (
    FormatOption,
    emit_output,
    format_number_cell,
    format_window_counts,
    print_note,
    print_table,
)
from rerank.cli.spec_options import with_spec_command_options
from rerank.errors import PartialFailureError, RerankError
from rerank.experiment.spec import Execution, RunSpec

if TYPE_CHECKING:
    from rerank.mmteb import TaskResult

_TASKS = 'Example: rerank mteb tasks --benchmark "MTEB(eng, v2)" --type Reranking'
_RUN = (
    'Example: rerank mteb run --benchmark "MTEB(eng, v2)" --task AskUbuntuDupQuestions --method fullrank '
    "--model Qwen/Qwen3-4B --out results"
)
#: Fields of a run specification that the tasks determine.
_OF_TASKS = {"collection", "max_queries", "queries", "qrels", "measures", "relevant", "out", "resume"}
_OFFERED = [name for name in (*RunSpec.model_fields, *Execution.model_fields) if name not in _OF_TASKS]

Benchmark = Annotated[str, typer.Option(help='Name or alias of the benchmark in mteb, such as "MTEB(eng, v2)".')]
Tasks = Annotated[list[str] | None, typer.Option("--task", "--tasks", help="Use only this task; repeatable.")]
Kinds = Annotated[
    list[str] | None,
    typer.Option(
        "--type", help="Use only tasks of this type: Retrieval, Reranking or InstructionReranking; repeatable."
    ),
]


def register_cli_commands(app: typer.Typer) -> None:
    """Add the command group ``mteb``."""
    group = typer.Typer(help="Evaluate rerankers on MTEB and MMTEB, and find smaller benchmarks.", no_args_is_help=True)
    group.command("tasks", epilog=_TASKS)(mteb_tasks_command)
    group.command("run", epilog=_RUN)(mteb_run_command)
    choosing.register_cli_commands(group)
    app.add_typer(group, name="mteb")


def mteb_tasks_command(
    benchmark: Benchmark = "", task: Tasks = None, kind: Kinds = None, form: FormatOption = "text"
) -> None:
    """List the retrieval and reranking tasks of a benchmark, with the licences of their data."""
    from rerank.mmteb import list_mteb_tasks
    from rerank.mmteb.benchmark_tasks import KINDS, describe_mteb_task

    content = [describe_mteb_task(task_object) for task_object in list_mteb_tasks(benchmark, task or (), kind or KINDS)]
    columns = ("task", "type", "subsets", "main_score", "licence", "data")
    emit_output(
        content, form=form, text=lambda: print_table(columns, [[row[name] for name in columns] for row in content])
    )


@with_spec_command_options(only=_OFFERED, collection="mteb")
def mteb_run_command(
    spec: RunSpec,
    execution: Execution,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for all results; use the same folder to continue.")],
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
    from rerank.mmteb import (
        MtebReranker,
        describe_mteb_candidates,
        evaluate_mteb_task,
        list_mteb_tasks,
        parse_mteb_first_stage,
    )
    from rerank.mmteb.benchmark_tasks import KINDS

    chosen = list_mteb_tasks(benchmark, task or (), kind or KINDS)
    first = parse_mteb_first_stage(spec.first_stage)
    lists = (
        describe_mteb_candidates(first, spec.depth)
        if any(task_object.metadata.type == "Retrieval" for task_object in chosen)
        else {}
    )
    reranker = MtebReranker(spec, out=out, execution=execution, first_stage=lists)
    results: list[TaskResult] = []
    failed: dict[str, RerankError] = {}
    for task_object in chosen:
        name = task_object.metadata.name
        print_note(f"{name} ({len(results) + len(failed) + 1} of {len(chosen)})")
        try:
            results.append(
                evaluate_mteb_task(
                    task_object, reranker, out=out, first_stage=first, depth=spec.depth, overwrite=execution.overwrite
                )
            )
        except RerankError as error:  # continue with the other tasks; failed tasks are reported at the end
            failed[name] = error
            print_note(f"{name}: {error}")
    content = _mteb_command_output(reranker, results, failed)
    emit_output(content, form=form, text=lambda: _print_mteb_scores(content), rows="results")
    _check_mteb_command_failures(content, failed, spec.max_failure_rate)


def _mteb_command_output(reranker: Any, results: list[TaskResult], failed: dict[str, RerankError]) -> dict[str, Any]:
    meta = reranker.mteb_model_meta
    rows = [
        {
            "task": result.task,
            "revision": result.revision,
            "main_score": result.main_score,
            **row,
            "path": str(result.path),
        }
        for result in results
        for row in result.rows
    ]
    return {
        "model": meta.name,
        "first_stage": reranker.first_stage,
        "results": rows,
        "failed": {name: str(error) for name, error in failed.items()},
    }


def _print_mteb_scores(content: dict[str, Any]) -> None:
    rows = [
        [
            *(row[name] for name in ("task", "subset", "split", "main_score")),
            format_number_cell(row["first_stage_score"]),
            format_number_cell(row["score"]),
            format_window_counts(row["windows"]) if "windows" in row else "read from its file",
        ]
        for row in content["results"]
    ]
    print_table(["task", "subset", "split", "main score", "first stage", "reranked", "windows"], rows)
    revisions = dict.fromkeys(row["revision"] for row in content["results"])
    print_note(f"{content['model']}, revision {' and '.join(revisions) or 'unknown: there are no results yet'}")


def _check_mteb_command_failures(content: dict[str, Any], failed: dict[str, RerankError], allowed: float) -> None:
    """Check that all tasks have scores, and that the fraction of failed windows is within the limit."""
    if len(failed) == 1 and not content["results"]:
        raise next(iter(failed.values()))
    if failed:
        raise PartialFailureError(
            f"{len(failed)} tasks have no score: {', '.join(failed)}",
            remedy="Read the messages above; the same command repeats these tasks",
        )
    bad = [row for row in content["results"] if row.get("failure_rate", 0.0) > allowed]
    if bad:
        raise PartialFailureError(
            f"{bad[0]['failure_rate']:.0%} of the windows of {bad[0]['task']} failed "
            f"({format_window_counts(bad[0]['windows'])})"
            + (f"; {len(bad) - 1} other parts also exceed the limit" if len(bad) > 1 else ""),
            expected=f"at most {allowed:.0%} (--max-failure-rate)",
            remedy="The scores are saved. Try another --prompt or model, or accept the failures with "
            "--max-failure-rate",
        )

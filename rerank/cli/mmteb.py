"""`mteb`: our rerankers on mteb's benchmarks, and smaller benchmarks that say the same."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rerank.cli import choosing
from rerank.cli.output import FormatOption, counts, emit, note, number, table
from rerank.cli.specs import with_spec
from rerank.errors import PartialFailureError, RerankError
from rerank.experiment.spec import Execution, RunSpec

if TYPE_CHECKING:
    from rerank.mmteb import Evaluated

_TASKS = 'Example: rerank mteb tasks --benchmark "MTEB(eng, v2)" --type Reranking'
_RUN = (
    'Example: rerank mteb run --benchmark "MTEB(eng, v2)" --task AskUbuntuDupQuestions --method fullrank '
    "--model Qwen/Qwen3-4B --out results"
)
#: Fields of a run that tasks decide.
_OF_TASKS = {"collection", "max_queries", "queries", "qrels", "measures", "relevant", "out", "resume"}
_OFFERED = [name for name in (*RunSpec.model_fields, *Execution.model_fields) if name not in _OF_TASKS]

Benchmark = Annotated[str, typer.Option(help='Its name with mteb, such as "MTEB(eng, v2)", or an alias.')]
Tasks = Annotated[list[str] | None, typer.Option("--task", "--tasks", help="Take only this task; repeatable.")]
Kinds = Annotated[
    list[str] | None,
    typer.Option(
        "--type", help="Take only tasks of this type: Retrieval, Reranking, InstructionReranking; repeatable."
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command group."""
    group = typer.Typer(help="MTEB and MMTEB: rerankers on their tasks; smaller benchmarks.", no_args_is_help=True)
    group.command("tasks", epilog=_TASKS)(tasks)
    group.command("run", epilog=_RUN)(run)
    choosing.register(group)
    app.add_typer(group, name="mteb")


def tasks(benchmark: Benchmark = "", task: Tasks = None, kind: Kinds = None, form: FormatOption = "text") -> None:
    """List the retrieval and reranking tasks of a benchmark, with the licences of their data."""
    from rerank.mmteb import tasks_of
    from rerank.mmteb.listing import KINDS, described

    content = [described(one) for one in tasks_of(benchmark, task or (), kind or KINDS)]
    columns = ("task", "type", "subsets", "main_score", "licence", "data")
    emit(content, form=form, text=lambda: table(columns, [[row[name] for name in columns] for row in content]))


@with_spec(only=_OFFERED, collection="mteb")
def run(
    spec: RunSpec,
    execution: Execution,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of all results; the same one goes on with a run.")],
    benchmark: Benchmark = "",
    task: Tasks = None,
    kind: Kinds = None,
    form: FormatOption = "text",
) -> None:
    """Rerank the tasks of a benchmark and let mteb score them, in mteb's own folders.

    Retrieval tasks take the lists of --first-stage: a selector such as bm25, or predictions that mteb saved (their
    folder). Reranking tasks bring their own lists, which are shuffled. What is scored already is not asked again.
    """
    from rerank.mmteb import MtebReranker, evaluate, first_stage_of, lists_from, tasks_of
    from rerank.mmteb.listing import KINDS

    chosen = tasks_of(benchmark, task or (), kind or KINDS)
    first = first_stage_of(spec.first_stage)
    lists = lists_from(first, spec.depth) if any(one.metadata.type == "Retrieval" for one in chosen) else {}
    reranker = MtebReranker(spec, out=out, execution=execution, first_stage=lists)
    found: list[Evaluated] = []
    failed: dict[str, RerankError] = {}
    for one in chosen:
        name = one.metadata.name
        note(f"{name} ({len(found) + len(failed) + 1} of {len(chosen)})")
        try:
            found.append(
                evaluate(one, reranker, out=out, first_stage=first, depth=spec.depth, overwrite=execution.overwrite)
            )
        except RerankError as error:  # the others are worth having; what failed is told at the end
            failed[name] = error
            note(f"{name}: {error}")
    content = _content(reranker, found, failed)
    emit(content, form=form, text=lambda: _show(content), rows="results")
    _check(content, failed, spec.max_failure_rate)


def _content(reranker: Any, found: list[Evaluated], failed: dict[str, RerankError]) -> dict[str, Any]:
    meta = reranker.mteb_model_meta
    rows = [
        {"task": one.task, "revision": one.revision, "main_score": one.main_score, **row, "path": str(one.path)}
        for one in found
        for row in one.rows
    ]
    return {
        "model": meta.name,
        "first_stage": reranker.first_stage,
        "results": rows,
        "failed": {name: str(error) for name, error in failed.items()},
    }


def _show(content: dict[str, Any]) -> None:
    rows = [
        [
            *(row[name] for name in ("task", "subset", "split", "main_score")),
            number(row["first_stage_score"]),
            number(row["score"]),
            counts(row["windows"]) if "windows" in row else "read from its file",
        ]
        for row in content["results"]
    ]
    table(["task", "subset", "split", "main score", "first stage", "reranked", "windows"], rows)
    revisions = dict.fromkeys(row["revision"] for row in content["results"])
    note(f"{content['model']}, revision {' and '.join(revisions) or 'of nothing yet'}")


def _check(content: dict[str, Any], failed: dict[str, RerankError], allowed: float) -> None:
    """Say what failed: tasks, and windows past what is allowed."""
    if len(failed) == 1 and not content["results"]:
        raise next(iter(failed.values()))
    if failed:
        raise PartialFailureError(
            f"{len(failed)} tasks have no score: {', '.join(failed)}",
            remedy="See the messages above; the same command goes on with them",
        )
    bad = [row for row in content["results"] if row.get("failure_rate", 0.0) > allowed]
    if bad:
        raise PartialFailureError(
            f"{bad[0]['failure_rate']:.0%} of the windows of {bad[0]['task']} failed ({counts(bad[0]['windows'])})"
            + (f", and more than allowed of {len(bad) - 1} other parts" if len(bad) > 1 else ""),
            expected=f"at most {allowed:.0%} (--max-failure-rate)",
            remedy="The scores are saved: try another --prompt or model, or accept them with --max-failure-rate",
        )

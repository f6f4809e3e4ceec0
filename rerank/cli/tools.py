"""`methods`, `cache`, `doctor`: list methods, manage the call cache, check the installation."""

from __future__ import annotations

from typing import Annotated

import typer

from rerank.cli.output import Format, FormatOption, WideOption, emit_output, print_note, print_table
from rerank.errors import MissingPrerequisiteError


def register_cli_commands(app: typer.Typer) -> None:
    """Add the commands ``methods``, ``cache`` and ``doctor``."""
    app.command("methods", epilog="Example: rerank methods --format json")(methods_command)
    cache = typer.Typer(help="List and remove the model calls shared between runs.", invoke_without_command=True)
    cache.callback()(list_cache_command)
    cache.command("list")(list_cache_command)
    cache.command("clean", epilog="Example: rerank cache clean --yes")(clean_cache_command)
    app.add_typer(cache, name="cache")
    app.command("doctor", epilog="Example: rerank doctor")(doctor_command)


def methods_command(
    training: Annotated[
        bool, typer.Option("--training", help="List training methods instead (stable, experimental and out of scope).")
    ] = False,
    wide: WideOption = False,
    form: FormatOption = "text",
) -> None:
    """List reranking methods: strategy, judge, maximum calls for 100 documents, backends, and paper.

    With --training, list adapters, optimizers, layer sampling, callbacks, objectives and analysis.
    """
    if training:
        _print_training_methods(form, wide=wide)
        return
    from rerank.methods import describe_methods

    rows = describe_methods()
    keys = ("name", "strategy", "judge", "calls_per_100", "backends", "paper")
    cells = [[" ".join(r[key]) if key == "backends" else r[key] for key in keys] for r in rows]
    heads = [key.replace("_", " ") for key in keys]
    emit_output(rows, form=form, text=lambda: print_table(heads, cells, minor=["backends"], wide=wide))


def _print_training_methods(form: Format, *, wide: bool) -> None:
    from rerank.finetune.method_table import KEYS, describe_training_methods

    rows = describe_training_methods()
    cells = [[row[key] for key in KEYS] for row in rows]
    minor = ["status", "paper", "differs", "reason"]
    emit_output(rows, form=form, text=lambda: print_table(KEYS, cells, minor=minor, wide=wide))


def list_cache_command(context: typer.Context, form: FormatOption = "text") -> None:
    """List the cached calls by model."""
    if context.invoked_subcommand:
        return
    from rerank.store import open_shared_call_cache

    with open_shared_call_cache() as log:
        rows = log.by_model()
    print_note(str(log.path))
    keys = ("model", "calls", "tokens_in", "tokens_out", "latest")
    content = {"path": str(log.path), "models": rows}
    emit_output(
        content, form=form, text=lambda: print_table(keys, [[row[key] for key in keys] for row in rows]), rows="models"
    )


def clean_cache_command(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
) -> None:
    """Remove all cached calls."""
    from rerank.store import open_shared_call_cache

    with open_shared_call_cache() as log:
        if not yes:
            typer.confirm(f"Remove {len(log)} calls from {log.path}?", abort=True, err=True)
        print_note(f"{log.clear()} calls removed")


def doctor_command(form: FormatOption = "text") -> None:
    """Check the installation and print how to install missing parts. The exit code is 3 if any part is broken."""
    from rerank.cli.doctor import examine_installation

    checks = examine_installation()
    emit_output(
        {"checks": checks},
        form=form,
        text=lambda: print_table(["check", "state", "found", "remedy"], [list(check.values()) for check in checks]),
        rows="checks",
    )
    broken = [check for check in checks if check["state"] == "broken"]
    if broken:
        raise MissingPrerequisiteError(
            f"Broken parts of the installation: {', '.join(check['check'] for check in broken)}",
            remedy="; ".join(dict.fromkeys(check["remedy"] for check in broken)),
        )

"""`replay`, `verify`, `parse`: process recorded runs and replies without a model."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rerank.cli.output import FormatOption, emit_output, format_number_cell, print_note, print_table
from rerank.errors import DataError, UsageError

if TYPE_CHECKING:
    from rerank.store import RunFolder

#: Kind of difference -> remedy.
_REMEDIES = {
    "prompts": "Replies do not need prompts; keep readable prompts with --repair, then finish the run with --resume",
    "index": "The next search rebuilds a damaged index",
}

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="A run folder.")]


def register_cli_commands(app: typer.Typer) -> None:
    """Add the commands ``replay``, ``verify`` and ``parse``."""
    app.command("replay", epilog="Example: rerank replay runs/FOLDER -m AP")(replay_command)
    app.command("verify", epilog="Example: rerank verify runs/FOLDER")(verify_command)
    app.command("parse", epilog="Example: echo '[2] > [1] > [3]' | rerank parse --count 3")(parse_command)


def replay_command(
    folder: Folder,
    measures: Annotated[
        list[str] | None,
        typer.Option("--measure", "-m", help="Measure to use instead of the run's measures; repeatable."),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="Also write the prompts of all calls to this file, as JSON lines; those that are not in the call log "
            "are rendered again from the collection."
        ),
    ] = None,
    form: FormatOption = "text",
) -> None:
    """Parse the recorded replies of a run again, and score the result. Nothing is written to the folder."""
    from rerank.experiment import replay_and_rescore_run
    from rerank.store import RunFolder

    opened = RunFolder.existing(folder)
    if prompts is not None:
        _write_run_prompts(opened, prompts)
    result = replay_and_rescore_run(opened, tuple(measures or ()))
    if not opened.finished:
        print_note(
            f"{folder} is unfinished: calls without a reply count as errors. Finish it with `rerank run ... --resume`"
        )

    def show() -> None:
        for key in ("first_stage_scores", "scores"):
            if result[key]:
                print_table([key, *result[key]], [["", *map(format_number_cell, result[key].values())]])
        print_table(["windows", *result["windows"]], [["", *result["windows"].values()]])

    emit_output(result, form=form, text=show)


def verify_command(
    folder: Folder,
    repair: Annotated[
        bool, typer.Option("--repair", help="Replace a damaged call log by a log of its intact rows.")
    ] = False,
    form: FormatOption = "text",
) -> None:
    """Recompute all numbers in a run folder and list the differences. The exit code is 5 if there are any.

    Prompts in the call log must be readable. Indexes of the run's collection in the cache folder are compared with
    the hashes that were stored with them.
    """
    from rerank.experiment import verify_run_folder as check
    from rerank.store import RunFolder, repair_call_log

    if repair and (repaired := repair_call_log(RunFolder.existing(folder))).original is not None:
        note = f"{folder}: {repaired.kept} calls are kept, {repaired.damaged} are damaged, others may be unreadable"
        result = {"folder": str(folder), "kept": repaired.kept, "damaged": repaired.damaged}
        if repaired.prompts_lost:
            result["prompts_lost"] = repaired.prompts_lost
            note += f"; {repaired.prompts_lost} of them without prompts (`rerank replay --prompts`)"
        note += f"; the damaged log is {repaired.original.name}. Repeat the other calls with --resume"
        emit_output(result, form=form, text=lambda: print_note(note))
        return
    rows = check(RunFolder.existing(folder))  # one row per difference
    result = {"folder": str(folder), "verified": not rows, "differences": rows}

    def show() -> None:
        if rows:
            print_table(
                ["file", "what", "stored", "computed"], [[_shorten_cell(cell) for cell in row.values()] for row in rows]
            )
        else:
            print_note(f"{folder}: all numbers match the recorded replies")

    emit_output(result, form=form, text=show)
    if rows:
        names = ", ".join(sorted({f"{row['file']} ({row['what']})" for row in rows}))
        raise DataError(
            f"The run folder {folder} differs from the recorded replies: {names}",
            expected="no differences",
            remedy=". ".join(remedy for what, remedy in _REMEDIES.items() if any(row["what"] == what for row in rows)),
        )


def _write_run_prompts(folder: RunFolder, path: Path) -> None:
    from rerank.experiment.run_prompts import read_run_prompts
    from rerank.io.text_files import replace_text_file

    with replace_text_file(path) as file:
        for prompt in read_run_prompts(folder):
            file.write(json.dumps(prompt.to_json(), ensure_ascii=False) + "\n")


def parse_command(
    count: Annotated[int, typer.Option(max=1_000_000, help="Number of passages in the prompt.")],
    file: Annotated[Path | None, typer.Argument(help="File with the reply; if omitted, standard input.")] = None,
    form: FormatOption = "text",
) -> None:
    """Parse a model's reply: print the order of passages, and missing, repeated and unknown identifiers (from 1)."""
    from rerank.io.text_files import open_text_file
    from rerank.parsing import parse_permutation as read

    if count < 0:
        raise UsageError(f"--count is {count}", expected="0 or more")
    if file is None:
        text = sys.stdin.buffer.read().decode("utf-8", "replace")
    else:
        with open_text_file(file) as stream:
            text = stream.read()
    parsed = read(text, count)
    result = parsed.to_dict()

    def show() -> None:
        typer.echo(" > ".join(f"[{number}]" for number in result["order"]))
        print_note(
            "; ".join(f"{key}: {result[key]}" for key in ("status", "missing", "repeated", "foreign") if result[key])
        )

    emit_output(result, form=form, text=show)


def _shorten_cell(cell: object) -> str:
    text = str(cell)
    return text if len(text) <= 50 else text[:47] + "..."

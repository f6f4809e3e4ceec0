"""`replay`, `verify`, `parse`: process recorded runs and replies without a model."""

import json
import sys
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from rerank.cli.app import command
from rerank.cli.options import FormatOption
from rerank.cli.output import emit_content, print_note
from rerank.errors import DataError, ensure
from rerank.experiment import replay_and_rescore_run, verify_run_folder
from rerank.io.reports import Line, make_grid
from rerank.io.text_files import check_file_writable, open_text_file, replace_text_file
from rerank.store import RunFolder, repair_call_log

#: Kind of difference -> remedy.
_REMEDIES = {
    "prompts": "Replies do not need prompts; keep readable prompts with --repair, then finish the run with --resume",
    "index": "The next search rebuilds a damaged index",
}

Folder = Annotated[Path, Argument(metavar="FOLDER", help="A run folder.")]


@command("replay", "rerank replay runs/FOLDER -m AP")
def replay(
    folder: Folder,
    measures: Annotated[
        list[str] | None, Option("--measure", "-m", help="Measure to use instead of the run's measures; repeatable.")
    ] = None,
    prompts: Annotated[
        Path | None,
        "Also write the prompts of all calls to this file, as JSON lines; those that are not in the call log "
        "are rendered again from the collection.",
    ] = None,
    form: FormatOption = "text",
) -> None:
    """Parse the recorded replies of a run again, and score the result. Nothing is written to the folder."""
    from rerank.experiment.replay import read_run_prompts

    opened = RunFolder.existing(folder)
    if prompts is not None:
        check_file_writable(prompts, "file of prompts")
        with replace_text_file(prompts) as file:
            for prompt in read_run_prompts(opened):
                file.write(json.dumps(prompt.to_json(), ensure_ascii=False) + "\n")
    result = replay_and_rescore_run(opened, tuple(measures or ()))
    if not opened.finished:
        print_note(
            f"{folder} is unfinished: calls without a reply count as errors. Finish it with `rerank run ... --resume`"
        )
    rows = {key: result[key] for key in ("first_stage_scores", "scores") if result[key]} | {
        "windows": result["windows"]
    }
    emit_content(result, [make_grid([key, *row], [["", *row.values()]]) for key, row in rows.items()], form)


@command("verify", "rerank verify runs/FOLDER")
def verify(
    folder: Folder,
    repair: Annotated[bool, "Replace a damaged call log by a log of its intact rows."] = False,
    form: FormatOption = "text",
) -> None:
    """Recompute all numbers in a run folder and list the differences. The exit code is 5 if there are any.

    Prompts in the call log must be readable. Indexes of the run's collection in the cache folder are compared with
    the hashes that were stored with them.
    """
    if repair and (repaired := repair_call_log(RunFolder.existing(folder))).original is not None:
        note = f"{folder}: {repaired.kept} calls are kept, {repaired.damaged} are damaged, others may be unreadable"
        result = {"folder": str(folder), "kept": repaired.kept, "damaged": repaired.damaged}
        if repaired.prompts_lost:
            result["prompts_lost"] = repaired.prompts_lost
            note += f"; {repaired.prompts_lost} of them without prompts (`rerank replay --prompts`)"
        note += f"; the damaged log is {repaired.original.name}. Repeat the other calls with --resume"
        emit_content(result, [note], form)
        return
    rows = verify_run_folder(RunFolder.existing(folder))  # one row per difference
    result = {"folder": str(folder), "verified": not rows, "differences": rows}
    cells = [[f"{text[:47]}..." if len(text := str(cell)) > 50 else text for cell in row.values()] for row in rows]
    match = f"{folder}: all numbers match the recorded replies"
    emit_content(result, [make_grid(["file", "what", "stored", "computed"], cells)] if rows else [match], form)
    if rows:
        names = ", ".join(sorted({f"{row['file']} ({row['what']})" for row in rows}))
        raise DataError(
            f"The run folder {folder} differs from the recorded replies: {names}",
            expected="no differences",
            remedy=". ".join(remedy for what, remedy in _REMEDIES.items() if any(row["what"] == what for row in rows)),
        )


@command("parse", "echo '[2] > [1] > [3]' | rerank parse --count 3")
def parse(
    count: Annotated[int, Option(max=1_000_000, help="Number of passages in the prompt.")],
    file: Annotated[Path | None, Argument(help="File with the reply; if omitted, standard input.")] = None,
    form: FormatOption = "text",
) -> None:
    """Parse a model's reply: print the order of passages, and missing, repeated and unknown identifiers (from 1)."""
    from rerank.parsing import parse_permutation

    ensure(count >= 0, f"--count is {count}", expected="0 or more")
    if file is None:
        text = sys.stdin.buffer.read().decode("utf-8", "replace")
    else:
        with open_text_file(file) as stream:
            text = stream.read()
    result = parse_permutation(text, count).to_dict()
    notes = [f"{key}: {result[key]}" for key in ("status", "missing", "repeated", "foreign") if result[key]]
    emit_content(result, [Line(" > ".join(f"[{number}]" for number in result["order"])), "; ".join(notes)], form)

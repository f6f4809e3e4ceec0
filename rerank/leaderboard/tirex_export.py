"""Export of a run as a TIREx submission: a folder with run.txt and ir-metadata.yml.

The metadata follow ir-metadata (ir-metadata.org) with the fields that tira's format ``run-with-metadata`` requires.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rerank.errors import DataError, UsageError
from rerank.io.run_files import write_run
from rerank.io.text_files import replace_text_file
from rerank.leaderboard.entries import Entry
from rerank.types import Run


def write_tirex_submission(entry: Entry, out: Path, *, team: str, collection: str, repository: str) -> Path:
    """Write a run and its metadata as a TIREx submission.

    Args:
        entry: The run with its card.
        out: Folder of all submissions, in which the run gets a folder with its name.
        team: Name of the team in TIRA.
        collection: Name of the test collection, such as an id of ir_datasets.
        repository: Address of the repository with the code of the run.

    Returns:
        The folder of the submission.
    """
    if entry.recorded:
        raise UsageError(f"The run {entry.name!r} has only recorded scores", expected="a run with ranked lists")
    for option, value in (("--team", team), ("--collection", collection), ("--repository", repository)):
        if not value.strip():
            raise UsageError(f"{option} is empty", expected="a value, because tira requires it")
    folder = out / folder_of_exported_run(entry.name)
    folder.mkdir(parents=True, exist_ok=True)
    write_run(Run(entry.run.values(), name=entry.name), folder / "run.txt")
    import yaml

    with replace_text_file(folder / "ir-metadata.yml") as stream:
        yaml.safe_dump(_ir_metadata(entry, team, collection, repository), stream, sort_keys=False, allow_unicode=True)
    return folder


def check_folders_of_exported_runs(names: Iterable[str]) -> None:
    """Check that every run gets its own folder, so that no run overwrites another run."""
    seen: dict[str, str] = {}
    for name in names:
        if (other := seen.setdefault(folder_of_exported_run(name), name)) != name:
            raise DataError(
                f"The runs {other!r} and {name!r} would both be written to {folder_of_exported_run(name)!r}",
                expected="names that differ in letters or digits",
                remedy="Change the name in one of the cards",
            )


def folder_of_exported_run(name: str) -> str:
    """Return the folder name for a run name: characters except letters, digits, ``_``, ``.`` and ``-`` are replaced."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "run"


def _ir_metadata(entry: Entry, team: str, collection: str, repository: str) -> dict[str, Any]:
    card = entry.card
    first: dict[str, Any] = {"name": card.first_stage, "method": card.first_stage}
    reranker = {"name": card.name, "method": card.method or card.name, "model": card.model, "k": card.depth}
    stages = [first, {**reranker, "reranks": card.first_stage}] if card.first_stage else [reranker]
    described = ", ".join(filter(None, [card.method, card.model, card.first_stage and f"over {card.first_stage}"]))
    return {
        "tag": card.name,
        "actor": {"team": team},
        "platform": {"software": {"libraries": [f"listrank {version('listrank')}"]}},
        "implementation": {"source": {"repository": repository}},
        "data": {"test collection": {"name": collection}},
        "method": {
            "name": card.name,
            "description": card.note or described or card.name,
            "automatic": True,
            "retrieval": [{key: value for key, value in stage.items() if value} for stage in stages],
        },
    }

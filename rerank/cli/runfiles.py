"""Run files as they are named on the command line: each by itself, or all of a folder. Knows no command."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rerank.errors import DataError, MissingResourceError

if TYPE_CHECKING:
    from rerank.types import Run

RunsArgument = Annotated[
    list[Path],
    typer.Argument(metavar="RUN...", help="Run files, or folders of them: TREC, MS MARCO or JSON, also gzipped."),
]
_ENDS = (".trec", ".run", ".txt", ".json", ".tsv")


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Read run files, and all files of folders; a run is called as its file, or by its path where names repeat."""
    from rerank.io.run_files import read_run

    files = run_files(paths)
    stems = [_stem(file) for file in files]
    return [
        read_run(file, name=stem if stems.count(stem) == 1 else str(file))
        for file, stem in zip(files, stems, strict=True)
    ]


def run_files(paths: Sequence[Path]) -> list[Path]:
    """The files that are named, and in the place of folders the files in them.

    A run folder stands for its result, and a folder of run folders, as `rerank bench` makes it, for theirs.

    Raises:
        DataError: A folder without files.
    """
    files: list[Path] = []
    for path in paths:
        inside = sorted(path.iterdir()) if path.is_dir() else []
        results = [result for folder in (path, *inside) if (result := _result(folder)) is not None]
        if results:  # beside run folders, only what is called as a run counts: rerank bench leaves tables there
            named = [file for file in inside if file.is_file() and file.name.removesuffix(".gz").endswith(_ENDS)]
            files += results if (path / "spec.json").is_file() else results + named
            continue
        found = [file for file in inside if file.is_file() and not file.name.startswith(".")]
        if path.is_dir() and not found:
            folders = ", ".join(file.name for file in inside if file.is_dir())
            raise DataError(
                f"The folder {path} holds no files" + (f", only the folders {folders}" if folders else ""),
                expected="run files in it",
                remedy="Name the folders that hold them" if folders else "Check the path",
            )
        files += found or [path]
    return files


def _result(folder: Path) -> Path | None:
    """The result of a run folder; None if it is none.

    Raises:
        MissingResourceError: The run in it has no result yet.
    """
    if not (folder / "spec.json").is_file():
        return None
    if not (folder / "run.trec").is_file():
        raise MissingResourceError(
            f"The run in {str(folder)!r} has no result yet",
            remedy="Finish it with the command that began it, or name the finished runs",
        )
    return folder / "run.trec"


def _stem(file: Path) -> str:
    name = file.name.removesuffix(".gz")
    return next((name.removesuffix(end) for end in _ENDS if name.endswith(end)), name)

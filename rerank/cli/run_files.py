"""Run files on the command line: single files, or all files of a folder."""

from collections.abc import Sequence
from pathlib import Path

from rerank.errors import DataError, MissingResourceError, UsageError
from rerank.io.paths import shortest_distinguishing_suffixes
from rerank.io.run_files import read_run
from rerank.types import Run

_ENDS = (".trec", ".run", ".txt", ".json", ".tsv")


def read_run_arguments(paths: Sequence[Path]) -> list[Run]:
    """Read run files, and all run files in folders. A run is named after its file, or by its path if names repeat."""
    files = expand_folders(paths)
    stems = [_stem(file) for file in files]
    return [
        read_run(file, name=stem if stems.count(stem) == 1 else str(file))
        for file, stem in zip(files, stems, strict=True)
    ]


def read_named_runs(files: Sequence[Path], names: Sequence[str] = ()) -> list[Run]:
    """Read run files under the given names (one per file) or else under the shortest distinct path suffixes."""
    if names and len(names) != len(files):
        raise UsageError(
            f"--name is given {len(names)} times for {len(files)} runs",
            expected="one name per run, in the order of the runs",
            remedy=f"The runs are {', '.join(map(str, files))}" if len(files) <= 20 else "",
        )
    return [read_run(file, name=name) for file, name in zip(files, names or short_run_names(files), strict=True)]


def read_runs_and_pool(
    runs: Sequence[Path], pool_from: Sequence[Path] | None, names: Sequence[str] = ()
) -> tuple[list[Run], list[Run] | None]:
    """Return the runs to evaluate, and the runs whose documents form the pool (None if the evaluated runs form it)."""
    files = expand_folders(runs)
    pooled = expand_folders(pool_from or [])
    evaluated = {path.resolve() for path in files}
    others = [path for path in pooled if path.resolve() not in evaluated]
    read = read_named_runs([*files, *others], [*names, *short_run_names(others)] if names else [])
    by_path = dict(zip((path.resolve() for path in (*files, *others)), read, strict=True))
    return read[: len(files)], [by_path[path.resolve()] for path in pooled] if pool_from else None


def short_run_names(files: Sequence[Path]) -> list[str]:
    """Return the shortest path suffixes that distinguish run files; the run of a run folder has the folder's name."""
    in_folders = [file.name == "run.trec" and (file.parent / "spec.json").is_file() for file in files]
    return shortest_distinguishing_suffixes(
        [file.resolve().parent if inside else file for file, inside in zip(files, in_folders, strict=True)]
    )


def expand_folders(paths: Sequence[Path]) -> list[Path]:
    """Return the files, with each folder replaced by the run files in it or in the run folders in it."""
    files: list[Path] = []
    for path in paths:
        inside = sorted(path.iterdir()) if path.is_dir() else []
        results = [result for folder in (path, *inside) if (result := _result_of(folder)) is not None]
        if results:  # rerank bench writes tables next to run folders, so only files with the suffix of a run are read
            named = [file for file in inside if file.is_file() and file.name.removesuffix(".gz").endswith(_ENDS)]
            files += results if (path / "spec.json").is_file() else results + named
            continue
        visible = [file for file in inside if file.is_file() and not file.name.startswith(".")]
        if path.is_dir() and not visible:
            folders = ", ".join(file.name for file in inside if file.is_dir())
            raise DataError(
                f"The folder {path} contains no files" + (f", only the folders {folders}" if folders else ""),
                expected="run files in the folder",
                remedy="Pass the folders that contain the run files" if folders else "Check the path",
            )
        files += visible or [path]
    return files


def _result_of(folder: Path) -> Path | None:
    if not (folder / "spec.json").is_file():
        return None
    if not (folder / "run.trec").is_file():
        raise MissingResourceError(
            f"The run in {str(folder)!r} has no result yet",
            remedy="Finish the run with --resume, or pass only finished runs",
        )
    return folder / "run.trec"


def _stem(file: Path) -> str:
    name = file.name.removesuffix(".gz")
    return next((name.removesuffix(end) for end in _ENDS if name.endswith(end)), name)

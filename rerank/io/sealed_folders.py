"""Cache folders that are complete or absent: each is built under a temporary name, sealed with a marker, and renamed.

If two processes build the same folder at the same time, the folder that is finished first is kept. The temporary folder
of a killed process is removed when any sealed folder with the same grandparent is opened, such as an index of another
collection. A folder whose files do not match the sizes and hashes in its marker is built again.
"""

import contextlib
import json
import os
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from rerank.errors import MissingResourceError, StorageError
from rerank.io.atomic_folder import discard_folder, draft_folder, move_folder, remove_leftover_folders, sync_files
from rerank.io.file_hashes import file_hash

T = TypeVar("T")

_MARKER = "marker.json"
_PREFIX = ".building-"
#: Exceptions that are raised when a damaged or unreadable folder is read.
_DAMAGE = (OSError, MissingResourceError, EOFError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


@contextlib.contextmanager
def storage_errors(folder: Path) -> Generator[None]:
    """Raise a `StorageError` in place of an `OSError` in the block, which writes files in ``folder``."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"Files cannot be written in {folder}: {error.strerror or error}",
            remedy="Free some space, or set XDG_CACHE_HOME to a folder on another disk",
        ) from error


def open_sealed_folder(
    folder: Path, made_from: Mapping[str, str], build: Callable[[Path], None], load: Callable[[Path], T]
) -> T:
    """Return the result of ``load`` on ``folder``, after building the folder if it is absent or damaged.

    A folder whose marker contains other values than ``made_from`` (format, versions, options: everything that the
    content depends on) is built again. ``build`` writes files, without sub-folders, into an empty folder. If ``load``
    raises OSError, EOFError, ValueError, KeyError or TypeError, the folder counts as damaged.
    """
    with contextlib.suppress(OSError):  # drafts of killed processes, in the folder's parent and the parent's siblings
        for parent in folder.absolute().parent.parent.iterdir():
            remove_leftover_folders(parent, _PREFIX)
    damage = ""
    for _ in range(3):  # a damaged folder may be discarded by this process or by a concurrent one
        if not folder.is_dir():
            _build(folder, made_from, build)
        try:
            _check_seal(folder, made_from)
            return load(folder)
        except _DAMAGE as error:
            damage = f"{type(error).__name__}: {error}"
            warnings.warn(f"{folder} is damaged ({damage}) and is built again", stacklevel=2)
            with storage_errors(folder.parent):
                discard_folder(folder, prefix=_PREFIX)
    raise StorageError(f"{folder} cannot be read after it was built ({damage})", remedy="Check the disk of this folder")


def _build(folder: Path, made_from: Mapping[str, str], build: Callable[[Path], None]) -> None:
    with contextlib.ExitStack() as stack:
        with storage_errors(folder.parent):
            folder.parent.mkdir(parents=True, exist_ok=True)
            draft = stack.enter_context(draft_folder(folder, prefix=_PREFIX, mode=0o700))
        build(draft)
        with storage_errors(folder.parent):
            sizes = sync_files(draft)
            hashes = {name: file_hash(draft / name) for name in sizes}
            with (draft / _MARKER).open("w", encoding="utf-8") as marker:  # after the files are on the disk
                json.dump({"made_from": dict(made_from), "sizes": sizes, "sha256": hashes}, marker, indent=1)
                marker.flush()
                os.fsync(marker.fileno())
            move_folder(draft, folder, keep=lambda _: True)  # a concurrent process wrote the same content


def sealed_folders(parent: Path) -> Iterator[tuple[Path, str]]:
    """Yield each sealed folder in ``parent`` with a description of its damage, or ""; nothing is built or removed."""
    for marker in sorted(parent.glob(f"[!.]*/{_MARKER}")):
        try:
            _check_seal(marker.parent)
            damage = ""
        except _DAMAGE as error:
            damage = f"{type(error).__name__}: {error}"
        yield marker.parent, damage


def damaged_sealed_folders(parent: Path) -> Iterator[tuple[Path, str]]:
    """Yield each damaged folder in ``parent`` with a description of its damage; nothing is built or removed."""
    return (pair for pair in sealed_folders(parent) if pair[1])


def _check_seal(folder: Path, made_from: Mapping[str, str] | None = None) -> None:
    marker = json.loads((folder / _MARKER).read_text("utf-8"))
    if made_from is not None and marker["made_from"] != dict(made_from):
        raise ValueError(f"it was made from {marker['made_from']}")
    for name, expected in marker["sizes"].items():
        if (size := (folder / name).stat().st_size) != expected:
            raise ValueError(f"{name} has {size} bytes instead of {expected}")
        if "sha256" in marker and file_hash(folder / name) != marker["sha256"][name]:  # older folders have no hashes
            raise ValueError(f"the content of {name} has changed since it was written")

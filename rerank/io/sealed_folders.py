"""Folders in the cache that are whole or absent: built aside, sealed with a marker, moved into place in one step.

Two processes may build the same folder at once (the first one's stays), and one may be killed in the middle (what it
leaves is removed a day later). A folder whose marker does not fit is built again. Knows nothing of what is in them.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import TypeVar

from rerank.errors import StorageError

T = TypeVar("T")

_MARKER = "marker.json"
_ASIDE = ".building-"
_DAY = 24 * 3600.0


@contextlib.contextmanager
def storing(folder: Path) -> Generator[None]:
    """Turn a failure to write below ``folder`` into a `StorageError`."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"Cannot write below {folder}: {error.strerror or error}",
            remedy="Free some space, or set XDG_CACHE_HOME to a folder on another disk",
        ) from error


def open_folder(
    folder: Path, made_from: Mapping[str, str], build: Callable[[Path], None], load: Callable[[Path], T]
) -> T:
    """Return what ``load`` makes of ``folder``, building the folder where it is absent or damaged.

    Args:
        folder: Where it is kept.
        made_from: What the content depends on (format, versions, options); a folder with another marker is not read.
        build: Writes the files (no folders) into the empty folder it is given.
        load: Reads them back. An error of these that it raises means damage: OSError, EOFError, ValueError,
            KeyError, TypeError.

    Raises:
        StorageError: The folder cannot be written, or cannot be read right after it was built.
    """
    damage = ""
    for _ in range(3):  # again where a damaged folder was thrown away, by this process or by one beside it
        if not folder.is_dir():
            _build(folder, made_from, build)
        try:
            _check(folder, made_from)
            return load(folder)
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            damage = f"{type(error).__name__}: {error}"
            warnings.warn(f"{folder} is damaged ({damage}) and is made anew", stacklevel=2)
            _discard(folder)
    raise StorageError(f"{folder} cannot be read back after it was built ({damage})", remedy="Check the disk it is on")


def _build(folder: Path, made_from: Mapping[str, str], build: Callable[[Path], None]) -> None:
    with storing(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        _sweep(folder.parent)
        aside = Path(tempfile.mkdtemp(prefix=_ASIDE, dir=folder.parent))
    try:
        build(aside)
        with storing(folder.parent):
            _seal(aside, made_from)
            _publish(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _seal(folder: Path, made_from: Mapping[str, str]) -> None:
    """Write the marker last, with every file's size, after all bytes have reached the disk."""
    sizes = {}
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        sizes[path.name] = path.stat().st_size
    with (folder / _MARKER).open("w", encoding="utf-8") as marker:
        json.dump({"made_from": dict(made_from), "sizes": sizes}, marker, indent=1)
        marker.flush()
        os.fsync(marker.fileno())


def _check(folder: Path, made_from: Mapping[str, str]) -> None:
    marker = json.loads((folder / _MARKER).read_text("utf-8"))
    if marker["made_from"] != dict(made_from):
        raise ValueError(f"it was made from {marker['made_from']}")
    for name, size in marker["sizes"].items():
        if (found := (folder / name).stat().st_size) != size:
            raise ValueError(f"{name} has {found} bytes instead of {size}")


def _publish(aside: Path, folder: Path) -> None:
    try:
        aside.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was first, with the same content
            raise


def _discard(folder: Path) -> None:
    with storing(folder.parent):
        trash = Path(tempfile.mkdtemp(prefix=_ASIDE, dir=folder.parent))
        with contextlib.suppress(FileNotFoundError):  # another process was quicker
            folder.rename(trash / folder.name)
    shutil.rmtree(trash, ignore_errors=True)


def _sweep(parent: Path) -> None:
    """Remove what killed processes left behind."""
    for left in parent.glob(f"{_ASIDE}*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > _DAY:
                shutil.rmtree(left, ignore_errors=True)

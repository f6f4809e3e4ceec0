"""Files below folders that the operator names, copied for tools whose arguments come from a language model."""

import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from rerank.errors import MissingResourceError, RerankError, UsageError, error_repr
from rerank.io.text_files import open_text_bytes
from rerank.serving import errors

MAX_FILE_BYTES = 1 << 28  #: Maximum size of a file, also after decompression.
_CHUNK = 1 << 20
#: Names that a shell or Windows would read as a home folder, a drive or a network share, or that leave a folder.
_REFUSED_NAME = re.compile(r"$|~|[A-Za-z]:|.*[\0\\]|(?:.*/)?\.\.(?:/|$)|.*/$", re.DOTALL)

#: Function that copies a text file, or the given files of a folder, and returns the path of the copy.
CopyFile = Callable[..., Path]


@dataclass(frozen=True, slots=True)
class FileRoots:
    """Folders below which clients may name files and run folders. Nothing else is read, and nothing is written.

    A file is copied from the descriptor with which it was checked, and only the copy is parsed: a link that appears
    afterwards changes nothing, and SQLite creates its files beside the copy.
    """

    folders: Sequence[Path]

    def __post_init__(self) -> None:
        for folder in self.folders:
            if not folder.is_dir():
                raise MissingResourceError(f"{str(folder)!r} is not a folder", expected="a folder of run files")

    @contextmanager
    def session(self) -> Iterator[CopyFile]:
        """Yield a function that copies files; the copies are removed after the block, whose errors do not name them."""
        with TemporaryDirectory(prefix="rerank-mcp-") as temporary:
            numbers = count()

            def copy(name: str, *files: str) -> Path:
                folder = Path(temporary, str(next(numbers)))
                folder.mkdir()
                if not files:
                    path = folder / Path(name).name
                    self._copy(name, path)
                    _check_decompressed_size(name, path)
                    return path
                for file in files:
                    with suppress(MissingResourceError):
                        self._copy(f"{name}/{file}", folder / file)
                        if not file.startswith("calls."):  # the database of calls, which is not compressed
                            _check_decompressed_size(f"{name}/{file}", folder / file)
                return folder

            try:
                yield copy
            except RerankError as error:
                status = 422 if isinstance(error, MissingResourceError) else errors.from_exception(error).status
                message = re.sub(rf"{re.escape(temporary)}/[0-9]+/?", "", str(error))
                raise errors.ApiError(status, " ".join(message.split())) from None

    def _copy(self, name: str, path: Path) -> None:
        descriptor = self._open(name)
        if descriptor is None:
            raise MissingResourceError(
                f"{error_repr(name, 200)} is not a file in the folders of this server",
                expected=f"a file in {', '.join(map(str, self.folders))}",
            )
        try:
            state = os.fstat(descriptor)
            if not stat.S_ISREG(state.st_mode):
                raise UsageError(f"{error_repr(name, 200)} is not a regular file", expected="no folder, pipe or device")
            _check_size(name, state.st_size)
            with open(descriptor, "rb", closefd=False) as source, path.open("wb") as target:
                shutil.copyfileobj(source, target, _CHUNK)
        finally:
            os.close(descriptor)

    def _open(self, name: str) -> int | None:
        """Open a file below one of the folders; None if there is no such path, or it leads out of the folders."""
        for folder in () if _REFUSED_NAME.match(name) else self.folders:
            with suppress(OSError, ValueError, RuntimeError):  # too long, missing, without permission, a loop of links
                root = folder.resolve(strict=True)
                if parts := (root / name).resolve(strict=True).relative_to(root).parts:
                    return _open_below(root, parts)
        return None


def _check_size(name: str, size: int) -> None:
    if size > MAX_FILE_BYTES:
        found = f"{error_repr(name, 200)} is too large"
        raise UsageError(found, expected=f"at most {MAX_FILE_BYTES >> 20} MB, also decompressed")


def _check_decompressed_size(name: str, path: Path) -> None:
    size = 0
    with open_text_bytes(path) as stream:
        while chunk := stream.read(_CHUNK):
            size += len(chunk)
            _check_size(name, size)


def _open_below(root: Path, parts: Sequence[str]) -> int:
    """Open a file without following links, which `Path.resolve` has already followed, in any of its folders.

    A link that replaces a folder or the file meanwhile is therefore an `OSError`; a pipe is opened without waiting.
    """
    if os.open not in os.supports_dir_fd:
        return os.open(root.joinpath(*parts), os.O_RDONLY | getattr(os, "O_BINARY", 0))
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    opened = os.open(root, flags | os.O_DIRECTORY)
    for index, part in enumerate(parts, 1):
        folder = opened
        try:
            opened = os.open(part, flags | (os.O_DIRECTORY if index < len(parts) else 0), dir_fd=folder)
        finally:
            os.close(folder)
    return opened

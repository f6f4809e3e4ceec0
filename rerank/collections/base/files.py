"""What every collection that is read from files has in common: finding them, hashing them, its few properties.

Knows the file system and the protocol of `rerank.collections.base`, not what stands in the files.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rerank.errors import MissingResourceError, UsageError
from rerank.io.run_files import read_qrels
from rerank.types import Qrels


def existing(path: str | Path, kind: str) -> Path:
    """The path itself (``~`` expanded), if there is something.

    Raises:
        MissingResourceError: There is nothing; the message names the kind that was looked for.
    """
    found = Path(path).expanduser()
    try:
        there = found.exists()
    except (OSError, ValueError):  # a name too long, or with a NUL
        there = False
    if not there:
        raise MissingResourceError(f"There is nothing at {path}", expected=kind, remedy="Check the path")
    return found


def existing_folder(path: str | Path, kind: str) -> Path:
    """The path itself, if it is a folder.

    Raises:
        MissingResourceError: It is none.
    """
    found = existing(path, kind)
    if not found.is_dir():
        raise MissingResourceError(f"{path} is a file", expected=f"a folder: {kind}")
    return found


def locate(where: Path, names: Iterable[str]) -> Path | None:
    """The first of these files that a folder has, plain or gzipped; None if it has none."""
    for name in names:
        for candidate in (where / name, where / f"{name}.gz"):
            if candidate.is_file():
                return candidate
    return None


def require(where: Path, names: Iterable[str], kind: str) -> Path:
    """As `locate`, for a file that must be there.

    Raises:
        MissingResourceError: None is; the message lists what was looked for.
    """
    looked_for = list(names)
    found = locate(where, looked_for)
    if found is None:
        raise MissingResourceError(
            f"{where} is no {kind}", expected=f"{' or '.join(looked_for)} in it, also with .gz", remedy="Check the path"
        )
    return found


def stem(path: Path) -> str:
    """The file's or folder's own name without its ending, and without ``.gz``."""
    name = path.expanduser().resolve().name
    bare = name.removesuffix(".gz")
    return bare if path.expanduser().is_dir() else bare.rpartition(".")[0] or bare


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """The files of a collection, each kind in reading order; a kind that does not exist is empty."""

    docs: tuple[Path, ...] = ()
    queries: tuple[Path, ...] = ()
    qrels: tuple[Path, ...] = ()

    def digest(self, options: Mapping[str, str]) -> str:
        """Hex SHA-256 over the files' bytes and the options; names and places of the files play no part.

        Raises:
            MissingResourceError: A file cannot be read.
        """
        whole = hashlib.sha256(repr(sorted(options.items())).encode())
        for kind, paths in (("docs", self.docs), ("queries", self.queries), ("qrels", self.qrels)):
            for path in paths:
                whole.update(kind.encode() + _sha256(path))
        return whole.hexdigest()


def _sha256(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").digest()
    except OSError as error:
        raise MissingResourceError(f"{path} cannot be read: {error.strerror}") from error


class FileCollection:
    """The part of a collection that does not depend on its format; a provider adds ``docs`` and ``queries``.

    Attributes:
        name: For run tags and tables; white space becomes ``_``.
        language: ISO 639 code of the documents.
        relevant: The lowest grade that binary measures count as relevant.
        drop_self: Whether a document with the query's id is dropped from its list.
        files: What is read.
    """

    def __init__(self, name: str, files: Files, *, language: str, relevant: int) -> None:
        """Check the options that all providers share.

        Raises:
            UsageError: No language code, or a grade below 1.
        """
        self.name = re.sub(r"\s+", "_", name) or "collection"
        self.files = files
        self.language = checked_language(language)
        self.relevant = checked_relevant(relevant)
        self.drop_self = False

    @property
    def selecting(self) -> Mapping[str, str]:
        """The options that decide what is read from the files."""
        return {}

    @cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 of the files' bytes and of the options that select among them; read once, when asked for."""
        return self.files.digest({"format": type(self).__name__, **self.selecting})

    def qrels(self) -> Qrels:
        """The judgments, read once; empty if there are none."""
        return self._judged

    @cached_property
    def _judged(self) -> Qrels:
        return read_qrels(self.files.qrels[0]) if self.files.qrels else Qrels({}, name=self.name)


def checked_language(code: str) -> str:
    """The code itself.

    Raises:
        UsageError: It has not the form of one.
    """
    if not re.fullmatch(r"[a-z]{2,3}", code):
        raise UsageError(
            f"Language {code!r}", expected="an ISO 639 code of two or three small letters, such as en or zh"
        )
    return code


def checked_relevant(grade: int) -> int:
    """The grade itself.

    Raises:
        UsageError: It is below 1, where documents that are not relevant would count.
    """
    if grade < 1:
        raise UsageError(f"relevant={grade}", expected="a grade of 1 or more")
    return grade

"""The base class of collections that are stored in files, and functions that find and hash the files."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from rerank.errors import MissingResourceError, UsageError
from rerank.io.run_files import excluded_documents_of_qrels, read_qrels
from rerank.types import Qrels


def require_collection_path(path: str | Path, kind: str) -> Path:
    """Return ``path`` with ``~`` expanded, after checking that the path exists.

    Raises:
        MissingResourceError: The path does not exist; the message contains ``kind``, the description of what was
            expected.
    """
    expanded = Path(path).expanduser()
    try:
        exists = expanded.exists()
    except (OSError, ValueError):  # the name is too long, or contains a NUL
        exists = False
    if not exists:
        raise MissingResourceError(f"The path {path} does not exist", expected=kind, remedy="Check the path")
    return expanded


def require_collection_folder(path: str | Path, kind: str) -> Path:
    """Return ``path`` with ``~`` expanded, after checking that the path is a folder.

    Raises:
        MissingResourceError: The path does not exist, or is not a folder.
    """
    folder = require_collection_path(path, kind)
    if not folder.is_dir():
        raise MissingResourceError(f"{path} is a file", expected=f"a folder: {kind}")
    return folder


def find_collection_file(folder: Path, names: Iterable[str]) -> Path | None:
    """Return the first of the files ``names`` that exists in a folder, plain or gzipped; None if there is none."""
    for name in names:
        for candidate in (folder / name, folder / f"{name}.gz"):
            if candidate.is_file():
                return candidate
    return None


def require_collection_file(folder: Path, names: Iterable[str], kind: str) -> Path:
    """Return the first of the files ``names`` that exists in a folder, plain or gzipped.

    Raises:
        MissingResourceError: The folder contains none of these files; the message lists their names.
    """
    expected = list(names)
    path = find_collection_file(folder, expected)
    if path is None:
        raise MissingResourceError(
            f"{folder} is not a {kind}",
            expected=f"a folder with {' or '.join(expected)}, plain or with .gz",
            remedy="Check the path",
        )
    return path


def collection_name_of_path(path: Path) -> str:
    """Return the name of a file or folder without extension and without ``.gz``."""
    name = path.expanduser().resolve().name
    bare = name.removesuffix(".gz")
    return bare if path.expanduser().is_dir() else bare.rpartition(".")[0] or bare


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionFiles:
    """The files of the documents, queries and judgments of a collection, in the order in which they are read."""

    docs: tuple[Path, ...] = ()
    queries: tuple[Path, ...] = ()
    qrels: tuple[Path, ...] = ()

    def digest(self, options: Mapping[str, str]) -> str:
        """Return the hex SHA-256 of the files' bytes and the options; paths are not included.

        Raises:
            MissingResourceError: A file cannot be read.
        """
        whole = hashlib.sha256(repr(sorted(options.items())).encode())
        for kind, paths in (("docs", self.docs), ("queries", self.queries), ("qrels", self.qrels)):
            for path in paths:
                whole.update(kind.encode() + _collection_file_sha256(path))
        return whole.hexdigest()


def _collection_file_sha256(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").digest()
    except OSError as error:
        raise MissingResourceError(f"{path} cannot be read: {error.strerror}") from error


class FileCollection:
    """Base class for collections in files; a subclass adds ``docs`` and ``queries``, which depend on the file format.

    Attributes:
        format_name: Name of the format. It must never change, because fingerprints, and so saved indexes, depend on it.
        name: Name in run tags and tables; whitespace is replaced by ``_``.
        language: ISO 639 code of the documents' language.
        relevant: Lowest grade that binary measures count as relevant.
        drop_self: Whether a document with the query's own id is dropped from the query's ranking.
        files: The files of the collection.
    """

    format_name: ClassVar[str] = ""

    def __init__(self, name: str, files: CollectionFiles, *, language: str, relevant: int) -> None:
        """Check and store the options that all file collections have.

        Raises:
            UsageError: The language code is malformed, or the grade is below 1.
        """
        self.name = re.sub(r"\s+", "_", name) or "collection"
        self.files = files
        self.language = check_collection_language_code(language)
        self.relevant = check_collection_relevant_grade(relevant)
        self.drop_self = False

    @property
    def selecting(self) -> Mapping[str, str]:
        """Mapping from name to value of the options that determine which content is read from the files."""
        return {}

    @cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 of the files' bytes and the options that select from them; computed on first access."""
        return self.files.digest({"format": self.format_name or type(self).__name__, **self.selecting})

    def qrels(self) -> Qrels:
        """Return the judgments, which are read on the first call; empty if there are none."""
        return self._judged

    def excluded(self) -> Mapping[str, frozenset[str]]:
        """Return, by query id, the documents that must not be ranked, which have the grade `rerank.types.EXCLUDED`."""
        return excluded_documents_of_qrels(self.qrels())

    @cached_property
    def _judged(self) -> Qrels:
        return read_qrels(self.files.qrels[0]) if self.files.qrels else Qrels({}, name=self.name)


def check_collection_language_code(code: str) -> str:
    """Return a language code after checking its form.

    Raises:
        UsageError: The code is malformed.
    """
    if not re.fullmatch(r"[a-z]{2,3}", code):
        raise UsageError(
            f"The language is {code!r}",
            expected="an ISO 639 code of two or three lower-case letters, such as en or zh",
        )
    return code


def check_collection_relevant_grade(grade: int) -> int:
    """Return the lowest relevant grade after checking it.

    Raises:
        UsageError: The grade is below 1, so documents judged not relevant would count as relevant.
    """
    if grade < 1:
        raise UsageError(f"The collection has the option relevant={grade}", expected="a grade of 1 or more")
    return grade

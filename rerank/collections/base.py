"""The protocol of collections and of their optional features, and the base class of those that are stored in files."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

from rerank.errors import DataError, MissingResourceError, ensure
from rerank.io.json_records import read_json_lines_query_file
from rerank.io.run_files import excluded_documents_of_qrels, read_qrels
from rerank.types import Document, Qrels, Query, Ranking, Run


class Corpus(Protocol):
    """The documents of a collection, as needed by first stages."""

    @property
    def name(self) -> str:
        """Short name for run tags, tables and messages, e.g. ``scifact`` or ``pydoc``."""

    @property
    def language(self) -> str:
        """ISO 639-1 code of the documents' language, for stemmers and stop words."""

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 of the content (file bytes and options that select from them), used in the path of indexes."""

    def docs(self) -> Iterator[Document]:
        """Yield the documents in a fixed order; each call starts from the first document."""


@runtime_checkable
class SupportsCandidates(Protocol):
    """A collection that may contain candidate lists, such as first-stage rankings published with a data set."""

    def candidates(self) -> Run:
        """Return a run with one ranking per query, with document texts; empty if there are no candidate lists."""


@runtime_checkable
class SupportsCandidateStream(Protocol):
    """A collection that can stream its own candidate lists without holding all of them in memory."""

    def candidate_lists(self) -> Iterator[Ranking]:
        """Yield the rankings of `SupportsCandidates.candidates`, one per query; each call starts with the first."""


@runtime_checkable
class SupportsDropSelf(Protocol):
    """A collection with an option for BEIR's rule, by which a document with the query's own id is dropped."""

    @property
    def drop_self(self) -> bool:
        """Whether a retrieved document with the query's own id must be dropped."""


@runtime_checkable
class Collection(Corpus, SupportsDropSelf, Protocol):
    """A corpus with queries and relevance judgments; a part that does not exist is empty."""

    @property
    def relevant(self) -> int:
        """Lowest grade that binary measures count as relevant (usually 1, but 2 for TREC Deep Learning)."""

    def queries(self) -> list[Query]:
        """Return all queries in the order of the file; empty if there are none."""

    def qrels(self) -> Qrels:
        """Return the judgments; empty if there are none."""


@runtime_checkable
class SupportsExclusion(Protocol):
    """A collection that lists documents that must not be ranked for a query, as in the benchmark BRIGHT."""

    def excluded(self) -> Mapping[str, frozenset[str]]:
        """Return, by query id, the ids of documents that must not be ranked; queries without any are omitted."""


@runtime_checkable
class SupportsQueryFields(Protocol):
    """A collection whose queries have fields besides their text, such as categories or languages."""

    def query_fields(self) -> Mapping[str, Mapping[str, str]]:
        """Return the values of the fields as a mapping field -> query id -> value; missing values are omitted."""


@runtime_checkable
class SupportsLookup(Protocol):
    """A collection with random access to documents by id."""

    def lookup(self, ids: Iterable[str]) -> dict[str, Document]:
        """Return the documents with these ids; unknown ids are omitted."""


@runtime_checkable
class SupportsSource(Protocol):
    """A corpus whose documents have further keys, such as URLs, which indexes do not store."""

    def with_source(self, doc: Document) -> Document:
        """Return a document with the further keys that it has in this corpus, if it is one of its documents."""


def fetch_documents(corpus: Corpus, ids: Iterable[str]) -> dict[str, Document]:
    """Return the documents with these ids, by random access if supported, otherwise in one pass over the corpus."""
    requested = set(ids)
    documents = find_documents(corpus, requested)
    if missing := sorted(requested - documents.keys()):
        raise DataError(
            f"{len(missing)} of {len(requested)} documents are not in the collection {corpus.name!r}, "
            f"including {', '.join(map(repr, missing[:3]))}",
            remedy="Check that the run belongs to this collection",
        )
    return documents


def find_documents(corpus: Corpus, ids: set[str]) -> dict[str, Document]:
    """Return those of the documents that the corpus contains, as `fetch_documents` finds them."""
    if isinstance(corpus, SupportsLookup):
        return corpus.lookup(ids)
    documents: dict[str, Document] = {}
    for doc in corpus.docs() if ids else ():
        if doc.id in ids:
            documents[doc.id] = doc
        if len(documents) == len(ids):
            break
    return documents


def require_path(path: str | Path, kind: str, *, folder: bool = False) -> Path:
    """Return ``path`` with ``~`` expanded, after checking that it exists and, with ``folder``, that it is a folder."""
    expanded = Path(path).expanduser()
    try:
        exists = expanded.exists()
    except (OSError, ValueError):  # the name is too long, or contains a NUL
        exists = False
    if not exists:
        raise MissingResourceError(f"The path {path} does not exist", expected=kind, remedy="Check the path")
    if folder and not expanded.is_dir():
        raise MissingResourceError(f"{path} is a file", expected=f"a folder: {kind}")
    return expanded


def optional_path(path: str, kind: str = "a file") -> tuple[Path, ...]:
    """Return a tuple with the path of a file after checking that it exists; empty if no path is given."""
    return (require_path(path, kind),) if path else ()


def find_file(folder: Path, names: Iterable[str]) -> Path | None:
    """Return the first of the files ``names`` that exists in a folder, plain or gzipped; None if there is none."""
    candidates = (candidate for name in names for candidate in (folder / name, folder / f"{name}.gz"))
    return next(filter(Path.is_file, candidates), None)


def require_file(folder: Path, names: Sequence[str], kind: str) -> Path:
    """Return the first of the files ``names`` that exists in a folder, plain or gzipped."""
    if path := find_file(folder, names):
        return path
    raise MissingResourceError(
        f"{folder} is not a {kind}",
        expected=f"a folder with {' or '.join(names)}, plain or with .gz",
        remedy="Check the path",
    )


def name_of_path(path: Path) -> str:
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
        """Return the hex SHA-256 of the files' bytes and the options; paths are not included."""
        whole = hashlib.sha256(repr(sorted(options.items())).encode())
        for kind, paths in (("docs", self.docs), ("queries", self.queries), ("qrels", self.qrels)):
            for path in paths:
                try:
                    with path.open("rb") as stream:
                        whole.update(kind.encode() + hashlib.file_digest(stream, "sha256").digest())
                except OSError as error:
                    raise MissingResourceError(f"{path} cannot be read: {error.strerror}") from error
        return whole.hexdigest()


class FileCollection:
    """Base class for collections in files; a subclass adds ``docs``, and ``queries`` unless they are JSON lines.

    In ``name``, whitespace is replaced by ``_``.
    """

    #: Name of the format. It must never change, because fingerprints, and so saved indexes, depend on it.
    format_name: ClassVar[str] = ""
    #: Whether a document with the query's own id is dropped from the query's ranking.
    drop_self = False

    def __init__(self, name: str, files: CollectionFiles, *, language: str = "en", relevant: int = 1) -> None:
        self.name = re.sub(r"\s+", "_", name) or "collection"
        self.files = files
        self.language = check_language_code(language)
        self.relevant = check_relevant_grade(relevant)

    @property
    def selecting(self) -> Mapping[str, str]:
        return {}

    @cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 of the files' bytes and the options that select from them; computed on first access."""
        return self.files.digest({"format": self.format_name or type(self).__name__, **self.selecting})

    def queries(self) -> list[Query]:
        return read_json_lines_query_file(self.files.queries[0]) if self.files.queries else []

    def qrels(self) -> Qrels:
        return self._judged

    def excluded(self) -> Mapping[str, frozenset[str]]:
        return excluded_documents_of_qrels(self.qrels())

    @cached_property
    def _judged(self) -> Qrels:
        return read_qrels(self.files.qrels[0]) if self.files.qrels else Qrels({}, name=self.name)


def check_language_code(code: str) -> str:
    """Return a language code after checking its form."""
    ensure(
        re.fullmatch(r"[a-z]{2,3}", code),
        f"The language is {code!r}",
        expected="an ISO 639 code of two or three lower-case letters, such as en or zh",
    )
    return code


def check_relevant_grade(grade: int) -> int:
    """Return the lowest relevant grade after checking it; below 1, documents judged not relevant would be relevant."""
    ensure(grade >= 1, f"The collection has the option relevant={grade}", expected="a grade of 1 or more")
    return grade

"""Protocols of first stages: options that, applied to a corpus, give a retriever."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from rerank.collections.base.corpus import Corpus
from rerank.types import Query, Run

__all__ = ["Corpus", "FirstStage", "HasPrerequisites", "IndexedRetriever", "Retriever"]


class Retriever(Protocol):
    """A retriever searches one corpus."""

    def search(self, queries: Sequence[Query], k: int) -> Run:
        """Return up to ``k`` documents (with their text) per query, in the order of the queries.

        A query may get no document. Stages that search give it an empty ranking; stages that look rankings up (``run``,
        ``candidates``) omit the queries that they have no ranking for, and evaluation counts those.

        Raises:
            UsageError: ``k`` is below 1.
        """


class FirstStage(Protocol):
    """The options of a way of searching; a frozen dataclass."""

    def over(self, corpus: Corpus) -> Retriever:
        """Return a retriever over ``corpus``; this builds or opens its index."""


@runtime_checkable
class IndexedRetriever(Protocol):
    """A retriever with index files of its own."""

    @property
    def folders(self) -> tuple[Path, ...]:
        """Folders of the index, without the folder of document texts that all stages share."""


@runtime_checkable
class HasPrerequisites(Protocol):
    """A first stage that needs more than the base installation."""

    def check_prerequisites(self) -> None:
        """Check quickly that the required packages and programs are installed, before any other stage runs.

        Raises:
            MissingPrerequisiteError: An extra or a program is not installed.
        """

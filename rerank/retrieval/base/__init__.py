"""What a first stage is: options that, put over a collection, give something that searches. Knows no reranker."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from rerank.collections.base.corpus import Corpus
from rerank.types import Query, Run

__all__ = ["Corpus", "FirstStage", "KeepsIndex", "NeedsParts", "Retriever"]


class Retriever(Protocol):
    """Something that searches one collection."""

    def search(self, queries: Sequence[Query], k: int) -> Run:
        """Return up to ``k`` documents (with their text) for each query, in query order.

        A query may get no document. Stages that search give it an empty list; stages that look lists up
        (``run``, ``candidates``) leave out the queries that they have no list for, and evaluation counts those.

        Raises:
            UsageError: ``k`` is below 1.
        """


class FirstStage(Protocol):
    """Options of a way of searching; a frozen dataclass."""

    def over(self, corpus: Corpus) -> Retriever:
        """Make it ready to search ``corpus`` (builds or opens an index)."""


@runtime_checkable
class KeepsIndex(Protocol):
    """A retriever that searches files of its own."""

    @property
    def folders(self) -> tuple[Path, ...]:
        """Where they are; the folder of the documents' texts, which all stages share, is left out."""


@runtime_checkable
class NeedsParts(Protocol):
    """A first stage that runs on more than the base install."""

    def check_parts(self) -> None:
        """See that what it runs on is there, quickly, so that a pipeline can ask before any other stage works.

        Raises:
            MissingPrerequisiteError: An extra or a program is not installed.
        """

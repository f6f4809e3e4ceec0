"""Protocols of first stages. A first stage has options and a method that returns a retriever for a corpus."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from rerank.collections.base.corpus import Corpus
from rerank.tasks.worker_map import WorkerMap
from rerank.types import Query, Run

__all__ = [
    "Corpus",
    "FirstStage",
    "HasNestedStages",
    "HasPrerequisites",
    "IndexedRetriever",
    "Retriever",
    "SupportsWorkers",
]


class Retriever(Protocol):
    """Protocol of retrievers, each of which searches one corpus."""

    def search(self, queries: Sequence[Query], k: int) -> Run:
        """Return a run with up to ``k`` documents per query, including their texts, in the order of the queries.

        Stages that search return an empty ranking for a query without results. Stages that only look up rankings
        (``run``, ``candidates``) omit queries without a ranking, and evaluation counts the missing queries.

        Raises:
            UsageError: ``k`` is below 1.
        """


class FirstStage(Protocol):
    """Protocol of first stages, which are frozen dataclasses whose fields are their options."""

    def over(self, corpus: Corpus) -> Retriever:
        """Return a retriever over ``corpus``, after opening the index or building a missing index."""


@runtime_checkable
class IndexedRetriever(Protocol):
    """A retriever that has its own index files."""

    @property
    def folders(self) -> tuple[Path, ...]:
        """Folders of the index, except the folder of document texts, which all first stages share."""


@runtime_checkable
class SupportsWorkers(Protocol):
    """A first stage for which the workers of an engine can encode the texts."""

    def over_with_workers(self, corpus: Corpus, workers: WorkerMap) -> Retriever:
        """Return the same retriever as ``over``, but let the workers encode the texts."""


@runtime_checkable
class HasPrerequisites(Protocol):
    """A first stage that needs packages or programs beyond the base installation."""

    def check_prerequisites(self) -> None:
        """Check quickly that the required packages and programs are installed, before any other stage runs.

        Raises:
            MissingPrerequisiteError: An extra or a program is not installed.
        """


@runtime_checkable
class HasNestedStages(Protocol):
    """A first stage that uses the rankings of other first stages."""

    @property
    def nested_stages(self) -> tuple[str, ...]:
        """The selectors of the first stages whose rankings are used."""

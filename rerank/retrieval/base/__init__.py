"""Protocols of first stages, which retrieve the candidates for reranking."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from rerank.collections.base import Corpus
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

        Retrievers that search return an empty ranking for a query without results. Retrievers that only look up
        existing rankings (``run``, ``candidates``) omit queries without a ranking; evaluation reports their number.
        """


class FirstStage(Protocol):
    """Protocol of first stages, which are frozen dataclasses whose fields are their options."""

    def over(self, corpus: Corpus) -> Retriever:
        """Return a retriever over ``corpus``; its index is opened, or built if it is missing."""


@runtime_checkable
class IndexedRetriever(Protocol):
    """A retriever that has its own index files."""

    @property
    def folders(self) -> tuple[Path, ...]:
        """Folders of the index, except the folder of document texts, which all first stages share."""


@runtime_checkable
class SupportsWorkers(Protocol):
    """A first stage whose texts can be encoded by the worker processes of an engine (``--engine``)."""

    def over_with_workers(self, corpus: Corpus, workers: WorkerMap) -> Retriever:
        """Return the same retriever as ``over``, but let the workers encode the texts."""


@runtime_checkable
class HasPrerequisites(Protocol):
    """A first stage that needs packages or programs beyond the base installation."""

    def check_prerequisites(self) -> None:
        """Check quickly that required packages and programs are installed; called before any stage does its work."""


@runtime_checkable
class HasNestedStages(Protocol):
    """A first stage that uses the rankings of other first stages, such as ``hybrid``."""

    @property
    def nested_stages(self) -> tuple[str, ...]:
        """The selectors of the first stages whose rankings are used."""

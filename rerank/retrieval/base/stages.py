"""Stages and how they are joined: ``retriever % 100 >> reranker % 10``.

A `Source` turns queries into a run, a `Transformer` turns a run into a run. ``>>`` joins, ``%`` keeps the first k.
This module knows runs, not how anything searches or reranks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rerank.errors import UsageError
from rerank.types import Query, Run

#: How many documents a first stage returns where no ``% k`` says otherwise.
DEPTH = 100


def checked_depth(k: int) -> int:
    """Return ``k``.

    Raises:
        UsageError: It is below 1.
    """
    if k < 1:
        raise UsageError(f"{k} documents for each query", expected="at least 1")
    return k


class Transformer(ABC):
    """Something that reorders, cuts or fills a run: a reranker, or several one after the other."""

    @abstractmethod
    def transform(self, run: Run) -> Run:
        """Return the new run; the given one stays as it is."""

    def __mod__(self, k: int) -> Transformer:
        """Keep the first ``k`` documents of each list."""
        return _Then(self, _Top(checked_depth(k)))

    def __rshift__(self, after: Transformer) -> Transformer:
        """Hand the result on to ``after``."""
        return _Then(self, after) if isinstance(after, Transformer) else NotImplemented


class Source(ABC):
    """Something that answers queries: a first stage, alone or with rerankers behind it."""

    @abstractmethod
    def __call__(self, queries: Sequence[Query]) -> Run:
        """Return the run for these queries."""

    def __mod__(self, k: int) -> Source:
        """Keep the first ``k`` documents of each list."""
        return _Piped(self, _Top(checked_depth(k)))

    def __rshift__(self, after: Transformer) -> Source:
        """Hand the run on to ``after``."""
        return _Piped(self, after) if isinstance(after, Transformer) else NotImplemented


class Searches(Protocol):
    """What can be searched at any depth: every retriever."""

    def search(self, queries: Sequence[Query], k: int) -> Run:
        """Return up to ``k`` documents for each query."""


@dataclass(frozen=True, slots=True)
class Search(Source):
    """A retriever as a source; ``% k`` asks it for ``k`` documents instead of cutting a longer list.

    Attributes:
        retriever: What is searched.
        k: How many documents each query gets.
    """

    retriever: Searches
    k: int = DEPTH

    def search(self, queries: Sequence[Query], k: int) -> Run:
        """Return up to ``k`` documents for each query, so that a source is a retriever too."""
        return self.retriever.search(queries, checked_depth(k))

    def __call__(self, queries: Sequence[Query]) -> Run:
        """Search at this depth."""
        return self.search(queries, self.k)

    def __mod__(self, k: int) -> Search:
        """The same search, ``k`` documents deep."""
        return Search(self.retriever, checked_depth(k))


@dataclass(frozen=True, slots=True)
class _Top(Transformer):
    k: int

    def transform(self, run: Run) -> Run:
        return run.top(self.k)


@dataclass(frozen=True, slots=True)
class _Then(Transformer):
    first: Transformer
    second: Transformer

    def transform(self, run: Run) -> Run:
        return self.second.transform(self.first.transform(run))


@dataclass(frozen=True, slots=True)
class _Piped(Source):
    source: Source
    after: Transformer

    def __call__(self, queries: Sequence[Query]) -> Run:
        return self.after.transform(self.source(queries))

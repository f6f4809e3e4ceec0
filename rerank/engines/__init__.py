"""Engines, which compute the rankings of a run in this process (``local``) or in others (``ray``)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from rerank.assemble import RankerSetup
from rerank.errors import UsageError
from rerank.judges import PromptJudge
from rerank.pipeline.results import RankedList
from rerank.pipeline.stream import Flow, drive_ranking_stream
from rerank.registry import Registry
from rerank.selector import Selector, build_from_selector
from rerank.store import LoggingBackend
from rerank.tasks import Backend
from rerank.tasks.backends import traits
from rerank.tasks.worker_map import WorkerMap
from rerank.types import Qrels, Ranking

ENGINES = Registry("engines", "engine", shared={"engines": "local"})


def open_engine(selector: str, **options: Any) -> Engine:
    """Build the engine of a selector such as ``local`` or ``ray:HOST:PORT``; options that are None are not given."""
    given = {name: value for name, value in options.items() if value is not None}
    parsed = Selector.parse(selector)
    if given and parsed.name == "local":
        raise UsageError(
            f"--{next(iter(given)).replace('_', '-')} cannot be used with --engine local",
            expected="an engine with several workers",
            remedy="Add --engine ray, or omit the option",
        )
    engine: Engine = build_from_selector(ENGINES, parsed, **given)
    return engine


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingJob:
    """The work of an engine: everything that it needs to rank the lists of a run, except the lists and the call log."""

    setup: RankerSetup  # the ranker's settings (strategy, judge, passages), from which a worker can open its own judge
    judge: PromptJudge  # the judge that these settings describe, opened in this process
    top_k: int | None  # number of documents to rerank; None for all
    flow: Flow  # limits on how many lists are processed concurrently, and how many requests form a batch
    queries: int  # number of queries, each with one list
    qrels: Qrels | None = None  # relevance judgments that ``fake:perfect`` reads; None if there are none


class Engine(Protocol):
    """An engine computes the rankings of a run; the choice of the engine does not affect rankings and scores.

    `start` is called once, before anything is written, followed by `rank` or the function that `worker_map` returns,
    and finally `close`.
    """

    def start(self, backend: Backend | None) -> None:
        """Prepare everything that `rank` needs; the backend is None if this process has not opened the model."""

    def rank(self, lists: Iterable[Ranking], job: RankingJob, calls: LoggingBackend) -> Iterator[RankedList]:
        """Rerank lists, which are read only shortly before, and yield the results in the order of the lists.

        ``calls`` is the model, opened in this process, with the call log, cache and token cap of the run. If a list
        cannot be ranked, or the model cannot answer at all, committed calls are kept. The result is a generator, which
        is closed if the run ends early: its ``finally`` blocks run while ``calls`` can still be used. Any other
        iterator is closed if it has a method ``close``.
        """

    def worker_map(self) -> WorkerMap | None:
        """Return a function that applies a given function to items in workers; None if there are no workers."""

    def close(self) -> None:
        """Release the resources that `start` acquired; the engine can be started again."""

    def record(self) -> Mapping[str, Any]:
        """Return the properties of the engine to record in spec.json after the run; empty for a run in this process."""


@dataclass(frozen=True, slots=True)
class Local:
    """An engine that computes all rankings in this process; it has no options."""

    def start(self, backend: Backend | None) -> None:
        traits(backend).warm_up()

    def rank(self, lists: Iterable[Ranking], job: RankingJob, calls: LoggingBackend) -> Iterator[RankedList]:
        job.flow.apply_to(calls)
        return drive_ranking_stream(lists, job.setup.ranker(job.judge), calls, job.flow)

    def worker_map(self) -> None:
        """Return None, since there are no workers."""

    def close(self) -> None:
        """Do nothing, since the model is kept for later runs."""

    def record(self) -> Mapping[str, Any]:
        return {}

"""The protocol of engines, and the work that they get."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from rerank.assemble import RankerSetup
from rerank.judges import PromptJudge
from rerank.pipeline.results import RankedList
from rerank.pipeline.stream import Flow
from rerank.store import LoggingBackend
from rerank.tasks import Backend
from rerank.tasks.worker_map import WorkerMap
from rerank.types import Qrels, Ranking


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingJob:
    """Everything that the rankings of a run need, except the lists and the call log.

    Attributes:
        setup: The ranker.
        judge: The judge of the ranker, as this process has opened it.
        top_k: Number of documents to rerank; None for all.
        flow: The number of lists and requests that are processed together.
        queries: Number of lists.
        qrels: Relevance judgments that ``fake:perfect`` reads; None if there are none.
    """

    setup: RankerSetup
    judge: PromptJudge
    top_k: int | None
    flow: Flow
    queries: int
    qrels: Qrels | None = None


class Engine(Protocol):
    """Where the rankings of a run are computed. An engine has no effect on rankings and scores.

    `start` is called once, before anything is written, then `rank` or what `worker_map` returns, and last `close`.
    """

    def start(self, backend: Backend | None) -> None:
        """Make ready whatever `rank` needs, given the model as this process has opened it, if it has.

        Raises:
            RerankError: A model cannot be loaded, or a cluster cannot be reached or is too small.
        """

    def rank(self, lists: Iterable[Ranking], job: RankingJob, calls: LoggingBackend) -> Iterator[RankedList]:
        """Rerank lists, and yield the results in the order of the lists.

        Args:
            lists: The first-stage lists; only those that are being processed are read.
            job: What to do with them.
            calls: The model as this process has opened it, with the call log, cache and token cap of the run.

        Raises:
            RerankError: A list cannot be ranked, or the model cannot answer at all; committed calls are kept.
        """

    def worker_map(self) -> WorkerMap | None:
        """Return a function that applies another one to items in workers; None if this process does all the work."""

    def close(self) -> None:
        """Give back what `start` has made ready; the engine can be started again."""

    def record(self) -> Mapping[str, Any]:
        """Return what spec.json records of the engine after the run; empty for a run in this process."""

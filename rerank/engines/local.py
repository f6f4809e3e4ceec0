"""The engine ``local``, which computes all rankings in this process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rerank.engines import RankingJob
from rerank.pipeline.results import RankedList
from rerank.pipeline.stream import drive_ranking_stream
from rerank.store import LoggingBackend
from rerank.tasks import Backend
from rerank.tasks.backends import traits
from rerank.types import Ranking


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

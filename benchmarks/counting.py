"""Drives a method and counts what reached the model; shared by the scripts beside it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rerank.judges import Limits, open_judge
from rerank.methods import open_method
from rerank.pipeline.stream import rank_together
from rerank.prompts import load_prompt
from rerank.store.call_log import CallLog
from rerank.store.logging_backend import LoggingBackend
from rerank.strategies import open_strategy
from rerank.tasks import Backend, Reply, Request
from rerank.types import Ranking


class Watched:
    """A backend that counts how often it is asked, before its log cuts what comes into the model's batches."""

    def __init__(self, logged: LoggingBackend) -> None:
        self._logged = logged
        self.batches = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._logged, name)

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """Pass on, and count."""
        self.batches += 1
        return self._logged.generate(requests)


def counted(method: str, backend: Backend, lists: Iterable[Ranking], limits: Limits | None = None) -> tuple[int, int]:
    """Rerank all lists in lock-step; return the calls that the log holds, and the batches that reached the backend."""
    card = open_method(method)
    with tempfile.TemporaryDirectory() as room, CallLog(Path(room) / "calls.sqlite") as log:
        watched = Watched(LoggingBackend(backend=backend, log=log))
        judge = open_judge(card.judge, watched, load_prompt(card.own_prompt or "listwise"), limits)
        rank_together(lists, open_strategy(card.strategy), judge, watched)
        return len(log), watched.batches

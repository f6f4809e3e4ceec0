"""The pool of workers, with a stand-in for Ray."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from rerank.engines.ray.blocks import FinishBlock, OpenBlock, WorkBlocks
from rerank.engines.ray.pool import WorkerPool


class TalkingPool(WorkerPool):
    """A pool with one worker that finishes a block every few milliseconds, and one that hangs in its first block."""

    def __init__(self, ended: threading.Event) -> None:
        super().__init__(None, SimpleNamespace(iter_batches=lambda **options: iter([ended.wait()])))
        self._numbers = iter(range(10_000))

    def _exchange_messages(self, answers: Mapping[int, Any]) -> dict[int, Any]:
        number = next(self._numbers)
        if not number:
            return {number: OpenBlock(ticket=0, worker="hangs")}
        time.sleep(0.005)
        finished = FinishBlock(block=answers[number - 1].block, results=[number]) if number % 2 == 0 else None
        return {number: finished or OpenBlock(ticket=1, worker="talks")}


@pytest.fixture
def ended() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def test_a_worker_that_hangs_is_restarted_although_others_send_messages(
    monkeypatch: pytest.MonkeyPatch, ended: threading.Event
) -> None:
    killed: list[str] = []

    def kill(worker: str, *, no_restart: bool) -> None:
        killed.append(worker)
        ended.set()

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(kill=kill))
    blocks: WorkBlocks[int, int] = WorkBlocks([range(1000)], size=1, ahead=1000, describe=str)
    assert list(TalkingPool(ended).serve(blocks, 0.1)) == []
    assert killed == ["hangs"]

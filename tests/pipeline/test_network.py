"""Rankings over a network: how many requests are prepared at a time, and in which order."""

from __future__ import annotations

import pytest

from rerank.backends.fake import FakeServer
from rerank.errors import BackendError
from rerank.judges.pointwise import Score
from rerank.pipeline.stream import Ranker, drive_ranking_stream
from rerank.prompts import load_prompt
from rerank.strategies.sliding import Full
from rerank.tasks import Reply, Request
from rerank.types import Document, Query, Ranking

LISTS = [
    Ranking.from_order(
        Query(id=f"q{at:02}", text="words"), [Document(id=f"d{doc}", text=f"text {doc}") for doc in range(10)]
    )
    for at in range(20)
]


class Counting(FakeServer):
    """A server that counts the requests that it was sent and has not answered, those that wait for it included."""

    sent = 0
    most = 0
    failing = ""

    async def agenerate(self, request: Request) -> Reply:
        query = request.window.query.id
        self.order = [*getattr(self, "order", ()), query]
        self.sent += 1
        self.most = max(self.most, self.sent)
        try:
            reply = await super().agenerate(request)
            if query == self.failing:
                raise BackendError("no credit")
            return reply
        finally:
            self.sent -= 1


def ranker(backend: FakeServer) -> Ranker:
    return Ranker(strategy=Full(), judge=Score(backend=backend, template=load_prompt("pointwise")))


def test_lists_are_opened_in_order_as_there_is_room_for_their_requests() -> None:
    backend = Counting("reversed", batch_size=4, concurrency=4, delay=0.001)
    ranked = list(drive_ranking_stream(LISTS, ranker(backend), backend))
    assert [one.ranking.query.id for one in ranked] == [one.query.id for one in LISTS]
    assert len(backend.order) == 200
    assert backend.most <= 12  # twice the batch, and a request for each list that is open
    firsts = list(dict.fromkeys(backend.order))
    assert firsts == sorted(firsts)
    last = {query: at for at, query in enumerate(backend.order)}
    assert last["q00"] < backend.order.index("q08")


def test_after_an_error_no_further_list_is_opened() -> None:
    backend = Counting("reversed", batch_size=4, concurrency=4, delay=0.001)
    backend.failing = "q01"
    with pytest.raises(BackendError):
        list(drive_ranking_stream(LISTS, ranker(backend), backend))
    assert len(set(backend.order)) < 8

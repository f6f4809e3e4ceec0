"""The desk: other processes ask the one that owns the call log."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rerank.backends.fake import Fake
from rerank.prompts.base import Message
from rerank.store import CallLog, LoggingBackend
from rerank.store.logging_backend import CallDesk
from rerank.tasks import Reply, Request, Sampling


@pytest.fixture
def log(tmp_path: Path) -> Iterator[CallLog]:
    with CallLog(tmp_path / "calls.sqlite") as log:
        yield log


def batch(*names: str) -> dict[str, Request]:
    return {name: Request(prompt=(Message("user", f"{name} x"),), sampling=Sampling(max_tokens=8)) for name in names}


def desk_of(log: CallLog, cap: int | None = None) -> tuple[CallDesk, LoggingBackend]:
    backend = LoggingBackend(backend=Fake("reversed"), log=log, max_total_tokens=cap)
    return CallDesk(backend), backend


def test_committed_calls_are_answered_and_counted_once(log: CallLog) -> None:
    desk, backend = desk_of(log)
    begun = desk.begin(0, batch("a", "b"))
    assert begun is not None
    assert (begun.replies, begun.missing) == ({}, ("a", "b"))
    desk.keep([(0, {"a": Reply(text="1"), "b": Reply(finish="error", error="no reply")})])
    again = desk.begin(0, batch("a", "b"))
    assert again is not None
    assert (again.replies, again.missing) == ({"a": Reply(text="1")}, ("b",))
    assert (len(log), backend.usage.calls) == (1, 1)


def test_replies_of_several_workers_are_committed_in_one_transaction(
    log: CallLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, backend = desk_of(log)
    for owner in (0, 1):
        desk.begin(owner, batch("a", f"b{owner}"))
    commits: list[int] = []
    put = CallLog.put

    def count(self: CallLog, calls: Any, model: str) -> list[int]:
        commits.append(len(calls))
        return put(self, calls, model)

    monkeypatch.setattr(CallLog, "put", count)
    desk.keep([(owner, {"a": Reply(text=f"from {owner}"), f"b{owner}": Reply(text="1")}) for owner in (0, 1)])
    assert commits == [3]
    assert log.get(["a"])["a"].text == "from 0"
    assert (len(log), backend.usage.calls) == (3, 3)
    assert not desk.has_calls_in_flight()


def test_calls_of_lost_work_are_counted_and_made_again(log: CallLog) -> None:
    desk, _ = desk_of(log)
    desk.begin(3, batch("a", "b"))
    desk.keep([(3, {"a": Reply(text="1")})])
    assert (desk.release(3), desk.release(3)) == (1, 0)
    desk.keep([(3, {"b": Reply(text="late")})])
    assert log.get(["b"]) == {}


def test_refused_requests_get_what_is_recorded_or_an_error(log: CallLog) -> None:
    desk, _ = desk_of(log)
    desk.begin(0, batch("a"))
    desk.keep([(0, {"a": Reply(text="1")})])
    begun = desk.begin(0, batch("a", "b"), refusal="lost")
    assert begun is not None
    assert begun.missing == ()
    assert begun.replies == {"a": Reply(text="1"), "b": Reply(finish="error", error="lost")}


def test_the_cap_counts_the_calls_in_flight_of_all_workers(log: CallLog) -> None:
    most = Fake("reversed").tokens.count(batch("a")["a"].prompt) + 8  # tokens of one request and its longest reply
    desk, _ = desk_of(log, cap=2 * most + 4)
    first = desk.begin(0, batch("a", "b"))
    assert first is not None
    assert first.missing == ("a", "b")
    assert desk.begin(1, batch("c")) is None
    desk.keep([(0, {"a": Reply(text="1", tokens_in=2, tokens_out=1), "b": Reply(text="1", tokens_in=2, tokens_out=1)})])
    second = desk.begin(1, batch("c"))
    assert second is not None
    assert second.missing == ("c",)
    assert desk.begin(0, batch("d")) is None
    desk.release(1)
    third = desk.begin(0, batch("d", "e"))
    assert third is not None
    assert (third.missing, {reply.finish for reply in third.replies.values()}) == ((), {"error"})


def test_work_that_is_begun_twice_reserves_its_tokens_once(log: CallLog) -> None:
    most = Fake("reversed").tokens.count(batch("a")["a"].prompt) + 8
    desk, _ = desk_of(log, cap=2 * most)
    assert desk.begin(0, batch("a")) is not None
    for _ in range(2):  # a lost worker, whose message is answered late, and the worker that replaces it
        begun = desk.begin(1, batch("b"))
        assert begun is not None
        assert begun.missing == ("b",)
    desk.keep([(owner, {digest: Reply(text="1", tokens_in=1)}) for owner, digest in ((0, "a"), (1, "b"))])
    assert desk.begin(2, batch("c")) is not None

"""The logged backend: nothing committed is asked twice, batches do not depend on what is committed, caps hold."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rerank.backends.fake import Fake
from rerank.errors import BackendError, StorageError
from rerank.prompts.base import Message, TokenCounter
from rerank.prompts.word_tokens import WordTokens
from rerank.store import CallLog, LoggingBackend, NoLog, log_calls
from rerank.store.logging_backend import AsyncLoggingBackend, CallDesk
from rerank.tasks import Backend, Reply, Request, Sampling
from rerank.tasks.requests import Usage


class Echo:
    """Answers with the prompt; keeps its batches; fails where told to."""

    batch_size = 3
    batch_characters: int | None = None
    costs_money = False
    identity: Mapping[str, str] = {"model": "echo"}
    tokens: TokenCounter = WordTokens(100)

    def __init__(self, *, unanswered: Sequence[str] = (), dies_at: int | None = None) -> None:
        self.batches: list[list[str]] = []
        self.unanswered = unanswered
        self.dies_at = dies_at

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        if len(self.batches) == self.dies_at:
            raise BackendError("the server is gone")
        texts = [r.prompt[0].content for r in requests]
        self.batches.append(texts)
        lost = Reply(text="", finish="error", error="no answer")
        return [lost if t in self.unanswered else Reply(text=t, tokens_in=len(t), tokens_out=1) for t in texts]


def ask(texts: Sequence[str]) -> list[Request]:
    return [Request(prompt=(Message("user", text),), sampling=Sampling(max_tokens=2)) for text in texts]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[CallLog]:
    with CallLog(tmp_path / "calls") as opened:
        yield opened


def texts(replies: Sequence[Reply]) -> list[str]:
    return [reply.text for reply in replies]


WORDS = ["a", "bb", "ccc", "dddd", "eeeee", "ffffff", "ggggggg"]


def test_the_size_of_batches_is_that_of_the_backend_and_survives_pickling() -> None:
    echo = Echo()
    assert log_calls(echo, NoLog()).batch_characters is None
    echo.batch_characters = 6
    logged = log_calls(echo, NoLog())
    assert logged.batch_characters == pickle.loads(pickle.dumps(logged)).batch_characters == 6
    assert log_calls(echo, NoLog(), batch_characters=9).batch_characters == 9


def test_is_a_backend(log: CallLog) -> None:
    logged = LoggingBackend(backend=Echo(), log=log)
    assert isinstance(logged, Backend)
    assert (logged.identity, logged.batch_size, logged.costs_money) == ({"model": "echo"}, 3, False)


@pytest.mark.parametrize("name", ["schedules_requests", "shares_batches"])
def test_what_a_backend_does_not_state_is_false(log: CallLog, name: str) -> None:
    echo = Echo()
    logged = LoggingBackend(backend=echo, log=log)
    assert getattr(logged, name) is False
    setattr(echo, name, True)
    assert getattr(logged, name) is True


def test_answers_in_order_and_batches_the_longest_first(log: CallLog) -> None:
    echo = Echo()
    assert texts(LoggingBackend(backend=echo, log=log).generate(ask(WORDS))) == WORDS
    assert echo.batches == [["ggggggg", "ffffff", "eeeee"], ["dddd", "ccc", "bb"], ["a"]]


def test_a_second_run_asks_nothing_and_counts_the_same(log: CallLog) -> None:
    first = LoggingBackend(backend=Echo(), log=log)
    first.generate(ask(WORDS))
    echo = Echo()
    second = LoggingBackend(backend=echo, log=log)
    assert texts(second.generate(ask(WORDS))) == WORDS
    assert echo.batches == []
    assert vars(second.usage) == vars(first.usage) | {"reused_calls": 7}


def test_a_run_that_died_forms_the_same_batches_when_it_goes_on(log: CallLog) -> None:
    dying = Echo(dies_at=1)
    with pytest.raises(BackendError):
        LoggingBackend(backend=dying, log=log).generate(ask(WORDS))
    assert len(log) == 3
    echo = Echo()
    assert texts(LoggingBackend(backend=echo, log=log).generate(ask(WORDS))) == WORDS
    assert dying.batches + echo.batches == [["ggggggg", "ffffff", "eeeee"], ["dddd", "ccc", "bb"], ["a"]]


def test_equal_requests_are_asked_and_counted_once(log: CallLog) -> None:
    echo = Echo()
    logged = LoggingBackend(backend=echo, log=log)
    assert texts(logged.generate(ask(["a", "a", "b", "a", "a"]))) == ["a", "a", "b", "a", "a"]
    assert sorted(sum(echo.batches, [])) == ["a", "b"]
    logged.generate(ask(["a"]))
    assert (logged.usage.calls, logged.usage.reused_calls) == (2, 0)


def test_replies_of_an_earlier_process_are_counted_once_however_often_they_are_used(log: CallLog) -> None:
    LoggingBackend(backend=Echo(), log=log).generate(ask(["a", "bb"]))
    logged = LoggingBackend(backend=Echo(), log=log)
    for _ in range(3):
        logged.generate(ask(["a", "a", "ccc"]))
    assert (logged.usage.calls, logged.usage.reused_calls, logged.usage.tokens_in) == (2, 1, 4)


def test_backends_that_share_a_log_count_their_own_use(log: CallLog) -> None:
    first, second = (LoggingBackend(backend=Echo(), log=log) for _ in range(2))
    first.generate(ask(["a", "bb"]))
    second.generate(ask(["bb", "ccc"]))
    first.generate(ask(["ccc", "ccc"]))
    assert [(logged.usage.calls, logged.usage.reused_calls) for logged in (first, second)] == [(3, 1), (2, 1)]


def test_without_a_log_a_repeated_request_is_asked_and_counted_again() -> None:
    echo = Echo()
    logged = LoggingBackend(backend=echo, log=NoLog())
    logged.generate(ask(["a", "a"]))
    logged.generate(ask(["a"]))
    assert echo.batches == [["a"], ["a"]]
    assert (logged.usage.calls, logged.usage.tokens_in) == (2, 2)


def test_failed_calls_are_not_committed_and_asked_again(log: CallLog) -> None:
    logged = LoggingBackend(backend=Echo(unanswered=["bb"]), log=log)
    assert [r.finish for r in logged.generate(ask(["a", "bb"]))] == ["stop", "error"]
    assert logged.usage.calls == len(log) == 1
    assert texts(LoggingBackend(backend=Echo(), log=log).generate(ask(["a", "bb"]))) == ["a", "bb"]


def test_the_cache_answers_other_runs(log: CallLog, tmp_path: Path) -> None:
    with CallLog(tmp_path / "cache") as cache, CallLog(tmp_path / "other") as other:
        LoggingBackend(backend=Echo(), log=log, cache=cache).generate(ask(["a", "bb"]))
        echo = Echo()
        logged = LoggingBackend(backend=echo, log=other, cache=cache)
        assert texts(logged.generate(ask(["a", "bb", "ccc"]))) == ["a", "bb", "ccc"]
        assert echo.batches == [["ccc"]]
        assert (logged.usage.calls, logged.usage.reused_calls) == (3, 2)
        assert len(other) == 3


def test_identity_separates_models(log: CallLog) -> None:
    LoggingBackend(backend=Echo(), log=log).generate(ask(["a"]))
    other = Echo()
    other.identity = {"model": "other"}
    LoggingBackend(backend=other, log=log).generate(ask(["a"]))
    assert other.batches == [["a"]]


def test_the_token_cap_stops_asking_and_loses_nothing(log: CallLog) -> None:
    echo = Echo()
    replies = LoggingBackend(backend=echo, log=log, max_total_tokens=23).generate(ask(WORDS))
    assert echo.batches == [["ggggggg", "ffffff", "eeeee"]]
    assert [r.finish for r in replies].count("error") == 4
    assert "--max-total-tokens 23" in replies[0].error
    raised = Echo()
    assert texts(LoggingBackend(backend=raised, log=log).generate(ask(WORDS))) == WORDS
    assert raised.batches == [["dddd", "ccc", "bb"], ["a"]]


class EchoServer(Echo):
    """The same behind a network: a reply takes a moment and is shorter than it may be."""

    concurrency = 3

    async def agenerate(self, request: Request) -> Reply:
        await asyncio.sleep(0.01)
        return self.generate([request])[0]

    def close(self) -> None: ...

    async def aclose(self) -> None: ...


@pytest.mark.parametrize(("cap", "answered"), [(19, 3), (18, 2)])
def test_requests_in_flight_do_not_use_up_the_token_cap(log: CallLog, cap: int, answered: int) -> None:
    """Three requests may take 5 + 8 tokens each and take 3; the last one needs what the others leave."""
    requests = [
        Request(prompt=(Message("user", text),), sampling=Sampling(max_tokens=8)) for text in ("aa", "bb", "cc")
    ]
    logged = log_calls(EchoServer(), log, max_total_tokens=cap)
    assert isinstance(logged, AsyncLoggingBackend)

    async def all_replies() -> list[Reply]:
        return await asyncio.gather(*(logged.agenerate(request) for request in requests))

    assert [reply.finish for reply in asyncio.run(all_replies())].count("stop") == answered
    assert logged.usage.calls == len(log) == answered


def test_replies_that_arrive_together_are_committed_together(log: CallLog, monkeypatch: pytest.MonkeyPatch) -> None:
    commits: list[int] = []
    put = CallLog.put

    def count(self: CallLog, calls: Any, model: str) -> Any:
        commits.append(len(calls))
        return put(self, calls, model)

    monkeypatch.setattr(CallLog, "put", count)

    class Committed(EchoServer):
        async def agenerate(self, request: Request) -> Reply:
            await asyncio.sleep(0 if request.prompt[0].content < "z" else 0.05)
            return self.generate([request])[0]

    logged = log_calls(Committed(), log)
    assert isinstance(logged, AsyncLoggingBackend)

    async def ask_one(request: Request) -> int:
        await logged.agenerate(request)
        return len(log)  # a reply is handed over once it is committed

    async def ask_all() -> list[int]:
        return await asyncio.gather(*map(ask_one, ask(["a", "b", "c", "z"])))

    assert asyncio.run(ask_all()) == [3, 3, 3, 4]
    assert commits == [3, 1]


def test_a_full_disk_fails_all_replies_of_a_commit(log: CallLog, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: CallLog, calls: Any, model: str) -> Any:
        raise StorageError("the disk is full")

    logged = log_calls(EchoServer(), log)
    assert isinstance(logged, AsyncLoggingBackend)

    async def ask_all() -> list[Any]:
        replies = (logged.agenerate(request) for request in ask(["a", "b"]))
        return await asyncio.gather(*replies, return_exceptions=True)

    with monkeypatch.context() as patch:
        patch.setattr(CallLog, "put", fail)
        assert [type(result) for result in asyncio.run(ask_all())] == [StorageError, StorageError]
    assert [reply.text for reply in asyncio.run(ask_all())] == ["a", "b"]
    assert len(log) == 2


def test_long_prompts_form_smaller_batches(log: CallLog) -> None:
    """At most 6 characters per batch, except for a prompt that is longer, and at most three prompts."""
    echo = Echo()
    LoggingBackend(backend=echo, log=log, batch_characters=6).generate(
        ask(["12345678", "1234", "123", "12", "1", "0", "x"])
    )
    assert echo.batches == [["12345678"], ["1234"], ["123", "12", "1"], ["0", "x"]]


def test_progress_is_told_once_a_request(log: CallLog) -> None:
    seen: list[Reply] = []
    LoggingBackend(backend=Echo(), log=log, on_reply=seen.append).generate(ask(["a", "a", "b"]))
    assert len(seen) == 3


def test_usage_starts_at_zero_and_adds_every_field_of_a_reply() -> None:
    usage = Usage()
    assert not any(vars(usage).values())
    reply = Reply(
        tokens_in=7, tokens_out=3, seconds=0.5, steps=2, finish="length", tokens_cached=4, retries=1, search_units=1.5
    )
    reply = replace(reply, served_model="m-1", fingerprint="fp")
    usage.add(reply, reused=False)
    usage.add(reply, reused=True)
    assert vars(usage) == {
        "calls": 2,
        "reused_calls": 1,
        "tokens_in": 14,
        "tokens_out": 6,
        "seconds": 1.0,
        "steps": 4,
        "truncated": 2,
        "tokens_cached": 8,
        "search_units": 3.0,
        "retries": 2,
        "served_models": {"m-1": 2},
        "fingerprints": {"fp": 2},
        "batched": {},
    }
    usage.add(replace(reply, is_batched=True))
    assert usage.batched == {"calls": 1, "tokens_in": 7, "tokens_out": 3, "tokens_cached": 4}
    assert usage.cached_share == 12 / 21


@pytest.mark.parametrize(("cap", "batches"), [(1000, [["a b c"]]), (999, [])])
def test_the_token_cap_includes_the_maximum_of_completion_and_thinking_tokens(
    log: CallLog, cap: int, batches: list[list[str]]
) -> None:
    """A total equal to the cap is allowed: 7 prompt tokens, 93 completion tokens and 900 thinking tokens."""
    echo = Echo()
    prompt = (Message("user", "a b c"),)
    assert echo.tokens.count(prompt) == 7
    request = Request(prompt=prompt, sampling=Sampling(max_tokens=93, thinking=900))
    LoggingBackend(backend=echo, log=log, max_total_tokens=cap).generate([request])
    assert echo.batches == batches


@pytest.mark.parametrize(("cap", "batches"), [(12, [["aaaa"], ["b"]]), (11, [["aaaa"]])])
def test_the_token_cap_includes_the_tokens_used_before(log: CallLog, cap: int, batches: list[list[str]]) -> None:
    """The first reply used 4 + 1 tokens; the second request may use 5 + 2."""
    echo = Echo()
    logged = LoggingBackend(backend=echo, log=log, max_total_tokens=cap)
    logged.generate(ask(["aaaa"]))
    (reply,) = logged.generate(ask(["b"]))
    assert echo.batches == batches
    assert ("(5 tokens used)" in reply.error) == (cap == 11)


def test_no_request_is_sent_after_the_first_that_could_exceed_the_token_cap(log: CallLog) -> None:
    """The second request alone would fit: it may use 7 tokens."""
    echo = Echo()
    logged = LoggingBackend(backend=echo, log=log, max_total_tokens=7)
    assert [reply.finish for reply in logged.generate(ask(["a b", "a"]))] == ["error", "error"]
    assert [reply.finish for reply in logged.generate(ask(["a"]))] == ["error"]
    assert echo.batches == []


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

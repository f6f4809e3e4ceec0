"""The fakes: what each answers, that it does so again, and what it refuses."""

from __future__ import annotations

import asyncio
import re
import time
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank.backends.fake import KINDS, Fake, FakeServer
from rerank.errors import StorageError, UnknownNameError, UsageError
from rerank.models import open_model_backend
from rerank.parsing import parse_permutation
from rerank.prompts.base import Message
from rerank.tasks import AsyncBackend, BackendOptions, Reply, Request, Sampling
from rerank.types import Document, Qrels, Query, Window
from tests.raising import raises

QRELS = Qrels({"q": {"d3": 3, "d1": 1, "d4": 1, "d0": 0, "d2": -1}})


def request(count: int = 5, text: str = "Which is best?", query: str = "q") -> Request:
    docs = tuple(Document(id=f"d{at}", text=f"text {at}") for at in range(count))
    return Request(
        prompt=(Message("user", text),), sampling=Sampling(max_tokens=100), window=Window(Query(id=query), docs)
    )


def answer(fake: Fake, asked: Request | None = None) -> Reply:
    (reply,) = fake.generate([asked or request()])
    return reply


def test_perfect_follows_the_grades_and_keeps_ties_as_given() -> None:
    assert answer(Fake("perfect", qrels=QRELS)).text == "[4] > [2] > [5] > [1] > [3]"


def test_perfect_keeps_the_order_of_a_query_without_judgments() -> None:
    assert answer(Fake("perfect", qrels=QRELS), request(3, query="other")).text == "[1] > [2] > [3]"


@pytest.mark.parametrize("kind", ["perfect", "talk"])
def test_without_judgments_it_warns_once_and_keeps_the_order(kind: str) -> None:
    fake = Fake(kind)
    with pytest.warns(UserWarning, match=f"fake:{kind}"):
        assert "[1] > [2] > [3]" in answer(fake, request(3)).text
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        answer(fake, request(3))


def test_reversed_turns_the_list_round() -> None:
    assert answer(Fake("reversed"), request(3)).text == "[3] > [2] > [1]"


def test_talk_hides_the_right_chain_among_other_numbers() -> None:
    reply = answer(Fake("talk", qrels=QRELS))
    assert len(re.findall(r"\d+", reply.text)) > 10
    assert parse_permutation(reply.text, 5).order == (3, 1, 4, 0, 2)


def test_stutter_repeats_drops_and_invents() -> None:
    fake = Fake("stutter", p=0.5)
    parsed = [parse_permutation(answer(fake, request(20, text=f"question {at}")).text, 20) for at in range(20)]
    assert any(p.duplicates for p in parsed)
    assert any(p.unknown for p in parsed)
    assert any(p.missing for p in parsed)


@given(count=st.integers(0, 30), seed=st.integers(0, 1000))
def test_stutter_without_stuttering_is_a_permutation(count: int, seed: int) -> None:
    reply = answer(Fake("stutter", p=0.0, seed=seed), request(count))
    assert sorted(map(int, re.findall(r"\d+", reply.text))) == list(range(1, count + 1))


def test_stutter_depends_on_seed_and_prompt() -> None:
    texts = {answer(Fake("stutter", seed=seed), request(20, text=text)).text for seed in (0, 1) for text in ("a", "b")}
    assert len(texts) == 4


def test_fail_answers_nothing_by_default() -> None:
    reply = answer(Fake("fail"))
    assert (reply.finish, reply.text) == ("error", "")
    assert "fake:fail" in reply.error


def test_fail_fails_for_the_share_asked_for() -> None:
    fake = Fake("fail", rate=0.25, qrels=QRELS)
    replies = fake.generate([request(text=str(at)) for at in range(400)])
    failed = sum(reply.finish == "error" for reply in replies)
    assert 70 <= failed <= 130
    assert {reply.text for reply in replies if reply.finish == "stop"} == {"[4] > [2] > [5] > [1] > [3]"}


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_request_has_the_same_reply_in_any_company(kind: str) -> None:
    requests = [request(9, text=str(at)) for at in range(5)]
    together = Fake(kind, qrels=QRELS).generate(requests)
    alone = [answer(Fake(kind, qrels=QRELS), one) for one in reversed(requests)]
    assert [r.text for r in together] == [r.text for r in reversed(alone)]


def test_it_counts_words_and_marks_and_keeps_what_it_served() -> None:
    fake = Fake("reversed")
    asked = request(2, text="One, two.")
    reply = answer(fake, asked)
    assert reply.tokens_in == fake.tokens.count(asked.prompt) == 4 + 4
    assert reply.tokens_out == 7
    assert fake.served == [asked.digest(fake.identity)]


def test_the_log_gets_a_line_for_every_reply(tmp_path: Path) -> None:
    fake = Fake("reversed", log=tmp_path / "served.txt")
    fake.generate([request(2), request(3), request(2)])
    assert (tmp_path / "served.txt").read_text().split() == fake.served
    assert len(fake.served) == 3


def test_a_log_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    with raises(StorageError, "served.txt"):
        answer(Fake("reversed", log=tmp_path / "none" / "served.txt"))


def test_it_waits_if_told_to() -> None:
    assert answer(Fake("reversed", delay=0.02)).seconds >= 0.02


def test_identity_names_what_changes_answers_and_nothing_else() -> None:
    assert dict(Fake("reversed", seed=3, p=0.9).identity) == {"model": "fake:reversed"}
    assert dict(Fake("stutter", seed=3).identity) == {"model": "fake:stutter", "seed": "3", "p": "0.3"}
    assert dict(Fake("fail", rate=0.5).identity) == {"model": "fake:fail", "seed": "0", "rate": "0.5"}
    assert Fake("perfect", qrels=QRELS).identity == Fake("perfect", qrels=Qrels(QRELS, name="other name")).identity
    assert Fake("perfect", qrels=QRELS).identity != Fake("perfect", qrels=Qrels({"q": {"d3": 2}})).identity


def test_an_unknown_kind_gets_a_suggestion() -> None:
    with raises(UnknownNameError, "perfect", "prefect"):
        Fake("prefect")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"p": 1.5}, "p=1.5"),
        ({"rate": -0.1}, "rate=-0.1"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"context_size": 0}, "context_size=0"),
        *(({"delay": delay}, "delay=") for delay in (-1.0, float("nan"), float("inf"), 1e300)),
    ],
)
def test_numbers_out_of_range_are_refused(options: dict[str, float], message: str) -> None:
    with raises(UsageError, message):
        Fake("stutter", **options)  # type: ignore[arg-type]


def make_backend() -> FakeServer:
    return FakeServer("perfect", qrels=Qrels({"q": {"d1": 1}}))


def requests(count: int) -> list[Request]:
    docs = tuple(Document(id=f"d{at}", text=f"text {at}") for at in range(4))
    window = Window(Query(id="q"), docs)
    prompts = [(Message("user", f"Which is best? {at}"),) for at in range(count)]
    return [Request(prompt=prompt, sampling=Sampling(max_tokens=9), window=window) for prompt in prompts]


@pytest.mark.parametrize("kind", ["reversed", "stutter", "fail"])
def test_identity_and_replies_are_those_of_the_fake(kind: str) -> None:
    fake, server = Fake(kind), FakeServer(kind)
    assert fake.identity == server.identity
    expected = [(reply.text, reply.finish, reply.tokens_in) for reply in fake.generate(requests(9))]
    assert [(reply.text, reply.finish, reply.tokens_in) for reply in server.generate(requests(9))] == expected
    assert sorted(fake.served) == sorted(server.served)


def test_only_it_is_an_asynchronous_backend() -> None:
    assert isinstance(make_backend(), AsyncBackend)
    assert not isinstance(Fake("perfect"), AsyncBackend)


def test_it_is_opened_by_its_selector() -> None:
    options = BackendOptions(concurrency=3, batch_size=5)
    server = open_model_backend("fake-server:reversed,delay=0.5,slow_every=4", options, qrels=Qrels({"q": {"d": 1}}))
    assert isinstance(server, FakeServer)
    assert (server.kind, server.delay, server.slow_every, server.concurrency) == ("reversed", 0.5, 4, 3)
    assert (server.batch_size, server.qrels) == (5, Qrels({"q": {"d": 1}}))


def test_requests_wait_together_up_to_the_limit() -> None:
    server = FakeServer("reversed", delay=0.02, concurrency=4)
    started = time.perf_counter()
    replies = server.generate(requests(8))
    assert time.perf_counter() - started >= 0.04
    assert (server.most_in_progress, server.in_progress, server.arrived) == (4, 0, 8)
    assert all(reply.seconds >= 0.019 for reply in replies)  # an event loop's timers may fire a clock tick early


def test_seconds_do_not_include_the_wait_for_others() -> None:
    server = FakeServer("reversed", delay=0.02, concurrency=1)
    started = time.perf_counter()
    replies = server.generate(requests(4))
    assert sum(reply.seconds for reply in replies) <= time.perf_counter() - started


def test_some_are_slow() -> None:
    replies = FakeServer("reversed", slow_every=3, slow_delay=0.3).generate(requests(6))
    by_seconds = sorted(range(6), key=lambda at: replies[at].seconds)
    assert {*by_seconds[-2:]} == {2, 5}
    assert replies[2].seconds > 0.29  # timers are not exact


def test_a_cancelled_request_frees_its_slot() -> None:
    server = FakeServer("reversed", slow_every=2, slow_delay=30.0, concurrency=1)

    async def cancel_one() -> Reply:
        first, slow = requests(2)
        await server.agenerate(first)
        task = asyncio.create_task(server.agenerate(slow))
        while server.in_progress == 0:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await server.agenerate(first)

    assert asyncio.run(cancel_one()).finish == "stop"
    assert len(server.served) == 2


@pytest.mark.parametrize(
    "options",
    [{"concurrency": 0}, {"slow_every": -1}, *({"slow_delay": delay} for delay in (-0.1, float("nan"), float("inf")))],
)
def test_numbers_of_a_server_out_of_range_are_refused(options: dict[str, float]) -> None:
    (name,) = options
    with raises(UsageError, name):
        FakeServer("reversed", **options)  # type: ignore[arg-type]

"""What goes wrong between us and a server, against a server of ours that does it."""

from __future__ import annotations

import asyncio
import gzip
import json
import warnings
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from rerank.backends.base.addresses import Address
from rerank.backends.base.responses import SLOW_TRIES, TRIES
from rerank.backends.openai import Openai
from rerank.errors import BackendError, UsageError
from rerank.experiment import run_experiment
from rerank.experiment.spec import Execution, RunSpec
from rerank.judges import open_judge
from rerank.prompts import load_prompt
from rerank.prompts.base import Message
from rerank.tasks import BackendOptions, Reply, Request, Sampling
from rerank.types import Document, Query, Window
from tests.backends.faulty_server import Act, Answer, FaultyServer, Waits, error, models, raw, said
from tests.judging import judge_windows
from tests.raising import raises

pytestmark = pytest.mark.enable_socket

KEY = "sk-a-secret-of-this-test"
FINE = said("[2] > [1]")
SLOW = replace(FINE, wait=5.0)


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RERANK_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def request(text: str = "Rank.", query: str = "q") -> Request:
    return Request(prompt=(Message("user", text),), sampling=Sampling(max_tokens=9), window=Window(Query(id=query), ()))


def ask(acts: Sequence[Answer], *, count: int = 1, listing: Act | None = None, **options: Any) -> tuple[Any, ...]:
    """Replies, the server, and the waits."""
    waits = Waits()
    with FaultyServer(acts, listing=listing) as server:
        backend = Openai("m", Address.parse(server.url), options=BackendOptions(**options), sleep=waits)
        replies = backend.generate([request(query=f"q{at}") for at in range(count)])
    return replies, server, waits


def test_a_proper_answer() -> None:
    (reply,), server, waits = ask([FINE])
    assert (reply.text, reply.finish, reply.tokens_in, reply.tokens_out) == ("[2] > [1]", "stop", 50, 7)
    assert reply.seconds > 0
    assert server.asked == [
        {"model": "m", "messages": [{"role": "user", "content": "Rank."}], "max_tokens": 9, "temperature": 0.0}
    ]
    assert server.keys == [f"Bearer {KEY}"]
    assert waits == []


@pytest.mark.parametrize(
    "act",
    [
        error(429),
        error(500),
        error(503),
        error(529),
        Act(status=502, body=b"<html>Bad gateway</html>"),
        Act(body=FINE.body, headers={"Content-Length": "9999"}),
        Act(close=True),
        raw({"error": {"message": "overloaded"}}),
    ],
    ids=lambda act: f"{act.status} {act.body[:24]!r}{'closed' if act.close else ''}",
)
class TestPassing:
    """Troubles that pass are waited out, up to a number of tries; then they are error replies, never text."""

    def test_once(self, act: Act) -> None:
        (reply,), server, waits = ask([act, FINE])
        assert (reply.text, reply.finish, reply.error) == ("[2] > [1]", "stop", "")
        assert len(server.asked) == 2
        assert 1 <= waits[0] <= 2

    def test_always(self, act: Act) -> None:
        (reply,), server, waits = ask([act])
        assert (reply.text, reply.finish) == ("", "error")
        assert 10 < len(reply.error) < 500
        assert len(server.asked) == TRIES
        assert [round(wait) for wait in waits] == pytest.approx([1.5, 2.5, 4.5, 8.5], abs=0.6)


@pytest.mark.parametrize(
    "act",
    [
        Act(body=FINE.body[:30]),
        Act(body=b""),
        Act(body=b"<html>Welcome</html>"),
        Act(body=b"\xff\xfe\x00"),
        Act(body=b"[]"),
        Act(body=b"null"),
        raw({}),
        raw({"choices": []}),
        raw({"choices": [None]}),
        raw({"choices": [{"message": "text"}]}),
        raw({"choices": {"0": "text"}}),
        said(None),
        said(""),
        said(None, tool_calls=[{}]),
    ],
    ids=lambda act: str(act.body[:60]),
)
class TestWithoutContent:
    """A reply that arrived without content is asked for once more; both are counted, and the last one stands."""

    def test_once(self, act: Act) -> None:
        (reply,), server, _ = ask([act, FINE])
        alone = ask([act], retries=0)[0][0]
        assert (reply.text, reply.error, reply.retries, len(server.asked)) == ("[2] > [1]", "", 1, 2)
        assert (reply.tokens_in, reply.tokens_out) == (alone.tokens_in + 50, alone.tokens_out + 7)

    def test_always(self, act: Act) -> None:
        (reply,), server, _ = ask([act])
        alone = ask([act], retries=0)[0][0]
        assert (reply.text, reply.finish, reply.retries, len(server.asked)) == ("", "stop", 1, 2)
        assert (reply.tokens_in, reply.tokens_out) == (2 * alone.tokens_in, 2 * alone.tokens_out)
        assert 10 < len(reply.error) < 500

    @pytest.mark.parametrize("then", [error(400), error(503), error(401), Act(close=True)])
    def test_then_an_error(self, act: Act, then: Act) -> None:
        (reply,), _, _ = ask([act, then])
        assert (reply.finish, bool(reply.error)) == ("stop", True)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_reply_that_is_too_long_is_kept_without_its_text(compressed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rerank.backends.base.connection.MAX_BYTES", 5000)
    body = FINE.body + b" " * 5000
    act = Act(body=gzip.compress(body), headers={"Content-Encoding": "gzip"}) if compressed else Act(body=body)
    (reply,), server, _ = ask([act])
    assert (reply.text, reply.finish, bool(reply.error), len(server.asked)) == ("", "stop", True, 1)


def test_content_that_was_compressed_several_times_is_not_inflated() -> None:
    body = gzip.compress(gzip.compress(FINE.body + b" " * 2**20))
    (reply,), server, _ = ask([Act(body=body, headers={"Content-Encoding": "gzip, gzip"})])
    assert (reply.text, reply.finish, bool(reply.error), len(server.asked)) == ("", "stop", True, 2)


def test_content_that_is_not_compressed_as_stated_is_read() -> None:
    (reply,), _, _ = ask([replace(FINE, headers={"Content-Encoding": "gzip"})])
    assert (reply.text, reply.error) == ("[2] > [1]", "")


def test_as_many_choices_as_were_asked_for() -> None:
    (reply,), server, _ = ask([raw({**json.loads(FINE.body), "choices": [json.loads(FINE.body)["choices"][0]] * 2})])
    assert (reply.text, reply.finish, reply.tokens_in, len(server.asked)) == ("", "stop", 50, 1)
    assert "2 choices" in reply.error


def test_attempts_are_counted() -> None:
    (reply,), _, waits = ask([error(503), error(429), FINE])
    assert (reply.retries, len(waits)) == (2, 2)


@pytest.mark.parametrize(
    ("asked", "answered", "same"),
    [
        ("gpt-4o", "gpt-4o-2024-08-06", True),
        ("gpt-4", "gpt-4-0613", True),
        ("org/Model", "model", True),
        ("m", "/models/m.gguf", True),
        ("m", "", True),
        ("gpt-4o", "gpt-4o-mini", False),
        ("m", "another", False),
    ],
)
def test_the_model_that_answered(asked: str, answered: str, same: bool) -> None:
    body = {**json.loads(FINE.body), "model": answered, "system_fingerprint": "fp_1"}
    with FaultyServer([raw(body)]) as server, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        backend = Openai(asked, Address.parse(server.url), options=BackendOptions(context_size=4096), sleep=Waits())
        replies = backend.generate([request(query=f"q{at}") for at in range(3)])
    assert {(reply.served_model, reply.fingerprint) for reply in replies} == {(answered, "fp_1")}
    assert len(caught) == (not same)


@pytest.mark.parametrize(
    ("act", "status"),
    [
        (Act(close=True), "error"),
        (raw({"error": "[2] > [1]"}), "error"),
        (Act(body=b"<html>[2] &gt; [1]</html>"), "empty"),
    ],
)
def test_no_parser_gets_to_see_a_failure(act: Act, status: str) -> None:
    docs = tuple(Document(id=f"d{at}", text=f"passage {at}") for at in range(2))
    with FaultyServer([act]) as server:
        backend = Openai("m", Address.parse(server.url), sleep=Waits())
        judge = open_judge("generate", backend, load_prompt("listwise"))
        (verdict,) = judge_windows(judge, [Window(Query(id="q", text="words"), docs)])
    assert (verdict.status, verdict.order) == (status, (0, 1))


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_in_seconds(status: int) -> None:
    _, _, waits = ask([error(status, headers={"Retry-After": "17"}), FINE])
    assert 17 <= waits[0] <= 18


def test_retry_after_as_a_date() -> None:
    when = format_datetime(datetime.now(UTC) + timedelta(seconds=40), usegmt=True)
    _, _, waits = ask([error(429, headers={"Retry-After": when}), FINE])
    assert 35 <= waits[0] <= 41


@pytest.mark.parametrize("value", ["soon", "", "-5", "Thu, 99 Foo", "nan", "Fri, 27 Nov 99999999999 10:00:00 GMT"])
def test_retry_after_that_makes_no_sense(value: str) -> None:
    _, _, waits = ask([error(429, headers={"Retry-After": value}), FINE])
    assert 0 <= waits[0] <= 2


def test_nobody_waits_an_hour() -> None:
    (reply,), server, waits = ask([error(429, "later", headers={"Retry-After": "3600"}), FINE])
    assert "3600 s" in reply.error
    assert (len(server.asked), waits) == (1, [])


def test_a_slow_server_is_asked_less_often() -> None:
    (reply,), server, _ = ask([SLOW], timeout=0.3)
    assert "0.3 s (--timeout)" in reply.error
    assert len(server.asked) == SLOW_TRIES


def test_one_failure_leaves_the_others_alone() -> None:
    def moody(body: dict[str, Any]) -> Act:
        return error(400, "no") if "q3" in body["messages"][0]["content"] else FINE

    with FaultyServer([moody]) as server:
        backend = Openai("m", Address.parse(server.url), sleep=Waits())
        replies = backend.generate([request(f"about q{at}") for at in range(6)])
    assert [reply.finish for reply in replies] == ["stop"] * 3 + ["error"] + ["stop"] * 2


@pytest.mark.parametrize("status", [401, 403])
def test_a_rejected_key_ends_everything_at_once(status: int) -> None:
    waits = Waits()
    with FaultyServer([error(status, f"Incorrect API key: {KEY}", code="invalid_api_key")]) as server:
        backend = Openai("m", Address.parse(server.url), sleep=waits, options=BackendOptions(concurrency=1))
        with raises(BackendError, "RERANK_API_KEY", "OPENAI_API_KEY") as caught:
            backend.generate([request() for _ in range(20)])
    assert len(server.asked) == 1
    assert waits == []
    assert KEY not in str(caught.value)
    assert KEY not in repr(caught.getrepr())


def test_what_was_answered_before_a_refusal_is_kept() -> None:
    """Gateways answer 403 to what their filters do not like; the replies beside it have been paid for."""
    replies, server, _ = ask([FINE, error(403, "flagged by moderation"), FINE, FINE], count=4, concurrency=1)
    assert [reply.finish for reply in replies] == ["stop", "error", "stop", "stop"]
    assert "moderation" in replies[1].error
    assert len(server.asked) == 4


def test_a_missing_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    refusal = error(401, "You did not provide a key")
    with raises(BackendError, "RERANK_API_KEY", "OPENAI_API_KEY"):
        ask([refusal], listing=refusal)


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_may_not_list_models(status: int) -> None:
    """Restricted keys of OpenAI may be used for chats only; Anthropic's list wants its key in another header."""
    message = "You have insufficient permissions for this operation. Missing scopes: api.model.read."
    (reply,), server, waits = ask([FINE], listing=error(status, message))
    assert (reply.text, server.looked, waits) == ("[2] > [1]", ["/v1/models"], [])
    with raises(BackendError, "RERANK_API_KEY", "chat/completions"):
        ask([error(status, message)], listing=error(status, message))


@pytest.mark.parametrize("act", [error(402), error(429, "You exceeded your quota", code="insufficient_quota")])
def test_no_credit(act: Act) -> None:
    with raises(BackendError, "credit", "--resume"):
        ask([act])


def test_a_model_that_is_not_there_is_answered_with_those_that_are() -> None:
    with raises(BackendError, "'m'", 404, "large, small"):
        ask([error(404, "The model `m` does not exist")], listing=models("large", "small"))


def test_a_path_that_is_not_there() -> None:
    with FaultyServer([FINE]) as server:
        address = Address.parse(server.url.removesuffix("/v1"))
        with raises(BackendError, "--base-url", "/v1"):
            Openai("m", address, sleep=Waits()).generate([request()])


def test_a_redirect_is_not_followed_with_the_key() -> None:
    with raises(BackendError, "http://elsewhere.example"):
        ask([Act(status=307, headers={"Location": "http://elsewhere.example/v1"})])


def test_a_prompt_that_is_too_long_is_an_error_reply() -> None:
    message = "This model's maximum context length is 4096 tokens. However, you requested 5 tokens [2] > [1]"
    (reply,), server, _ = ask([error(400, message, code="context_length_exceeded")])
    assert (reply.text, reply.finish) == ("", "error")
    assert "maximum context length" in reply.error
    assert len(server.asked) == 1


def test_a_prompt_that_was_cut_without_a_word_is_not_parsed() -> None:
    with FaultyServer([said("[2] > [1]", tokens=20)]) as server:
        backend = Openai("m", Address.parse(server.url), sleep=Waits())
        (reply,) = backend.generate([request("many words " * 50)])
    assert (reply.text, reply.finish) == ("", "stop")
    assert "20 tokens" in reply.error
    assert "100 words" in reply.error
    assert "--overwrite" in reply.error


def test_half_characters_in_texts_are_replaced() -> None:
    docs = tuple(Document(id=f"d{at}", title="\udc00", text=f"passage {at} \ud83d") for at in range(2))
    with FaultyServer([said("[2] > [1]")]) as server:
        backend = Openai("m", Address.parse(server.url), sleep=Waits())
        judge = open_judge("generate", backend, load_prompt("listwise"))
        (verdict,) = judge_windows(judge, [Window(Query(id="q", text="words \ud800"), docs)])
    assert (verdict.status, verdict.order) == ("ok", (1, 0))
    sent = str(server.asked)
    assert all(text in sent for text in ("words \ufffd", "passage 1 \ufffd", "Title: \ufffd"))


def test_why_it_ended() -> None:
    def finish(act: Act) -> tuple[str, str]:
        reply: Reply = ask([act])[0][0]
        return reply.finish, reply.text

    assert finish(said("[2] >", "length")) == ("length", "[2] >")
    assert finish(said("", "content_filter")) == ("refused", "")
    assert finish(said(None, "stop", refusal="I cannot help with that.")) == ("refused", "")
    assert finish(error(400, "filtered", code="content_filter")) == ("refused", "")
    assert finish(said(None)) == ("stop", "")


def test_where_an_event_loop_runs_already() -> None:
    async def inside() -> list[Reply]:
        with FaultyServer([FINE]) as server:
            return Openai("m", Address.parse(server.url), sleep=Waits()).generate([request()])

    assert asyncio.run(inside())[0].text == "[2] > [1]"


def test_the_key_is_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    echo = raw({"headers": f"Bearer {KEY}", "choices": f"Bearer {KEY}"})
    with FaultyServer([echo, error(500, KEY), Act(body=KEY.encode()), error(400, f"bad header {KEY}")]) as server:
        backend = Openai("m", Address.parse(server.url), sleep=Waits())
        (reply,) = backend.generate([request()])
    assert "***" in reply.error
    shown = [reply.error, repr(backend), json.dumps(dict(backend.identity)), caplog.text, repr(vars(backend))]
    assert not any(KEY in text for text in shown)


def test_keys_do_not_cross_the_network_in_plain_text(monkeypatch: pytest.MonkeyPatch) -> None:
    from rerank.backends.base.addresses import api_key_for_server

    with pytest.warns(UserWarning, match="http://gpu.example:8000/v1"):
        assert api_key_for_server(Address.parse("http://gpu.example:8000/v1")) == ""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert api_key_for_server(Address.parse("https://gpu.example/v1")) == KEY
        assert api_key_for_server(Address.parse("http://[::1]:8000/v1")) == KEY
        monkeypatch.setenv("RERANK_API_KEY", "")
        assert api_key_for_server(Address.parse("http://gpu.example:8000/v1")) == ""


def test_a_key_that_no_header_can_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-a\nb-secret")
    with raises(UsageError, "OPENAI_API_KEY") as caught:
        ask([FINE])
    assert "secret" not in str(caught.value)


def test_a_finished_run_is_answered_when_its_server_is_gone(tmp_path: Path) -> None:
    lists = {"query": {"qid": "q", "text": "rank"}, "candidates": [{"docid": d, "doc": d, "score": 1} for d in "ab"]}
    (tmp_path / "lists.jsonl").write_text(json.dumps(lists))
    values = {"collection": f"requests:{tmp_path / 'lists.jsonl'}", "first_stage": "candidates", "model": "openai:m"}
    execution = Execution(out=tmp_path / "run", call_cache=False)
    with FaultyServer([FINE]) as server:
        spec = RunSpec.make({**values, "base_url": server.url, "method": "fullrank"})
        first = run_experiment(spec, execution)
    assert first["calls"] == 1
    assert run_experiment(spec, execution)["reused_calls"] == 1

"""Decision APIs: which questions judges ask, how questions share calls, and what becomes of bad answers."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from rerank import Reranker
from rerank.backends.base.addresses import Address
from rerank.backends.decisions import Decisions
from rerank.errors import UsageError
from rerank.judges import open_judge
from rerank.judges.base import OversizedWindow
from rerank.models import open_model_backend
from rerank.prompts import load_prompt
from rerank.tasks import BackendOptions, DecisionTask, GenerationTask, Reply, Request
from rerank.tasks.concurrency import run_on_loop
from tests.backends.faulty_server import Act, FaultyServer, decide, decided, error, open_decision_server, raw
from tests.cli.conftest import Cli, cli, lists, own_folders
from tests.judges.scripted import window
from tests.judging import requests_of
from tests.raising import raises

__all__ = ["cli", "lists", "own_folders"]

pytestmark = pytest.mark.enable_socket

KEY = "key-of-this-test"


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rerank.backends.base.connection.FIRST_WAIT", 0.0)
    for name in ("RERANK_API_KEY", "OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def make_backend() -> Decisions:
    """Return a backend whose server answers every question; it can be pickled."""
    address = Address.parse("http://localhost/v1")
    return Decisions("m", address, transport=httpx2.MockTransport(_answer_in_memory))


def _answer_in_memory(asked: httpx2.Request) -> httpx2.Response:
    answers = [decide(n, question) for n, question in enumerate(json.loads(asked.content)["questions"])]
    return httpx2.Response(200, content=_stream({"model": "m", "answers": answers}))


async def _stream(body: object) -> AsyncIterator[bytes]:
    yield json.dumps(body).encode()


def connect(server: FaultyServer, **options: Any) -> Decisions:
    return Decisions.connect("m", BackendOptions(base_url=server.url, **options))


def requests_of_judge(judge: str, prompt: str, *texts: str, query: str = "a question") -> list[Request]:
    """Return the requests of a judge for a window of these passages."""
    with open_decision_server(decided()) as server:
        return requests_of(open_judge(judge, connect(server), load_prompt(prompt)), window(*texts, query=query))


def ask(requests: Sequence[Request], *acts: Any, **options: Any) -> tuple[list[Reply], FaultyServer]:
    """Return the replies to requests, and the server."""
    with open_decision_server(*acts) as server:
        backend = connect(server, **options)
        replies = backend.generate(requests)
        backend.close()
    return replies, server


def predicates(count: int, query: str = "a question") -> list[Request]:
    return requests_of_judge("score", "pointwise", *(f"text {n}" for n in range(count)), query=query)


def test_score_asks_predicates_about_the_query() -> None:
    replies, server = ask(predicates(2), decided())
    (asked,) = server.asked
    assert asked["model"] == "m"
    assert [message["role"] for message in asked["input"]] == ["system", "user"]
    assert asked["input"][1]["content"] == "Query: a question"
    first, second = asked["questions"]
    assert (first["type"], first["name"], second["name"]) == ("predicate", "0", "1")
    assert first["instructions"].startswith("Passage: text 0\n")
    assert first["instructions"].endswith("Answer Yes or No.")
    assert replies[1].scores == pytest.approx((math.log(0.002), math.log(0.998)))
    assert sum(reply.tokens_in for reply in replies) == 1001
    assert sum(reply.tokens_out for reply in replies) == 3
    assert sum(reply.tokens_cached for reply in replies) == 7


@pytest.mark.parametrize(("judge", "prompt"), [("pick", "pick"), ("logits", "listwise_letters")])
def test_pick_and_logits_ask_for_a_choice(judge: str, prompt: str) -> None:
    (reply,), server = ask(requests_of_judge(judge, prompt, "text 1", "text 9", "text 5"), decided())
    (question,) = server.asked[0]["questions"]
    assert question["type"] == "choice"
    assert [choice["value"] for choice in question["choices"]] == ["A", "B", "C"]
    assert [choice["description"] for choice in question["choices"]] == ["[A] text 1", "[B] text 9", "[C] text 5"]
    assert "a question" in server.asked[0]["input"][-1]["content"]
    assert "text 1" not in server.asked[0]["input"][-1]["content"]
    assert question["instructions"].startswith("Query: a question")
    assert reply.scores == pytest.approx([math.log(n / 18) for n in (2, 10, 6)])


def test_passages_that_come_first_are_the_input() -> None:
    _, server = ask(requests_of_judge("score", "decision_predicate", "text 1"), decided())
    assert server.asked[0]["input"][1]["content"] == "Input: text 1"
    assert server.asked[0]["questions"][0]["instructions"].startswith("Question: a question")


def test_a_prompt_whose_passages_are_turns_is_refused() -> None:
    with open_decision_server(decided()) as server, raises(UsageError, "listwise_multiturn"):
        requests_of(open_judge("logits", connect(server), load_prompt("listwise_multiturn")), window("a", "b"))


def test_a_grader_asks_for_a_score(monkeypatch: pytest.MonkeyPatch) -> None:
    from rerank.adjudication.judging.grader import Grader

    with open_decision_server(decided()) as server:
        grader = Grader(backend=connect(server), template=load_prompt("grade"))
        asked = grader.request(window("text 5"))
        (reply,) = grader.backend.generate([asked])
        grader.backend.close()  # type: ignore[attr-defined]
    (question,) = server.asked[0]["questions"]
    assert [level["label"] for level in question["levels"]] == ["0", "1", "2", "3"]
    assert "Query: a question" in server.asked[0]["input"][1]["content"]
    assert question["instructions"].startswith("Passage: text 5")
    assert reply.scores == pytest.approx([math.log(n / 10) for n in (4, 3, 2, 1)])  # the highest grade first
    assert grader.read(reply).grade == 3


def test_questions_about_the_same_input_share_calls() -> None:
    replies, server = ask([*predicates(450), *predicates(3, query="another")], decided())
    assert sorted(len(asked["questions"]) for asked in server.asked) == [3, 50, 400]
    assert [round(math.exp(reply.scores[0]) * 1000) for reply in replies] == [*range(1, 451), 1, 2, 3]


def test_a_choice_has_at_most_255_options() -> None:
    with open_decision_server(decided()) as server:
        judge = open_judge("pick", connect(server, context_size=100_000), load_prompt("pick"))
        assert judge.requests(window(*(f"text {n}" for n in range(300)))) == OversizedWindow(255)


def _named(answer: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {**answer, **more}


#: Changes to the answers of four predicates, and what becomes of each question.
CHANGES: dict[str, tuple[Callable[[list[Any]], list[Any]], Sequence[str]]] = {
    "another order": (lambda rows: rows[::-1], ["ok"] * 4),
    "no names": (lambda rows: [_named(row, name=None) for row in rows], ["ok"] * 4),
    "half": (lambda rows: rows[:2], ["ok", "ok", "unread", "unread"]),
    "half without names": (lambda rows: [_named(row, name=None) for row in rows[:2]], ["unread"] * 4),
    "none": (lambda rows: [], ["unread"] * 4),
    "a name twice": (lambda rows: [*rows[:3], rows[0]], ["unread", "ok", "ok", "unread"]),
    "an unknown name": (lambda rows: [*rows[:3], _named(rows[3], name="x")], ["ok", "ok", "ok", "unread"]),
    "one answer too many": (lambda rows: [*rows, _named(rows[0], name="4")], ["ok"] * 4),
    "no object": (lambda rows: [*rows[:3], 5], ["ok", "ok", "ok", "unread"]),
    "a refusal": (lambda rows: [{"type": "refusal", "name": "0"}, *rows[1:]], ["refused", "ok", "ok", "ok"]),
    "NaN": (lambda rows: [_named(rows[0], probability=math.nan), *rows[1:]], ["unread", "ok", "ok", "ok"]),
    "above 1": (lambda rows: [_named(rows[0], probability=1.5), *rows[1:]], ["unread", "ok", "ok", "ok"]),
    "below 0": (lambda rows: [_named(rows[0], probability=-0.1), *rows[1:]], ["unread", "ok", "ok", "ok"]),
    "no probability": (lambda rows: [{"type": "predicate", "name": "0"}, *rows[1:]], ["unread", "ok", "ok", "ok"]),
    "another type": (
        lambda rows: [{"type": "choice", "name": "0", "choice": "A", "confidence": 1, "probabilities": []}, *rows[1:]],
        ["unread", "ok", "ok", "ok"],
    ),
    "an unknown type": (lambda rows: [_named(rows[0], type="guess"), *rows[1:]], ["unread", "ok", "ok", "ok"]),
}


def outcome(reply: Reply) -> str:
    if reply.finish != "stop":
        return reply.finish
    assert bool(reply.error) != bool(reply.scores)
    return "unread" if reply.error else "ok"


@pytest.mark.parametrize("change", CHANGES)
def test_bad_answers_affect_only_their_questions(change: str) -> None:
    change_answers, expected = CHANGES[change]
    replies, server = ask(predicates(4), decided(change=change_answers))
    assert [outcome(reply) for reply in replies] == list(expected)
    assert len(server.asked) == 1  # it has been billed, and is not asked for again
    assert sum(reply.tokens_in for reply in replies) == 1001


@pytest.mark.parametrize(
    "spoil",
    [
        lambda rows: rows[:1],
        lambda rows: [*rows, {"value": "C", "probability": 0.1}],
        lambda rows: [rows[0], rows[0]],
        lambda rows: [rows[0], {**rows[1], "value": True}],
        lambda rows: [rows[0], {**rows[1], "probability": math.nan}],
        lambda rows: [rows[0], {**rows[1], "probability": 7}],
        lambda rows: [],
    ],
)
def test_bad_probabilities_of_a_choice(spoil: Callable[[list[Any]], list[Any]]) -> None:
    def decide_badly(position: int, question: dict[str, Any]) -> Any:
        answer = decide(position, question)
        return {**answer, "probabilities": spoil(answer["probabilities"])}

    (reply,), _ = ask(requests_of_judge("pick", "pick", "text 1", "text 2"), decided(decide_badly))
    assert outcome(reply) == "unread"


@pytest.mark.parametrize(
    "act", [Act(), Act(body=b"<html>"), raw([]), raw({"answers": {}}), raw({"model": 5, "answers": None})]
)
def test_an_answer_of_another_form(act: Act) -> None:
    replies, _ = ask(predicates(3), act)
    assert [outcome(reply) for reply in replies] == ["unread"] * 3
    assert all(reply.tokens_in > 0 for reply in replies)


def test_failures_are_tried_again() -> None:
    busy = error(429, headers={"Retry-After": "0"})
    replies, _ = ask(predicates(3), busy, error(500), Act(close=True), raw({"error": {"message": "x"}}), decided())
    assert [outcome(reply) for reply in replies] == ["ok"] * 3
    assert [reply.retries for reply in replies] == [4, 0, 0]


@pytest.mark.parametrize("act", [error(429, headers={"Retry-After": "0"}), error(500), replace(raw({}), wait=5.0)])
def test_a_call_without_an_answer_is_an_error_of_all_its_questions(act: Act) -> None:
    replies, _ = ask(predicates(3), act, timeout=0.3, retries=0)
    assert [outcome(reply) for reply in replies] == ["error"] * 3


def test_a_rejected_call_is_divided() -> None:
    def answer(body: dict[str, Any]) -> Act:
        too_long = any("text 5\n" in question["instructions"] for question in body["questions"])
        return error(400, "too long") if too_long else decided()(body)

    replies, server = ask(predicates(8), answer)
    assert [outcome(reply) for reply in replies] == ["ok"] * 5 + ["error"] + ["ok"] * 2
    assert [len(asked["questions"]) for asked in server.asked] == [8, 4, 4, 2, 1, 1, 2]
    assert [round(math.exp(reply.scores[0]) * 1000) for reply in replies if reply.scores] == [1, 2, 3, 4, 5, 7, 8]


def test_a_call_is_cancelled_if_all_its_questions_are() -> None:
    with open_decision_server(replace(raw({}), wait=30.0)) as server:
        backend = connect(server)
        first, second = predicates(2)

        async def cancel() -> list[str]:
            tasks = [asyncio.create_task(backend.agenerate(request)) for request in (first, second)]
            while not server.asked:
                await asyncio.sleep(0.01)
            (call,) = backend._calls
            tasks[0].cancel()
            await asyncio.sleep(0.05)
            states = [str(call.done())]
            tasks[1].cancel()
            await asyncio.wait([*tasks, call])
            return [*states, str(call.done())]

        assert run_on_loop(cancel()) == ["False", "True"]
        backend.close()


def test_other_tasks_are_errors() -> None:
    (reply,), _ = ask([replace(predicates(1)[0], task=GenerationTask())], decided())
    assert reply.finish == "error"


def test_options_of_questions() -> None:
    for options in (("a",), ("a", "a"), tuple(map(str, range(256)))):
        with raises(UsageError):
            DecisionTask(question="choice", options=options, spans=(), tail=0)
    with raises(UsageError):
        open_model_backend("decisions:")


def test_a_refusal_is_a_status_and_no_document_is_lost() -> None:
    def refuse(position: int, question: dict[str, Any]) -> Any:
        is_refused = "text 3\n" in question["instructions"]
        return {"type": "refusal", "name": question["name"]} if is_refused else decide(position, question)

    with open_decision_server(decided(refuse)) as server:
        reranker = Reranker.from_pretrained("decisions:m", base_url=server.url.removesuffix("/v1"))
        hits = reranker.rank("a question", [f"text {n}" for n in range(6)])
        reranker.close()
    assert len(server.asked) == 1
    assert {status: count for status, count in hits.windows.items() if count} == {"refused": 1}
    assert [hit.corpus_id for hit in hits] == [5, 4, 2, 3, 1, 0]  # the refused one keeps its position


@pytest.mark.parametrize("method", ["pointwise", "first,size=4,stride=2", "full:pick", "setwise", "full:logits"])
def test_methods_over_a_decision_server(method: str) -> None:
    with open_decision_server(decided()) as server:
        reranker = Reranker.from_pretrained("decisions:m", base_url=server.url, method=method)
        hits = reranker.rank("a question", [f"text {n}" for n in range(6)])
        reranker.close()
    assert [hit.corpus_id for hit in hits][0] == 5
    assert sorted(hit.corpus_id for hit in hits) == list(range(6))


def test_a_run_with_its_log_and_replay(cli: Cli, lists: tuple[str, ...]) -> None:
    with open_decision_server(decided()) as server:
        flags = (*lists[:-2], "--model", "decisions:m", "--base-url", server.url)
        assert cli("run", *flags, "--out", "out").returncode == 0
        assert len(server.asked) == 4  # one per query, for 12 documents each
        assert cli("run", *flags, "--out", "out", "--resume").returncode == 0
        assert len(server.asked) == 4
    assert cli("verify", "out").returncode == 0
    assert json.loads(Path("out/summary.json").read_text())["calls"] == 48

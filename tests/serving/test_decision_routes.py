"""Decisions: typed answers whose probabilities come from the model."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from rerank import Reranker
from rerank.errors import BackendError
from rerank.prompts.word_tokens import WordTokens
from rerank.tasks import ContinuationTask, GenerationTask, Reply, Request
from tests.judges.scripted import Scripted
from tests.serving.conftest import Client

pytest.importorskip("fastapi")


class Knowing(Scripted):
    """Gives log-probabilities that grow with the position of a continuation."""

    def __init__(self, *tasks: Any, reply: Callable[[Request], Reply] | None = None) -> None:
        super().__init__(reply or _growing, *(tasks or (ContinuationTask, GenerationTask)))
        self.identity = {"model": "scripted"}


def _growing(request: Request) -> Reply:
    assert isinstance(request.task, ContinuationTask)
    return Reply(scores=tuple(math.log(n + 1) for n in range(len(request.task.continuations))), tokens_in=10)


def ask(client: Client, questions: Sequence[Any], backend: Any = None, **body: Any) -> Any:
    reranker = Reranker.from_backend(backend or Knowing(), method="fullrank")
    body = {"model": "m", "input": "a text", **body, "questions": questions}
    return client(reranker).post("/v1/decisions", json=body)


PREDICATE = {"type": "predicate", "instructions": "Is it about snow?", "name": "snow"}
CHOICE = {"type": "choice", "instructions": "Which?", "choices": [{"value": "x"}, {"value": True, "description": "d"}]}
SCORE = {"type": "score", "instructions": "How good?", "levels": [{"label": n} for n in ("bad", "fair", "good")]}


def test_all_types(client: Client) -> None:
    response = ask(client, [PREDICATE, CHOICE, SCORE])
    assert response.status_code == 200, response.text
    predicate, choice, score = response.json()["answers"]
    assert predicate == {"type": "predicate", "name": "snow", "probability": pytest.approx(1 / 3)}  # yes 1, no 2
    assert choice["choice"] is True
    assert choice["confidence"] == pytest.approx(2 / 3)
    assert [row["probability"] for row in choice["probabilities"]] == pytest.approx([1 / 3, 2 / 3])
    assert score["score"] == pytest.approx((0 * 1 + 1 * 2 + 2 * 3) / 6)
    assert [(row["label"], row["value"]) for row in score["probabilities"]] == [("bad", 0), ("fair", 1), ("good", 2)]
    assert response.json()["usage"]["input_tokens"] == 30


def test_the_prompt_shows_input_question_and_options(client: Client) -> None:
    backend = Knowing()
    ask(client, [CHOICE], backend, input=[{"role": "user", "content": [{"type": "input_text", "text": "long text"}]}])
    shown = "\n".join(message.content for message in backend.asked[0].prompt)
    for part in ("long text", "Which?", "[A] x", "[B] true: d"):
        assert part in shown


def test_a_refused_question_does_not_affect_the_others(client: Client) -> None:
    def reply(request: Request) -> Reply:
        text = " ".join(message.content for message in request.prompt)
        return Reply(finish="refused") if "snow" in text else _growing(request)

    answers = ask(client, [PREDICATE, CHOICE], Knowing(reply=reply)).json()["answers"]
    assert answers[0] == {"type": "refusal", "name": "snow"}
    assert answers[1]["type"] == "choice"


def test_errors(client: Client) -> None:
    failing = Knowing(reply=lambda request: Reply(finish="error", error="the server is gone"))
    assert ask(client, [PREDICATE], failing).status_code == 503
    assert ask(client, [PREDICATE], Knowing(GenerationTask)).status_code == 422  # no probabilities
    for questions in ([], [{"type": "other"}], [{**CHOICE, "choices": [{"value": "x"}]}], [PREDICATE] * 401):
        response = ask(client, questions)
        assert response.status_code == 422
        assert response.json()["error"]["message"]
    picture = [{"type": "input_image", "image_url": "data:,"}]
    assert ask(client, [PREDICATE], input=picture).status_code == 422


class Remote(Knowing):
    """Answers over a network; the first question fails, and the others take longer."""

    def __init__(self, ended: list[str]) -> None:
        super().__init__()
        self._ended = ended

    async def agenerate(self, request: Request) -> Reply:
        if "snow" in " ".join(message.content for message in request.prompt):
            raise BackendError("the key is rejected")
        try:
            await asyncio.sleep(30)
        finally:
            self._ended.append("cancelled")
        return _growing(request)

    def close(self) -> None:
        pass

    async def aclose(self) -> None:
        pass


def test_an_error_ends_the_other_questions(client: Client) -> None:
    ended: list[str] = []
    response = ask(client, [CHOICE, SCORE, PREDICATE], Remote(ended))
    assert response.status_code == 503
    assert "the key is rejected" in response.text
    assert ended == ["cancelled"] * 2


def test_a_model_in_this_process_works_on_one_question_at_a_time(client: Client) -> None:
    working, most = 0, 0

    def reply(request: Request) -> Reply:
        nonlocal working, most
        working += 1
        most = max(most, working)
        time.sleep(0.05)
        working -= 1
        return _growing(request)

    assert ask(client, [PREDICATE, CHOICE, SCORE], Knowing(reply=reply)).status_code == 200
    assert most == 1


class ThreadOfTokens(WordTokens):
    def __init__(self) -> None:
        super().__init__(4096)
        self.threads: set[str] = set()

    def lengths(self, texts: list[str]) -> list[int]:
        self.threads.add(threading.current_thread().name)
        return super().lengths(list(texts))


def test_prompts_are_built_outside_of_the_event_loop(client: Client) -> None:
    backend = Knowing()
    backend.tokens = tokens = ThreadOfTokens()
    assert ask(client, [PREDICATE, CHOICE], backend).status_code == 200
    assert tokens.threads
    assert all(name.startswith("asyncio_") for name in tokens.threads), tokens.threads


def test_limits_count_instructions_and_options(client: Client) -> None:
    reranker = Reranker.from_backend(Knowing(), method="fullrank")
    opened = client(reranker, max_documents=3, max_request_tokens=50)
    long = "word " * 60
    for question in (
        {**PREDICATE, "instructions": long},
        {**CHOICE, "choices": [{"value": long}, {"value": "x"}]},
        {**SCORE, "levels": [{"label": "bad", "description": long}, {"label": "good"}]},
        {**CHOICE, "choices": [{"value": str(n)} for n in range(4)]},
    ):
        response = opened.post("/v1/decisions", json={"input": "a text", "questions": [question]})
        assert response.status_code == 413, response.text
    assert opened.post("/v1/decisions", json={"input": "a text", "questions": [SCORE]}).status_code == 200


def test_tokens_are_counted(client: Client) -> None:
    opened = client(Reranker.from_backend(Knowing(), method="fullrank"))
    assert opened.post("/v1/decisions", json={"input": "a text", "questions": [PREDICATE, CHOICE]}).status_code == 200
    assert 'rerank_tokens_total{kind="prompt"} 20.0' in opened.get("/metrics").text

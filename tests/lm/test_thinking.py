"""Thoughts before an answer: budgeted, kept apart from it, and never part of what is parsed."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from rerank.backends.hf import Hf
from rerank.lm import decoding, local_tasks
from rerank.lm.jobs import Job, add_thoughts
from rerank.prompts.base import Message
from rerank.tasks import ContinuationTask, GenerationTask, PermutationTask, Request, Sampling, Task
from rerank.types import Document, Query, Window
from tests.backends.conftest import in_memory, make_model, make_tokenizer

#: A template with a thinking mode, as in Qwen 3: switched off by an empty thought, open where it is on.
REASONING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n{% if enable_thinking %}<think>\n{% else %}<think>\n\n</think>\n\n{% endif %}"
)
PLAIN = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"


@pytest.fixture(params=[REASONING, PLAIN])
def hf(request: pytest.FixtureRequest) -> Hf:
    model = make_model(eos_token_id=None)
    model.generation_config.eos_token_id = None
    return in_memory(model, make_tokenizer(request.param))


def asked(thinking: int, task: Task = GenerationTask(), begun: str = "") -> Request:  # noqa: B008 - frozen and empty
    return Request(
        prompt=(Message("user", "Order these."), *((Message("assistant", begun),) if begun else ())),
        sampling=Sampling(max_tokens=30, thinking=thinking),
        window=Window(Query(id="q", text="q"), tuple(Document(id=str(at)) for at in range(3))),
        task=task,
    )


def test_thoughts_end_with_their_budget_and_the_answer_keeps_its_tokens(hf: Hf) -> None:
    plain, thought = hf.generate([asked(0), asked(8)])
    assert plain.thoughts == ""
    assert plain.tokens_out == 30
    assert 0 < len(thought.thoughts.encode()) <= 3 * 8  # a byte a token; one that is no text takes three
    assert thought.tokens_out == 30 + 8
    assert "</think>" not in thought.text
    assert plain.tokens_in == hf.tokens.count(asked(0).prompt)
    assert thought.tokens_in > 0


def test_thoughts_that_close_themselves_are_not_spun_out(hf: Hf, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "so be it</think> and more"
    real = decoding.decode_continuations

    def closing(model: Any, prompts: Any, samplings: Any, seeds: Any, *, until: Any = None) -> list[list[int]]:
        if until is None:
            return real(model, prompts, samplings, seeds)
        assert until[0] == "</think>"
        return [list(hf.tokens.plain(said)) for _ in prompts]

    monkeypatch.setattr(local_tasks, "decode_continuations", closing)
    (reply,) = hf.generate([asked(64)])
    assert reply.thoughts == "so be it"


@pytest.mark.parametrize(("ended", "thoughts"), [(True, "so be i"), (False, "so be it")])
def test_the_mark_that_ends_a_turn_is_no_thought(hf: Hf, ended: bool, thoughts: str) -> None:
    tokens: Any = hf.tokens
    request = asked(64)
    job = Job(index=0, request=request, prompt=tokens.ids("x"), sampling=request.sampling)
    (thought,) = add_thoughts(lambda jobs: [(list(tokens.plain("so be it")), ended) for _ in jobs], tokens, [job])
    assert thought.thoughts == thoughts


def test_an_order_can_be_thought_about(hf: Hf) -> None:
    items = ("[1]", "[2]", "[3]")
    for begun in ("", "["):
        (reply,) = hf.generate([asked(8, PermutationTask(items=items, count=3), begun)])
        assert sorted(reply.text.split(" > ")) == list(items)
        assert reply.thoughts
        assert reply.steps >= 8


def test_after_a_verbatim_prompt_the_answer_follows_the_closing_tag(hf: Hf) -> None:
    tokens: Any = hf.tokens
    request = Request(
        prompt=(Message("verbatim", "Is it relevant?\n<think>"),),
        sampling=Sampling(max_tokens=1, thinking=64),
        task=ContinuationTask(continuations=(" true", " false")),
    )
    job = Job(index=0, request=request, prompt=tokens.encode([request.prompt])[0], sampling=request.sampling)
    (thought,) = add_thoughts(lambda jobs: [(list(tokens.plain(" so be it")), False)], tokens, [job])
    assert tokens.text(thought.prompt, special=True).endswith("Is it relevant?\n<think> so be it</think>")


def test_likelihoods_are_those_after_the_thought(hf: Hf) -> None:
    task = ContinuationTask(continuations=("A", "B"))
    (plain,) = hf.generate([asked(0, task)])
    (thought,) = hf.generate([asked(8, task)])
    assert plain.scores != thought.scores
    assert thought.thoughts


def test_thoughts_that_leave_no_tokens_for_the_answer_are_an_error_reply(hf: Hf) -> None:
    (reply,) = hf.generate([asked(600)])
    assert (reply.finish, reply.text) == ("error", "")
    assert "context" in reply.error

"""The generating judge: budgets, replies that never came, refusals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from rerank.backends.fake import Fake
from rerank.errors import ContextOverflowError, UsageError
from rerank.judges.base import Limits
from rerank.judges.generate import SPARE_TOKENS, Generate, parse_verdict
from rerank.prompts import load_prompt
from rerank.prompts.base import TokenCounter
from rerank.prompts.word_tokens import WordTokens
from rerank.tasks import Reply, Request, Sampling
from rerank.types import Document, Qrels, Query, Window
from tests.judging import judge_windows
from tests.raising import raises

LISTWISE = load_prompt("listwise")


def window(count: int, words: int = 5) -> Window:
    docs = tuple(Document(id=f"d{n}", text=f"passage {n} " + "word " * words) for n in range(count))
    return Window(Query(id="q", text="a question"), docs)


class Says:
    """Replies the same to everything; keeps the requests."""

    batch_size = 8
    costs_money = False
    identity: Mapping[str, str] = {"model": "says"}

    def __init__(self, reply: Reply, context_size: int = 4096) -> None:
        self.reply = reply
        self.tokens: TokenCounter = WordTokens(context_size)
        self.requests: list[Request] = []

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        self.requests += requests
        return [self.reply] * len(requests)


def test_one_call_to_the_backend_for_all_windows_and_orders_come_back() -> None:
    qrels = Qrels({"q": {"d0": 0, "d1": 1, "d2": 2}})
    judge = Generate(backend=Fake("perfect", qrels=qrels), template=LISTWISE)
    first, second = judge_windows(judge, [window(3), window(2)])
    assert (first.order, first.status) == ((2, 1, 0), "ok")
    assert (second.order, second.status) == ((1, 0), "ok")


def test_the_reply_has_room_for_every_identifier_and_little_more() -> None:
    says = Says(Reply(text="[1]"))
    judge_windows(Generate(backend=says, template=LISTWISE), [window(12)])
    chain = " > ".join(f"[{n}]" for n in range(1, 13))
    assert says.requests[0].sampling.max_tokens == says.tokens.lengths([chain])[0] + SPARE_TOKENS


def test_passages_are_cut_so_that_prompt_and_reply_fit() -> None:
    says = Says(Reply(text=""), context_size=900)
    judge_windows(Generate(backend=says, template=LISTWISE), [window(10, words=200)])
    (request,) = says.requests
    assert says.tokens.count(request.prompt) + request.sampling.max_tokens <= 900
    assert "a question" in request.prompt[-1].content
    assert all(f"[{n}] passage" in request.prompt[-1].content for n in range(1, 11))


def test_what_does_not_fit_at_the_floor_is_an_error_with_both_lengths() -> None:
    judge = Generate(backend=Says(Reply(text=""), context_size=400), template=LISTWISE)
    with raises(ContextOverflowError, "400", "--depth"):
        judge.make_requests(window(30, words=200))


def test_limits_reach_budget_and_sampling() -> None:
    says = Says(Reply(text=""))
    limits = Limits(max_passage_tokens=40, min_passage_tokens=8, temperature=0.7, seed=5)
    judge_windows(Generate(backend=says, template=LISTWISE, limits=limits), [window(3, words=200)])
    (request,) = says.requests
    assert (request.sampling.temperature, request.sampling.seed) == (0.7, 5)
    assert max(len(line.split()) for line in request.prompt[-1].content.splitlines() if line.startswith("[")) <= 41


def test_contradicting_limits_are_refused() -> None:
    with raises(UsageError, "--max-passage-tokens is 8", "--min-passage-tokens is 32"):
        Generate(backend=Says(Reply(text="")), template=LISTWISE, limits=Limits(max_passage_tokens=8))


def test_a_transport_error_never_reaches_the_parser() -> None:
    reply = Reply(text="requested 2 tokens > [2]", finish="error", error="the server said [2] > [1]")
    result = parse_verdict(reply, 2)
    assert (result.order, result.status) == ((0, 1), "error")
    assert "server" in result.detail


@pytest.mark.parametrize(
    ("reply", "status", "order"),
    [
        (Reply(text="[2] > [1]"), "ok", (1, 0)),
        (Reply(text="2, 1"), "repaired", (1, 0)),
        (Reply(text="[2]"), "partial", (1, 0)),
        (Reply(text="nothing here"), "empty", (0, 1)),
        (Reply(text="I'm sorry, but I cannot rank these."), "refused", (0, 1)),
        (Reply(text="", finish="refused"), "refused", (0, 1)),
        (Reply(text="[2] > [1]", finish="length"), "ok", (1, 0)),
    ],
)
def test_statuses(reply: Reply, status: str, order: tuple[int, ...]) -> None:
    result = parse_verdict(reply, 2)
    assert (result.status, result.order) == (status, order)


@pytest.mark.parametrize(
    ("choices", "scores"),
    [
        ((-0.1, -0.2, -0.3), (-0.2, -0.3, -0.1)),
        ((-0.1, -0.2), (-0.2, None, -0.1)),
        ((-0.1, -0.2, -0.3, -0.4), ()),
        ((), ()),
    ],
)
def test_choices_give_scores_to_the_documents_in_the_order_of_the_reply(
    choices: tuple[float, ...], scores: tuple[float | None, ...]
) -> None:
    says = Says(Reply(text="[3] > [1] > [2]", scores=choices))
    (verdict,) = judge_windows(Generate(backend=says, template=LISTWISE), [window(3)])
    assert (verdict.order, verdict.scores) == ((2, 0, 1), scores)


@pytest.mark.parametrize("thinking", [0, 50])
def test_the_prompt_leaves_exactly_the_completion_and_thinking_tokens(thinking: int) -> None:
    says = Says(Reply(text="[1]"), context_size=400)
    judge_windows(
        Generate(backend=says, template=LISTWISE, limits=Limits(thinking_tokens=thinking)), [window(1, words=500)]
    )
    (request,) = says.requests
    reply_tokens = says.tokens.lengths(["[1]"])[0] + SPARE_TOKENS
    assert request.sampling == Sampling(max_tokens=reply_tokens, temperature=0.0, seed=0, thinking=thinking)
    assert says.tokens.count(request.prompt) == 400 - reply_tokens - thinking


def test_requests_are_greedy_with_seed_zero_and_without_thinking_by_default() -> None:
    (request,) = Generate(backend=Says(Reply(text="[1]")), template=LISTWISE).make_requests(window(1))
    assert request.sampling == Sampling(max_tokens=request.sampling.max_tokens, temperature=0.0, seed=0, thinking=0)

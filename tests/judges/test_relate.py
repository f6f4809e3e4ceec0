"""The judge of cross-encoders: one request a window, texts cut as said."""

from __future__ import annotations

import math
from typing import Any

import pytest

from rerank.backends.fake import Fake
from rerank.errors import ContextOverflowError, UsageError
from rerank.judges import open_judge
from rerank.judges.base import Limits, PromptJudge
from rerank.pipeline.stream import rank_together
from rerank.prompts import load_prompt
from rerank.prompts.base import Message
from rerank.strategies import open_strategy
from rerank.tasks import CrossEncoderTask, GenerationTask, Reply
from rerank.types import Document, Qrels, Query, Ranking, Window
from tests.judges.scripted import Scripted, always, window
from tests.judging import judge_windows
from tests.raising import raises

THREE = window("about snow", "", "about rain")


def judge(backend: Any, **limits: Any) -> PromptJudge:
    return open_judge("relate", backend, load_prompt("pair"), Limits(**limits))


def test_one_request_holds_the_query_and_the_documents() -> None:
    scripted = Scripted(always(Reply(scores=(0.5, -8.0, 0.7))), CrossEncoderTask)
    (verdict,) = judge_windows(judge(scripted), [THREE])
    assert (verdict.order, verdict.status) == ((2, 0, 1), "ok")
    (request,) = scripted.asked
    assert [message.content for message in request.prompt] == ["a question", "about snow", "", "about rain"]
    assert (request.task, request.sampling.max_tokens) == (CrossEncoderTask(), 0)


def test_title_and_text_are_one_line_and_brackets_stay() -> None:
    doc = Document(id="d", title="Fleas [1]", text="They live\n two months [2].")
    (request,) = judge(Fake("perfect")).make_requests(Window(Query(id="q", text="how\tlong"), (doc,)))
    assert [message.content for message in request.prompt] == ["how long", "Fleas [1] They live two months [2]."]


def test_documents_are_cut_to_what_the_query_leaves_and_to_the_maximum() -> None:
    scripted = Scripted(always(Reply()), CrossEncoderTask, context_size=60)
    long = window("word " * 100, "short", query="a question of six words here")
    room = 60 - scripted.tokens.count((Message("user", long.query.text),))
    (request,) = judge(scripted).make_requests(long)
    assert scripted.tokens.lengths([m.content for m in request.prompt]) == [6, room, 1]
    (request,) = judge(scripted, min_passage_tokens=4, max_passage_tokens=8).make_requests(long)
    assert scripted.tokens.lengths([m.content for m in request.prompt]) == [6, 8, 1]


def test_a_query_that_leaves_less_than_the_floor_is_an_error() -> None:
    made = judge(Scripted(always(Reply()), CrossEncoderTask, context_size=60))
    with raises(ContextOverflowError, "tokens"):
        made.make_requests(window("word " * 100, query="word " * 40))


def test_a_long_list_is_not_split() -> None:
    scripted = Scripted(always(Reply(scores=(0.0,) * 300)), CrossEncoderTask, context_size=100)
    long = window(*["word " * 90] * 300)
    made = judge(scripted)
    outcome = rank_together([Ranking.from_order(long.query, long.docs)], open_strategy("full"), made, made.backend)
    assert (len(scripted.asked), outcome.split) == (1, ())


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (Reply(scores=(1.0, math.nan, 2.0)), "empty"),
        (Reply(scores=(1.0,)), "empty"),
        (Reply(finish="error", error="gone"), "error"),
    ],
)
def test_replies_that_say_nothing_keep_the_order(reply: Reply, status: str) -> None:
    (verdict,) = judge_windows(judge(Scripted(always(reply), CrossEncoderTask)), [THREE])
    assert (verdict.order, verdict.status) == ((0, 1, 2), status)


def test_the_fakes_answer() -> None:
    qrels = Qrels({"q": {"d2": 1}})
    assert judge_windows(judge(Fake("perfect", qrels=qrels)), [THREE])[0].order == (2, 0, 1)
    assert judge_windows(judge(Fake("fail", qrels=qrels)), [THREE])[0].status == "error"


def test_a_prompt_would_be_without_effect_and_is_refused() -> None:
    with raises(UsageError, "'listwise'", "--prompt"):
        open_judge("relate", Fake("perfect"), load_prompt("listwise"))


def test_language_models_are_refused() -> None:
    with raises(UsageError, "'relate'", "CrossEncoderTask"):
        judge(Scripted(always(Reply()), GenerationTask))

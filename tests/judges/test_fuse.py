"""One text per passage, and an order of all of them."""

from __future__ import annotations

import pytest

from rerank.judges import Limits, open_judge
from rerank.prompts import load_prompt
from rerank.prompts.base import Message
from rerank.tasks import FusionTask, Reply
from tests.judges.scripted import Scripted, always, window
from tests.judging import judge_windows

PROMPT = load_prompt("lit5")


def test_every_passage_is_a_text_with_its_identifier() -> None:
    scripted = Scripted(always(Reply(text="[2] > [3] > [1]")), FusionTask)
    (verdict,) = judge_windows(open_judge("fuse", scripted, PROMPT), [window("cats", "fleas", "dogs", query="fleas?")])
    assert (verdict.order, verdict.status) == ((1, 2, 0), "ok")
    (request,) = scripted.asked
    assert request.task == FusionTask()
    assert request.prompt == tuple(
        Message("verbatim", f"Search Query: fleas? Passage: [{number}] {text} Relevance Ranking: ")
        for number, text in enumerate(("cats", "fleas", "dogs"), start=1)
    )


def test_the_context_limits_each_text() -> None:
    scripted = Scripted(always(Reply(text="[1]")), FusionTask)
    limits = Limits(context_size=30, min_passage_tokens=4)
    (request,) = open_judge("fuse", scripted, PROMPT, limits).make_requests(window("short", "word " * 50))
    assert scripted.tokens.count(request.prompt[1:]) <= 30
    assert request.dropped[0] == 0
    assert request.dropped[1] > 0


@pytest.mark.parametrize(("text", "status"), [("", "empty"), ("[2] > [2", "partial"), ("[3] > [1] > [9]", "partial")])
def test_no_document_is_lost(text: str, status: str) -> None:
    scripted = Scripted(always(Reply(text=text)), FusionTask)
    (verdict,) = judge_windows(open_judge("fuse", scripted, PROMPT), [window("a", "b", "c")])
    assert (sorted(verdict.order), verdict.status) == ([0, 1, 2], status)

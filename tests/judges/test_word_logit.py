from __future__ import annotations

import pytest

from rerank.errors import UsageError
from rerank.judges import open_judge
from rerank.prompts import load_prompt
from rerank.tasks import ContinuationTask, LogitTask, Reply, Request
from tests.judges.scripted import Scripted, window
from tests.judging import judge_windows
from tests.raising import raises


def by_text(request: Request) -> Reply:
    return Reply(scores=({"a": 2.5, "b": 31.0}[request.window.docs[0].text],))


def test_documents_are_ordered_by_the_logit() -> None:
    backend = Scripted(by_text, LogitTask)
    judge = open_judge("word-logit,word=Yes", backend, load_prompt("pointwise"))
    (verdict,) = judge_windows(judge, [window("a", "b")])
    assert (verdict.order, verdict.scores) == ((1, 0), (2.5, 31.0))
    assert {request.task for request in judge.make_requests(window("a"))} == {LogitTask(continuations=("Yes",))}


def test_log_probabilities_are_no_substitute() -> None:
    with raises(UsageError):
        open_judge("word-logit", Scripted(by_text, ContinuationTask), load_prompt("pointwise"))


@pytest.mark.parametrize("word", ["", "several words"])
def test_the_word_is_a_single_token(word: str) -> None:
    with raises(UsageError):
        judge = open_judge(f"word-logit,word={word}", Scripted(by_text, LogitTask), load_prompt("pointwise"))
        judge.make_requests(window("a"))

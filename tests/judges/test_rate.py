"""Scores that the model writes for groups of documents."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from rerank.errors import UsageError
from rerank.judges import Limits, open_judge
from rerank.judges.generate import Rate
from rerank.prompts import load_prompt
from rerank.tasks import GenerationTask, Reply, Request
from tests.judges.scripted import Scripted, always, window
from tests.judging import judge_windows
from tests.raising import raises

PROMPT = load_prompt("group_rank")
FOUR = window("about snow", "about rain", "about hail", "about sleet")


def rate(backend: Scripted, *, group: int = 20, repeats: int = 1, limits: Limits | None = None) -> Rate:
    judge = open_judge(f"rate,group={group},repeats={repeats}", backend, PROMPT, limits)
    assert isinstance(judge, Rate)
    return judge


def writes(scores: Mapping[str, float], form: str = "{}") -> Scripted:
    """A model that writes the scores of the documents that it is shown, as GroupRank does."""

    def say(request: Request) -> Reply:
        shown = enumerate((doc.id for doc in request.window.docs), start=1)
        return Reply(
            text=form.format(json.dumps({f"[{number}]": scores[doc] for number, doc in shown if doc in scores}))
        )

    return Scripted(say, GenerationTask)


DOCUMENTED = "<reason>\n[1] is about [2].\n</reason>\n<answer>\n```json\n{}\n```\n</answer>"


@pytest.mark.parametrize("form", ["{}", DOCUMENTED, "Here you are: {}", DOCUMENTED.replace("</answer>", "")])
def test_documents_are_ordered_by_their_scores(form: str) -> None:
    scores = {"d0": 2, "d1": 9, "d2": 5, "d3": 7}
    (verdict,) = judge_windows(rate(writes(scores, form)), [FOUR])
    assert (verdict.order, verdict.status) == ((1, 3, 2, 0), "ok")
    assert verdict.scores == (2.0, 9.0, 5.0, 7.0)


def test_every_document_is_in_one_group_per_repeat_and_its_scores_are_averaged() -> None:
    asked: list[tuple[str, ...]] = []

    def say(request: Request) -> Reply:
        ids = tuple(doc.id for doc in request.window.docs)
        asked.append(ids)
        high = 8 if len(asked) <= 2 else 4  # the second repeat gives half the scores
        return Reply(text=json.dumps({f"[{at}]": high if doc == "d2" else 0 for at, doc in enumerate(ids, start=1)}))

    (verdict,) = judge_windows(rate(Scripted(say, GenerationTask), group=3, repeats=2), [FOUR])
    assert sorted(asked[0] + asked[1]) == sorted(asked[2] + asked[3]) == ["d0", "d1", "d2", "d3"]
    assert asked[0] != asked[2]
    assert verdict.scores == (0.0, 0.0, 6.0, 0.0)
    assert verdict.order == (2, 0, 1, 3)


def test_documents_without_a_score_keep_their_positions() -> None:
    (verdict,) = judge_windows(rate(writes({"d0": 1, "d3": 8})), [FOUR])
    assert (verdict.order, verdict.status) == ((3, 1, 2, 0), "partial")
    assert verdict.scores == (1.0, None, None, 8.0)


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("", "empty"),
        ("no idea", "empty"),
        ('{"[7]": 3}', "empty"),
        ('<reason> {"[1]": 3', "empty"),
        ('{"[1]": 3, "[2]": 1', "partial"),  # the last number may have been 10
        ('{"[1]": 1', "empty"),
        ("[2] > [1] > [3] > [4]", "ok"),
    ],
)
def test_no_document_is_lost_whatever_is_written(text: str, status: str) -> None:
    (verdict,) = judge_windows(rate(Scripted(always(Reply(text=text)), GenerationTask)), [FOUR])
    assert sorted(verdict.order) == [0, 1, 2, 3]
    assert verdict.status == status


def test_a_group_without_a_reply_makes_the_window_a_failure_and_the_others_are_ordered() -> None:
    def say(request: Request) -> Reply:
        if request.window.docs[0].id in first:
            return Reply(finish="error", error="gone")
        return Reply(text='{"[1]": 0, "[2]": 9}')

    first = {doc.id for doc in rate(Scripted(always(Reply())), group=2).make_requests(FOUR)[0].window.docs}
    (verdict,) = judge_windows(rate(Scripted(say, GenerationTask), group=2), [FOUR])
    assert (verdict.status, verdict.detail) == ("error", "gone")
    assert sorted(verdict.order) == [0, 1, 2, 3]
    assert [verdict.order[int(doc[1])] for doc in sorted(first)] == [int(doc[1]) for doc in sorted(first)]
    assert sum(score is not None for score in verdict.scores) == 2


def test_reasons_are_part_of_the_reply() -> None:
    (request,) = rate(Scripted(always(Reply())), limits=Limits(thinking_tokens=500)).make_requests(FOUR)
    assert request.sampling.thinking == 0
    assert 500 < request.sampling.max_tokens < 700


def test_options_are_checked() -> None:
    for group, repeats in ((0, 1), (1, 0)):
        with raises(UsageError, "at least 1"):
            rate(Scripted(always(Reply())), group=group, repeats=repeats)

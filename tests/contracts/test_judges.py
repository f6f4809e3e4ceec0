"""The contract of judges: every registered judge must fulfil it, and judges that are wrong on purpose must not."""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import pytest

from rerank.errors import UsageError
from rerank.judges import FAILURES, PromptJudge, Verdict, judges, open_judge
from rerank.judges.base import window_z_scores
from rerank.judges.generate import Generate
from rerank.prompts import load_prompt
from rerank.selector import Selector
from rerank.tasks import (
    AttentionTask,
    Backend,
    ContinuationTask,
    CrossEncoderTask,
    FusionTask,
    GenerationTask,
    PermutationTask,
    Reply,
    Request,
)
from rerank.types import Window
from tests.judges.scripted import Scripted, always, window
from tests.judging import judge_windows
from tests.raising import raises

#: Every judge with its default options, and the options that change what it requests or how it reads replies.
CASES = (
    *judges.names(),
    "generate,constrain=false",
    "generate,identifiers=letters",
    "generate,constrain=false,identifiers=letters",
    "pick,by=generation",
    "pick,by=generation,constrain=false,identifiers=numbers",
    "attention,calibrate=false",
    "attention,best_first=true",
)


def chooses_best(selector: str) -> bool:
    """Return whether a judge moves only the best document; its test module says so with ``CHOOSES_BEST = True``."""
    module = f"tests.judges.test_{Selector.parse(selector).name.replace('-', '_')}"
    own = importlib.util.find_spec(module) and getattr(importlib.import_module(module), "CHOOSES_BEST", False)
    return bool(own) or selector.startswith("pick,by=generation")


Build = Callable[[Backend], PromptJudge]
#: Relevance of documents by id, from which the backend answers.
Relevance = Mapping[str, float]


def builder(selector: str) -> Build:
    """Return a function that builds a judge for a backend, with the prompt that suits it."""
    parsed = Selector.parse(selector)
    prompt = judges.get(parsed.name).suggest_prompt(parsed.options) or "listwise"
    return lambda backend: open_judge(parsed, backend, load_prompt(prompt))


def backend_for(selector: str, reply: Callable[[Request], Reply]) -> Scripted:
    """Return a backend that supports what the judge needs, but no constrained decoding for ``constrain=false``."""
    tasks = set(judges.get(Selector.parse(selector).name).needs)
    if "by=generation" in selector:
        tasks.discard(ContinuationTask)
    return Scripted(reply, *tasks, context_size=8192)


def answer(request: Request, relevance: Relevance) -> Reply:
    """Reply as a model that knows the relevance of all documents."""
    scores = [relevance[doc.id] for doc in request.window.docs]
    ranked = sorted(range(len(scores)), key=lambda position: -scores[position])
    match request.task:
        case PermutationTask(items=items, count=count):
            return Reply(text=" > ".join(items[position] for position in ranked[:count]))
        case GenerationTask() if "JSON" in request.prompt[-1].content:
            return Reply(text=json.dumps({f"[{index}]": score for index, score in enumerate(scores, start=1)}))
        case GenerationTask() | FusionTask():
            has_letters = "[A]" in "".join(turn.content for turn in request.prompt[-2:])
            labels = [chr(ord("A") + index) if has_letters else str(index + 1) for index in range(len(scores))]
            return Reply(text=" > ".join(f"[{labels[position]}]" for position in ranked))
        case AttentionTask() | CrossEncoderTask():
            return Reply(scores=tuple(scores))
        case ContinuationTask(continuations=continuations) if len(continuations) == len(scores) > 1:
            return Reply(scores=tuple(scores))
        case ContinuationTask(continuations=continuations):  # of one document: the first one is evidence for it
            return Reply(scores=(scores[0], *[0.0] * (len(continuations) - 1)))
    raise AssertionError(f"No reply for {request.task}")


def documents(count: int) -> Window:
    return window(*(f"text number {n}" for n in range(count)))


def relevances(count: int, best: int) -> dict[str, float]:
    """Return distinct relevances whose largest is that of document ``best``."""
    return {f"d{n}": -0.1 if n == best else -1.0 - (n * 7 % count) for n in range(count)}


def check_orders(build: Build, selector: str, count: int) -> None:
    """The order is a permutation, and documents with better scores are ranked first, wherever the best one is."""
    for best in range(count):
        relevance = relevances(count, best)
        backend = backend_for(selector, partial(answer, relevance=relevance))
        (verdict,) = judge_windows(build(backend), [documents(count)])
        assert sorted(verdict.order) == list(range(count))
        assert verdict.status == "ok"
        expected = sorted(range(count), key=lambda n: -relevance[f"d{n}"])
        if chooses_best(selector):
            expected = [best, *(n for n in range(count) if n != best)]
        assert list(verdict.order) == expected


def check_failures(build: Build, selector: str) -> None:
    """Failed, refused and malformed replies keep the order and have a status that says so."""
    replies = {
        "error": Reply(finish="error", error="the server is gone"),
        "refused": Reply(finish="refused"),
        "no text and no scores": Reply(),
        "text without identifiers, scores of the wrong number": Reply(text="well, it depends", scores=(1.0,) * 9),
        "scores that are not numbers": Reply(text="hm", scores=(math.nan,) * 4),
    }
    for kind, reply in replies.items():
        (verdict,) = judge_windows(build(backend_for(selector, always(reply))), [documents(4)])
        assert verdict.order == (0, 1, 2, 3), kind
        assert verdict.status in FAILURES, kind
        assert verdict.status == kind or kind not in FAILURES
        assert kind != "error" or "the server is gone" in verdict.detail


def check_batches(build: Build, selector: str) -> None:
    """Windows judged together have the verdicts that they have alone, in their order."""
    relevance = {f"d{n}": -float((n * 5 + 3) % 7) - 0.5 for n in range(7)}
    backend = backend_for(selector, partial(answer, relevance=relevance))
    windows = [documents(count) for count in (3, 1, 7, 2)]
    together = judge_windows(build(backend), windows)
    assert together == [verdict for single in windows for verdict in judge_windows(build(backend), [single])]
    assert [len(verdict.order) for verdict in together] == [3, 1, 7, 2]
    assert judge_windows(build(backend), []) == []


def check_requests(build: Build, selector: str) -> None:
    """Equal windows have equal requests, others have others; their number and tasks are as announced."""
    backend = backend_for(selector, always(Reply()))
    judge = build(backend)
    first, second = judge.make_requests(documents(5)), build(backend).make_requests(documents(5))
    assert first == second
    assert [request.digest({}) for request in first] == [request.digest({}) for request in second]
    assert len(first) == judge.calls(5)
    for request in first:
        assert type(request.task) in judge.needs
        assert set(request.window.docs) <= set(documents(5).docs)
    reversed_window = replace(documents(5), docs=documents(5).docs[::-1])
    other_query = window(*(doc.text for doc in documents(5).docs), query="another question")
    for other in (reversed_window, other_query, documents(4)):
        assert [request.digest({}) for request in judge.make_requests(other)] != [
            request.digest({}) for request in first
        ]


def check_first_stage(selector: str) -> None:
    """A judge that sorts by score adds the first stage's; the others refuse it. The scores stay the judge's own."""
    relevance = relevances(5, 3)
    backend = backend_for(selector, partial(answer, relevance=relevance))
    if not builder(selector)(backend).sorts_by_score:
        with raises(UsageError, "first_stage is 0.5"):
            builder(f"{selector},first_stage=0.5")(backend)
        return
    for weight in ("-1", "nan", "inf"):
        with raises(UsageError, "first_stage", f" is {weight}"):
            builder(f"{selector},first_stage={weight}")(backend)
    given = replace(documents(5), scores=(4.0, 9.0, 1.0, 2.0, 3.0))
    (alone,) = judge_windows(builder(selector)(backend), [given])
    verdicts = {
        weight: judge_windows(builder(f"{selector},first_stage={weight}")(backend), [given])[0]
        for weight in ("0", "1e-9", "0.5", "1e9")
    }
    assert verdicts["0"] == verdicts["1e-9"] == alone
    assert verdicts["1e9"].order == (1, 0, 4, 3, 2)
    assert {verdict.scores for verdict in verdicts.values()} == {alone.scores}
    mixed = builder(f"{selector},first_stage=0.5")(backend)
    own, first = (
        window_z_scores(mixed.scores_to_combine([*map(float, relevance.values())])),
        window_z_scores(given.scores),
    )
    assert list(verdicts["0.5"].order) == sorted(range(5), key=lambda at: -(own[at] + 0.5 * first[at]))
    (equal,) = judge_windows(mixed, [replace(given, scores=(0.1,) * 5)])
    assert equal == alone
    (without,) = judge_windows(mixed, [documents(5)])
    assert (without.order, without.status) == (alone.order, "ok")
    assert "first-stage scores" in without.detail


def check_contract(build: Build, selector: str) -> None:
    """Check all that a judge promises."""
    check_requests(build, selector)
    for count in (2, 5, 9):
        check_orders(build, selector, count)
    check_failures(build, selector)
    check_batches(build, selector)


@pytest.mark.parametrize("selector", CASES)
def test_every_judge_fulfils_the_contract(selector: str) -> None:
    check_contract(builder(selector), selector)
    check_first_stage(selector)


@dataclass(frozen=True, kw_only=True)
class IgnoresReplies(Generate):
    """A judge that keeps the order, whatever the replies are."""

    def verdict(self, window: Window, replies: Sequence[Reply]) -> Verdict:
        return Verdict(order=tuple(range(len(window))), status="ok")


@dataclass(frozen=True, kw_only=True)
class LosesDocuments(Generate):
    """A judge that drops the last document."""

    def verdict(self, window: Window, replies: Sequence[Reply]) -> Verdict:
        verdict = super().verdict(window, replies)
        return replace(verdict, order=verdict.order[:-1])


@dataclass(frozen=True, kw_only=True)
class WorstFirst(Generate):
    """A judge that reverses the order."""

    def verdict(self, window: Window, replies: Sequence[Reply]) -> Verdict:
        verdict = super().verdict(window, replies)
        return verdict if verdict.status in FAILURES else replace(verdict, order=verdict.order[::-1])


@dataclass(frozen=True, kw_only=True)
class HidesFailures(Generate):
    """A judge that reports failed windows as ok."""

    def verdict(self, window: Window, replies: Sequence[Reply]) -> Verdict:
        return replace(super().verdict(window, replies), status="ok")


@dataclass(frozen=True, kw_only=True)
class SortsDocuments(Generate):
    """A judge whose requests do not depend on the order of the documents."""

    def make_requests(self, window: Window) -> list[Request]:
        docs = tuple(sorted(window.docs, key=lambda doc: doc.id))
        return super().make_requests(replace(window, docs=docs))


@pytest.mark.parametrize(
    ("wrong", "check"),
    [
        (IgnoresReplies, lambda build: check_orders(build, "generate", 5)),
        (LosesDocuments, lambda build: check_orders(build, "generate", 5)),
        (WorstFirst, lambda build: check_orders(build, "generate", 5)),
        (HidesFailures, lambda build: check_failures(build, "generate")),
        (SortsDocuments, lambda build: check_requests(build, "generate")),
    ],
)
def test_a_wrong_judge_fails_the_contract(wrong: type[Generate], check: Callable[[Build], None]) -> None:
    def build(backend: Backend) -> PromptJudge:
        return wrong(backend=backend, template=load_prompt("listwise"))

    with pytest.raises(AssertionError):
        check(build)
    with pytest.raises(AssertionError):
        check_contract(build, "generate")

"""A model as the judge: what is asked, what is read from replies, and what is never made up."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank.adjudication.judging.grader import (
    REPLY_TOKENS,
    GradedReply,
    Grader,
    GradingWorkers,
    judge_session_by_model,
    parse_judged_grade,
)
from rerank.adjudication.judging.session import SCALE, JudgingSession, JudgingTerms, PendingJudgment, PoolTexts
from rerank.adjudication.pools import pool_runs
from rerank.adjudication.walks import AdjudicationBudget
from rerank.backends.cross_encoder import CrossEncoder
from rerank.backends.fake import Fake
from rerank.errors import ContextOverflowError, DataError, UsageError
from rerank.judges import Limits
from rerank.prompts import load_prompt
from rerank.prompts.word_tokens import WordTokens
from rerank.tasks import ContinuationTask, GenerationTask, Reply, Request
from rerank.types import Document, Qrels, Query, Ranking, Run, Window
from tests.judges.scripted import Scripted, always, window
from tests.judging import judge_windows
from tests.raising import raises

GRADE = load_prompt("grade")


def grader(backend: Any, **more: Any) -> Grader:
    return Grader(backend=backend, template=GRADE, **more)


READ: list[tuple[str, int | None]] = [
    ("2", 2),
    (" 3\n", 3),
    ("**1**", 1),
    ("0.", 0),
    ("Grade: 2", 2),
    ("grade 2", 2),
    ("**Grade:** 2", 2),
    ("Grade = 2.0", 2),
    ("##final score: 2", 2),
    ("M score: 3\nT score: 2\n##Final Score: **1**", 1),
    ("##final score: score", None),
    ("##final score: 7", None),
    ("1. Define the topic.\n2. Measure how well it matches.\n3. Determine the score", None),
    ("1. Topic: fits.\n2. Trust: high.\n##final score: 3", 3),
    ('{"grade": 2}', 2),
    ('```json\n{"grade": "3"}\n```', 3),
    ('{"final_score": 1, "reason": "3 of 4 points"}', 1),
    ("I would rate this passage as 2.", 2),
    ("The passage gets a 2 because it names 3 of 5 causes.", None),
    ("On a scale from 0 to 3, this is a 2.", 2),
    ("(0-3): 1", 1),
    ("One of 0, 1, 2 or 3: I choose 2", 2),
    ("2/3", 2),
    ("3 out of 3", 3),
    ("a relevance of 1", 1),
    ("Grade: 2. A grade of 3 would need the exact answer.", 2),
    ("Written in 1998, it gets 2", 2),
    ("Grade - 2", 2),
    ("2\n- 3 of the points are there", 2),
    ("Grade: ２", 2),
    ("", None),
    ("I cannot tell.", None),
    ("Grade: 7", None),
    ("Grade: 7, since 2 facts are right", None),
    ("Grade: -1", None),
    ("Grade: 2.5", None),
    ("-1", None),
    ("2.5", None),
    ("4", None),
    ("25%", None),
    ("12", None),
    ("0 to 3", None),
    ("h2o", None),
    ("9" * 400, None),
]


@pytest.mark.parametrize(("reply", "grade"), READ)
def test_replies_as_models_write_them(reply: str, grade: int | None) -> None:
    assert parse_judged_grade(reply, SCALE) == grade


@given(st.text(), st.sampled_from([(0, 1), (0, 1, 2, 3), (2, 5, 9)]))
def test_any_text_has_a_reading(text: str, grades: tuple[int, ...]) -> None:
    assert parse_judged_grade(text, grades) in (None, *grades)


@given(st.text(alphabet="abc :{}\"'\n.,-/*#"), st.sampled_from(["", "grade", "score: "]))
def test_no_grade_is_made_up(text: str, word: str) -> None:
    assert parse_judged_grade(f"{word}{text}", SCALE) is None


@given(st.sampled_from(SCALE), st.text(alphabet="abcdef \n.,!", max_size=20))
def test_a_grade_alone_is_found_in_any_words(grade: int, words: str) -> None:
    assert parse_judged_grade(f"{words} {grade}\n{words}", SCALE) == grade


def test_grades_are_weighed_where_the_backend_can() -> None:
    scripted = Scripted(always(Reply(scores=(-3.0, -0.2, -2.0, -9.0))), ContinuationTask, GenerationTask)
    made = grader(scripted)
    request = made.request(window("about rain", query="why does it rain"))
    assert request.task == ContinuationTask(continuations=("3", "2", "1", "0"))
    shown = request.prompt[-1].content
    assert "Query: why does it rain" in shown
    assert "Passage: about rain" in shown
    assert made.read(scripted.generate([request])[0]) == GradedReply(grade=2)


@pytest.mark.parametrize(
    ("scores", "grade"),
    [
        ((-1.0, -1.0, -2.0, -1.0), 0),  # of equal ones the lowest
        ((-1.0, -math.inf, -math.inf, -math.inf), 3),
        ((-math.inf,) * 4, None),
        ((-1e4,) * 4, None),  # a server that told none of them
        ((math.nan, -1.0, -1.0, -1.0), None),
    ],
)
def test_the_likeliest_grade(scores: tuple[float, ...], grade: int | None) -> None:
    read = grader(Scripted(always(Reply()), ContinuationTask)).read(Reply(scores=scores))
    assert (read.grade, read.answered) == (grade, True)
    assert bool(read.detail) == (grade is None)


def test_grades_are_written_where_the_backend_cannot_weigh_or_is_not_to() -> None:
    for tasks, by in (((GenerationTask,), "auto"), ((GenerationTask, ContinuationTask), "generation")):
        scripted = Scripted(always(Reply(text="Grade: 1")), *tasks)
        made = grader(scripted, by=by)
        request = made.request(window("about rain"))
        assert (request.task, request.sampling.max_tokens) == (GenerationTask(), REPLY_TOKENS)
        assert made.read(scripted.generate([request])[0]) == GradedReply(grade=1, reply="Grade: 1")


def test_what_has_no_grade() -> None:
    made = grader(Scripted(always(Reply()), GenerationTask))
    assert made.read(Reply(text="Hm.")) == GradedReply(grade=None, reply="Hm.", detail="no grade in the reply")
    assert made.read(Reply(finish="refused")).detail == "the provider refused to answer"
    assert made.read(Reply(finish="error", error="gone")) == GradedReply(grade=None, detail="gone", answered=False)
    assert grader(Scripted(always(Reply()), ContinuationTask)).read(Reply()).answered
    unreadable = Reply(error="no message")
    assert made.read(unreadable) == GradedReply(grade=None, detail="no message")


def test_long_documents_are_cut_and_long_queries_refused() -> None:
    for tasks in ((ContinuationTask,), (GenerationTask,)):
        scripted = Scripted(always(Reply()), *tasks, context_size=300)
        made = grader(scripted, limits=Limits(min_passage_tokens=4))
        request = made.request(window("word " * 900))
        assert scripted.tokens.count(request.prompt) + request.sampling.max_tokens == 300
        with pytest.raises(ContextOverflowError):
            made.request(window("word", query="word " * 300))


def test_it_is_a_judge_like_any_other() -> None:
    scripted = Scripted(lambda r: Reply(text="3" if "hail" in r.prompt[-1].content else "1"), GenerationTask)
    (verdict,) = judge_windows(grader(scripted), [window("snow", "hail", "rain")])
    assert (verdict.order, verdict.status) == ((1, 0, 2), "ok")
    scripted.say = lambda r: Reply(text="?" if "snow" in r.prompt[-1].content else "1")
    assert judge_windows(grader(scripted), [window("snow", "hail")])[0].status == "empty"


def test_what_cannot_be_meant_is_refused() -> None:
    with raises(UsageError, "'listwise'", "'grade'"):
        Grader(backend=Fake("perfect"), template=load_prompt("listwise"))
    with raises(UsageError, "--by generation", "'scripted'"):
        grader(Scripted(always(Reply()), ContinuationTask), by="generation")
    with raises(UsageError, "cross_encoder:x"):
        Grader.check(CrossEncoder, "cross_encoder:x")


TOPICS, EACH = 3, 5


class Corpus:
    """Documents that say their own ids."""

    name, language, fingerprint = "made", "en", "0" * 16

    def docs(self) -> Any:
        return iter([Document(id=f"d{n}", text=f"this is d{n}") for n in range(EACH)])


POOL = pool_runs(
    [
        Run(
            [Ranking.from_order(Query(id=f"t{t}"), [Document(id=f"d{n}") for n in range(EACH)]) for t in range(TOPICS)],
            name="a",
        )
    ]
)
QUERIES = [Query(id=f"t{t}", text=f"question {t}") for t in range(TOPICS)]
TEXTS = PoolTexts.look_up(POOL, QUERIES, Corpus())


def open_session(path: Path, method: str = "depth", budget: str = "4") -> JudgingSession:
    return JudgingSession.open(
        path, POOL, JudgingTerms(method=method, budget=AdjudicationBudget.parse(budget), relevant=2)
    )


def by_id(request: Request) -> Reply:
    """d3 and d4 are relevant; d1 gets no grade."""
    shown = request.prompt[-1].content
    grade = next(n for n in range(EACH) if f"this is d{n}" in shown)
    return Reply(text="no idea" if grade == 1 else str(min(grade, 3)), seconds=0.5)


class Batches(Scripted):
    """Keeps which documents were asked about together."""

    def __init__(self, say: Any, size: int = 8) -> None:
        super().__init__(say, GenerationTask)
        self.batch_size = size
        self.batches: list[list[tuple[str, str]]] = []

    def generate(self, requests: Any) -> list[Reply]:
        self.batches.append([(r.window.query.id, r.window.docs[0].id) for r in requests])
        return super().generate(requests)


def test_the_next_documents_of_all_topics_are_asked_about_together(tmp_path: Path) -> None:
    backend = Batches(by_id)
    told: list[PendingJudgment] = []
    session = open_session(tmp_path / "j.jsonl")
    assert judge_session_by_model(session, grader(backend), TEXTS, name="m", on_judged=told.append) == {}
    assert backend.batches == [[(f"t{t}", f"d{n}") for t in range(TOPICS)] for n in range(4)]
    assert len(told) == 12
    counts = session.to_dict()
    assert (counts["judged"], counts["failed"], counts["left"], counts["relevant"]) == (9, 3, 0, 6)
    assert dict(session.qrels()["t0"]) == {"d0": 0, "d2": 2, "d3": 3}
    rows = [json.loads(line) for line in (tmp_path / "j.jsonl").read_text().splitlines()]
    (failed,) = (row for row in rows[1:] if row["topic"] == "t0" and row["grade"] is None)
    about = {"topic": "t0", "doc": "d1", "grade": None, "judge": "m", "seconds": 0.5, "check": failed["check"]}
    assert failed == {**about, "gap": "failed", "reply": "no idea", "detail": "no grade in the reply"}


def test_an_order_over_all_topics_asks_one_by_one(tmp_path: Path) -> None:
    backend = Batches(by_id)
    judge_session_by_model(open_session(tmp_path / "j.jsonl", "mtf-global"), grader(backend), TEXTS)
    assert [len(batch) for batch in backend.batches] == [1] * 12


def test_a_resumed_session_asks_in_the_same_batches(tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    whole = Batches(by_id, size=2)
    judge_session_by_model(open_session(tmp_path / "whole.jsonl"), grader(whole), TEXTS)
    parts: list[list[tuple[str, str]]] = []
    for _ in range(20):
        backend = Batches(by_id, size=2)

        def stop(asked: PendingJudgment, backend: Batches = backend) -> None:
            if len(backend.batches) == 1 and asked.topic == backend.batches[0][-1][0]:
                raise Stopped

        try:
            judge_session_by_model(open_session(tmp_path / "parts.jsonl"), grader(backend), TEXTS, on_judged=stop)
        except Stopped:
            parts += backend.batches
    assert parts == whole.batches
    assert (tmp_path / "parts.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.mark.parametrize("method", ["depth", "mtf", "mtf-global"])
def test_workers_get_the_batches_of_one_process(tmp_path: Path, method: str) -> None:
    def apply(function: Any, rounds: Any, *, count: int, together: int = 1) -> Iterator[Any]:
        opened, calls = function.open(), 0
        for items in rounds:
            results = [opened(item) for item in items]  # read as a whole: a round does not depend on its own results
            calls += len(results)
            yield from results
        assert calls <= count

    here, there = Batches(by_id, size=2), Batches(by_id, size=2)
    judge_session_by_model(open_session(tmp_path / "here.jsonl", method), grader(here), TEXTS)
    workers = GradingWorkers(open_backend=lambda: there, apply=apply)
    judge_session_by_model(open_session(tmp_path / "there.jsonl", method), grader(there), TEXTS, workers=workers)
    assert there.batches == here.batches
    assert (tmp_path / "there.jsonl").read_bytes() == (tmp_path / "here.jsonl").read_bytes()


def test_topics_without_a_reply_wait_and_are_asked_again(tmp_path: Path) -> None:
    def say(request: Request) -> Reply:
        broken = request.window.query.id == "t1" and request.window.docs[0].id == "d2"
        return Reply(finish="error", error="a timeout") if broken else by_id(request)

    for method in ("depth", "mtf-global"):
        path = tmp_path / f"{method}.jsonl"
        session = open_session(path, method, "5")
        assert judge_session_by_model(session, grader(Scripted(say)), TEXTS) == {"t1": "a timeout"}
        assert session.left >= 3
        assert all("timeout" not in line for line in path.read_text().splitlines())
        session = open_session(path, method, "5")
        assert judge_session_by_model(session, grader(Scripted(by_id)), TEXTS) == {}
        assert session.left == 0


def test_the_fakes_judge(tmp_path: Path) -> None:
    qrels = Qrels({"t0": {"d3": 1}})
    session = open_session(tmp_path / "j.jsonl")
    assert judge_session_by_model(session, grader(Fake("perfect", qrels=qrels)), TEXTS) == {}
    assert [doc for doc, grade in session.qrels()["t0"].items() if grade] == ["d3"]
    waiting = judge_session_by_model(open_session(tmp_path / "k.jsonl"), grader(Fake("fail")), TEXTS)
    assert len(waiting) == TOPICS


def test_texts_that_are_missing_are_told_before_judging() -> None:
    with raises(DataError, "1 of the 3", "'made'", "'t2'"):
        PoolTexts.look_up(POOL, QUERIES[:2], Corpus())
    more = pool_runs([Run([Ranking.from_order(Query(id="t0"), [Document(id="d1"), Document(id="d77")])])])
    with raises(DataError, "1 of 2", "'made'", "'d77'"):
        PoolTexts.look_up(more, QUERIES, Corpus())


def test_the_prompt_fits_a_small_context() -> None:
    prompt = GRADE.render("a question", ["a passage"])
    assert WordTokens(0).count(prompt) < 200
    assert isinstance(TEXTS.window(PendingJudgment("t0", "d0")), Window)


@pytest.mark.model
def test_the_embedded_model_gives_grades() -> None:
    from rerank.models import BackendOptions, open_model_backend

    backend = open_model_backend("smollm2-135m", BackendOptions(dtype="float32"))
    asked = window("Bridges are built of steel.", query="how long do fleas live")
    for by in ("likelihood", "generation"):
        made = grader(backend, by=by)
        graded = made.read(backend.generate([made.request(asked)])[0])
        assert graded.answered
        assert graded.grade in (None, *SCALE)
        assert graded.grade is not None or (by == "generation" and graded.reply)

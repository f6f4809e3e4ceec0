"""Judging sessions: whatever is judged, undone, killed and taken up again, the state is that of judging straight."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rerank.adjudication.judging.session import (
    JudgingSession,
    JudgingTerms,
    Judgment,
    JudgmentJournal,
    PendingJudgment,
    hash_pool,
    parse_grades,
)
from rerank.adjudication.orders import open_judging_order
from rerank.adjudication.pools import Pool, pool_runs
from rerank.adjudication.walks import AdjudicationBudget, judge_pool_in_order
from rerank.errors import DataError, MissingResourceError, RerankError, StorageError, UsageError
from rerank.io.run_files import read_qrels, write_qrels
from rerank.types import Document, Query, Ranking, Run
from tests.raising import raises

METHODS = ("mtf", "mtf_global", "random", "depth", "hedge", "ts")


def make_pool(seed: int = 0, *, topics: int = 3, systems: int = 3) -> Pool:
    chance = np.random.default_rng(seed)
    return pool_runs(
        [
            Run(
                [
                    Ranking.from_order(
                        Query(id=f"t{topic}"), [Document(id=f"d{doc}") for doc in chance.permutation(9)[:6]]
                    )
                    for topic in range(topics)
                ],
                name=f"s{system}",
            )
            for system in range(systems)
        ]
    )


POOL = make_pool()


def terms(method: str = "mtf", budget: str = "50%", **more: Any) -> JudgingTerms:
    given: dict[str, Any] = {"method": method, "budget": AdjudicationBudget.parse(budget), "relevant": 2, **more}
    return JudgingTerms(**given)


def grade_of(asked: PendingJudgment) -> int:
    return sum(map(ord, asked.topic + asked.doc)) % 4


def judge(session: JudgingSession, grade: int | None = None, **more: Any) -> PendingJudgment:
    asked = session.next()
    assert asked is not None
    session.record(
        Judgment(topic=asked.topic, doc=asked.doc, grade=grade_of(asked) if grade is None else grade, **more)
    )
    return asked


def finish(session: JudgingSession) -> list[PendingJudgment]:
    found = []
    while session.next() is not None:
        found.append(judge(session))
    return found


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("budget", ["4", "50%", "total:10", "100%"])
def test_documents_come_as_in_a_study_with_the_same_answers(method: str, budget: str, tmp_path: Path) -> None:
    made = terms(method, budget, seed=3)
    session = JudgingSession.open(tmp_path / "j.jsonl", POOL, made)
    asked = finish(session)
    answers = [np.array([grade_of(PendingJudgment(t.id, doc)) >= 2 for doc in t.docs]) for t in POOL.topics]
    ordering = judge_pool_in_order(open_judging_order(method), POOL, answers, seed=3, ties_by_id=True)
    sizes = ordering.sizes(made.budget)
    for at, topic in enumerate(POOL.topics):
        wanted = [topic.docs[doc] for doc in ordering.docs[at][: sizes[at]]]
        assert [a.doc for a in asked if a.topic == topic.id] == wanted
    if ordering.sequence is not None:
        assert [a.topic for a in asked] == [POOL.topics[at].id for at in ordering.sequence[: len(asked)]]
    assert (session.left, len(asked)) == (0, sizes.sum())


steps = st.lists(st.sampled_from(["0", "1", "2", "3", "skip", "fail", "undo", "resume", "kill"]), max_size=40)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps, method=st.sampled_from(METHODS), cut=st.integers(1, 60))
@pytest.mark.filterwarnings("ignore:The last line of")
def test_any_history_is_as_good_as_judging_straight(steps: list[str], method: str, cut: int) -> None:
    """A kill may leave the beginning of a line; `kept` is what a list would hold."""
    with tempfile.TemporaryDirectory() as folder:
        path, made = Path(folder, "j.jsonl"), terms(method)
        session, kept = JudgingSession.open(path, POOL, made), list[Judgment]()
        for step in steps:
            if step in ("resume", "kill"):
                if step == "kill" and path.exists():
                    with path.open("ab") as file:  # the beginning of a line, never a whole one
                        file.write(b'{"topic": "t0", "doc": "d1", "grade": 1, "judge": "person", "seconds": 0.1}'[:cut])
                session = JudgingSession.open(path, POOL, made)
            elif step == "undo":
                assert session.undo() == (kept.pop() if kept else None)
            elif (asked := session.next()) is not None:
                gap: Any = {"skip": "skipped", "fail": "failed"}.get(step)
                kept.append(Judgment(topic=asked.topic, doc=asked.doc, grade=None if gap else int(step), gap=gap))
                session.record(kept[-1])
        straight = JudgingSession.open(Path(folder, "straight.jsonl"), POOL, made)
        for judgment in kept:
            straight.record(judgment)
        for found in (session, JudgingSession.open(path, POOL, made)):
            assert found.history == straight.history == kept
            assert (found.next(), found.pending(), found.left) == (straight.next(), straight.pending(), straight.left)
            assert found.qrels() == straight.qrels()
        assert finish(session) == finish(straight)


@settings(max_examples=40)
@given(data=st.data(), method=st.sampled_from(METHODS))
@pytest.mark.filterwarnings("ignore:The last line of")
def test_a_file_cut_off_anywhere_goes_on(data: st.DataObject, method: str) -> None:
    """Also one that was cut off, taken up, and cut off again: only the torn line is lost."""
    with tempfile.TemporaryDirectory() as folder:
        path, made = Path(folder, "j.jsonl"), terms(method)
        for _ in range(3):
            session = JudgingSession.open(path, POOL, made)
            before = list(session.history)
            for _ in range(2):
                if session.next() is not None:
                    judge(session)
            whole = path.read_bytes() if path.exists() else b""
            path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
            again = JudgingSession.open(path, POOL, made).history
            assert again == session.history[: len(again)]
            assert before[: len(again)] == again[: len(before)]
        finish(JudgingSession.open(path, POOL, made))
        assert JudgingSession.open(path, POOL, made).left == 0


def test_a_file_of_its_first_line_alone_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    judge(JudgingSession.open(path, POOL, terms()), 3)
    path.write_bytes(path.read_bytes().partition(b"\n")[0] + b"\n")
    assert JudgingSession.open(path, POOL, terms()).history == []


def lines(path: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [{key: value for key, value in line.items() if key != "check"} for line in found]


def test_the_file(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    session = JudgingSession.open(path, POOL, terms(seed=7))
    assert not path.exists()  # nothing is written before there is something to keep
    first = judge(session, 3, seconds=1.23456)
    second = session.next()
    assert second is not None
    session.record(
        Judgment(topic=second.topic, doc=second.doc, grade=None, gap="failed", judge="m", reply="Hm.", detail="why")
    )
    session.undo()
    header, *rest = lines(path)
    assert header == {
        **{"format": "listrank judgments", "version": 1, "method": "mtf", "seed": 7, "budget": "50%", "depth": 100},
        **{"relevant": 2, "grades": [0, 1, 2, 3], "pool": hash_pool(POOL), "judge": "person"},
    }
    failed = {"topic": second.topic, "doc": second.doc, "grade": None, "judge": "m", "seconds": 0.0}
    assert rest == [
        {"topic": first.topic, "doc": first.doc, "grade": 3, "judge": "person", "seconds": 1.235},
        {**failed, "gap": "failed", "reply": "Hm.", "detail": "why"},
        {"undo": True},
    ]
    assert [j.grade for j in JudgingSession.open(path, POOL, terms(seed=7)).history] == [3]


def test_every_judgment_is_on_the_disk_when_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr("os.fsync", lambda descriptor: synced.append(descriptor))
    session = JudgingSession.open(tmp_path / "j.jsonl", POOL, terms())
    for count in range(1, 4):
        judge(session)
        assert len(synced) == count + 1  # the new file's folder, too
        assert len(lines(tmp_path / "j.jsonl")) == 1 + count


def test_a_torn_last_line_is_a_warning_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    judge(JudgingSession.open(path, POOL, terms()))
    torn = path.read_bytes() + '{"topic": "é'.encode()[:-1]
    path.write_bytes(torn)
    with pytest.warns(UserWarning, match=r"j\.jsonl, number 3"):
        session = JudgingSession.open(path, POOL, terms())
    assert path.read_bytes() == torn
    judge(session)
    assert path.read_bytes().startswith(torn + b'\n{"torn": true}\n{"topic"')
    assert JudgingSession.open(path, POOL, terms()).history == session.history  # and no warning any more


def test_a_line_without_its_end_counts(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    session = JudgingSession.open(path, POOL, terms())
    judge(session)
    path.write_bytes(path.read_bytes().removesuffix(b"\n"))
    again = JudgingSession.open(path, POOL, terms())
    assert again.history == session.history
    judge(again)
    assert len(lines(path)) == 3


@pytest.mark.parametrize(
    ("broken", "named"),
    [
        ("no json", ("no json",)),
        ("[1]", ("[1]",)),
        ("", ()),
        ('{"torn": tr', ()),
        ('{"grade": 1}', ("topic", "doc")),
        ('{"topic": "t0", "doc": "d1", "grade": 7}', ("grade 7", "0, 1, 2, 3")),
        ('{"topic": "t0", "doc": "d1", "grade": true}', ("grade True",)),
        ('{"topic": "t0", "doc": "d1", "grade": 1.0}', ("grade 1.0",)),
        ('{"topic": "t0", "doc": "d1"}', ("gap",)),
        ('{"topic": "t0", "doc": "d1", "grade": 1, "chfck": "0"}', ("chfck",)),
        ('{"topic": "t0", "doc": "d1", "grade": 1, "check": "0"}', ("was changed", "remove its key check")),
        ('{"topic": "t0", "doc": "d1", "grade": 1, "seconds": "x"}', ("seconds is 'x'",)),
        ('{"topic": "t9", "doc": "d1", "grade": 1}', ("'t9'",)),
        ('{"topic": "t0", "doc": "dx", "grade": 1}', ("'dx'", "--method mtf")),
    ],
)
def test_a_broken_line_is_named_by_its_number(broken: str, named: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    session = JudgingSession.open(path, POOL, terms())
    judge(session)
    judge(session)
    head, good, more = path.read_text("utf-8").splitlines()
    path.write_text("\n".join([head, good, broken, more, ""]), "utf-8")
    with raises(DataError, "j.jsonl:3", *named):
        JudgingSession.open(path, POOL, terms())


def test_an_undo_of_nothing_and_a_judgment_too_many(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    made = terms(budget="1")
    session = JudgingSession.open(path, POOL, made)
    asked = finish(session)
    head, *rest = path.read_text("utf-8").splitlines()
    path.write_text("\n".join([head, '{"undo": true}', *rest, ""]), "utf-8")
    with raises(DataError, "j.jsonl:2", "undo"):
        JudgingSession.open(path, POOL, made)
    path.write_text("\n".join([head, *rest, rest[-1], ""]), "utf-8")
    with raises(DataError, f"j.jsonl:{len(asked) + 2}"):
        JudgingSession.open(path, POOL, made)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (terms(seed=1), ("--seed", "0", "1")),
        (terms("depth"), ("--method", "mtf", "depth")),
        (terms(budget="20%"), ("--budget", "50%", "20%")),
        (terms(relevant=1), ("--relevant", "2", "1")),
        (terms(depth=5), ("--depth", "100", "5")),
        (terms(grades=(0, 1, 2)), ("--grades", "0,1,2,3", "0,1,2 ")),
        (terms(judge={"judge": "llm", "model": "m"}), ("--judge", "person", "llm", "--model", "(none)")),
    ],
)
def test_other_terms_are_refused(changed: JudgingTerms, named: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    judge(JudgingSession.open(path, POOL, terms()))
    kept = path.read_bytes()
    with raises(UsageError, "j.jsonl", *named, "--out"):
        JudgingSession.open(path, POOL, changed)
    assert path.read_bytes() == kept


def test_another_pool_is_refused(tmp_path: Path) -> None:
    judge(JudgingSession.open(tmp_path / "j.jsonl", POOL, terms()))
    with raises(UsageError, "pool", "--out"):
        JudgingSession.open(tmp_path / "j.jsonl", make_pool(1), terms())


def test_a_fingerprint_tells_pools_apart() -> None:
    prints = {hash_pool(make_pool(seed, topics=t, systems=s)) for seed in (0, 1) for t in (1, 2) for s in (1, 2)}
    assert len(prints) == 8
    assert hash_pool(make_pool()) == hash_pool(POOL)


@pytest.mark.parametrize(
    "content", [b"q1 0 d1 2\n", b"\x89PNG\r\n", b"\n", b"{}\n", b'{"format": "other"}\n', b'{"format": "listrank j']
)
def test_a_file_of_another_kind_is_left_alone(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    path.write_bytes(content)
    if terms().to_dict(POOL) and content.startswith(b'{"format": "listrank'):  # the beginning of our own first line
        judge(JudgingSession.open(path, POOL, terms()))
        assert len(lines(path)) == 2
        return
    with raises(DataError, "j.jsonl", "--out"):
        JudgingSession.open(path, POOL, terms())
    assert path.read_bytes() == content


def test_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "j.jsonl").write_text('{"format": "listrank judgments", "version": 2}\n')
    with raises(DataError, "version 2", "version 1"):
        JudgingSession.open(tmp_path / "j.jsonl", POOL, terms())


def test_paths_that_cannot_be(tmp_path: Path) -> None:
    with raises(UsageError, tmp_path):
        JudgmentJournal(tmp_path, {})
    with pytest.raises(RerankError):
        JudgmentJournal(Path("a\0b"), {})
    with raises(StorageError, "j.jsonl"):
        JudgmentJournal(tmp_path / "no" / "j.jsonl", {}).add({})
    assert issubclass(MissingResourceError, RerankError)


def test_two_who_judge_into_one_file(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    one, other = JudgingSession.open(path, POOL, terms()), JudgingSession.open(path, POOL, terms())
    judge(one)
    for _ in range(2):
        with raises(StorageError, "j.jsonl"):
            judge(other)
    assert other.history == []
    judge(one)


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "j.jsonl"
    session = JudgingSession.open(path, POOL, terms())
    judge(session)
    with monkeypatch.context() as patched:

        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        patched.setattr("os.fsync", full)
        with raises(StorageError, "No space left on device"):
            judge(session)
    assert len(session.history) == 1


def test_a_judgment_must_be_of_what_is_asked_for(tmp_path: Path) -> None:
    session = JudgingSession.open(tmp_path / "j.jsonl", POOL, terms())
    asked = session.next()
    assert asked is not None
    with raises(UsageError, "'x'", asked.doc):
        session.record(Judgment(topic=asked.topic, doc="x", grade=1))
    with raises(UsageError, "grade 9"):
        session.record(Judgment(topic=asked.topic, doc=asked.doc, grade=9))
    assert not (tmp_path / "j.jsonl").exists()


def test_undo_across_the_border_of_topics(tmp_path: Path) -> None:
    session = JudgingSession.open(tmp_path / "j.jsonl", POOL, terms(budget="2"))
    asked = [judge(session) for _ in range(3)]
    assert [a.topic for a in asked] == ["t0", "t0", "t1"]
    for back in reversed(asked):
        undone = session.undo()
        assert undone is not None
        assert session.next() == PendingJudgment(undone.topic, undone.doc) == back
    assert session.undo() is None
    assert finish(session)[:3] == asked


def test_topics_go_in_step(tmp_path: Path) -> None:
    session = JudgingSession.open(tmp_path / "j.jsonl", POOL, terms(budget="3"))
    assert [a.topic for a in session.pending()] == ["t0", "t1", "t2"]
    judge(session)
    assert [a.topic for a in session.pending()] == ["t1", "t2"]
    assert [a.topic for a in session.pending(excluding={"t1", "t2"})] == ["t0"]
    across = JudgingSession.open(tmp_path / "k.jsonl", POOL, terms("mtf-global", budget="3"))
    assert across.pending() == [across.next()]


def test_places(tmp_path: Path) -> None:
    session = JudgingSession.open(tmp_path / "j.jsonl", POOL, terms(budget="2"))
    for _ in range(3):
        judge(session)
    asked = session.next()
    assert asked is not None
    place = session.position(asked)
    assert (place.topic, place.topics, place.document, place.documents) == (2, 3, 2, 2)
    across = JudgingSession.open(tmp_path / "k.jsonl", POOL, terms("mtf-global", budget="2"))
    asked = judge(across)
    place = across.position(asked)
    assert (place.topic, place.topics, place.document, place.documents) == (None, 3, 2, 6)


def test_what_has_no_grade_is_left_out_of_the_qrels(tmp_path: Path) -> None:
    session = JudgingSession.open(tmp_path / "j.jsonl", POOL, terms(budget="2"))
    first = session.next()
    assert first is not None
    session.record(Judgment(topic=first.topic, doc=first.doc, grade=None, gap="skipped", seconds=2))
    second = judge(session, 2, seconds=1.5)
    write_qrels(session.qrels(), tmp_path / "qrels.txt")
    assert dict(read_qrels(tmp_path / "qrels.txt")) == {"t0": {second.doc: 2}}
    assert session.to_dict() == {"judged": 1, "skipped": 1, "failed": 0, "left": 4, "relevant": 1, "seconds": 3.5}


@pytest.mark.parametrize("grades", [(), (1,), (1, 0), (0, 0, 1), (0, 10), (-1, 1)])
def test_grades_that_are_no_scale(grades: tuple[int, ...]) -> None:
    with raises(UsageError, ",".join(map(str, grades))):
        terms(grades=grades)


def test_a_scale_needs_both_kinds() -> None:
    for relevant in (0, 4):
        with raises(UsageError, f"grade is {relevant}", "1 to 3"):
            terms(relevant=relevant)
    assert parse_grades(" 0, 1,2") == (0, 1, 2)
    for text in ("", "0,,1", "0-3", "a", "²"):
        with raises(UsageError, repr(text)):
            parse_grades(text)


def test_ids_of_any_letters(tmp_path: Path) -> None:
    """Half a surrogate pair can stand in a JSON collection; a line break in an id must not break a line."""
    docs = [Document(id=doc) for doc in ("ü", "文", "\ud800", "a\nb", '"')]
    odd = pool_runs([Run([Ranking.from_order(Query(id="thema ä"), docs)])])
    made = terms("depth", "100%")
    session = JudgingSession.open(tmp_path / "j.jsonl", odd, made)
    finish(session)
    assert JudgingSession.open(tmp_path / "j.jsonl", odd, made).history == session.history

"""What is said of how measures read grades."""

from __future__ import annotations

import pytest

from rerank.evaluation import compare_runs
from rerank.evaluation.measures import (
    describe_grade_use,
    evaluation_overlap_note,
    measure_grade_note,
    relevance_threshold_note,
)
from rerank.types import Document, Qrels, Query, Ranking, Run

GRADED = Qrels({"q": {"a": 3, "b": 1}, "p": {"a": 0, "b": 2}})


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("AP", "relevant: grade >= 1"),
        ("AP(rel=2)", "relevant: grade >= 2"),
        ("NumRet(rel=1)", "relevant: grade >= 1"),
        ("INQUIRE_nDCG@50", "relevant: grade >= 1"),
        ("T2Ranking_R(rel=2)@50", "relevant: grade >= 2"),
        ("nDCG@10", "gain: grade, discount: log2(rank + 1)"),
        ("nDCG(gains={3:7,2:3})", "gain: grade (2 counts 3, 3 counts 7), discount: log2(rank + 1)"),
        ("nDCG(dcg='exp-log2')@10", "gain: 2^grade - 1, discount: log2(rank + 1)"),
        ("Judged@10", ""),
        ("NumRet", ""),
        ("ERR@20", ""),
    ],
)
def test_reading(name: str, words: str) -> None:
    assert describe_grade_use(name) == words


def test_note() -> None:
    assert measure_grade_note(GRADED, ["AP", "nDCG@10", "P(rel=2)@5", "R@5"]) == (
        "AP, R@5: grades from 1 count as relevant, and these judgments have grades up to 3. "
        "TREC Deep Learning counts from 2: AP(rel=2)."
    )


def test_nothing_to_beware_of() -> None:
    assert measure_grade_note(GRADED, ["nDCG@10", "AP(rel=2)", "NumRet"]) == ""
    assert measure_grade_note(Qrels({"q": {"a": 1}}), ["AP"]) == ""
    assert measure_grade_note(Qrels({}), ["AP"]) == ""


def test_a_threshold_above_all_grades() -> None:
    assert "grade 4" in relevance_threshold_note(GRADED, ["AP", "P(rel=4)@5"])
    assert "grade 4" in relevance_threshold_note(GRADED, ["nDCG@10"], 4)
    assert relevance_threshold_note(GRADED, ["AP(rel=3)", "nDCG@10", "NumRet"], 3) == ""
    assert "grade 1" in relevance_threshold_note(Qrels({"q": {"a": 0, "b": -1}}), ["nDCG@10"])


def test_compare_tells() -> None:
    runs = [Run([Ranking.from_order(Query(id="q"), [Document(id=doc)])], name=doc) for doc in "ab"]
    assert any("grades from 1 count" in note for note in compare_runs(GRADED, runs, "AP").notes)
    assert not any("grades from" in note for note in compare_runs(GRADED, runs, "AP", relevant=2).notes)


def test_judgments_of_another_collection() -> None:
    run = Run(
        [Ranking.from_order(Query(id="1", text=""), [Document(id="a", text=""), Document(id="b", text="")])], name="r"
    )
    assert "No document of run 'r' is judged in other" in evaluation_overlap_note(
        Qrels({"1": {"x": 1}, "2": {"a": 1}}, name="other"), run
    )
    assert evaluation_overlap_note(Qrels({"1": {"b": 0}}), run) == ""  # judged, and not relevant
    assert evaluation_overlap_note(Qrels({"2": {"x": 1}}), run) == ""  # no query in common, an error of its own

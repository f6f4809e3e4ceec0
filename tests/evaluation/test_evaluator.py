"""Evaluation in blocks, by group of queries, and against the definitions of the measures."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank.errors import DataError, UsageError
from rerank.evaluation import (
    add_groups_to_evaluation_report,
    compare_runs,
    cover_runs_by_judgments,
    evaluate_by_group,
    evaluate_run,
    evaluate_runs,
    evaluation_report,
    evaluator,
    read_query_groups,
)
from rerank.io import run_files
from rerank.types import Document, Qrels, Query, Ranking, Run
from tests.raising import raises
from tests.ranked import run_of

MEASURES = ["nDCG@10", "AP", "P@5", "RR", "infAP", "Judged@10", "NumRel", "NumRet", "nDCG(judged_only=True)@5", "R@20"]


def make_run(name: str, seed: int) -> Run:
    chance = random.Random(seed)
    lists = [(f"q-{n}", chance.sample(range(60), chance.randint(0, 30))) for n in range(40) if n % 7 or seed]
    docs = [(Query(id=query), [Document(id=f"d {n}" if n == 3 else f"d{n}") for n in found]) for query, found in lists]
    return Run([Ranking.from_order(query, found) for query, found in docs], name=name)


QRELS = Qrels(
    {
        f"q-{n}": {f"d{d}": random.Random(n + 100 * d).choice([-100, -1, 0, 1, 2]) for d in range(n % 9 * 5 + 1)}
        for n in range(37)
    }
)


@pytest.mark.parametrize("size", [1, 5, 36])
def test_blocks_do_not_change_scores(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    runs = [make_run("a", 0), make_run("b", 1), Run((), name="none")]
    expected = evaluate_runs(QRELS, runs, MEASURES)
    monkeypatch.setattr(evaluator, "_BLOCK", size)
    assert evaluate_runs(QRELS, runs, MEASURES) == expected


def test_a_run_that_is_read_when_needed_has_the_same_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lists = [ranking for ranking in make_run("a", 1).values() if "d 3" not in ranking.doc_ids]
    run_files.write_run(Run(lists, name="a"), tmp_path / "a")
    results = []
    for size in (1 << 40, 1):
        monkeypatch.setattr(run_files, "_LARGE", size)
        run = run_files.read_run(tmp_path / "a")
        names = ["nDCG@10", "P@5"]
        results.append(
            (evaluate_runs(QRELS, [run], MEASURES), cover_runs_by_judgments(QRELS, [run], names, bounds=True))
        )
    assert results[0] == results[1]


GROUPED = Qrels({"1": {"a": 1}, "2": {"a": 1, "b": 1}, "3": {"a": 1}, "4": {"a": 1}})
GROUPS = {"1": "x", "2": "x", "3": "y", "5": "y", "6": "x", "4": ""}


GROUPED_RUN = run_of("run", {"1": "a", "2": "ca", "5": "a", "6": "c", "4": "ca"})


def test_each_group_by_itself() -> None:
    found = evaluate_by_group(GROUPED, GROUPED_RUN, ["RR", "R@5"], GROUPS)
    assert list(found) == ["x", "y", "(none)"]
    assert found["x"].summary() == {"RR": (1 + 1 / 2) / 2, "R@5": (1 + 1 / 2) / 2}
    assert (found["y"].summary(), found["y"].missing) == ({"RR": 0, "R@5": 0}, ("3",))
    assert found["(none)"].summary() == {"RR": 0.5, "R@5": 1}


def test_measures_of_the_whole_run_are_those_of_the_groups_queries() -> None:
    found = evaluate_by_group(GROUPED, GROUPED_RUN, ["T2Ranking_RR@10", "T2Ranking_R@5"], GROUPS)
    assert found["x"].overall == {"T2Ranking_RR@10": (1 + 1 / 2 + 0) / 3, "T2Ranking_R@5": 2 / 3}
    assert found["x"].unjudged == ("6",)
    assert found["y"].overall == {"T2Ranking_RR@10": 0, "T2Ranking_R@5": 0}


def test_the_mean_over_queries_is_that_of_the_whole() -> None:
    found = evaluate_by_group(GROUPED, GROUPED_RUN, ["RR"], GROUPS)
    total = sum(scores.mean("RR") * len(scores.queries) for scores in found.values())
    assert total / len(GROUPED) == pytest.approx(evaluate_run(GROUPED, GROUPED_RUN, ["RR"]).mean("RR"))


def test_the_lowest_relevant_grade_is_handed_on() -> None:
    assert evaluate_by_group(GROUPED, GROUPED_RUN, ["RR"], GROUPS, relevant=2)["x"].summary() == {"RR(rel=2)": 0}


def test_groups_of_other_queries() -> None:
    with raises(DataError, "4 judged queries", "qrels", "'77'"):
        evaluate_by_group(GROUPED, GROUPED_RUN, ["RR"], {"77": "x"})
    with raises(DataError, "qrels"):
        evaluate_by_group(GROUPED, GROUPED_RUN, ["RR"], {})


@pytest.mark.parametrize(
    ("qrels", "run", "measure", "named"),
    [
        ("qrels.txt", GROUPED_RUN, "RR", ("judgments are 'qrels.txt'", "read_qrels")),
        (None, GROUPED_RUN, "RR", ("judgments are None", "read_qrels")),
        (GROUPED, "search.trec", "RR", ("run is 'search.trec'", "read_run")),
        (GROUPED, None, "RR", ("run is None", "read_run")),
        (GROUPED, GROUPED_RUN, ["RR"], ("measure is ['RR']", "one measure")),
        (GROUPED, GROUPED_RUN, None, ("measure is None", "one measure")),
    ],
)
def test_arguments_of_another_type(qrels: Any, run: Any, measure: Any, named: tuple[str, ...]) -> None:
    with raises(UsageError, *named):
        compare_runs(qrels, [run, run], measure)
    with raises(UsageError, *named):
        evaluate_run(qrels, run, [measure])
    if measure == "RR":
        with raises(UsageError, *named):
            evaluate_by_group(qrels, run, [measure], GROUPS)


@pytest.mark.parametrize("runs", ["search.trec", None, GROUPED_RUN])
def test_runs_that_are_no_list(runs: Any) -> None:
    with raises(UsageError, "The runs are", "list"):
        compare_runs(GROUPED, runs, "RR")
    with raises(UsageError, "The runs are", "list"):
        evaluate_runs(GROUPED, runs, ["RR"])


def test_measures_that_are_none() -> None:
    with raises(UsageError, "measure is None"):
        evaluate_run(GROUPED, GROUPED_RUN, None)  # type: ignore[arg-type]


def test_report() -> None:
    report = evaluation_report("q", [("r", evaluate_run(GROUPED, GROUPED_RUN, ["RR"]))])
    told = add_groups_to_evaluation_report(report, "kind", [evaluate_by_group(GROUPED, GROUPED_RUN, ["RR"], GROUPS)])
    assert told["by"] == "kind"
    (row,) = told["runs"]
    assert row["scores"] == report["runs"][0]["scores"]
    assert row["groups"]["y"] == {"queries": 1, "missing": 1, "scores": {"RR": 0.0}}
    assert "groups" not in report["runs"][0], "the report that was given stays as it is"


def test_groups_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "groups.tsv"
    path.write_text("1\tFeeding and Hydration\n\n2 x\n1\tFeeding and Hydration \n")
    assert read_query_groups(path) == {"1": "Feeding and Hydration", "2": "x"}
    for text, named in (
        ("1\n", ("groups.tsv:1", "'1'")),
        ("1 a\n1 b\n", ("groups.tsv:2", "'1'")),
        ("\n", ("groups.tsv",)),
    ):
        path.write_text(text)
        with raises(DataError, *named):
            read_query_groups(path)


Grades = Mapping[str, int]


def ndcg(docs: Sequence[str], grades: Grades, k: int) -> float:
    def dcg(gains: Sequence[int]) -> float:
        return sum(max(gain, 0) / math.log2(rank + 1) for rank, gain in enumerate(gains[:k], 1))

    ideal = dcg(sorted(grades.values(), reverse=True))
    return dcg([grades.get(doc, 0) for doc in docs]) / ideal if ideal else 0.0


def precision(docs: Sequence[str], grades: Grades, k: int, rel: int = 1) -> float:
    return sum(grades.get(doc, 0) >= rel for doc in docs[:k]) / k


def total(grades: Grades, rel: int = 1) -> int:
    return sum(grade >= rel for grade in grades.values())


def recall(docs: Sequence[str], grades: Grades, k: int, rel: int = 1) -> float:
    return precision(docs, grades, k, rel) * k / total(grades, rel) if total(grades, rel) else 0.0


def average_precision(docs: Sequence[str], grades: Grades, rel: int = 1) -> float:
    hits = [k for k, doc in enumerate(docs, 1) if grades.get(doc, 0) >= rel]
    return sum(precision(docs, grades, k, rel) for k in hits) / total(grades, rel) if hits else 0.0


def reciprocal_rank(docs: Sequence[str], grades: Grades, rel: int = 1, k: int = 10**6) -> float:
    return next((1 / rank for rank, doc in enumerate(docs[:k], 1) if grades.get(doc, 0) >= rel), 0.0)


DOCS = [f"d{n:02}" for n in range(15)]


@given(
    st.dictionaries(st.sampled_from(DOCS), st.sampled_from([0.0, 0.5, 1.0, 1.0 + 1e-12, 2.0]), min_size=1),
    st.dictionaries(st.sampled_from(DOCS), st.integers(-1, 3), min_size=1),
)
def test_measures_equal_their_definitions(scored: dict[str, float], grades: dict[str, int]) -> None:
    ranking = Ranking.from_scores(Query(id="q"), [(Document(id=doc), score) for doc, score in scored.items()])
    docs = sorted(scored, key=lambda doc: (scored[doc], doc), reverse=True)  # the tie rule, said again
    expected = {
        "nDCG@5": ndcg(docs, grades, 5),
        "nDCG": ndcg(docs, grades, 10**6),
        "AP": average_precision(docs, grades),
        "AP(rel=2)": average_precision(docs, grades, 2),
        "RR": reciprocal_rank(docs, grades),
        "RR(rel=2)": reciprocal_rank(docs, grades, 2),
        "RR@3": reciprocal_rank(docs, grades, k=3),
        "P@5": precision(docs, grades, 5),
        "P(rel=3)@3": precision(docs, grades, 3, 3),
        "R@5": recall(docs, grades, 5),
        "R(rel=2)@5": recall(docs, grades, 5, 2),
    }
    scores = evaluate_run(Qrels({"q": grades}), Run([ranking]), expected)
    assert scores.summary() == pytest.approx(expected, abs=1e-9)

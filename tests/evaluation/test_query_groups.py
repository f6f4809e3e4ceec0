"""Scores by group of queries."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from rerank.errors import DataError
from rerank.evaluation import (
    add_groups_to_evaluation_report,
    evaluate_by_group,
    evaluate_run,
    evaluation_report,
    read_query_groups,
)
from rerank.types import Document, Qrels, Query, Ranking, Run
from tests.raising import raises

QRELS = Qrels({"1": {"a": 1}, "2": {"a": 1, "b": 1}, "3": {"a": 1}, "4": {"a": 1}})
GROUPS = {"1": "x", "2": "x", "3": "y", "5": "y", "6": "x", "4": ""}


def run(lists: Mapping[str, str]) -> Run:
    return Run(Ranking.from_order(Query(id=q), [Document(id=doc) for doc in docs]) for q, docs in lists.items())


RUN = run({"1": "a", "2": "ca", "5": "a", "6": "c", "4": "ca"})


def test_each_group_by_itself() -> None:
    found = evaluate_by_group(QRELS, RUN, ["RR", "R@5"], GROUPS)
    assert list(found) == ["x", "y", "(none)"]
    assert found["x"].summary() == {"RR": (1 + 1 / 2) / 2, "R@5": (1 + 1 / 2) / 2}
    assert (found["y"].summary(), found["y"].missing) == ({"RR": 0, "R@5": 0}, ("3",))
    assert found["(none)"].summary() == {"RR": 0.5, "R@5": 1}


def test_measures_of_the_whole_run_are_those_of_the_groups_queries() -> None:
    found = evaluate_by_group(QRELS, RUN, ["T2Ranking_RR@10", "T2Ranking_R@5"], GROUPS)
    assert found["x"].overall == {"T2Ranking_RR@10": (1 + 1 / 2 + 0) / 3, "T2Ranking_R@5": 2 / 3}
    assert found["x"].unjudged == ("6",)
    assert found["y"].overall == {"T2Ranking_RR@10": 0, "T2Ranking_R@5": 0}


def test_the_mean_over_queries_is_that_of_the_whole() -> None:
    found = evaluate_by_group(QRELS, RUN, ["RR"], GROUPS)
    total = sum(scores.mean("RR") * len(scores.queries) for scores in found.values())
    assert total / len(QRELS) == pytest.approx(evaluate_run(QRELS, RUN, ["RR"]).mean("RR"))


def test_the_lowest_relevant_grade_is_handed_on() -> None:
    assert evaluate_by_group(QRELS, RUN, ["RR"], GROUPS, relevant=2)["x"].summary() == {"RR(rel=2)": 0}


def test_groups_of_other_queries() -> None:
    with raises(DataError, "4 judged queries", "qrels", "'77'"):
        evaluate_by_group(QRELS, RUN, ["RR"], {"77": "x"})
    with raises(DataError, "qrels"):
        evaluate_by_group(QRELS, RUN, ["RR"], {})


def test_report() -> None:
    report = evaluation_report("q", [("r", evaluate_run(QRELS, RUN, ["RR"]))])
    told = add_groups_to_evaluation_report(report, "kind", [evaluate_by_group(QRELS, RUN, ["RR"], GROUPS)])
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

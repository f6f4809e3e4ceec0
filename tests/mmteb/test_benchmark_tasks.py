"""mteb's benchmarks, by name. The lists are mteb's; these are what its version 2.26 held when this was written."""

from __future__ import annotations

import pytest

from rerank.errors import UnknownNameError, UsageError

pytest.importorskip("mteb")

from rerank.mmteb.evaluation import BENCHMARKS, describe_task, list_mteb_tasks
from tests.raising import raises

RERANKING = {
    "MTEB(Multilingual, v2)": {
        "AlloprofReranking",
        "RuBQReranking",
        "T2Reranking",
        "VoyageMMarcoReranking",
        "WebLINXCandidatesReranking",
        "WikipediaRerankingMultilingual",
    },
    "MTEB(eng, v2)": {"AskUbuntuDupQuestions", "MindSmallReranking"},
    "MTEB(cmn, v1)": {"T2Reranking", "MMarcoReranking", "CMedQAv1-reranking", "CMedQAv2-reranking"},
}


@pytest.mark.parametrize(("benchmark", "retrieval"), list(zip(BENCHMARKS, (18, 10, 8), strict=True)))
def test_the_tasks_of_the_three_benchmarks(benchmark: str, retrieval: int) -> None:
    assert {task.metadata.name for task in list_mteb_tasks(benchmark, kinds=["Reranking"])} == RERANKING[benchmark]
    assert len(list_mteb_tasks(benchmark, kinds=["Retrieval"])) == retrieval
    told = [describe_task(task) for task in list_mteb_tasks(benchmark)]
    assert all(row["licence"] and row["data"] and row["splits"] for row in told)


def test_a_row() -> None:
    (task,) = list_mteb_tasks("MTEB(cmn, v1)", ["T2Reranking"])
    assert describe_task(task) == {
        "task": "T2Reranking",
        "type": "Reranking",
        "languages": ["cmn"],
        "subsets": 1,
        "splits": ["dev"],
        "main_score": "map_at_1000",
        "licence": "not specified",
        "data": task.metadata.dataset["path"],
        "revision": task.metadata.dataset["revision"],
    }


def test_an_alias_and_tasks_without_a_benchmark() -> None:
    assert len(list_mteb_tasks("MMTEB", kinds=["InstructionReranking"])) == 3
    assert [task.metadata.name for task in list_mteb_tasks(names=["SCIDOCS"])] == ["SCIDOCS"]


def test_names_that_are_none() -> None:
    with raises(UnknownNameError, "MTEB(cmn, v2)", "'MTEB"):
        list_mteb_tasks("MTEB(cmn, v2)")
    with raises(UnknownNameError, "'SCIDOC'", "'SCIDOCS'"):
        list_mteb_tasks("MTEB(eng, v2)", ["SCIDOC"])
    with raises(UnknownNameError, "'STS'"):
        list_mteb_tasks("MTEB(eng, v2)", kinds=["STS"])
    with raises(UsageError, "--benchmark"):
        list_mteb_tasks()
    with raises(UsageError, "MTEB(cmn, v1)", "InstructionReranking"):
        list_mteb_tasks("MTEB(cmn, v1)", kinds=["InstructionReranking"])

"""Documents that a collection excludes for a query are in no list and in no score."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rerank.collections import open_collection
from rerank.collections.base import SupportsExclusion
from rerank.evaluation import evaluate_run
from rerank.experiment import run_experiment
from rerank.experiment.spec import Execution, RunSpec
from rerank.io.run_files import read_run
from rerank.retrieval import open_first_stage
from rerank.retrieval.base.stages import ExcludingRetriever
from rerank.types import EXCLUDED, Document, Qrels, Query, Ranking, Run

DATA = Path(__file__).resolve().parents[2] / "data"
DOCS = tuple(Document(id=f"d{n:02}", text=f"text {n}") for n in range(40))


@dataclass
class Sorted:
    """Finds all documents in one order, and notes how deep it was searched."""

    depths: list[tuple[int, int]] = field(default_factory=list)

    def search(self, queries: Sequence[Query], k: int) -> Run:
        self.depths.append((len(queries), k))
        return Run((Ranking.from_order(query, DOCS).top(k) for query in queries), name="sorted")


def names(*numbers: int) -> frozenset[str]:
    return frozenset(f"d{n:02}" for n in numbers)


@pytest.mark.parametrize(
    ("excluded", "drops_self", "k", "expected", "depths"),
    [
        ({}, True, 3, {"d01": [0, 2, 3], "q": [0, 1, 2]}, [(2, 4)]),
        ({"q": names(1)}, False, 3, {"d01": [0, 1, 2], "q": [0, 2, 3]}, [(2, 4)]),
        ({"q": names(*range(10))}, False, 3, {"d01": [0, 1, 2], "q": [10, 11, 12]}, [(2, 6), (1, 13)]),
        ({"q": names(*range(20, 40))}, False, 3, {"d01": [0, 1, 2], "q": [0, 1, 2]}, [(2, 6)]),
        ({"q": names(*range(39))}, False, 50, {"d01": list(range(40)), "q": [39]}, [(2, 89)]),
    ],
    ids=["self", "one", "the first ten", "the last twenty", "nearly all"],
)
def test_excluded_documents_cost_no_rank(
    excluded: Mapping[str, frozenset[str]],
    drops_self: bool,
    k: int,
    expected: dict[str, list[int]],
    depths: list[tuple[int, int]],
) -> None:
    found = Sorted()
    search = ExcludingRetriever(retriever=found, excluded=excluded, drops_self=drops_self)
    run = search.search([Query(id="d01"), Query(id="q")], k)
    assert {query: [int(doc[1:]) for doc in ranking.doc_ids] for query, ranking in run.items()} == expected
    assert list(run) == ["d01", "q"]
    assert found.depths == depths


def test_a_collection_of_files(tmp_path: Path) -> None:
    collection = open_collection(f"jsonl:{DATA / 'bright'}")
    assert isinstance(collection, SupportsExclusion)
    assert collection.excluded() == {"0": frozenset({"garden/frost_2.txt"})}
    run = open_first_stage("bm25", collection).search(collection.queries(), 10)
    assert "garden/frost_2.txt" not in run["0"].doc_ids
    spec = RunSpec.make({"collection": f"jsonl:{DATA / 'bright'}", "model": "fake:reversed", "method": "fullrank"})
    run_experiment(spec, Execution(out=tmp_path / "run"))
    assert "garden/frost_2.txt" not in read_run(tmp_path / "run/run.trec")["0"].doc_ids
    assert "garden/frost_2.txt 0 -100" not in (tmp_path / "run/qrels.trec").read_text()


def test_scores_of_a_run_that_has_excluded_documents() -> None:
    qrels = Qrels({"q": {"a": 1, "x": EXCLUDED, "y": EXCLUDED}, "r": {"a": 1}})
    runs = [
        Run([Ranking.from_order(Query(id=q), [Document(id=d, text="") for d in docs]) for q in "qr"])
        for docs in ("xayb", "ab")
    ]
    measures = ["nDCG@2", "RR@10", "P@2", "NumRet", "Judged@2"]
    mixed, clean = (evaluate_run(qrels, run, measures) for run in runs)
    assert {name: values["q"] for name, values in mixed.values.items()} == {
        name: values["q"] for name, values in clean.values.items()
    }
    assert mixed.values["RR@10"]["r"] == 0.5  # for another query, x is an ordinary document
    assert qrels.judged() == Qrels({"q": {"a": 1}, "r": {"a": 1}})


class Silent:
    """A corpus that excludes nothing."""

    name, language, fingerprint = "silent", "en", "0" * 64

    def docs(self) -> Iterator[Document]:
        return iter(DOCS)


def test_a_corpus_need_not_exclude() -> None:
    assert not isinstance(Silent(), SupportsExclusion)

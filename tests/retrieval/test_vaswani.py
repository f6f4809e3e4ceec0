"""Vaswani, whose figures are known: BM25 to depth 1000 and 100, and Lucene beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from rerank.collections import open_collection
from rerank.evaluation import evaluate_run
from rerank.retrieval import open_first_stage

pytestmark = pytest.mark.shared


def average_precision(selector: str, shared: Path, depth: int) -> float:
    files = {"docs": "doc-text.trec.gz", "topics": "query-text.trec", "qrels": "qrels"}
    named = ",".join(f"{kind}={shared / 'data/vaswani' / name}" for kind, name in files.items())
    collection = open_collection(f"trec:{named}")
    found = open_first_stage(selector, collection).search(collection.queries(), depth)
    return evaluate_run(collection.qrels(), found, [f"AP@{depth}"]).mean(f"AP@{depth}")


@pytest.mark.parametrize(("depth", "expected", "within"), [(1000, 0.289, 0.01), (100, 0.2651, 0.0001)])
def test_bm25(shared: Path, depth: int, expected: float, within: float) -> None:
    assert average_precision("bm25", shared, depth) == pytest.approx(expected, abs=within)


@pytest.mark.lucene
def test_lucene(shared: Path) -> None:
    assert average_precision("lucene", shared, 100) == pytest.approx(0.2612, abs=0.0006)
    assert average_precision("lucene", shared, 1000) == pytest.approx(0.289, abs=0.01)

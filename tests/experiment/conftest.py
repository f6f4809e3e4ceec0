"""A small collection of lists, written on the spot."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rerank.experiment.spec import RunSpec

Lists = Callable[..., RunSpec]


@pytest.fixture
def lists(tmp_path: Path) -> Lists:
    """Make a requests file with judgments, and a specification that reranks it with a fake model."""

    def make(*, queries: int = 4, depth: int = 12, **options: object) -> RunSpec:
        rows, grades = [], []
        for q in range(queries):
            docs = [{"docid": f"d{q}-{n}", "doc": f"text {n} of list {q}", "score": 100 - n} for n in range(depth)]
            rows.append({"query": {"qid": f"q{q}", "text": f"question number {q}"}, "candidates": docs})
            grades += [f"q{q} 0 d{q}-{n} {n % 4}" for n in range(depth)]
        (tmp_path / "lists.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        (tmp_path / "qrels.txt").write_text("\n".join(grades), encoding="utf-8")
        values: dict[str, object] = {
            "collection": f"requests:{tmp_path / 'lists.jsonl'}",
            "first_stage": "candidates",
            "qrels": str(tmp_path / "qrels.txt"),
            "model": "fake:perfect",
        }
        return RunSpec.make(values | options)

    return make

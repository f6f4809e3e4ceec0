"""Runs that are evaluated in blocks of queries have the scores of runs that are evaluated at once."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from rerank.evaluation import cover_runs_by_judgments, evaluate_runs, evaluator
from rerank.io import run_files
from rerank.types import Document, Qrels, Query, Ranking, Run

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

"""A small board's files, made by the tests: two run folders, three run files with and without cards, judgments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from rerank.io.run_files import write_qrels, write_run
from rerank.leaderboard.board import Board, make_board
from rerank.leaderboard.board_config import BoardConfig
from rerank.leaderboard.suites.suite import Suite
from rerank.store import RunFolder
from rerank.types import Document, Qrels, Query, Ranking, Run

HOSTILE = "<script>alert('x')</script>"
TOPICS = 30
DOCS = 25


def judged() -> Qrels:
    grades = np.random.default_rng(5).integers(0, 4, (TOPICS, DOCS))
    return Qrels({f"q{t}": {f"d{t}-{d}": int(g) for d, g in enumerate(row)} for t, row in enumerate(grades)})


def noisy(qrels: Qrels, noise: float, seed: int, *, name: str = "run", depth: int = DOCS) -> Run:
    chance = np.random.default_rng(seed)
    rankings = []
    for query, grades in qrels.items():
        scores = np.array(list(grades.values())) + chance.normal(0, noise, len(grades))
        ids = [list(grades)[at] for at in np.argsort(-scores)[:depth]]
        text = HOSTILE if query == "q3" else f"question {query}"
        rankings.append(Ranking.from_order(Query(id=query, text=text), [Document(id=doc) for doc in ids]))
    return Run(rankings, name=name)


def run_folder(path: Path, run: Run, first: Run, **changed: Any) -> Path:
    """A finished run folder, as `rerank run` leaves it."""
    folder = RunFolder(path)
    path.mkdir(parents=True)
    spec = {"first_stage": "bm25", "depth": DOCS, "model": "openai:some-model", "method": "sliding", "adapter": None}
    summary = {"tokens_in": 9000, "tokens_out": 900, "seconds": 60.0, "queries": TOPICS, "cost": 0.03, "complete": True}
    document = {"hash": "0" * 64, "spec": spec | changed.get("spec", {}), "identity": {}}
    folder.write_json("spec.json", document | {"dataset": changed.get("dataset", {})})
    if "qrels" in changed:
        folder.write_qrels(changed["qrels"])
    folder.write_candidates(first.values(), first.name)
    write_run(run, folder.path / "run.trec")
    folder.write_json("summary.json", summary | changed.get("summary", {}))
    return path


def card(path: Path, **values: object) -> None:
    path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items()), encoding="utf-8")


def files(folder: Path) -> Path:
    qrels, runs = judged(), folder / "runs"
    runs.mkdir(parents=True)
    write_qrels(qrels, folder / "qrels.txt")
    first = noisy(qrels, 3.0, 1)
    run_folder(runs / "good", noisy(qrels, 0.4, 2), first)
    dear = {"tokens_in": 900_000, "cost": None}
    run_folder(runs / "better", noisy(qrels, 0.1, 3), first, spec={"method": "fullrank"}, summary=dear)
    write_run(noisy(qrels, 0.5, 4), runs / "plain.trec")
    write_run(noisy(qrels, 2.0, 5), runs / "carded.run.gz")
    told = {"name": f"<b>{HOSTILE}</b>", "group": "official", "first_stage": "dense", "model": "m & n"}
    card(runs / "carded.toml", **told, reference="https://example.org/paper?a=1&b=2", tokens=0, seconds=3.0)
    write_run(noisy(qrels, 0.1, 3, depth=10), runs / "short.txt")
    return folder


def plan(**changed: Any) -> BoardConfig:
    return BoardConfig(**{"title": "Made up", "qrels": "qrels.txt", "category": "tests", "language": "en", **changed})


def board(folder: Path, **changed: Any) -> Board:
    return make_board(plan(**changed), home=folder, runs=[folder / "runs"])


def write_lists(folder: Path, name: str = "lists", *, queries: int = 5, depth: int = 12, shift: int = 0) -> str:
    """A requests file and its judgments; return the collection's selector.

    Document ``n`` of a list has grade ``(n + shift) % 4``; lists with another shift have other documents.
    """
    rows, grades = [], []
    for q in range(queries):
        ids = [f"d{q}-{n + shift}" for n in range(depth)]
        docs = [{"docid": one, "doc": f"text {one} of list {q}", "score": 100 - n} for n, one in enumerate(ids)]
        rows.append({"query": {"qid": f"q{q}", "text": f"question number {q}"}, "candidates": docs})
        grades += [f"q{q} 0 {one} {(n + shift) % 4}" for n, one in enumerate(ids)]
    (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (folder / f"{name}.qrels").write_text("\n".join(grades), encoding="utf-8")
    return f"requests:{folder / name}.jsonl,qrels={folder / name}.qrels"


def suite_of(collection: str | list[dict[str, Any]], **values: Any) -> Suite:
    collections = [collection] if isinstance(collection, str) else collection
    given = {"name": "test", "collections": collections, "first_stages": ["candidates"], "depths": [10]}
    return Suite.make({**given, "models": ["fake:perfect", "fake:reversed"], **values})

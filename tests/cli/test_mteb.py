"""`rerank mteb`: choosing needs nothing; tasks and run are asked where mteb is installed."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.conftest import Cli


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    """Six models on five tasks, two of which say the same; and on 60 queries each."""
    chance = np.random.default_rng(1)
    skill = np.array([0.0, 0.1, 0.2, 0.4, 0.6, 0.8])
    means = skill + 0.03 * chance.normal(size=(5, 6))
    means[1] = means[0] * 2
    rows = [[f"m{at}", *map(str, column)] for at, column in enumerate(means.T)]
    (tmp_path / "tasks.csv").write_text("\n".join(map(",".join, [["model", *"ABCDE"], *rows])))
    with (tmp_path / "queries.jsonl").open("w") as file:
        for query in range(60):
            for at, mean in enumerate(means[0]):
                value = float(mean + 0.2 * chance.normal())
                file.write(json.dumps({"model": f"m{at}", "task": "A", "query": query, "score": value}) + "\n")
    return tmp_path


def result(cli: Cli, *arguments: object) -> dict[str, Any]:
    done = cli("mteb", "choose", *arguments, "--format", "json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_results_over_other_parts_are_told(cli: Cli, tmp_path: Path) -> None:
    for at, model in enumerate("xyz"):
        for task in "AB":
            place = tmp_path / "results" / f"org__{model}" / "r"
            place.mkdir(parents=True, exist_ok=True)
            rows = [{"main_score": (at + 1) / 4, "hf_subset": name} for name in ("en", "sw")[: at + 1]]
            (place / f"{task}.json").write_text(json.dumps({"task_name": task, "scores": {"test": rows}}))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        done = cli("mteb", "choose", "tasks", tmp_path, "--format", "json")
    assert "A: not all models have test/sw" in done.stderr
    found = json.loads(done.stdout)
    assert [note[:30] for note in found["notes"][:2]] == [f"{task}: not all models have test/sw" for task in "AB"]


def test_what_is_written_is_what_was_measured(cli: Cli, tmp_path: Path) -> None:
    """By hand: pools of the first document of a, and the relevant one; the corpus is their union."""
    (tmp_path / "a.trec").write_text("q Q0 a 1 2 a\nq Q0 b 2 1 a\nr Q0 c 1 2 a\nr Q0 d 2 1 a\n")
    (tmp_path / "b.trec").write_text("q Q0 c 1 2 b\nq Q0 b 2 1 b\nr Q0 d 1 2 b\nr Q0 e 2 1 b\n")
    (tmp_path / "qrels.txt").write_text("q 0 b 1\nr 0 d 1\n")
    pool = ("pool", tmp_path / "a.trec", tmp_path / "b.trec", "--qrels", tmp_path / "qrels.txt", "--from", "a")
    found = result(cli, *pool, "-m", "RR", "--k", "1", "--min-tau", "0", "--out", tmp_path / "pool.jsonl")
    assert found["chosen"]["documents"] == 4
    written = [json.loads(line) for line in (tmp_path / "pool.jsonl").read_text().splitlines()]
    assert written == [{"id": name} for name in "abcd"]  # c for q too, which b finds there first


def test_no_pool_is_good_enough(cli: Cli, tmp_path: Path) -> None:
    """Over the corpus a, c the run b is left with c, a and passes the run a, which was ahead."""
    for name, orders in (("a", ("acb", "acb")), ("b", ("bdca", "bdeca"))):
        lists = zip("qr", orders, strict=True)
        lines = [f"{q} Q0 {doc} {rank} {9 - rank} {name}" for q, order in lists for rank, doc in enumerate(order)]
        (tmp_path / f"{name}.trec").write_text("\n".join(lines))
    (tmp_path / "qrels.txt").write_text("q 0 c 1\nr 0 c 1\n")
    pool = ("pool", tmp_path / "a.trec", tmp_path / "b.trec", "--qrels", tmp_path / "qrels.txt", "--from", "a")
    out = tmp_path / "pool.jsonl"
    done = cli("mteb", "choose", *pool, "-m", "RR", "--k", "1", "--min-tau", "1", "--out", out, "--format", "json")
    assert done.returncode == 5
    assert json.loads(done.stdout)["chosen"] is None
    assert "No depth meets the goal" in done.stderr
    assert "was not written" in done.stderr
    assert not out.exists()
    assert cli("mteb", "choose", *pool, "-m", "RR", "--k", "1", "--min-tau", "1").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("tasks", "tasks.csv", "--order", "name"), 2, "correlation or significance"),
        (("tasks", "tasks.csv", "--test", "tt"), 2, "Unknown test"),
    ],
)
def test_what_does_not_fit(cli: Cli, scores: Path, arguments: tuple[str, ...], code: int, message: str) -> None:
    done = cli("mteb", "choose", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in " ".join(done.stderr.split())


def test_tasks_of_a_benchmark(cli: Cli) -> None:
    pytest.importorskip("mteb")
    done = cli("mteb", "tasks", "--benchmark", "MTEB(eng, v2)", "--type", "Reranking", "--format", "json")
    assert [row["task"] for row in json.loads(done.stdout)] == ["AskUbuntuDupQuestions", "MindSmallReranking"]
    assert "Did you mean" in cli("mteb", "tasks", "--benchmark", "MTEB(eng, v3)").stderr


def test_a_run(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mteb")
    from rerank import mmteb
    from tests.mmteb import tasks

    def named(benchmark: str, names: list[str], kinds: object) -> list[Any]:
        return [tasks.filled(getattr(tasks, name)()) for name in names]

    monkeypatch.setattr(mmteb, "list_mteb_tasks", named)
    command = ["mteb", "run", "--benchmark", "any", "--tasks", "LocalRetrieval", "--tasks", "LocalReranking"]
    command += ["--first-stage", "bm25", "--depth", "3", "--model", "fake:reversed", "--out", str(tmp_path / "out")]
    done = cli(*command, "--format", "json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [(row["task"], row["main_score"]) for row in found["results"]] == [
        ("LocalRetrieval", "ndcg_at_10"),
        ("LocalReranking", "map_at_1000"),
    ]
    assert found["first_stage"]["model"] == "listrank/bm25"
    assert len({row["revision"] for row in found["results"]}) == 2
    assert all(Path(row["path"]).is_file() for row in found["results"])
    again = cli(*command)
    assert again.returncode == 0
    assert "read from its file" in again.stdout
    # reranking tasks bring their lists: another depth asks nothing of them, and a folder called bm25 says nothing
    (tmp_path / "bm25").mkdir()
    monkeypatch.chdir(tmp_path)
    deeper = json.loads(cli(*command, "--depth", "4", "--format", "json").stdout)["results"]
    assert [row["path"] == before["path"] for row, before in zip(deeper, found["results"], strict=True)] == [
        False,
        True,
    ]
    assert ["calls" in row for row in deeper] == [True, False]
    # what could not be had does not take the rest with it
    away = tasks.LocalRetrieval()

    def fail(**more: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr(away, "load_data", fail)
    both = [away, tasks.filled(tasks.LocalReranking())]
    monkeypatch.setattr(mmteb, "list_mteb_tasks", lambda benchmark, names, kinds: both)
    half = cli(*command, "--seed", "2", "--format", "json")
    assert half.returncode == 7
    assert json.loads(half.stdout)["failed"].keys() == {"LocalRetrieval"}
    assert "1 tasks have no score: LocalRetrieval" in half.stderr

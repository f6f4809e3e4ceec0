"""`rerank reproduce`."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
RUNS = ("base.trec", "new.trec", "base2.trec", "new2.trec")
ORDERS = {"base.trec": "dcba", "new.trec": "abcd", "base2.trec": "dbca", "new2.trec": "bacd"}


@pytest.fixture(autouse=True)
def files(tmp_path: Path) -> None:
    """Four runs, whose scores differ from query to query, and two sets of judgments."""
    for name, docs in ORDERS.items():
        lines = [f"q{q} Q0 {doc} {rank} {9 - rank} s" for q in range(3) for rank, doc in enumerate(docs, 1)]
        (tmp_path / name).write_text("\n".join(lines))
    for name, topics in (("qrels.txt", 3), ("other.txt", 2)):
        (tmp_path / name).write_text("\n".join(f"q{q} 0 {'abc'[q]} 1" for q in range(topics)))


def test_the_same_and_another_collection(cli: Cli) -> None:
    found = json.loads(cli("reproduce", *RUNS, "--qrels", "qrels.txt", "-m", "RR", "--format", "json").stdout)
    assert (found["same_collection"], found["depth"]) == (True, 1000)
    base = sum((1 / 4, 1 / 3, 1 / 2)) / 3
    assert found["rows"][0]["original"] == pytest.approx(base)
    assert found["effects"][0]["improvement"] == pytest.approx(sum((1, 1 / 2, 1 / 3)) / 3 - base)
    again = cli(
        "reproduce", *RUNS, "--qrels", "qrels.txt", "--qrels-again", "other.txt", "-m", "RR", "--format", "json"
    )
    assert (json.loads(again.stdout)["same_collection"], json.loads(again.stdout)["orders"]) == (False, [])


def test_tables(cli: Cli) -> None:
    text = cli("reproduce", *RUNS, "--qrels", "qrels.txt", "-m", "RR").stdout
    assert [line.split()[0] for line in text.splitlines()[:2]] == ["measure", "RR"]
    csv = cli("reproduce", *RUNS, "--qrels", "qrels.txt", "--format", "csv").stdout
    head, *rows = csv.splitlines()
    assert {"er", "dri", "rmse", "ktu", "rbo"} <= {*head.split(",")}
    assert [row.split(",")[0] for row in rows] == ["effects", "rows", "rows", "orders", "orders"]
    assert cli("reproduce", *RUNS, "--qrels", "qrels.txt", "--format", "markdown").stdout.startswith("| measure")
    assert "tau union" in cli("reproduce", *RUNS, "--qrels", "qrels.txt", "--format", "html").stdout


def test_three_runs(cli: Cli) -> None:
    done = cli("reproduce", *RUNS[:3], "--qrels", "qrels.txt")
    assert (done.returncode, "3 runs" in done.stderr) == (2, True)

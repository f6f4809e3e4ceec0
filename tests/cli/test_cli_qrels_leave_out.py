"""`rerank qrels leave-out`."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
FLAGS = ("qrels", "leave-out", "runs", "--qrels", "qrels.txt", "-m", "P@2", "--depth", "2")


@pytest.fixture(autouse=True)
def files(tmp_path: Path) -> None:
    """Three runs over two queries; each finds a relevant document of its own."""
    (tmp_path / "runs").mkdir()
    for name in ("x1", "x2", "y"):
        lines = [f"q{q} Q0 {doc} {rank} {9 - rank} {name}" for q in range(2) for rank, doc in enumerate((name, "a"), 1)]
        (tmp_path / "runs" / f"{name}.trec").write_text("\n".join(lines))
    (tmp_path / "qrels.txt").write_text("\n".join(f"q{q} 0 {doc} 1" for q in range(2) for doc in ("x1", "x2", "y")))


def test_leaving_out_runs_and_groups(cli: Cli, tmp_path: Path) -> None:
    found = json.loads(cli(*FLAGS, "--format", "json").stdout)
    assert (found["groups"], found["topics"], found["depth"]) == (3, 2, 2)
    assert {(row["unique"], row["mean"], row["without"]) for row in found["rows"]} == {(2, 0.5, 0.0)}
    (tmp_path / "groups.txt").write_text("x1.trec x\nx2.trec x\n")
    for group in ("x=x*", "groups.txt"):
        grouped = json.loads(cli(*FLAGS, "--group", group, "--format", "json").stdout)
        assert [(row["run"], row["group"], row["unique"]) for row in grouped["rows"]] == [
            ("x1.trec", "x", 4),
            ("x2.trec", "x", 4),
            ("y.trec", "y.trec", 2),
        ]


def test_tables(cli: Cli) -> None:
    text = cli(*FLAGS).stdout
    assert text.splitlines()[0].split()[:4] == ["measure", "run", "group", "unique"]
    assert (
        cli(*FLAGS, "--format", "csv")
        .stdout.splitlines()[0]
        .startswith("measure,run,group,unique,unique_relevant,mean")
    )
    assert cli(*FLAGS, "--format", "latex").stdout.startswith(r"\begin{table}")


@pytest.mark.parametrize("group", ["x", "z=z*", "a=x*"])
def test_groups_that_do_not_fit(cli: Cli, group: str) -> None:
    done = cli(*FLAGS, "--group", group, "--group", "x=x1*")
    assert (done.returncode, group.rpartition("=")[2] in done.stderr or "x1" in done.stderr) == (2, True)

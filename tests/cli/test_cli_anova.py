"""`rerank anova`."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
FLAGS = ("anova", "one", "two", "--qrels", "one.txt", "--qrels", "two.txt", "-m", "nDCG@5")


@pytest.fixture(autouse=True)
def files(tmp_path: Path) -> None:
    """Three systems on two collections with eight and five queries."""
    chance = np.random.default_rng(0)
    for name, topics in (("one", 8), ("two", 5)):
        (tmp_path / name).mkdir()
        grades = chance.integers(0, 3, (topics, 9))
        rows = [f"q{q} 0 d{d} {grade}" for q, row in enumerate(grades) for d, grade in enumerate(row)]
        (tmp_path / f"{name}.txt").write_text("\n".join(rows))
        for system in range(3):
            ranked = np.argsort(chance.normal(0, 1 + system, grades.shape) - grades)
            lines = [f"q{q} Q0 d{d} {r} {9 - r} s" for q, row in enumerate(ranked) for r, d in enumerate(row, 1)]
            (tmp_path / name / f"s{system}.trec").write_text("\n".join(lines))


def test_anova(cli: Cli) -> None:
    found = json.loads(cli(*FLAGS, "--format", "json").stdout)
    assert found["collections"] == [{"collection": "one", "topics": 8}, {"collection": "two", "topics": 5}]
    assert [(row["effect"], row["df"]) for row in found["anova"]] == [
        ("system", 2),
        ("collection", 1),
        ("topic(collection)", 11),
        ("system:collection", 2),
        ("error", 22),
    ]
    assert found["correction"] == "holm"
    means = json.loads(cli("eval", "one", "--qrels", "one.txt", "-m", "nDCG@5", "--format", "json").stdout)["runs"]
    by_name = {row["name"]: row["scores"]["nDCG@5"] for row in means}
    assert {row["system"]: row["means"]["one"] for row in found["systems"]} == pytest.approx(by_name)


def test_tables(cli: Cli) -> None:
    done = cli(*FLAGS)
    assert [line.split("\t")[0] for line in done.stdout.splitlines()][:2] == ["a", "s0.trec"]
    assert "Analysis of variance" in done.stderr
    assert cli(*FLAGS, "--format", "latex").stdout.startswith(r"\begin{table}")
    head, *rows = cli(*FLAGS, "--format", "csv").stdout.splitlines()
    assert {"table", "means.one", "difference", "interval_low", "omega_squared"} <= {*head.split(",")}
    assert [row.split(",")[0] for row in rows] == ["systems"] * 3 + ["pairs"] * 3 + ["anova"] * 5


def test_folders_and_judgments_that_do_not_fit(cli: Cli, tmp_path: Path) -> None:
    assert cli(*FLAGS[:-4], "-m", "nDCG@5").returncode == 2
    assert cli(*FLAGS[:-2], "-m", "P_5,10").returncode == 2
    same = cli("anova", "one", "one", "two", *("--qrels", "one.txt") * 2, "--qrels", "two.txt")
    assert (same.returncode, "one, one, two" in same.stderr) == (2, True)
    (tmp_path / "two" / "s1.trec").unlink()
    done = cli(*FLAGS)
    assert (done.returncode, "s1.trec" in done.stderr) == (5, True)

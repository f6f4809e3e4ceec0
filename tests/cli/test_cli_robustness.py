"""`rerank robustness`."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Cli


def test_json_has_a_cell_for_every_depth(cli: Cli, lists: tuple[str, ...]) -> None:
    done = cli("robustness", *lists, "--depth", "12", "--also-depth", "6", "--shuffles", "1", "--format", "json")
    assert done.returncode == 0
    report = json.loads(done.stdout)
    assert list(report) == ["method", "model", "cells"]
    assert [(cell["depth"], len(cell["orders"])) for cell in report["cells"]] == [(12, 3), (6, 3)]
    assert list(report["cells"][0]) == [
        "first_stage",
        "depth",
        "queries",
        "first_stage_scores",
        "orders",
        "spread",
        "worst",
    ]
    rows = cli("robustness", *lists, "--depth", "12", "--also-depth", "6", "--shuffles", "1", "--format", "jsonl")
    assert [json.loads(line)["depth"] for line in rows.stdout.splitlines()] == [12, 6]


def test_text_is_a_table(cli: Cli, lists: tuple[str, ...]) -> None:
    done = cli("robustness", *lists, "--model", "fake:reversed", "--shuffles", "1", "-m", "nDCG@10", "-m", "RR")
    assert done.returncode == 0
    head, *rows = (line.split("\t") for line in done.stdout.splitlines())
    assert head == ["first stage", "depth", "order", "nDCG@10", "RR", "tau", "top 10"]
    assert [row[2] for row in rows] == ["first stage", "given", "reversed", "shuffled 0", "best - worst"]
    assert rows[1][-2:] == ["1.0000", "1.0000"]
    assert rows[2][-2:] == ["-1.0000", "0.8000"]
    assert "candidates, depth 100, reversed: runs/fullrank-fake-reversed-" in done.stderr.replace("fake:", "fake-")


def test_dry_run_asks_nothing(cli: Cli, lists: tuple[str, ...]) -> None:
    done = cli("robustness", *lists, "--dry-run", "--format", "json")
    expected = json.loads(done.stdout)
    assert (expected["runs"], expected["calls"], expected["cost"]) == (5, 20, None)
    assert cli("robustness", *lists, "--dry-run").stdout.splitlines()[1].endswith("\tunknown")
    assert not Path("runs").exists()


def test_wrong_input(cli: Cli, lists: tuple[str, ...]) -> None:
    for flags, message in (
        (("--shuffle", "random"), "--shuffles"),
        (("--shuffles", "-1"), "--shuffles"),
        (("--also-depth", "0"), "--also-depth"),
        (("--also-first-stage", "bm52"), "Unknown first stage 'bm52'"),
        (("--method", "slidng"), "Did you mean 'sliding'"),
    ):
        done = cli("robustness", *lists, *flags)
        assert (done.returncode, done.stdout) == (2, ""), done
        assert message in done.stderr
    assert not Path("runs").exists()  # nothing is run before everything is prepared


def test_failures_are_said_after_the_report(cli: Cli, lists: tuple[str, ...]) -> None:
    done = cli("robustness", *lists, "--model", "fake:fail", "--shuffles", "0", "--format", "json")
    assert done.returncode == 7
    assert [row["failure_rate"] for row in json.loads(done.stdout)["cells"][0]["orders"]] == [1.0, 1.0]
    assert "of the windows failed" in done.stderr


def test_the_injection_probe(cli: Cli, lists: tuple[str, ...]) -> None:
    flags = ("robustness", *lists, "--probe", "injection", "--model", "fake:reversed")
    done = cli(*flags, "--format", "json")
    assert done.returncode == 0
    (cell,) = json.loads(done.stdout)["cells"]
    assert list(cell) == ["first_stage", "depth", "queries", "rank_before", "attacks"]
    head, *rows = (line.split("\t") for line in cli(*flags).stdout.splitlines())
    assert head[2:] == ["attack", "position", "rank before", "rank", "rise", "rank 1", "top 10"]
    assert len(rows) == len(cell["attacks"])
    assert rows[0][2:] == ["control", "before", "12.0", "12.0", "0.00 [0.00, 0.00]", *["0.00 [0.00, 0.49]"] * 2]
    assert json.loads(cli(*flags, "--dry-run", "--format", "json").stdout)["runs"] == 1 + len(rows)
    refused = cli(*flags, "--shuffles", "2")
    assert (refused.returncode, "--shuffles" in refused.stderr) == (2, True)

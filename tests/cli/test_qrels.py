"""`rerank qrels study`, `compare` and `pool`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.conftest import Cli

STUDY = ("qrels", "study", "runs", "--qrels", "gold.txt")


@pytest.fixture(autouse=True)
def files(tmp_path: Path) -> None:
    """Four runs over thirty topics in a folder, and two sets of judgments."""
    chance = np.random.default_rng(2)
    grades = chance.integers(0, 4, (30, 20))
    (tmp_path / "runs").mkdir()
    (tmp_path / "empty" / "inside").mkdir(parents=True)
    for system in range(4):
        scores = grades + chance.normal(0, 0.5 + system, grades.shape)
        lines = [
            f"q{topic} Q0 d{doc} {rank} {20 - rank} s{system}"
            for topic, row in enumerate(scores)
            for rank, doc in enumerate(np.argsort(-row)[:12], 1)
        ]
        (tmp_path / "runs" / f"s{system}.trec").write_text("\n".join(lines))
    for name, noise in (("gold", 0), ("other", 1)):
        judged = np.clip(grades + noise * chance.integers(-1, 2, grades.shape), 0, 3)
        rows = [f"q{topic} 0 d{doc} {g}" for topic, row in enumerate(judged) for doc, g in enumerate(row)]
        (tmp_path / f"{name}.txt").write_text("\n".join(rows))


def result(cli: Cli, *arguments: str) -> dict[str, Any]:
    done = cli(*arguments, "--format", "json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_order_of_a_reranked_pool(cli: Cli, tmp_path: Path) -> None:
    done = cli("qrels", "pool", "runs", "--depth", "8", "--out", "pool.trec")
    assert done.returncode == 0
    assert (tmp_path / "pool.trec").read_text().startswith("q0 Q0 d")
    found = result(cli, *STUDY, "--method", "llm:pool.trec", "--method", "rrf", "--budget", "40%", "--depth", "8")
    llm, rrf = found["results"]
    assert llm["method"] == "llm:pool.trec"
    assert [llm[name] for name in ("AA", "recall", "tau")] == [rrf[name] for name in ("AA", "recall", "tau")]


def test_a_pool_as_qrels(cli: Cli, tmp_path: Path) -> None:
    few = [line for line in (tmp_path / "gold.txt").read_text().splitlines() if line.split()[2] in ("d1", "d2")]
    (tmp_path / "few.txt").write_text("\n".join(few))
    options = ("--out", "pool.trec", "--qrels", "few.txt", "--qrels-out", "sampled.txt")
    assert cli("qrels", "pool", "runs", *options).returncode == 0
    rows = [line.split() for line in (tmp_path / "sampled.txt").read_text().splitlines()]
    judged = {tuple(line.split()) for line in few}
    assert {tuple(row) for row in rows if row[3] != "-1"} == judged
    assert len(rows) > 2 * len(judged)
    both = cli("eval", "runs/s0.trec", "--qrels", "sampled.txt", "-m", "Judged@5", "-m", "nDCG@10")
    assert both.stdout == cli("eval", "runs/s0.trec", "--qrels", "few.txt", "-m", "Judged@5", "-m", "nDCG@10").stdout


def test_a_system_that_did_not_contribute_and_one_that_is_repeated(cli: Cli, tmp_path: Path) -> None:
    options = ("--from", "runs/s0.trec", "--from", "runs/s1.trec", "--budget", "50%", "--method", "depth")
    found = result(cli, *STUDY, *options, "--seeds", "2", "--resamples", "20", "--out", "study")
    assert (found["pooled_systems"], found["gold"]["systems"]) == (2, 4)
    (row,) = found["results"]
    assert [(group["contributing"], group["pairs"]) for group in row["by_contribution"]] == [(2, 1), (1, 4), (0, 1)]
    assert row["interval"]["tau"]
    assert "pooled" in (tmp_path / "study" / "systems.csv").read_text().splitlines()[0]
    found = result(cli, *STUDY, "--repeats", "pair=s[01]*", "--budget", "50%", "--seeds", "2")
    assert (found["gold"]["systems"], found["repeats"][0]["runs"]) == (3, 2)
    text = cli(*STUDY, "--repeats", "pair=s[01]*", "--budget", "50%", "--seeds", "2")
    assert "pair: mean of 2 runs" in text.stderr
    assert "--resamples" in text.stderr


def test_two_sets_of_judgments(cli: Cli) -> None:
    found = result(cli, "qrels", "compare", "gold.txt", "other.txt", "--runs", "runs", "--relevant", "2", "-m", "P@5")
    assert (found["topics"], found["systems"], found["pairs"]) == (30, 4, 6)
    assert found["results"][0]["measure"] == "P(rel=2)@5"
    assert 0 < found["agreement"]["kappa"] < found["agreement"]["kappa_quadratic"] < 1
    listed = ("runs/s0.trec", "runs/s1.trec", "runs/s2.trec", "runs/s3.trec")
    assert (
        result(cli, "qrels", "compare", "gold.txt", "other.txt", "--runs", *listed, "--relevant", "2", "-m", "P@5")
        == found
    )
    text = cli("qrels", "compare", "gold.txt", "gold.txt", "--runs", "runs")
    assert "600 common documents: same grade 1.000, kappa 1.000" in text.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((*STUDY, "--repeats", "gpt"), 2, "--repeats is 'gpt'"),
        ((*STUDY, "--test", "tukey-anova", "--correction", "bh"), 2, "'bh'"),
        ((*STUDY, "--method", "llm"), 2, "llm:PATH"),
        (("qrels", "agreement", "gold.txt", "other.txt", "--relevant", "gold=2"), 2, "other"),
        (("qrels", "agreement", "gold.txt", "gold.txt", "--name", "a", "--name", "a"), 2, "all different"),
        ((*STUDY, "--alpha", "2"), 2, "alpha is 2"),
        ((*STUDY, "--out", "gold.txt"), 6, "gold.txt"),
    ],
)
def test_wrong_input(cli: Cli, arguments: tuple[str, ...], code: int, message: str) -> None:
    done = cli(*arguments)
    assert message in done.stderr
    assert done.returncode == code

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


def test_a_study(cli: Cli, tmp_path: Path) -> None:
    options = ("--method", "depth", "--method", "mtf", "--budget", "10%", "--budget", "5", "--relevant", "2")
    found = result(cli, *STUDY, *options, "--test", "t", "--correction", "bh", "--seeds", "2", "--out", "study")
    assert found["gold"]["pairs"] == 6
    assert [(row["method"], row["budget"], row["seeds"]) for row in found["results"]] == [
        ("depth", "10%", 2),
        ("depth", "5", 2),
        ("mtf", "10%", 2),
        ("mtf", "5", 2),
    ]
    assert found["options"]["relevant"] == 2
    written = sorted(path.name for path in (tmp_path / "study").iterdir())
    assert written == ["report.html", "study.csv", "study.json", "systems.csv"]
    assert json.loads((tmp_path / "study" / "study.json").read_text()) == found


def test_a_study_for_a_paper(cli: Cli) -> None:
    found = result(cli, *STUDY, "--budget", "50%")
    assert found["families"][0].keys() >= {"test", "correction", "alpha", "pairs", "measures", "topics", "versions"}
    assert found["families"][0]["correction"] == "holm"
    table = cli(*STUDY, "--budget", "50%", "--format", "latex").stdout
    assert table.startswith(r"\begin{table}")
    assert "Holm's correction over 6 pairs" in table
    head, *rows = cli(*STUDY, "--budget", "50%", "--format", "csv").stdout.splitlines()
    assert head.startswith("method,budget,measure,test,correction,seeds")
    assert len(rows) == 2


def test_a_study_for_people(cli: Cli) -> None:
    done = cli(*STUDY, "--budget", "50%", "--seeds", "2")
    assert done.returncode == 0
    head, *rows = done.stdout.splitlines()
    assert head.split("\t")[:6] == ["method", "budget", "measure", "test", "AA", "AD"]
    assert [row.split("\t")[0] for row in rows] == ["depth", "mtf"]
    assert "of 6 pairs differ significantly by nDCG@10, t + holm, 30 topics" in done.stderr
    assert "means over seeds" in done.stderr


def test_all_methods(cli: Cli) -> None:
    found = result(cli, *STUDY, "--method", "all", "--budget", "30%", "--seeds", "1")
    named = "docid random depth ntcir borda combmnz condorcet rrf dcg rbp-a rbp-b rbp-c mtf mtf-global hedge mm ts "
    named += "ucb1-tuned eps-n-greedy mm-ns"
    assert {row["method"] for row in found["results"]} == set(named.split())


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


def test_intervals_and_groups_of_a_comparison(cli: Cli) -> None:
    compare = ("qrels", "compare", "gold.txt", "other.txt", "--runs", "runs")
    options = ("--resamples", "40", "--seed", "3", "--group", "first=s0*")
    found = result(cli, *compare, *options)
    (row,) = found["results"]
    assert row["interval"]["tau"][0] <= row["tau"] <= row["interval"]["tau"][1]
    (group,) = found["groups"]
    assert (group["group"], group["systems"]) == ("first", 1)
    assert group["score_interval"][0] < group["score_interval"][1]
    assert found == result(cli, *compare, *options)
    assert "first (runs: 1)" in cli(*compare, *options).stderr


def test_agreement_of_assessors(cli: Cli) -> None:
    agreement = ("qrels", "agreement", "gold.txt", "other.txt", "--resamples", "50")
    found = result(cli, *agreement)
    assert (found["topics"], found["documents"], found["grades"]) == (30, 600, [0, 1, 2, 3])
    assert found["pairs"][0]["kappa"] < found["pairs"][0]["kappa_quadratic"]
    low, high = found["alpha"]["ordinal"]["interval"]
    assert low < found["alpha"]["ordinal"]["value"] < high
    assert len(found["by_topic"]) == 30
    binary = result(cli, *agreement, "--name", "anna", "--name", "ben", "--relevant", "2", "--relevant", "ben=1")
    assert (binary["assessors"], binary["relevant"], binary["grades"]) == (["anna", "ben"], [2, 1], [0, 1])
    text = cli(*agreement, "--by-topic", "--weights", "linear")
    assert text.stderr.startswith("kappa linear")
    assert "q29" in text.stdout
    assert "toprule" in cli(*agreement, "--format", "latex").stdout
    assert "seed 0" in text.stderr
    assert "--resamples" in cli("qrels", "agreement", "gold.txt", "other.txt", "--resamples", "0").stderr


def test_estimates_from_few_judgments(cli: Cli, tmp_path: Path) -> None:
    lines = (tmp_path / "gold.txt").read_text().splitlines()
    (tmp_path / "few.txt").write_text("\n".join(line for line in lines if int(line.split()[0][1:]) % 3 == 0))
    estimate = ("qrels", "estimate", "runs", "--people", "few.txt", "--predicted", "other.txt")
    found = result(cli, *estimate, "--baseline", "s3.trec")
    assert (found["topics_of_people"], found["topics_of_model_only"], len(found["rows"])) == (10, 20, 3)
    assert all(0 <= row["weight"] <= 1 for row in found["rows"])
    assert "Differences from s3.trec" in cli(*estimate, "--baseline", "s3.trec").stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((*STUDY, "--method", "dept"), 2, "Did you mean 'depth'"),
        ((*STUDY, "--budget", "ten"), 2, "'ten'"),
        ((*STUDY, "--repeats", "gpt"), 2, "--repeats is 'gpt'"),
        ((*STUDY, "--repeats", "gpt=g*"), 2, "0 runs"),
        ((*STUDY, "--resamples", "1"), 2, "resamples is 1"),
        ((*STUDY, "--test", "tukey-anova", "--correction", "bh"), 2, "'bh'"),
        ((*STUDY, "--method", "llm"), 2, "llm:PATH"),
        ((*STUDY, "--method", "llm:nothing.trec"), 4, "nothing.trec"),
        (("qrels", "study", "nowhere", "--qrels", "gold.txt"), 4, "nowhere"),
        (("qrels", "study", "runs/s0.trec", "--qrels", "gold.txt"), 5, "at least two systems"),
        (("qrels", "compare", "gold.txt", "--runs", "runs"), 2, "compare A B"),
        (("qrels", "compare", "gold.txt", "other.txt", "--runs", "runs", "--group", "a=s*"), 2, "--resamples"),
        (("qrels", "agreement", "gold.txt"), 2, "at least two"),
        (("qrels", "agreement", "gold.txt", "other.txt", "--relevant", "eve=2"), 2, "--relevant is 'eve=2'"),
        (("qrels", "agreement", "gold.txt", "other.txt", "--relevant", "gold=2"), 2, "other"),
        (("qrels", "agreement", "gold.txt", "gold.txt", "--name", "a", "--name", "a"), 2, "all different"),
        (("qrels", "estimate", "runs", "--people", "gold.txt", "--predicted", "other.txt"), 5, "random sample"),
        (("qrels", "pool", "runs", "--method", "mtf", "--out", "p.trec"), 2, "'mtf'"),
        ((*STUDY, "--alpha", "2"), 2, "alpha is 2"),
        ((*STUDY, "--out", "gold.txt"), 6, "gold.txt"),
        (("qrels", "pool", "runs", "--out", "runs/s0.trec"), 2, "one of the runs"),
        (("qrels", "study", "empty", "--qrels", "gold.txt"), 5, "only the folders inside"),
    ],
)
def test_wrong_input(cli: Cli, arguments: tuple[str, ...], code: int, message: str) -> None:
    done = cli(*arguments)
    assert message in done.stderr
    assert done.returncode == code

"""`rerank compare --fail-if`: exit codes and sentences of the gate, and the workflow file of the docs."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from rerank.evaluation.power import paired_t_power
from tests.cli.conftest import Cli

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(autouse=True)
def runs(tmp_path: Path) -> None:
    """Runs on 30 queries with the relevant document first on 27 (`good`) or 8 (`bad`), always first, always second."""
    for name, ranks in {"good": [q % 10 != 0 for q in range(30)], "bad": [q % 4 == 0 for q in range(30)]}.items():
        rows = [f"q{q} Q0 d{d} {r} {9 - r} x" for q in range(30) for r, d in enumerate((0, 1) if ranks[q] else (1, 0))]
        (tmp_path / f"{name}.trec").write_text("\n".join(rows))
    for name, docs in {"first": (0, 1), "second": (1, 0)}.items():
        rows = [f"q{q} Q0 d{d} {r} {9 - r} x" for q in range(30) for r, d in enumerate(docs)]
        (tmp_path / f"{name}.trec").write_text("\n".join(rows))
    (tmp_path / "qrels.txt").write_text("\n".join(f"q{q} 0 d0 1" for q in range(30)))


def words(base: str, new: str, *flags: str) -> list[str]:
    return ["compare", f"{base}.trec", f"{new}.trec", "--qrels", "qrels.txt", "-m", "RR", "--fail-if", *flags]


EQUIVALENT = ("not-equivalent", "--margin", ".05")


@pytest.mark.parametrize(
    ("base", "new", "flags", "code", "verdict"),
    [
        ("good", "bad", ("worse",), 8, "significantly worse"),
        ("bad", "good", ("worse",), 0, "not significantly worse"),
        ("good", "good", ("worse",), 0, "not significantly worse"),
        ("bad", "good", ("not-better",), 0, "significantly better"),
        ("good", "bad", ("not-better",), 8, "not significantly better"),
        ("good", "good", ("not-better",), 8, "not significantly better"),
        ("good", "good", EQUIVALENT, 0, "significantly equivalent"),
        ("good", "bad", EQUIVALENT, 8, "not significantly equivalent"),
        ("good", "first", EQUIVALENT, 8, "not significantly equivalent"),
        ("good", "bad", ("worse", "--test", "permutation"), 8, "significantly worse"),
        ("first", "second", ("worse",), 8, "Wilcoxon, since all differences are equal"),
        ("good", "bad", ("worse", "--alpha", "1e-9"), 0, "not significantly worse at level 1e-09"),
    ],
)
def test_exit_codes(cli: Cli, base: str, new: str, flags: tuple[str, ...], code: int, verdict: str) -> None:
    done = cli(*words(base, new, *flags), "--format", "json")
    assert done.returncode == code, done.stderr
    sentence = done.stderr.rstrip().rpartition("\n")[2].removeprefix("error: ")
    assert f" {verdict}" in sentence or f"({verdict}" in sentence
    assert ("error: " in done.stderr) == bool(code)
    decision = json.loads(done.stdout)["gate"]
    assert (decision["fails"], decision["sentence"]) == (bool(code), sentence)


def test_the_loss_that_would_not_be_seen(cli: Cli) -> None:
    done = cli(*words("good", "bad", "worse"), "--format", "json")
    found = json.loads(done.stdout)
    assert f"a true loss of less than {found['gate']['detectable']:.4f} would not be seen" in done.stderr
    flags = ("--qrels", "qrels.txt", "-m", "RR", "--format", "json")
    power = json.loads(cli("power", "bad.trec", "good.trec", *flags).stdout)
    assert power["rows"][0]["detectable"] == found["gate"]["detectable"]
    assert paired_t_power(30, found["gate"]["detectable"], power["rows"][0]["sd"]) == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("worse", "good.trec"), "3 runs"),
        (("worse", "-m", "AP"), "2 comparisons"),
        (("worse", "--baseline", "good.trec"), "--baseline"),
        (("not-equivalent",), "--margin"),
        (("not-equivalent", "--margin", "nan"), "margin"),
        (("good",), "'good' is not one of"),
    ],
)
def test_what_cannot_be_a_gate(cli: Cli, flags: tuple[str, ...], message: str) -> None:
    done = cli(*words("good", "bad", *flags))
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


def test_the_workflow_of_the_docs(cli: Cli) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", (DOCS / "comparisons.md").read_text("utf-8"), re.DOTALL)
    workflow = yaml.safe_load(text)
    assert workflow[True] == "pull_request"  # YAML 1.1 reads the key `on` as true
    (job,) = workflow["jobs"].values()
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert all(("run" in step) != ("uses" in step) for step in job["steps"])
    program, *arguments = shlex.split(commands[-1])
    assert program == "rerank"
    Path("bad.trec").rename("baseline.trec")
    Path("runs").mkdir()
    Path("good.trec").rename("runs/new")
    assert cli(*arguments).returncode == 0

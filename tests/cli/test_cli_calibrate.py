from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Cli


@pytest.fixture
def run_folder(cli: Cli, lists: tuple[str, ...]) -> Path:
    assert cli("run", *lists, "--method", "fullrank", "--out", "folder").returncode == 0
    return Path("folder")


def test_json_has_the_figures_and_the_file_is_written(cli: Cli, run_folder: Path) -> None:
    arguments = (run_folder, "--qrels", "qrels.txt", "--relevant", 2, "--out", "calibration.json", "--format", "json")
    done = cli("calibrate", *arguments)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert {"ece", "brier", "brier_skill", "auc", "queries", "method"} <= set(report)
    assert report["queries"] == 4
    assert report["method"] in ("platt", "beta", "isotonic")
    assert report["auc"] > 0.9  # the fake model is perfect
    assert json.loads(Path("calibration.json").read_text("utf-8"))["relevant"] == 2
    assert Path("calibration.svg").read_text("utf-8").startswith("<svg")


def test_text_and_lines(cli: Cli, run_folder: Path) -> None:
    text = cli("calibrate", run_folder, "--out", "calibration.json")
    assert text.returncode == 0, text.stderr
    header, *rows = text.stdout.splitlines()
    assert header.split("\t")[:4] == ["fit", "collection", "depth", "queries"]
    assert [row.split("\t")[0] for row in rows] == [
        *("rank+first-stage", "rank", "answerable, rank+first-stage", "answerable, rank")
    ]
    assert "calibration.svg" in text.stderr
    lines = cli("calibrate", run_folder, "--out", "calibration.json", "--format", "jsonl").stdout.splitlines()
    assert [json.loads(line)["fit"] for line in lines] == ["rank+first-stage", "rank"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--out", "c.json"), 2, "Missing argument"),
        (("folder",), 2, "--out"),
        (("missing", "--out", "c.json"), 4, "not a run folder"),
        (("folder", "--out", "missing/c.json"), 4, "no folder"),
        (("folder", "--out", "c.json", "--qrels", "missing.txt"), 4, "missing.txt"),
        (("folder", "--out", "c.json", "--relevant", 9), 5, "All judged documents are not relevant"),
        (("folder", "--out", "c.json", "--test", "folder"), 5, "in the fitted runs and in a test"),
    ],
)
def test_errors(cli: Cli, run_folder: Path, arguments: tuple[object, ...], code: int, message: str) -> None:
    done = cli("calibrate", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert not Path("c.json").exists()


@pytest.mark.parametrize(
    ("file", "old", "new"), [("scores.json", '"relevant": 1', '"relevant": 2'), ("run.trec", " Q0 ", "  Q0 ")]
)
def test_a_damaged_run_gives_no_calibration(cli: Cli, run_folder: Path, file: str, old: str, new: str) -> None:
    text = (run_folder / file).read_text("utf-8")
    assert old in text
    (run_folder / file).write_text(text.replace(old, new, 1), "utf-8")
    done = cli("calibrate", run_folder, "--out", "c.json")
    assert (done.returncode, done.stdout) == (5, "")
    assert f"{file}' was changed after" in done.stderr
    assert not Path("c.json").exists()
    assert cli("verify", run_folder).returncode == 5

"""`rerank bench`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rerank.store import RunFolder
from tests.cli.conftest import Cli
from tests.leaderboard.made import write_lists

SMOKE = Path(__file__).resolve().parents[2] / "eval" / "suites" / "smoke.toml"


def write_suite(
    collection: str, models: str = '"fake:perfect", "fake:reversed"', *, more: str = "", top: str = ""
) -> Path:
    path = Path("suite.toml")
    path.write_text(
        f'name = "test"\nfirst_stages = ["candidates"]\nmodels = [{models}]\n{top}\n'
        f'[[collections]]\ncollection = "{collection}"\n{more}\n',
        encoding="utf-8",
    )
    return path


def test_dry_run_is_the_contract(cli: Cli, tmp_path: Path) -> None:
    suite = write_suite(write_lists(tmp_path))
    before = cli("bench", suite, "--dry-run", "--format", "json")
    assert (before.returncode, before.stderr) == (0, "")
    content = json.loads(before.stdout)
    assert [run["status"] for run in content["runs"]] == ["missing", "missing"]
    for run in content["runs"]:
        assert set(run) >= {"spec", "status", "tokens", "seconds"}
        assert run["spec"]["collection"].startswith("requests:")
        assert run["tokens"] > 0
        assert run["seconds"] is None
    assert not Path("runs").exists()
    assert cli("bench", suite).returncode == 0
    after = json.loads(cli("bench", suite, "--dry-run", "--format", "json").stdout)
    assert [run["status"] for run in after["runs"]] == ["done", "done"]
    assert all(run["seconds"] >= 0 for run in after["runs"])
    assert after["total"]["missing"] == after["total"]["calls"] == 0


def test_a_terminal_gets_fewer_columns_unless_it_is_wide(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = write_suite(write_lists(tmp_path))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert "--wide shows them" in cli("bench", suite).stdout
    assert "not shown" not in cli("bench", suite, "--wide").stdout


def test_results_in_json_and_in_the_folder(cli: Cli, tmp_path: Path) -> None:
    done = cli("bench", write_suite(write_lists(tmp_path)), "--out", "out", "--format", "json")
    assert done.returncode == 0
    for words in ("test: 2 runs, 0 done, 2 missing", "1 of 2: requests:", "2 of 2: "):
        assert words in done.stderr
    content = json.loads(done.stdout)
    assert list(content) == ["suite", "out", "runs", "groups", "failures"]
    assert content["failures"] == []
    (group,) = content["groups"]
    names = ["first stage", "fullrank fake:perfect", "fullrank fake:reversed"]
    assert [run["run"] for run in group["comparison"]["runs"]] == names
    assert len(group["comparison"]["pairs"]) == 3
    lines = Path("out/results.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == content["runs"]
    for run in content["runs"]:
        assert RunFolder.existing(run["folder"]).finished
    rows = cli("bench", "suite.toml", "--out", "out", "--format", "jsonl").stdout.splitlines()
    assert [json.loads(one)["folder"] for one in rows] == [run["folder"] for run in content["runs"]]


def test_the_folder_is_read_by_eval_and_compare(cli: Cli, tmp_path: Path) -> None:
    collection = write_lists(tmp_path)
    content = json.loads(cli("bench", write_suite(collection), "--out", "out", "--format", "json").stdout)
    scored = json.loads(cli("eval", "out", "--qrels", "lists.qrels", "--format", "json").stdout)
    found = {str(Path(run["run"]).parent): run["scores"] for run in scored["runs"]}
    assert found == {run["folder"]: run["scores"] for run in content["runs"]}
    single = content["runs"][0]["folder"]
    alone = json.loads(cli("eval", single, "--qrels", "lists.qrels", "--format", "json").stdout)
    assert [run["run"] for run in alone["runs"]] == [f"{single}/run.trec"]
    Path("out/other.trec").write_bytes(Path(single, "run.trec").read_bytes())
    assert len(json.loads(cli("eval", "out", "--qrels", "lists.qrels", "--format", "json").stdout)["runs"]) == 3
    assert cli("compare", "out", "--qrels", "lists.qrels").returncode == 0
    Path(single, "run.trec").unlink()
    refused = cli("eval", "out", "--qrels", "lists.qrels")
    assert refused.returncode == 4
    assert "--resume" in refused.stderr


def test_text_shows_groups_means_seeds_and_rivals(cli: Cli, tmp_path: Path) -> None:
    collection = write_lists(tmp_path)
    Path("rival.trec").write_text("q0 Q0 d0-3 1 2.0 x\nq1 Q0 d1-3 1 1.0 x\n", encoding="utf-8")
    top = 'measures = ["nDCG@10", "P@3"]\ndepths = [12, 5]\nshuffle = "random"\nseeds = [0, 1]'
    suite = write_suite(collection, '"fake:reversed"', top=top, more='rivals = ["rival.trec"]')
    done = cli("bench", suite)
    assert done.returncode == 0
    head, *rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert head[:5] == ["collection", "first_stage", "depth", "a", "b"]
    assert [row[:3] for row in rows] == [[collection, "candidates", depth] for depth in ("12", "5")]
    for words in (
        f"{collection}, candidates, depth 12",
        f"{collection}, candidates, depth 5",
        "means\tnDCG@10\tP@3",
        "over seeds\tseeds\tsd",
        "rival\tnDCG@10\tP@3\tcandidates\tin common",
        "other\t1.00",
    ):
        assert words in done.stderr


def test_failures_are_listed_at_the_end_and_in_the_exit_code(cli: Cli, tmp_path: Path) -> None:
    suite = write_suite(write_lists(tmp_path), '"fake:fail", "fake:perfect", "fake:nobody"')
    done = cli("bench", suite, "--out", "out", "--format", "json")
    assert done.returncode == 7
    content = json.loads(done.stdout)
    assert [one["run"].rpartition(": ")[2] for one in content["failures"]] == [
        "fullrank fake:fail, seed 0",
        "fullrank fake:nobody, seed 0",
    ]
    last = done.stderr.splitlines()[-1]
    assert "2 of 3 runs failed" in last
    assert "fake:nobody" in last
    assert "1 of them" in done.stderr
    assert [run["scores"] for run in content["runs"]][2] == {}
    text = cli("bench", suite, "--dry-run", "--out", "out")
    assert text.returncode == 7
    assert all(value in text.stderr for value in ("1 of 3 runs", "'nobody'"))


def test_other_models_and_the_folder_of_the_data(cli: Cli, tmp_path: Path) -> None:
    write_lists(tmp_path)
    suite = write_suite("requests:{data}/lists.jsonl,qrels={data}/lists.qrels")
    lacking = cli("bench", suite, "--dry-run")
    assert (lacking.returncode, "--data FOLDER" in lacking.stderr) == (2, True)
    done = cli("bench", suite, "--data", tmp_path, "--model", "fake:talk", "--dry-run", "--format", "json")
    assert [run["system"] for run in json.loads(done.stdout)["runs"]] == ["fullrank fake:talk"]


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (("suite.toml", "--batch-size", "0"), 2, "--batch-size is 0"),
        (("suite.toml", "--device-map", "everywhere"), 2, "--device-map is 'everywhere'"),
        (("suite.toml", "--out", "suite.toml"), 6, "'suite.toml'"),
    ],
)
def test_bad_input(cli: Cli, tmp_path: Path, flags: tuple[str, ...], code: int, words: str) -> None:
    write_suite(write_lists(tmp_path))
    done = cli("bench", *flags)
    assert (done.returncode, words in done.stderr) == (code, True), done.stderr


def test_killed_in_the_middle_it_goes_on(tmp_path: Path) -> None:
    """A process that is really killed; the fake notes what it serves."""
    log, out = tmp_path / "served.txt", tmp_path / "out"
    model = f"fake:stutter,batch_size=1,delay=0.02,log={log}"
    suite = tmp_path / "suite.toml"
    suite.write_text(
        f'name = "test"\nfirst_stages = ["candidates"]\nmodels = ["{model}"]\nmethods = ["sliding,size=4,stride=2"]\n'
        f'depths = [12, 8]\ncollections = ["{write_lists(tmp_path)}"]\n',
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "rerank", "bench", str(suite), "--out", str(out), "--format", "json"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}

    def served() -> list[str]:
        return log.read_text(encoding="utf-8").splitlines() if log.exists() else []

    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
    deadline = time.monotonic() + 120
    while len(served()) < 29 and process.poll() is None:  # the first run has 25 calls
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -9
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=True)
    content: dict[str, Any] = json.loads(done.stdout)
    calls = [run["calls"] for run in content["runs"]]
    assert calls == [25, 15]
    assert sum(calls) <= len(served()) <= sum(calls) + 1, "more than the call that was under way was made twice"
    assert content["failures"] == []
    assert "1 done, 1 missing" in done.stderr


def test_the_smoke_suite(cli: Cli) -> None:
    done = cli("bench", SMOKE, "--format", "json")
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    assert len(content["runs"]) == 8
    (group,) = content["groups"]
    scores = {one["system"]: one["scores"]["nDCG@10"] for one in group["systems"]}
    perfect = [value for name, value in scores.items() if name.endswith("fake:perfect")]
    assert min(perfect) > scores["first stage"] > max(v for k, v in scores.items() if k.endswith("fake:stutter"))

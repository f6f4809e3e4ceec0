"""`rerank demo`, with a fake model on the real demo collection."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from rerank.experiment.demo import specify_runs
from tests.cli.conftest import Cli

DEMO = ("demo", "--model", "fake:reversed", "--out", "d")


def test_the_demo(cli: Cli) -> None:
    done = cli(*DEMO)
    assert done.returncode == 0
    for words in ("bm25", "fullrank", "sliding", "nDCG@10", "win/tie/loss"):
        assert words in done.stdout
    assert "sliding: 24 calls for 12 queries, fake:reversed" in done.stderr
    assert "fullrank: d/fullrank-fake-reversed-" in done.stderr
    assert "- bm25 is significantly above fullrank: +0.2" in done.stderr
    assert "- sliding is not significantly different from fullrank: +0.0" in done.stderr
    assert len(list(Path("d").glob("sliding-fake-reversed-*/run.trec"))) == 1

    page = Path("d/before-and-after.html")
    assert done.stderr.splitlines()[-1].endswith(str(page))
    html = page.read_text()
    assert html.count("<details") == 12
    assert html.count("<ol>") == 36
    assert html.count("<li>") == 36 * 5 + 2
    assert "://" not in html.replace("data:,", "")  # it needs no other file

    again = cli(*DEMO, "--format", "json")  # from the folders
    report = json.loads(again.stdout)
    assert report["page"] == str(page)
    assert [run["run"] for run in report["comparison"]["runs"]] == ["bm25", "fullrank", "sliding"]
    assert [(row["method"], row["calls"], row["reused_calls"]) for row in report["costs"]] == [
        ("fullrank", 12, 12),
        ("sliding", 24, 24),
    ]
    assert json.loads(cli(*DEMO, "--format", "jsonl").stdout)["costs"] == report["costs"]


def test_a_terminal_gets_fewer_columns_unless_it_is_wide(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert "--wide shows them" in cli(*DEMO).stdout
    assert "not shown" not in cli(*DEMO, "--wide").stdout


def test_all_questions(cli: Cli) -> None:
    report = json.loads(cli(*DEMO, "--all", "--format", "json").stdout)
    assert report["comparison"]["queries"] >= 60
    assert all(row["windows"]["ok"] == row["calls"] for row in report["costs"])


def test_the_demo_of_the_embedded_model_has_its_default_and_one_flag_more() -> None:
    default, fullrank, adapter = specify_runs(model="smollm2-135m")
    assert (default.method, fullrank.method, adapter.adapter) == ("auto", "fullrank", "smollm2-135m-attention")
    assert not {"method", "prompt", "max_passage_tokens"} & default.model_fields_set


def test_the_model_is_got_first(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from rerank.errors import MissingResourceError

    asked = []

    def pull(name: str, **_: object) -> Path:
        asked.append(name)
        raise MissingResourceError("No network")

    monkeypatch.setattr("rerank.models.download.pull_model", pull)
    done = cli("demo")
    assert (done.returncode, asked) == (4, ["smollm2-135m"])

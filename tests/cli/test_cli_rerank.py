"""`rerank rerank`: lists that are there already."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from tests.cli.conftest import Cli


@pytest.fixture
def requests(data: Path) -> tuple[str, ...]:
    return ("--collection", f"requests:{data / 'requests' / 'rank_llm.jsonl'}", "--model", "fake:reversed")


def test_the_given_lists_are_reranked_whole(cli: Cli, requests: tuple[str, ...]) -> None:
    done = cli("rerank", *requests)
    assert done.returncode == 0
    assert done.stderr.startswith("windows: 2 ok\n")
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [(row[0], row[2]) for row in rows] == [
        ("t1", "p3"),
        ("t1", "p2"),
        ("t1", "p1"),
        ("2", "2:3"),
        ("2", "p4"),
        ("2", "p2"),
    ]
    assert [row[3] for row in rows] == ["1", "2", "3"] * 2
    assert all(len(row) == 6 for row in rows)


def test_output_to_a_file(cli: Cli, requests: tuple[str, ...]) -> None:
    shown = cli("rerank", *requests).stdout
    assert cli("rerank", *requests, "-o", "out.trec").stdout == ""
    assert Path("out.trec").read_text() == shown
    assert cli("rerank", *requests, "--output", "out.trec.gz").returncode == 0
    assert gzip.decompress(Path("out.trec.gz").read_bytes()).decode() == shown


def test_jsonl_has_rank_llms_shape(cli: Cli, requests: tuple[str, ...]) -> None:
    done = cli("rerank", *requests, "--format", "jsonl")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["query"] for row in rows] == [
        {"text": "how to tune a drum", "qid": "t1"},
        {"text": "怎样给鼓调音", "qid": "2"},
    ]
    first = rows[0]["candidates"]
    assert [hit["docid"] for hit in first] == ["p3", "p2", "p1"]
    assert first[2]["doc"] == {"title": "Drums", "text": "Turn the rods a little at a time, crosswise."}
    assert first[0]["doc"] == {"text": "Cellos have four strings."}
    scores = [hit["score"] for hit in first]
    assert scores == sorted(scores, reverse=True)
    assert json.loads(cli("rerank", *requests, "--format", "json").stdout) == rows

    assert cli("rerank", *requests, "--format", "jsonl", "-o", "out.jsonl").stdout == ""
    assert Path("out.jsonl").read_text() == done.stdout
    again = cli("rerank", "--collection", "requests:out.jsonl", "--model", "fake:reversed")  # what we write, we read
    assert [line.split()[2] for line in again.stdout.splitlines()[:3]] == ["p1", "p2", "p3"]


@pytest.mark.parametrize("name", ["rankgpt.json", "rankify.jsonl"])
def test_other_dialects(cli: Cli, data: Path, name: str) -> None:
    done = cli("rerank", "--collection", f"requests:{data / 'requests' / name}", "--model", "fake:reversed")
    assert [line.split()[2] for line in done.stdout.splitlines()] in (["p3", "p1"], ["p1", "p3"])


def test_a_run_over_a_collection(cli: Cli, data: Path) -> None:
    collection = ("--collection", f"jsonl:{data / 'jsonl'}")
    cli("retrieve", *collection, "-o", "bm25.trec")
    first = Path("bm25.trec").read_text().splitlines()
    done = cli("rerank", *collection, "--first-stage", "run:bm25.trec", "--model", "fake:reversed")
    assert done.returncode == 0
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[2] for row in rows if row[0] == "q1"] == [line.split()[2] for line in first if line[:2] == "q1"][::-1]
    assert {row[5] for row in rows} == {"fullrank"}


def test_a_collection_without_lists_says_so(cli: Cli, data: Path) -> None:
    done = cli("rerank", "--collection", f"jsonl:{data / 'jsonl'}", "--model", "fake:reversed")
    assert done.returncode == 2
    assert "has no candidate lists" in done.stderr
    assert "run:FILE" in done.stderr


def test_failures_come_after_the_output(cli: Cli, requests: tuple[str, ...]) -> None:
    done = cli("rerank", *requests[:-1], "fake:fail")
    assert done.returncode == 7
    assert [line.split()[2] for line in done.stdout.splitlines()[:3]] == ["p1", "p2", "p3"]  # the given order
    assert "100% of the windows failed" in done.stderr
    allowed = cli("rerank", *requests[:-1], "fake:fail", "--max-failure-rate", "1", "--resume")
    assert allowed.returncode == 0
    assert "windows: 2 error" in allowed.stderr


def test_an_output_that_cannot_be_written_is_found_before_the_first_call(cli: Cli, requests: tuple[str, ...]) -> None:
    for form in ("text", "jsonl"):
        done = cli("rerank", *requests, "--out", f"run-{form}", "--format", form, "-o", "no/such/folder/x")
        assert (done.returncode, done.stdout) == (4, "")
        assert "no folder" in done.stderr
        assert not Path(f"run-{form}").exists()

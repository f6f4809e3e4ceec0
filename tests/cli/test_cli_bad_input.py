"""Input that is odd or broken: each is a typed error or a documented behaviour, and nothing computed is lost."""

from __future__ import annotations

import errno
import gzip
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rerank.store import RunFolder
from tests.cli.conftest import Cli

RERANK = ("rerank", "--collection", "requests:odd.jsonl", "--model", "fake:reversed")


def write(*rows: object) -> None:
    Path("odd.jsonl").write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))


def request(qid: str, text: str, *docs: object) -> dict[str, Any]:
    return {"query": {"qid": qid, "text": text}, "candidates": list(docs)}


def doc(doc_id: str, text: str = "some text", **more: object) -> dict[str, object]:
    return {"docid": doc_id, "doc": text, **more}


def test_empty_queries_keep_their_order_and_ask_nothing(cli: Cli) -> None:
    write(request("q", " ", doc("a"), doc("b")), request("r", "real", doc("a"), doc("b")))
    done = cli(*RERANK, "--out", "a")
    assert done.returncode == 0
    assert [line.split()[2] for line in done.stdout.splitlines()] == ["a", "b", "b", "a"]
    assert json.loads(Path("a/summary.json").read_text())["calls"] == 1


def test_empty_lists_and_single_documents_ask_nothing(cli: Cli) -> None:
    write(request("none", "q"), request("one", "q", doc("a")))
    done = cli(*RERANK, "--out", "a")
    assert done.returncode == 0
    assert done.stdout.split()[:3] == ["one", "Q0", "a"]
    assert json.loads(Path("a/summary.json").read_text())["calls"] == 0
    assert cli("verify", "a").returncode == 0
    rows = [json.loads(line) for line in cli(*RERANK, "--out", "a", "--format", "jsonl").stdout.splitlines()]
    assert [row["query"]["qid"] for row in rows if row["candidates"]] == ["one"]


def test_nothing_but_empty_lists(cli: Cli) -> None:
    write(request("none", "q"))
    for _ in range(2):  # run, then answered from the folder
        done = cli(*RERANK, "--out", "a")
        assert (done.returncode, done.stdout) == (0, "")
        assert "windows: none" in done.stderr
    rows = [json.loads(cli(*RERANK, "--out", "a", "--format", form).stdout) for form in ("jsonl", "json")]
    assert rows == [{"query": {"text": "q", "qid": "none"}, "candidates": []}, [rows[0]]]
    assert cli("verify", "a").returncode == 0


def test_empty_documents_are_documents(cli: Cli) -> None:
    write(request("q", "q", doc("a", ""), doc("b", "   "), doc("c")))
    assert [line.split()[2] for line in cli(*RERANK).stdout.splitlines()] == ["c", "b", "a"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ((request("q", "q", doc("a"), doc("a")),), "duplicate document 'a' in query 'q'"),
        ((request("q", "q", doc("a")), request("q", "r", doc("b"))), "duplicate query 'q'"),
        ((request("q", "q", doc("a", score=float("nan"))),), "expected a finite number or null"),
        ((request("q", "q", doc("a", score="high")),), "score is 'high'"),
        (({"query": "q"},), "no list of candidates"),
        (("{",), "odd.jsonl"),
        (("\0\0\0",), "is a binary file"),
        (("",), "odd.jsonl"),
    ],
)
def test_requests_that_are_wrong(cli: Cli, rows: tuple[object, ...], message: str) -> None:
    write(*rows)
    done = cli(*RERANK)
    assert (done.returncode, done.stdout) == (5, "")
    assert message in done.stderr
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"q Q0 a 1 nan x\n", "nan"),
        (b"q Q0 a 1 inf x\n", "inf"),
        (b"q Q0 a 1 2 x\nq Q0 a 2 1 x\n", "'a'"),
        (b"\x7fELF\x00\x00\x00", "is a binary file"),
        (b"\xff\xfe q", "not in UTF-8"),
        (gzip.compress(b"".join(b"q Q0 d%d 1 %d x\n" % (n, -n) for n in range(5000)))[:-20], "truncated gzip"),
        (b"q Q0 a\n", "run.trec"),
        (b"", "run.trec"),
    ],
)
def test_runs_that_are_wrong(cli: Cli, content: bytes, message: str) -> None:
    Path("run.trec").write_bytes(content)
    Path("qrels.txt").write_text("q 0 a 1\n")
    done = cli("eval", "run.trec", "--qrels", "qrels.txt")
    assert (done.returncode, done.stdout) == (5, "")
    assert message in done.stderr


@pytest.mark.parametrize("content", [b"q 0 a\n", b"q 0 a high\n", b"\x00\x01", b"q 0 a 1\nq 0 a 2\n", b""])
def test_judgments_that_are_wrong(cli: Cli, content: bytes) -> None:
    Path("run.trec").write_text("q Q0 a 1 2 x\n")
    Path("qrels.txt").write_bytes(content)
    done = cli("eval", "run.trec", "--qrels", "qrels.txt")
    assert (done.returncode, done.stdout) == (5, "")
    assert "qrels.txt" in done.stderr


def test_judgments_of_other_queries(cli: Cli, lists: tuple[str, ...]) -> None:
    Path("other.txt").write_text("someone 0 d 1\n")
    cli("retrieve", *lists[:4], "-o", "first.trec")
    evaluated = cli("eval", "first.trec", "--qrels", "other.txt")
    assert (evaluated.returncode, evaluated.stdout) == (5, "")
    assert "shares no query with other.txt" in evaluated.stderr
    done = cli("run", *lists[:4], "--qrels", "other.txt", "--model", "fake:reversed")
    assert done.returncode == 5
    assert "Check that --qrels belongs to the collection" in done.stderr


def test_a_run_of_another_collection(cli: Cli, data: Path) -> None:
    flags = ("retrieve", "--collection", f"jsonl:{data / 'jsonl'}", "--first-stage", "run:run.trec")
    Path("run.trec").write_text("q1 Q0 stranger 1 2 x\n")
    done = cli(*flags)
    assert done.returncode == 5
    assert "1 of 1 documents are not in the collection" in done.stderr
    Path("run.trec").write_text("other Q0 d1 1 2 x\n")
    assert cli(*flags).returncode == 5
    Path("run.trec").unlink()
    assert cli(*flags).returncode == 4


@pytest.mark.parametrize(
    ("files", "code", "message"),
    [
        ((), 4, "config.json"),
        (("adapter_config.json",), 4, "--adapter"),
        (("config.json",), 4, ".safetensors"),
        (("config.json", "pytorch_model.bin"), 5, "pytorch_model.bin"),
    ],
)
def test_a_model_folder_that_is_none(
    cli: Cli, lists: tuple[str, ...], files: tuple[str, ...], code: int, message: str
) -> None:
    Path("model").mkdir()
    for name in files:
        Path("model", name).write_text("{}")
    done = cli("run", *lists[:6], "--model", "./model")
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert cli("run", *lists[:6], "--model", "./absent").returncode == 4
    assert cli("run", *lists[:6], "--model", "qrels.txt").returncode == 5


def test_an_out_folder_of_something_else_is_left_alone(cli: Cli, lists: tuple[str, ...]) -> None:
    Path("thesis").mkdir()
    Path("thesis/chapter.tex").write_text("precious")
    done = cli("run", *lists, "--out", "thesis", "--overwrite")
    assert done.returncode == 2
    assert [path.name for path in Path("thesis").iterdir()] == ["chapter.tex"]


@pytest.mark.parametrize("name", ["run.trec", "scores.json", "summary.json", "first_stage.trec"])
def test_a_full_disk_while_results_are_written(
    cli: Cli, lists: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    replace = Path.replace

    def full(self: Path, target: str | Path) -> Path:
        if Path(target).name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        done = cli("run", *lists, "--out", "a")
    assert (done.returncode, done.stdout) == (6, "")
    assert "could not be written: No space left on device. Free space" in done.stderr
    assert [path for path in Path("a").iterdir() if path.name.endswith(".tmp")] == []
    again = json.loads(cli("run", *lists, "--out", "a", "--resume", "--format", "json").stdout)
    assert again["reused_calls"] == (0 if name == "first_stage.trec" else 4)
    assert cli("verify", "a").returncode == 0


def test_a_disk_that_fills_up_between_calls(cli: Cli, lists: tuple[str, ...]) -> None:
    """A real limit: no file of the process may grow past a few pages, so SQLite's log hits it after some commits."""
    code = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    code += f"resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, {resource.getrlimit(resource.RLIMIT_FSIZE)[1]})); "
    code += "from rerank.cli import main; main()"
    windows = ("--method", "sliding", "--window-size", "4", "--stride", "2", "--batch-size", "1")
    flags = ("run", *lists, *windows, "--out", "a")
    env = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", code, *flags]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=60)
    assert (done.returncode, done.stdout) == (6, ""), done.stderr
    assert "committed calls are kept" in done.stderr
    with RunFolder("a").calls() as log:
        committed = len(log)
    assert 0 < committed < 20
    again = json.loads(cli(*flags, "--resume", "--format", "json").stdout)
    assert (again["calls"], again["reused_calls"]) == (20, committed)
    assert cli("verify", "a").returncode == 0


def test_a_run_folder_that_cannot_be_made(cli: Cli, lists: tuple[str, ...]) -> None:
    done = cli("run", *lists, "--out", "qrels.txt/a")
    assert (done.returncode, done.stdout) == (6, "")
    assert all(value in done.stderr for value in ("'qrels.txt/a'", "a file"))

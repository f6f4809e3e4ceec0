"""The command line in this process: arguments in; exit code, stdout and stderr out."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rerank.cli import main

Cli = Callable[..., "subprocess.CompletedProcess[str]"]

DATA = Path(__file__).resolve().parents[2] / "data"


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the user's is read or written: caches, prices and ``runs/`` are the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run `rerank` with these arguments; ``stdin`` is what is piped into it."""

    def call(*arguments: object, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
        words = [str(argument) for argument in arguments]
        monkeypatch.setattr(sys, "argv", ["rerank", *words])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        out, err = capsys.readouterr()
        return subprocess.CompletedProcess(words, code, out, err)

    return call


@pytest.fixture(scope="session")
def data() -> Path:
    return DATA


@pytest.fixture
def lists(tmp_path: Path) -> tuple[str, ...]:
    """Four lists of twelve documents with judgments; the flags that rerank them with a fake model."""
    rows, grades = [], []
    for q in range(4):
        docs = [{"docid": f"d{q}-{n}", "doc": f"text {n} of list {q}", "score": 100 - n} for n in range(12)]
        rows.append({"query": {"qid": f"q{q}", "text": f"question number {q}"}, "candidates": docs})
        grades += [f"q{q} 0 d{q}-{n} {n % 4}" for n in range(12)]
    (tmp_path / "lists.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (tmp_path / "qrels.txt").write_text("\n".join(grades), encoding="utf-8")
    flags = ("--collection", "requests:lists.jsonl", "--first-stage", "candidates", "--qrels", "qrels.txt")
    return (*flags, "--model", "fake:perfect")

"""Files and options made to exhaust memory, time or patience: each is refused with an error of ours."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rerank.cli import main
from rerank.errors import DataError, MissingResourceError, RerankError, UsageError
from rerank.io.run_files import read_run
from rerank.io.text_files import open_text_file
from rerank.leaderboard.suites.suite import read_suite
from rerank.prompts import load_prompt
from rerank.prompts.base import Message
from rerank.strategies import open_strategy
from tests.attacks.readers import INPUTS, read_adapter

LONG = "a" * 300
_LOOPS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
_LAUGHS = "".join(f"  - &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 11))


def prompt(prefix: str) -> str:
    return f"method: listwise\nprefix: '{{{{query}}}}{prefix}'\nbody: '{{{{rank}}}} {{{{candidate}}}}'\n"


def run_command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Return the exit code of a command; a traceback would be an exception here."""
    monkeypatch.setattr(sys, "argv", ["rerank", *map(str, arguments)])
    monkeypatch.setattr(os, "_exit", sys.exit)
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize(
    "line", [b"\n", b" " * 1000 + b"\n", b"q Q0 d 1 1 x\n"], ids=["newlines", "blanks", "one line, often"]
)
def test_a_decompression_bomb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, line: bytes) -> None:
    monkeypatch.setattr("rerank.io.text_files._GZIP_BYTES", 1 << 24)  # a smaller bomb is made faster
    with gzip.open(tmp_path / "run.gz", "wb", compresslevel=9) as file:
        block = line * ((1 << 20) // len(line))
        for _ in range(20):
            file.write(block)
    with pytest.raises(DataError), open_text_file(tmp_path / "run.gz") as text:
        for _ in text:
            pass


def test_a_file_of_newlines(tmp_path: Path) -> None:
    (tmp_path / "run").write_bytes(b"\n" * (1 << 23))
    with pytest.raises(DataError):
        read_run(tmp_path / "run")


@pytest.mark.parametrize(
    "text",
    [
        prompt(_LOOPS),
        prompt('{{ "a" * 10000000000 }}'),
        prompt("{{ passages|length }}{% set x = 'a' * 9999999999 %}"),
        f"method: listwise\nprefix: *a10\nbody: '{{rank}} {{candidate}}'\ndescription:\n  - &a0 [lol]\n{_LAUGHS}",
        f"description:\n  - &a0 [lol]\n{_LAUGHS}prefix: *a10\nbody: '{{rank}} {{candidate}}'\n",
    ],
    ids=["loops", "memory", "memory in a variable", "undefined alias", "laughs"],
)
def test_a_prompt_without_an_end(tmp_path: Path, text: str) -> None:
    (tmp_path / "prompt.yaml").write_text(text)
    with pytest.raises(DataError):
        load_prompt(tmp_path / "prompt.yaml")


def test_a_chat_template_without_an_end(tmp_path: Path) -> None:
    from rerank.backends.hf import Hf

    shutil.copytree(INPUTS / "model", tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").write_text(_LOOPS)
    with pytest.raises(DataError):
        _ = Hf.load(tmp_path / "model").tokens.count((Message("user", "text"),))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_adapter(tmp_path: Path, share: float) -> None:
    shutil.copytree(INPUTS / "adapter", tmp_path / "adapter")
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError):
        read_adapter(tmp_path / "adapter")


@pytest.mark.parametrize(
    "options",
    [
        ("eval", LONG, "--qrels", LONG),
        ("rerank", "--collection", f"requests:{LONG}", "--model", "fake:perfect"),
        ("retrieve", "--collection", LONG),
        ("retrieve", "--collection", f"jsonl:{LONG}"),
        ("retrieve", "--collection", "jsonl:{data}", "--first-stage", f"run:{LONG}"),
        ("retrieve", "--collection", "jsonl:{data}", "-o", LONG),
        ("run", "--collection", "jsonl:{data}", "--model", LONG),
        ("run", "--collection", "jsonl:{data}", "--model", "fake:perfect", "--prompt", f"{LONG}.yaml"),
        ("run", "--collection", "jsonl:{data}", "--model", "fake:perfect", "--out", LONG),
        ("run", "--collection", "jsonl:{data}", "--adapter", LONG),
        ("run", "--collection", "jsonl:{data}", "--model", "fake:perfect", "--qrels", LONG),
        ("run", "--spec", LONG),
        ("run", "--resume", "--out", LONG),
        ("verify", LONG),
        ("replay", LONG),
        ("verify", LONG, "--repair"),
        ("compare", LONG, LONG, "--qrels", LONG),
        ("bench", LONG),
        ("train", LONG),
        ("merge", LONG, LONG, "--out", LONG),
        ("inspect", LONG),
        ("label", "check", LONG),
        ("qrels", "compare", LONG, LONG),
        ("leaderboard", "check", LONG, "--qrels", LONG),
        ("parse", LONG, "--count", "3"),
        ("prompts", "show", LONG),
        ("models", "pull", LONG),
    ],
    ids=" ".join,
)
def test_names_that_are_too_long_for_a_file(monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]) -> None:
    arguments = [option.replace("{data}", str(INPUTS / "collection")) for option in options]
    assert run_command(monkeypatch, *arguments) in (2, 3, 4, 5, 6)


@pytest.mark.parametrize(
    "attack",
    [
        lambda: open_strategy("sliding,passes=1000000000"),
        lambda: open_strategy("tournament,passes=1000000000"),
        lambda: open_strategy("self-consistency,passes=1000000000"),
        lambda: open_strategy(f"sliding,passes={'9' * 5000}"),
    ],
)
def test_options_with_which_a_run_would_not_end(attack: Callable[[], object]) -> None:
    with pytest.raises(UsageError):
        attack()


@pytest.mark.parametrize("name", ["..", ".", "../../elsewhere", "/elsewhere", "a/b", "", "a" * 300, "a\n", "~"])
def test_names_of_suites_stay_in_their_folder(tmp_path: Path, name: str) -> None:
    table = f'name = {json.dumps(name)}\ncollections = ["pydoc"]\nmodels = ["fake:perfect"]\n'
    (tmp_path / "suite.toml").write_text(table)
    with pytest.raises(UsageError):
        read_suite(tmp_path / "suite.toml")


@pytest.mark.parametrize("content", ["{}", "[]", "not JSON", '{"ociVersion": "1.0", "process": {}}'])
def test_only_folders_of_runs_are_overwritten(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str) -> None:
    (tmp_path / "spec.json").write_text(content)
    (tmp_path / "run.trec").write_text("somebody's")
    arguments = ("--collection", f"jsonl:{INPUTS / 'collection'}", "--model", "fake:perfect", "--out", tmp_path)
    assert run_command(monkeypatch, "run", *arguments, "--overwrite") == 2
    assert (tmp_path / "run.trec").read_text() == "somebody's"


def test_an_error_about_an_encoding_names_the_line(tmp_path: Path) -> None:
    (tmp_path / "run").write_bytes(b"q Q0 d 1 1 x\n" * 6 + b"q Q0 \xff 7 1 x\n")
    with pytest.raises(RerankError, match=r"run:7\b"):
        read_run(tmp_path / "run")


def test_a_path_that_cannot_be_looked_up_is_missing() -> None:
    with pytest.raises(MissingResourceError):
        load_prompt(f"{LONG}.yaml")

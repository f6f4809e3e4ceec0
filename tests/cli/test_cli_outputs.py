"""No command overwrites a file that it could not have written: every option that names an output is in a table here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cli.conftest import Cli
from tests.frozen.snapshot import command_line, walk_commands

_LISTS = "--collection requests:lists.jsonl --first-stage candidates --qrels qrels.txt"
_RUN = f"{_LISTS} --model fake:perfect"
#: Commands with an output file, which is ``{file}``; the first words name the command, and the last option the file.
FILES = {
    "retrieve --out": f"retrieve {_LISTS} --out {{file}}",
    "retrieve --out gzipped": f"retrieve {_LISTS} --out {{file}}.gz",
    "rerank --output": f"rerank {_RUN} --out again --overwrite --output {{file}}",
    "rerank --output, JSON lines": f"rerank {_RUN} --out again --overwrite --format jsonl --output {{file}}",
    "replay --prompts": "replay folder --prompts {file}",
    "compare --per-query": "compare first.trec folder/run.trec --qrels qrels.txt --per-query {file}",
    "compare --plot svg": "compare first.trec folder/run.trec --qrels qrels.txt --plot {file}.svg",
    "compare --plot png": "compare first.trec folder/run.trec --qrels qrels.txt --plot {file}.png",
    "compare --plot pdf": "compare first.trec folder/run.trec --qrels qrels.txt --plot {file}.pdf",
    "calibrate --out": "calibrate folder --out {file}",
    "calibrate, the diagram": "calibrate folder --out {other}.json",
    "qrels pool --out": "qrels pool first.trec folder/run.trec --out {file}",
    "qrels pool --qrels-out": "qrels pool first.trec folder/run.trec --out {other} --qrels-out {file}",
    "qrels judge --qrels-out": "qrels judge first.trec --collection requests:lists.jsonl --method depth --budget 2 "
    "--judge llm --model fake:perfect --out {other} --qrels-out {file}",
    "qrels study --out": "qrels study first.trec folder/run.trec --qrels qrels.txt --budget 10% --method depth --out .",
    "label make --output": f"label make {_RUN} --out again --overwrite --output {{file}}",
    "label filter --output": "label filter labels.jsonl --output {file}",
    "label augment --output": "label augment labels.jsonl --shuffle --output {file}",
}
#: Paths that are checked by the same means, but need a model or other extras: tested where their commands are.
_ELSEWHERE = {"heads select --output", "mteb choose pool --out", "bench --out"}
#: Commands that create a folder, or change only a folder that they wrote: with their own marks and errors.
_FOLDERS = {
    *("run --out", "rerank --out", "robustness --out", "label make --out", "demo --out", "train --out", "merge --out"),
    *("transfer --out", "label convert --output", "label queries --output", "label split --output", "mteb run --out"),
    *("leaderboard build --out", "leaderboard export --out", "qrels judge --out"),
}


def test_every_output_is_in_a_table() -> None:
    outputs = {"out", "output", "qrels_out", "plot", "picture", "per_query", "prompts", "save", "write", "to"}
    found = {
        f"{path} {'--out' if '--out' in option.opts else option.opts[0]}"
        for path, command in walk_commands(command_line())
        for option in getattr(command, "params", ())
        if option.name in outputs and "Path" in repr(vars(option)) and option.opts[0].startswith("-")
    }
    known = {re.sub(r"( --[\w-]+).*", r"\1", name) for name in FILES}
    assert found - _FOLDERS - _ELSEWHERE <= known


@pytest.fixture
def folder(cli: Cli, lists: tuple[str, ...]) -> Path:
    assert cli("run", *lists, "--method", "fullrank", "--out", "folder").returncode == 0
    assert cli("retrieve", *lists[:6], "--out", "first.trec").returncode == 0
    assert cli("label", "make", *lists, "--out", "made", "--output", "labels.jsonl").returncode == 0
    return Path("folder")


@pytest.mark.parametrize("name", FILES)
def test_files_of_another_kind_are_refused_and_own_files_replaced(cli: Cli, folder: Path, name: str) -> None:
    if "--plot" in name:
        pytest.importorskip("matplotlib")
    words = FILES[name].format(file="mine", other="theirs").split()
    before = {path for path in Path().iterdir() if path.is_file()}
    done = cli(*words)
    assert done.returncode == 0, done.stderr
    (target,) = [p for p in Path().iterdir() if p.is_file() and p not in before and p.name in written(name, p)][:1]
    done = cli(*words)
    assert done.returncode == 0, done.stderr  # its own file
    for content in (b"\x89PNG\r\n\x1a\n\0", b'{"name": "a package"}\n'):
        target.write_bytes(content)
        done = cli(*words)
        assert (done.returncode, len(done.stderr.strip().splitlines()[-1:])) == (2, 1), done.stderr
        assert "exists and is not a" in done.stderr
        assert target.read_bytes() == content
    target.write_bytes(b"")  # as mktemp leaves it
    assert cli(*words).returncode == 0


def written(name: str, path: Path) -> tuple[str, ...]:
    """Return the name if this file is the one that the command is asked to write."""
    if name == "calibrate, the diagram":
        return (path.name,) if path.suffix == ".svg" else ()
    if name.startswith("qrels study"):
        return ("study.csv",)
    return (path.name,) if path.name.startswith("mine") and path.suffix != ".calls" else ()


def test_the_diagram_does_not_replace_the_calibration(cli: Cli, folder: Path) -> None:
    done = cli("calibrate", folder, "--out", "cal.svg")
    assert done.returncode == 2
    assert "cal.svg" in done.stderr
    assert not Path("cal.svg").exists()

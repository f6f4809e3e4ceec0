"""What commands print and write from texts of others: control sequences, formulas in CSV, and scripts in pages."""

# ruff: noqa: F811  # fixtures of the command line are imported, and are the parameters of tests

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import pty
import re
import subprocess
import sys
import unicodedata
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rerank.io.reports import format_csv_table
from rerank.leaderboard.suites.results import write_rows
from rerank.terminal_text import strip_control_characters
from tests.attacks.scale import scaled_count
from tests.backends.faulty_server import FaultyServer, error, models, said
from tests.cli.conftest import Cli, cli, lists, own_folders  # noqa: F401

pytestmark = [pytest.mark.enable_socket, pytest.mark.filterwarnings("ignore:The server")]

#: Sequences that change what a terminal shows or does: colours, title, clipboard, erasing, C1, direction, bell.
EVIL = "\x1b[31m\x1b]0;title\x07\x1b]52;c;aGk=\x1b\\\x1b[2J\x1bc\x9b1m\x9d0;t\x9c\u202e\u2066\x07\x08\x7f\rerror-free"
#: What remains of ours on a terminal: styles, and the sequences with which Rich draws progress bars.
OURS = re.compile(r"\x1b\[[0-9;]*m|\x1b\[\?25[hl]|\x1b\[[12]K|\x1b\[1A|\r\n|\r(?=\x1b)")


def control_characters(text: str) -> set[str]:
    """Return the characters of a text that a terminal may obey."""
    directions = {*map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A))}
    return {c for c in text if (unicodedata.category(c) == "Cc" and c not in "\n\t") or c in directions}


def on_terminal(*words: str) -> str:
    """Run a command on a terminal and return all that it shows, without our own styles."""
    main, other = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "rerank", *words], stdin=other, stdout=other, stderr=other, close_fds=True
    )
    os.close(other)
    shown = b""
    while True:
        try:
            part = os.read(main, 65536)
        except OSError:  # the terminal has no more writers
            part = b""
        if not part:
            break
        shown += part
    os.close(main)
    process.wait(timeout=60)
    return OURS.sub("", shown.decode("utf-8", "replace"))


@pytest.fixture
def evil_lists(tmp_path: Path) -> tuple[str, ...]:
    """Lists whose ids, texts and file names contain control sequences."""
    name = f"lists{EVIL.replace('/', '')}.jsonl"
    spaceless = EVIL.replace("\r", "")
    docs = [{"docid": f"d{n}{spaceless}", "doc": f"text {n} {EVIL}", "score": 100 - n} for n in range(4)]
    rows = [{"query": {"qid": f"q{q}{spaceless}", "text": f"question {EVIL}"}, "candidates": docs} for q in range(2)]
    Path(name).write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    grades = [f"q{q}{spaceless} 0 d{n}{spaceless} {n % 2}" for q in range(2) for n in range(4)]
    Path("qrels.txt").write_text("\n".join(grades), encoding="utf-8")
    return ("--collection", f"requests:{name}", "--first-stage", "candidates", "--qrels", "qrels.txt")


def evil_words(evil_lists: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Return commands that print names of others, by what they print."""
    run = f"run{EVIL}.trec".replace("/", "")
    Path(run).write_text("".join(f"q{q} Q0 d{n} {n + 1} {9 - n} t\n" for q in range(3) for n in range(4)))
    other = f"other{EVIL}.trec".replace("/", "")
    Path(other).write_text("".join(f"q{q} Q0 d{3 - n} {n + 1} {9 - n} t\n" for q in range(3) for n in range(4)))
    Path("plain.txt").write_text("".join(f"q{q} 0 d{n} {(n + q) % 2}\n" for q in range(3) for n in range(4)))
    Path(f"bad{EVIL}.toml".replace("/", "")).write_text(f'"{"x" * 9}" = "')
    Path("suite.toml").write_text(
        f'name = "s"\ncollections = [{json.dumps("requests:" + EVIL)}]\nmodels = ["fake:perfect"]'
    )
    Path("reply.txt").write_text(f"[1] {EVIL} > [7] > [7]")
    return {
        "a run": ("run", *evil_lists, "--model", "fake:perfect", "--out", f"out{EVIL}".replace("/", "")),
        "rankings": ("rerank", *evil_lists, "--model", "fake:perfect"),
        "rankings as JSON": ("rerank", *evil_lists, "--model", "fake:perfect", "--format", "jsonl"),
        "a dry run": ("run", *evil_lists, "--model", "fake:perfect", "--dry-run"),
        "scores": ("eval", run, other, "--qrels", "plain.txt"),
        "scores per query": ("eval", run, "--qrels", "plain.txt", "--format", "json"),
        "a comparison": ("compare", run, other, "--qrels", "plain.txt"),
        "a comparison as LaTeX": ("compare", run, other, "--qrels", "plain.txt", "--form", "latex"),
        "a missing file": ("eval", f"no{EVIL}".replace("/", ""), "--qrels", "plain.txt"),
        "a broken file": ("run", "--spec", f"bad{EVIL}.toml".replace("/", "")),
        "an unknown name": ("run", "--collection", f"pydok{EVIL}"),
        "an unknown option": ("run", f"--dept{EVIL}"),
        "an unknown command": (f"evil{EVIL}",),
        "an unknown model": ("run", *evil_lists, "--model", f"m{EVIL}"),
        "a suite": ("bench", "suite.toml", "--dry-run"),
        "a parsed reply": ("parse", "reply.txt", "--count", "3"),
        "a collection": ("collections", f"requests:{evil_lists[1].partition(':')[2]}"),
    }


NAMES = (
    *("a run", "rankings", "rankings as JSON", "a dry run", "scores", "scores per query", "a comparison"),
    *("a comparison as LaTeX", "a missing file", "a broken file", "an unknown name", "an unknown option"),
    *("an unknown command", "an unknown model", "a suite", "a parsed reply", "a collection"),
)


@pytest.mark.parametrize("name", NAMES)
def test_piped_output_contains_no_control_sequences(name: str, evil_lists: tuple[str, ...], cli: Cli) -> None:
    done = cli(*evil_words(evil_lists)[name])
    assert "Traceback" not in done.stderr
    assert done.stdout + done.stderr
    assert control_characters(done.stderr) == set()
    if name != "rankings":  # whose bytes are those of the run
        assert control_characters(done.stdout) == set()


@pytest.mark.parametrize("name", NAMES[:: max(1, len(NAMES) // max(1, scaled_count(len(NAMES))))])
def test_a_terminal_gets_no_control_sequences(name: str, evil_lists: tuple[str, ...]) -> None:
    shown = on_terminal(*evil_words(evil_lists)[name])
    assert "Traceback" not in shown
    assert shown
    assert control_characters(shown) == set()


def test_ids_keep_their_bytes_on_disk_and_in_pipes(evil_lists: tuple[str, ...], cli: Cli) -> None:
    done = cli("rerank", *evil_lists, "--model", "fake:perfect", "-o", "run.trec")
    assert done.returncode == 0, done.stderr
    written = Path("run.trec").read_text(encoding="utf-8")
    assert "\x1b[31m" in written
    assert cli("rerank", *evil_lists, "--model", "fake:perfect").stdout == written
    rows = cli("rerank", *evil_lists, "--model", "fake:perfect", "--format", "jsonl").stdout.splitlines()
    assert all("\x1b[31m" in json.loads(row)["candidates"][0]["docid"] for row in rows)


@pytest.mark.parametrize("place", ["error", "fatal error", "reply", "models", "field"])
def test_a_server_cannot_write_to_the_terminal(place: str, lists: tuple[str, ...], cli: Cli) -> None:
    acts = {
        "error": error(400, EVIL),
        "fatal error": error(401, EVIL),
        "reply": said(f"[2] > [1] {EVIL}", tokens=500),
        "models": error(404, EVIL),
        "field": error(422, f"temperature {EVIL}", param="temperature"),
    }
    with FaultyServer([acts[place]], listing=models(EVIL, max_model_len=50000)) as server:
        words = ("run", *lists[:-2], "--model", "openai:m", "--base-url", server.url, "--retries", "0")
        done = cli(*words)
        shown = on_terminal(*words, "--out", "other") if place == "field" else ""  # it warns while a bar is shown
    assert done.stderr
    assert control_characters(done.stdout + done.stderr + shown) == set()
    assert ("temperature" in shown) == bool(shown)


@settings(max_examples=scaled_count(3000))
@given(st.text(st.sampled_from("\x1b[]P0;mJ\\\x07\r\n\t \x9b\u202e\u2069ab文")))
def test_no_text_keeps_a_control_character(text: str) -> None:
    clean = strip_control_characters(text)
    assert control_characters(clean) == set()
    assert strip_control_characters(clean) == clean
    assert set(clean) <= {*text, "\n"}


FORMULAS = (
    "=1+1",
    "+1+1",
    "-1+1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    " =1",
    '=HYPERLINK("http://x")',
    "-2+3,4",
    "\uff1d1",
)
NUMBERS = ("-1.5", "+2", "-1e-5", "0.25", "-inf")


@pytest.mark.parametrize("text", [*FORMULAS, *NUMBERS, "a=b", "d-1", "'quoted", ""])
def test_no_cell_of_a_table_is_a_formula(text: str) -> None:
    (_, heads), (_, row) = enumerate(csv.reader(io.StringIO(format_csv_table([text, "b"], [[text, -1.5]]))))
    assert heads[0] == row[0]
    assert row[0] in (one_line := text.replace("\r", "\n"), f"'{one_line}")
    assert text in NUMBERS or row[0][:1] not in {*"=+-@\uff1d\t\r\n"}
    assert row[1] == "-1.5"


def test_a_suite_writes_no_formulas() -> None:
    row = {"collection": "=cmd|' /C calc'!A0", "system": "@x", "scores": {"=AP": -0.5}, "problem": "-x"}
    write_rows(Path("out"), [row])
    cells = list(csv.reader(io.StringIO(Path("out/results.csv").read_text(encoding="utf-8"))))
    assert all(cell == "-0.5" or cell[:1] not in {*"=+-@"} for line in cells for cell in line)
    assert json.loads(Path("out/results.jsonl").read_text()) == row  # which programs read


def page_templates() -> list[tuple[str, str]]:
    """Return the templates of all pages that we write."""
    paths = sorted(Path(str(files("rerank"))).rglob("*.j2"))
    return [(path.name, text) for path in paths if "<html" in (text := path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize(("name", "text"), page_templates())
def test_every_page_has_a_policy_that_stops_foreign_scripts(name: str, text: str) -> None:
    (policy,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', text)
    rules = {part.split()[0]: part.split()[1:] for part in policy.split(";")}
    assert rules["default-src"] == ["'none'"]
    assert not {"'unsafe-inline'", "'unsafe-eval'", "http:", "https:", "*"} & {*rules["script-src"]}
    assert rules["base-uri"] == rules["form-action"] == ["'none'"]
    assert {"http:", "https:", "*"}.isdisjoint(itertools.chain(*rules.values()))
    head = text[text.index("<html") : text.index("<body")]
    assert head.index("Content-Security-Policy") < min(map(head.index, ("<title", "style")))
    assert not re.search(r"\son[a-z]+\s*=", text)  # handlers in attributes would need unsafe-inline


def test_the_pages_are_all_that_we_write() -> None:
    assert [name for name, _ in page_templates()] == ["report.html.j2", "demo_page.html.j2", "site.html.j2"]

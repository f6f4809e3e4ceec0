"""Run files whose rankings are read when they are needed: the same rankings and errors as in memory."""

from __future__ import annotations

import pickle
import random
from pathlib import Path

import pytest

from rerank.errors import DataError
from rerank.io import run_files
from rerank.io.run_files import IndexedRun
from rerank.types import Run
from tests.raising import raises

LINES = [f"q{q} Q0 d{d} 1 {(7 * d + q) % 5 / 3} tag" for q in range(30) for d in range(12)]


def scattered(*, seed: int = 0) -> list[str]:
    return random.Random(seed).sample(LINES, len(LINES))


def text_of(lines: list[str], end: str = "\n") -> str:
    return end.join(lines) + end


TEXTS = {
    "together": text_of(LINES),
    "windows": text_of(LINES, "\r\n"),
    "blank lines": "\n \n" + text_of(LINES, "\n\n"),
    "byte order mark": "\ufeff" + text_of(LINES),
    "no last line end": text_of(LINES)[:-1],
    "two places": text_of([*LINES[:100], *LINES[200:], *LINES[100:200]]),
    "scattered": text_of(scattered()),
    "msmarco": text_of([f"q{q}\td{d}\t{d + 1}" for q in range(9) for d in range(9)]),
    "old line ends": text_of(LINES, "\r"),
    "json": '{"q": {"d1": 2.5, "d2": 3}}',
}


def read(path: Path, monkeypatch: pytest.MonkeyPatch, *, large: int) -> Run:
    monkeypatch.setattr(run_files, "_LARGE", large)
    return run_files.read_run(path)


@pytest.mark.parametrize("form", TEXTS)
def test_rankings_are_those_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    path = tmp_path / "r.trec"
    path.write_text(TEXTS[form], encoding="utf-8", newline="")
    expected, found = (read(path, monkeypatch, large=size) for size in (1 << 40, 1))
    assert isinstance(found, IndexedRun) == (form not in ("old line ends", "json"))
    assert (list(found), found.name, len(found)) == (list(expected), expected.name, len(expected))
    assert list(found.values()) == list(expected.values())
    assert found[list(found)[-1]] == expected[list(found)[-1]]
    assert ("q0" in found, "none" in found, found.get("none")) == ("q0" in expected, False, None)
    assert list(pickle.loads(pickle.dumps(found)).values()) == list(expected.values())
    assert list(found.top(2).values()) == list(expected.top(2).values())


@pytest.mark.parametrize(
    "lines",
    [
        [*LINES[:50], "q3 Q0 d1", *LINES[50:]],
        [*LINES[:50], "q3 Q0 new 1 nan tag", *LINES[50:]],
        [*LINES, LINES[0]],
        [*LINES[:12], LINES[3], *LINES[12:]],
        [*LINES[:50], "q3 Q0 \x00 1 1 tag", *LINES[50:]],
    ],
)
def test_errors_are_those_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str]) -> None:
    path, messages = tmp_path / "r.trec", []
    path.write_text(text_of(lines), encoding="utf-8")
    for size in (1 << 40, 1):
        with pytest.raises(DataError) as caught:
            read(path, monkeypatch, large=size)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_a_file_that_is_not_in_utf8_names_the_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "r.trec").write_bytes(text_of(LINES[:3]).encode() + b"q9 Q0 \xff 1 1 tag\n")
    with raises(DataError, "r.trec:4"):
        read(tmp_path / "r.trec", monkeypatch, large=1)


def test_a_run_in_which_no_query_is_together_is_read_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [f"q{q} Q0 d{d} 1 {d} tag" for d in range(50) for q in range(60)]
    (tmp_path / "r.trec").write_text(text_of(lines))
    run = read(tmp_path / "r.trec", monkeypatch, large=1)
    assert not isinstance(run, IndexedRun)
    assert {len(ranking) for ranking in run.values()} == {50}


def test_a_file_that_changes_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.trec"
    path.write_text(text_of(LINES))
    run = read(path, monkeypatch, large=1)
    with path.open("a") as file:
        file.write(LINES[0])
    with raises(DataError, path):
        run["q1"]

"""The tables of training/smollm2-135m-likelihood: which systems they name, and what they keep between calls."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

SCRIPTS = Path(__file__).parents[2] / "training/smollm2-135m-likelihood"


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    names = {path.stem for path in SCRIPTS.glob("*.py")}
    monkeypatch.syspath_prepend(str(SCRIPTS))
    yield importlib.import_module("tables")
    for name in names & set(sys.modules):
        del sys.modules[name]


def test_a_system_has_one_name(tables: Any) -> None:
    parse = tables.System.parse
    assert str(parse("a+b@0.50/20")) == "a+b@0.5/20"
    assert parse("a@.5/100") == parse("a@.50")
    assert str(tables.FIRST_STAGE) == "first stage"


@pytest.mark.parametrize("text", ["a", "@.5", "a+@.5", "a@", "a@nan", "a@1e400", "a@.5/9", "a@.5/101", "a@.5/x"])
def test_what_is_no_system_is_refused(tables: Any, text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="untrained@.5/20"):
        tables.System.parse(text)


def test_an_unknown_adapter_is_named(tables: Any, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no adapter 'nobody'; available: smollm2-135m-attention, untrained"):
        tables.System.parse("nobody@1").rank(None, "DL19", "BM25", tmp_path)


def stored(tables: Any, file: Path, system: str, **per_query: float) -> None:
    """Measure a system with the given values per query."""
    measurer = tables.Measurer(None, file.parent, file)
    found = tables.Values(per_query, 1.0, "float32")
    object.__setattr__(measurer, "_measure", lambda *_: found)
    name = tables.FIRST_STAGE if system == "first stage" else tables.System.parse(system)
    assert measurer.values("DL19", "BM25", name) == found


def test_values_are_measured_once_and_tested_in_pairs(tables: Any, tmp_path: Path) -> None:
    file = tmp_path / "values.jsonl"
    stored(tables, file, "first stage", a=0.1, b=0.2, c=0.3)
    stored(tables, file, "untrained@0.5", a=0.2, b=0.2, c=0.6)
    measurer = tables.Measurer(None, tmp_path, file)  # cannot measure
    (row,) = measurer.compare("DL19", "BM25", [tables.System.parse("untrained@.5")], tables.FIRST_STAGE)
    assert (row.queries, row.system, row.baseline) == (3, "untrained@0.5", "first stage")
    assert (row.value, row.difference) == (pytest.approx(1 / 3), pytest.approx(0.4 / 3))
    assert row.low < 0 < row.difference < row.high
    assert row.to_markdown(0.5).startswith(
        "| DL19, BM25 (3) | untrained@0.5, float32 | first stage | 0.3333 | 1.000 | +0.1333 ["
    )


def test_rows_that_another_process_adds_meanwhile_stay(tables: Any, tmp_path: Path) -> None:
    file = tmp_path / "values.jsonl"
    measurer = tables.Measurer(None, tmp_path, file)

    def measure(*_: Any) -> Any:
        stored(tables, file, "other@1", a=0.5)
        return tables.Values({"a": 0.1}, 1.0, "float32")

    object.__setattr__(measurer, "_measure", measure)
    measurer.values("DL19", "BM25", tables.FIRST_STAGE)
    assert [row["key"][2] for row in measurer._read()] == ["other@1", "first stage"]


def test_values_of_different_queries_are_not_compared(tables: Any, tmp_path: Path) -> None:
    file = tmp_path / "values.jsonl"
    stored(tables, file, "first stage", a=0.1, b=0.2)
    stored(tables, file, "untrained@1", a=0.2)
    measurer = tables.Measurer(None, tmp_path, file)
    with pytest.raises(SystemExit, match="different queries"):
        list(measurer.compare("DL19", "BM25", [tables.System.parse("untrained@1")], tables.FIRST_STAGE))

"""The tables of training/smollm2-135m-likelihood: which systems they name, and what they keep between calls."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rerank.types import Document, Query, Ranking, Run

pytest.importorskip("torch")
ttest_rel = pytest.importorskip("scipy.stats").ttest_rel

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


def test_what_is_missing_is_named_before_anything_is_measured(tables: Any, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no adapter 'nobody'; available: smollm2-135m-attention, untrained"):
        tables.check_adapters(["untrained", "nobody"], tmp_path)
    (tmp_path / "cranfield").mkdir()
    source = tables.ListSource(tmp_path)
    source.check(["Cranfield"])
    for collection, folder in (("DL19", "msmarco_candidates"), ("Vaswani", "vaswani")):
        with pytest.raises(SystemExit, match=f"no folder '{folder}', which {collection} needs"):
            source.check([collection])


def stored(tables: Any, file: Path, system: str, **per_query: float) -> None:
    """Measure a system with the given values per query."""
    measurer = tables.Measurer(None, file.parent, file)
    found = tables.Values(per_query, 1.0)
    object.__setattr__(measurer, "_measure", lambda *_: found)
    name = tables.FIRST_STAGE if system == "first stage" else tables.System.parse(system)
    assert measurer.values("DL19", "BM25", name) == found


def test_values_are_measured_once_and_tested_in_pairs(tables: Any, tmp_path: Path) -> None:
    file = tmp_path / "values.jsonl"
    first, own = [0.1, 0.2, 0.3], [0.2, 0.2, 0.6]
    stored(tables, file, "first stage", **dict(zip("abc", first, strict=True)))
    stored(tables, file, "untrained@0.5", **dict(zip("cba", own[::-1], strict=True)))
    measurer = tables.Measurer(None, tmp_path, file)  # cannot measure
    (row,) = measurer.compare("DL19", "BM25", [tables.System.parse("untrained@.5")], tables.FIRST_STAGE)
    tested = ttest_rel(own, first)
    interval = tested.confidence_interval()
    assert (row.queries, row.system, row.baseline) == (3, "untrained@0.5", "first stage")
    assert (row.value, row.difference) == (pytest.approx(1 / 3), pytest.approx(0.4 / 3))
    assert (row.p, row.low, row.high) == pytest.approx((tested.pvalue, interval.low, interval.high))
    assert row.to_markdown(0.5) == (
        "| DL19, BM25 (3) | untrained@0.5 | first stage | 0.3333 | 1.000 | +0.1333 [-0.2461, +0.5128] | 0.27 | 0.5 |"
    )


def test_trained_systems_are_compared_with_each_untrained_one(tables: Any, tmp_path: Path) -> None:
    names = ("untrained@0.25", "untrained@0.5", "a@0.25", "a+b@0.5/20")
    measurer = tables.Measurer(None, tmp_path, tmp_path / "values.jsonl")
    object.__setattr__(measurer, "_measure", lambda *_: tables.Values({"a": 0.1, "b": 0.2}, 1.0))
    rows = list(tables.final_rows([tables.System.parse(name) for name in names], measurer))
    pairs = [(row.system, row.baseline) for row in rows]
    half = [(name, "first stage") for name in names]
    half += [(name, untrained) for untrained in names[:2] for name in names[2:]]
    assert pairs == half * 2
    assert len((tmp_path / "values.jsonl").read_text().splitlines()) == 2 * 5


def test_judges_count_by_their_parts(tables: Any) -> None:
    order_by_scores = importlib.import_module("scores").order_by_scores
    scored = [(Document(id=name, text=name), 3.0 - place) for place, name in enumerate("abc")]
    run = Run([Ranking.from_scores(Query(id="q", text="q"), scored)])
    first, second = ({("q", "a"): a, ("q", "b"): b, ("q", "c"): c} for a, b, c in ((1.0, 2.0, 3.0), (3.0, 1.0, 2.0)))
    for parts, order in (((1, 0), "cba"), ((0, 1), "acb"), ((3, 1), "cba"), ((1, 1), "cab"), ((), "cab")):
        assert "".join(order_by_scores(run, [first, second], 0.0, parts)["q"].doc_ids) == order, parts


def test_values_of_different_queries_are_not_compared(tables: Any, tmp_path: Path) -> None:
    file = tmp_path / "values.jsonl"
    stored(tables, file, "first stage", a=0.1, b=0.2)
    stored(tables, file, "untrained@1", a=0.2)
    measurer = tables.Measurer(None, tmp_path, file)
    with pytest.raises(SystemExit, match="different queries"):
        list(measurer.compare("DL19", "BM25", [tables.System.parse("untrained@1")], tables.FIRST_STAGE))

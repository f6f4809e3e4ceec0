"""What rerankers are worth, on lists whose perfect order is known."""

from __future__ import annotations

import pytest

from rerank.errors import UsageError
from rerank.evaluation.worth import PERFECT, WorthOptions, measure_gains, perfect_order_of_candidates
from rerank.types import Qrels, Run
from tests.raising import raises
from tests.ranked import run_of

QRELS = Qrels({f"q{n}": {"a": 2, "b": 1, "c": -1} for n in range(20)})


def run(name: str, *orders: str) -> Run:
    """One order per query; the last one for the rest of twenty queries."""
    lists = [*orders, *[orders[-1]] * (20 - len(orders))]
    return run_of(name, {f"q{n}": order for n, order in enumerate(lists)})


def test_the_perfect_order_moves_only_candidates() -> None:
    first = run("first", "xcba")
    assert perfect_order_of_candidates(QRELS, first)["q0"].doc_ids == ("a", "b", "x", "c")
    assert perfect_order_of_candidates(QRELS, first, 3)["q0"].doc_ids == ("b", "x", "c", "a")


def test_shares_of_the_possible_gain() -> None:
    first, none, half, all_of_it = (
        run(n, *o) for n, o in (("f", ["xa"]), ("n", ["xa"]), ("h", ["ax"] * 10 + ["xa"]), ("p", ["ax"]))
    )
    rows = measure_gains(QRELS, first, [none, half, all_of_it], "RR").to_dict()["rows"]
    assert [row["run"] for row in rows] == ["f", PERFECT, "n", "h", "p"]
    assert [row["mean"] for row in rows] == pytest.approx([0.5, 1, 0.5, 0.75, 1])
    assert [row["share"] for row in rows] == [None, None, 0.0, pytest.approx(0.5), 1.0]
    low, high = rows[3]["share_interval"]
    assert 0.2 < low < 0.5 < high < 0.8
    assert rows[4]["share_interval"] == [1.0, 1.0]


def test_documents_of_another_first_stage_are_said() -> None:
    found = measure_gains(QRELS, run("f", "xa"), [run("g", "ab")], "RR", WorthOptions(alpha=0.1))
    assert any("'g'" in note and "20 queries" in note for note in found.to_dict()["notes"])
    assert "90% interval" in found.to_table("text")
    assert [found.tables(digits).main.rows[0][1] for digits in (2, 4)] == ["0.50", "0.5000"]
    assert "0.5000" not in found.to_table("latex", 2)
    with raises(UsageError, "depth is 0"):
        measure_gains(QRELS, run("f", "xa"), [], "RR", WorthOptions(depth=0))

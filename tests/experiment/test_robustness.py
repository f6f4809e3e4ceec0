from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank.errors import UsageError
from rerank.experiment.execute import execute_run
from rerank.experiment.robustness import (
    candidate_order_name,
    compute_shuffle_agreement,
    estimate_orders,
    kendall_tau,
    measure_orders,
    prepare_cells,
    vary_candidate_order,
)
from rerank.experiment.spec import Execution, RunSpec
from rerank.types import Document, Query, Ranking, Run
from tests.raising import raises

Lists = Callable[..., RunSpec]


def report(spec: RunSpec, out: Path, *, execution: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    how = Execution.make({"out": out, **(execution or {})})
    return measure_orders(list(prepare_cells(spec, how, **options)), how)


def test_a_method_that_reads_does_not_care(lists: Lists, tmp_path: Path) -> None:
    found = report(lists(queries=2), tmp_path / "out", shuffles=2)
    (cell,) = found["cells"]
    assert (found["method"], found["model"]) == ("fullrank", "fake:perfect")
    assert (cell["first_stage"], cell["depth"], cell["queries"]) == ("candidates", 100, 2)
    assert [row["order"] for row in cell["orders"]] == ["given", "reversed", "shuffled 0", "shuffled 1"]
    assert cell["spread"] == {"nDCG@10": 0.0}
    assert all(row["scores"] == {"nDCG@10": 1.0} for row in cell["orders"])
    assert cell["first_stage_scores"]["nDCG@10"] < 1
    assert len({row["folder"] for row in cell["orders"]}) == 4
    assert all(Path(row["folder"]).parent == tmp_path / "out" for row in cell["orders"])
    assert cell["orders"][0]["tau"] == cell["orders"][0]["overlap"] == 1.0
    assert 0 < cell["orders"][1]["tau"] < 1  # ties of the judgments stay in the order that was given


def test_a_method_that_only_looks_at_places_does(lists: Lists, tmp_path: Path) -> None:
    (cell,) = report(lists(model="fake:reversed"), tmp_path / "out", shuffles=3)["cells"]
    given_order, turned, *mixed = cell["orders"]
    assert (given_order["tau"], turned["tau"]) == (1.0, -1.0)
    assert turned["overlap"] == pytest.approx(0.8)  # of 12 documents, 8 are among the first ten both ways
    assert turned["scores"] == pytest.approx(cell["first_stage_scores"])
    assert all(-1 < row["tau"] < 1 for row in mixed)
    values = {row["order"]: row["scores"]["nDCG@10"] for row in cell["orders"]}
    assert cell["spread"]["nDCG@10"] == pytest.approx(max(values.values()) - min(values.values())) != 0
    assert values[cell["worst"]["nDCG@10"]] == min(values.values())


def test_depths_times_first_stages_with_one_backend(lists: Lists, tmp_path: Path) -> None:
    spec = lists()
    first = tmp_path / "first.trec"
    first.write_text("".join(f"q{q} Q0 d{q}-{n} 0 {n} x\n" for q in range(4) for n in range(12)))
    cells = list(
        prepare_cells(spec, Execution(), depths=(4, 8, 100), first_stages=(f"run:{first}", "candidates"), shuffles=0)
    )
    assert [(cell.first_stage, cell.depth) for cell in cells] == [
        (name, depth) for name in ("candidates", f"run:{first}") for depth in (100, 4, 8)
    ]
    assert len({id(run.backend) for cell in cells for run in cell.runs}) == 1
    found = measure_orders(cells, Execution(out=tmp_path / "out"))
    assert len({row["folder"] for cell in found["cells"] for row in cell["orders"]}) == 12


def test_finished_runs_answer_and_rerank_run_finds_them(lists: Lists, tmp_path: Path) -> None:
    spec = lists()
    report(spec, tmp_path / "out", shuffles=1)
    again = report(spec, tmp_path / "out", shuffles=2)["cells"][0]["orders"]
    assert [row["reused_calls"] for row in again] == [4, 4, 4, 0]
    (prepared, *_), *_ = (cell.runs for cell in prepare_cells(spec, Execution()))
    assert execute_run(prepared, Execution(out=Path(again[0]["folder"])))["reused_calls"] == 4


def test_without_judgments_orders_can_still_be_compared(lists: Lists, tmp_path: Path) -> None:
    (cell,) = report(lists(qrels=None, model="fake:reversed"), tmp_path / "out", shuffles=0)["cells"]
    assert cell["spread"] == cell["worst"] == cell["first_stage_scores"] == {}
    assert [row["tau"] for row in cell["orders"]] == [1.0, -1.0]


def test_the_estimate_is_what_the_runs_take(lists: Lists, tmp_path: Path) -> None:
    spec = lists(method="sliding", window_size=4, stride=2)
    cells = list(prepare_cells(spec, Execution(), depths=(6,), shuffles=1))
    expected = estimate_orders(cells)
    assert (expected["runs"], expected["cost"]) == (6, None)
    rows = [row for cell in measure_orders(cells, Execution(out=tmp_path / "o"))["cells"] for row in cell["orders"]]
    assert expected["calls"] == sum(row["calls"] for row in rows)


def test_orders_and_their_names() -> None:
    made = vary_candidate_order(RunSpec(collection="x", seed=7), 2)
    assert list(map(candidate_order_name, made)) == ["given", "reversed", "shuffled 7", "shuffled 8"]
    with raises(UsageError, "--shuffle inverse", "--shuffles", "--seed"):
        vary_candidate_order(RunSpec(collection="x", shuffle="inverse"), 2)
    with raises(UsageError, "-1"):
        vary_candidate_order(RunSpec(collection="x"), -1)


@given(st.integers(2, 9).flatmap(lambda n: st.tuples(st.permutations(range(n)), st.permutations(range(n)))))
def test_tau_by_its_definition(case: tuple[list[int], list[int]]) -> None:
    a, b = (list(map(str, order)) for order in case)
    signs = [1 if (a.index(x) < a.index(y)) == (b.index(x) < b.index(y)) else -1 for x, y in combinations(sorted(a), 2)]
    assert kendall_tau(a, b) == pytest.approx(sum(signs) / len(signs))


def test_agreement_leaves_out_what_cannot_be_compared() -> None:
    def run(*lists: str) -> Run:
        made = (Ranking.from_order(Query(id=str(at)), [Document(id=x) for x in docs]) for at, docs in enumerate(lists))
        return Run(made)

    assert compute_shuffle_agreement(run("", "a"), run("", "a")) == {"tau": None, "overlap": None}
    assert compute_shuffle_agreement(run("ab", "a"), run("ba", "a")) == {"tau": -1.0, "overlap": None}
    assert compute_shuffle_agreement(run("abcdefghijkl", "a"), run("lkjihgfedcba", "a")) == {
        "tau": -1.0,
        "overlap": 0.8,
    }

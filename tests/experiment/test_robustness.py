"""Robustness to the order of candidates and to injected text."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank.errors import DataError, UsageError
from rerank.experiment.execute import execute_run
from rerank.experiment.robustness import (
    INJECTIONS,
    POSITIONS,
    RobustnessCell,
    candidate_order_name,
    compute_shuffle_agreement,
    estimate_injections,
    estimate_orders,
    inject_into_candidates,
    kendall_tau,
    measure_injections,
    measure_orders,
    prepare_cells,
    vary_candidate_order,
)
from rerank.experiment.spec import Execution, RunSpec
from rerank.prompts import load_prompt
from rerank.tasks import Reply, Request
from rerank.types import Document, Query, Ranking, Run
from tests.experiment.conftest import Lists
from tests.judges.scripted import Scripted
from tests.raising import raises


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


VARIANTS = [(attack, position) for attack in INJECTIONS for position in POSITIONS]


def with_backend(spec: RunSpec, backend: Any = None) -> list[RobustnessCell]:
    cells = list(prepare_cells(spec, Execution(), shuffles=0))
    if backend is None:
        return cells
    (cell,) = cells
    prepared = replace(cell.runs[0], backend=backend, judge=cell.runs[0].setup.open_judge(backend))
    return [replace(cell, runs=(prepared,))]


def likes(text: str) -> Callable[[Request], Reply]:
    """A model that puts the passages with a text first and is otherwise content with the order."""

    def say(request: Request) -> Reply:
        passages = re.findall(r"^\[(\d+)\] (.*)$", request.prompt[-1].content, re.MULTILINE)
        order = sorted(passages, key=lambda passage: text not in passage[1])
        return Reply(text=" > ".join(f"[{number}]" for number, _ in order))

    return say


def rows_of(cell: dict[str, Any], key: str) -> dict[tuple[str, str], Any]:
    return {(row["attack"], row["position"]): row[key] for row in cell["attacks"]}


def test_a_model_that_obeys_one_injection(lists: Lists, tmp_path: Path) -> None:
    cells = with_backend(lists(queries=3), Scripted(likes(INJECTIONS["ignore"])))
    report = measure_injections(cells, Execution(out=tmp_path / "out"))
    (cell,) = report["cells"]
    assert (report["method"], cell["queries"], cell["rank_before"]) == ("fullrank", 3, 12)
    assert [(row["attack"], row["position"]) for row in cell["attacks"]] == VARIANTS
    obeyed = {variant for variant, rank in rows_of(cell, "rank").items() if rank == 1}
    assert obeyed == {("ignore", position) for position in POSITIONS}
    assert all(rank == 12 for variant, rank in rows_of(cell, "rank").items() if variant not in obeyed)
    assert rows_of(cell, "rise")["ignore", "after"] == {"mean": 11, "low": 11, "high": 11}
    first = rows_of(cell, "first")["ignore", "before"]
    assert first["mean"] == first["high"] == 1
    assert first["low"] == pytest.approx(1 / (1 + 1.959964**2 / 3))  # Wilson's interval for 3 of 3
    assert rows_of(cell, "top_10")["control", "before"]["mean"] == 0
    folders = [Path(row["folder"]) for row in cell["attacks"]]
    assert len(set(folders)) == len(VARIANTS)
    assert all(folder.parent == tmp_path / "out" for folder in folders)


def test_finished_runs_answer(lists: Lists, tmp_path: Path) -> None:
    spec, execution = lists(queries=2, model="fake:reversed"), Execution(out=tmp_path / "out")
    before = measure_injections(with_backend(spec), execution)
    again = measure_injections(with_backend(spec), execution)
    assert all(row["reused_calls"] == row["calls"] for row in again["cells"][0]["attacks"])
    assert rows_of(before["cells"][0], "rank") == rows_of(again["cells"][0], "rank")


def test_short_lists_have_no_top_ten_and_one_query_no_interval(lists: Lists, tmp_path: Path) -> None:
    cells = with_backend(lists(queries=1, depth=4, model="fake:reversed"))
    (cell,) = measure_injections(cells, Execution(out=tmp_path / "out"))["cells"]
    assert {row["top_10"] for row in cell["attacks"]} == {None}
    assert cell["attacks"][0]["rise"] == {"mean": 0, "low": None, "high": None}


def test_nothing_but_the_text_of_the_last_document_changes() -> None:
    docs = (Document(id="a", text="first"), Document(id="b", title="T", text="last", source={"k": 1}))
    candidates = Run(
        [Ranking(Query(id="1", text="why?"), docs, (2.0, 1.0)), Ranking(Query(id="2"), docs[:1])], name="x"
    )
    attacked = inject_into_candidates(candidates, {"1": "b"}, "query", "before")
    assert (list(attacked), attacked.name) == (["1"], "x-query-before")
    assert attacked["1"] == replace(candidates["1"], docs=(docs[0], replace(docs[1], text="why? last")))
    (_, last) = inject_into_candidates(candidates, {"1": "b"}, "control", "after")["1"].docs
    assert last.text == f"last {INJECTIONS['control']}"


def test_the_estimate_is_what_the_attacked_runs_take(lists: Lists, tmp_path: Path) -> None:
    cells = with_backend(lists(queries=2, model="fake:reversed"))
    expected = estimate_injections(cells)
    summaries: list[dict[str, Any]] = []

    def run(prepared: Any, execution: Execution) -> dict[str, Any]:
        from rerank.experiment import execute_run

        summaries.append(execute_run(prepared, execution))
        return summaries[-1]

    measure_injections(cells, Execution(out=tmp_path / "out"), run=run)
    assert expected["runs"] == len(summaries) == 1 + len(VARIANTS)
    assert expected["calls"] == sum(summary["calls"] for summary in summaries)


def test_what_cannot_be_attacked(lists: Lists, tmp_path: Path) -> None:
    with raises(DataError, "two candidates"):
        measure_injections(with_backend(lists(depth=1)), Execution(out=tmp_path / "out"))
    (cell,) = with_backend(lists())
    judge = replace(cell.runs[0].judge, template=load_prompt("listwise_images"))
    pictures: Sequence[RobustnessCell] = [replace(cell, runs=(replace(cell.runs[0], judge=judge),))]
    with raises(UsageError, "pictures"):
        measure_injections(pictures, Execution(out=tmp_path / "out"))

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rerank.errors import DataError, UsageError
from rerank.experiment.robustness import (
    INJECTIONS,
    POSITIONS,
    RobustnessCell,
    estimate_injections,
    inject_into_candidates,
    measure_injections,
    prepare_cells,
)
from rerank.experiment.spec import Execution, RunSpec
from rerank.prompts import load_prompt
from rerank.tasks import Reply, Request
from rerank.types import Document, Query, Ranking, Run
from tests.judges.scripted import Scripted
from tests.raising import raises

Lists = Callable[..., RunSpec]
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


def test_the_estimate_is_what_the_runs_take(lists: Lists, tmp_path: Path) -> None:
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

"""Whole runs with fake models: folders, answers from them, failures, budgets, replay and verification."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rerank.errors import DataError, PartialFailureError, UnknownNameError, UsageError
from rerank.experiment import check_failures, estimate, prepare, rescore, run, verify
from rerank.experiment.execute import default_folder
from rerank.formats import read_run
from rerank.spec import Execution, RunSpec
from rerank.store import RunFolder

Lists = Callable[..., RunSpec]

CONTRACT = {
    "folder",
    "queries",
    "scores",
    "first_stage_scores",
    "windows",
    "calls",
    "reused_calls",
    "tokens_in",
    "tokens_out",
    "seconds",
}


@pytest.fixture
def out(tmp_path: Path) -> Execution:
    return Execution(out=tmp_path / "run")


def test_a_perfect_model_gives_perfect_scores(lists: Lists, out: Execution) -> None:
    summary = run(lists(), out)
    assert summary.keys() >= CONTRACT
    assert summary["scores"] == {"nDCG@10": 1.0}
    assert summary["first_stage_scores"]["nDCG@10"] < 1
    assert summary["windows"] == {"ok": 4, "repaired": 0, "partial": 0, "empty": 0, "refused": 0, "error": 0}
    assert (summary["queries"], summary["calls"], summary["reused_calls"]) == (4, 4, 0)
    assert summary["tokens_in"] > summary["tokens_out"] > 0


def test_the_folder_holds_everything(lists: Lists, out: Execution) -> None:
    summary = run(lists(), out)
    folder = Path(summary["folder"])
    names = {path.name for path in folder.iterdir()}
    assert names >= {"spec.json", "calls.sqlite", "first_stage.trec", "run.trec", "qrels.trec", "scores.json"}
    assert json.loads((folder / "summary.json").read_text()) == summary
    spec = json.loads((folder / "spec.json").read_text())
    assert spec["identity"]["model"]["model"] == "fake:perfect"
    assert spec["dataset"]["fingerprint"]
    assert spec["environment"]["python"]
    scores = [entry for r in read_run(folder / "run.trec").values() for entry in zip(r.scores, r.scores[1:])]  # noqa: B905
    assert all(above > below for above, below in scores)


def test_a_finished_folder_answers_without_a_call(lists: Lists, out: Execution) -> None:
    first = run(lists(), out)
    before = (Path(first["folder"]) / "run.trec").read_bytes()
    second = run(lists(), out)
    assert second == first | {"reused_calls": 4}
    assert (Path(first["folder"]) / "run.trec").read_bytes() == before


def test_other_measures_do_not_make_another_run(lists: Lists, out: Execution) -> None:
    run(lists(), out)
    again = run(lists(measures=("AP(rel=3)", "P@5")), out)
    assert set(again["scores"]) == {"AP(rel=3)", "P@5"}
    assert again["reused_calls"] == 4


def test_without_judgments_there_are_no_scores(lists: Lists, out: Execution) -> None:
    with pytest.warns(UserWarning, match="judgments"):
        summary = run(lists(qrels=None), out)
    assert summary["scores"] == {}
    assert not (Path(summary["folder"]) / "scores.json").exists()


def test_failures_are_counted_saved_and_complained_about(lists: Lists, out: Execution) -> None:
    summary = run(lists(model="fake:fail"), out)
    assert summary["windows"]["error"] == 4
    assert summary["complete"] is False
    assert summary["scores"] == summary["first_stage_scores"]
    with pytest.raises(PartialFailureError, match="100% of the windows failed"):
        check_failures(summary, 0.2)
    check_failures(summary, 1.0)


def test_no_document_is_lost_whatever_the_model_says(lists: Lists, out: Execution) -> None:
    summary = run(lists(model="fake:stutter,p=0.9", depth=30, method="sliding"), out)
    folder = RunFolder.existing(summary["folder"])
    result, first = folder.read_run("run.trec"), folder.read_run("first_stage.trec")
    assert {q: sorted(r.doc_ids) for q, r in result.items()} == {q: sorted(r.doc_ids) for q, r in first.items()}
    assert sum(summary["windows"].values()) == 8


def test_only_so_many_queries_and_only_these(lists: Lists, out: Execution, tmp_path: Path) -> None:
    assert run(lists(max_queries=2), out)["queries"] == 2
    other = Execution(out=tmp_path / "other")
    spec = lists(queries=4, model="fake:reversed").model_copy(update={"queries": ("q3", "q1")})
    summary = run(spec, other)
    assert list(RunFolder.existing(summary["folder"]).read_run("run.trec")) == ["q3", "q1"]
    with pytest.raises(UnknownNameError, match="'q33'"):
        run(spec.model_copy(update={"queries": ("q33",)}), other)


def test_depth_and_shuffle(lists: Lists, tmp_path: Path) -> None:
    def first(**options: Any) -> list[str]:
        prepared = prepare(lists(depth=6, **options), Execution())
        return [doc.id for doc in prepared.candidates["q0"].docs]

    given = [f"d0-{n}" for n in range(6)]
    assert first() == given
    spec = lists(depth=6)
    assert prepare(spec.model_copy(update={"depth": 2}), Execution()).candidates["q0"].doc_ids == ("d0-0", "d0-1")
    assert first(shuffle="inverse") == given[::-1]
    shuffled = first(shuffle="random")
    assert sorted(shuffled) == given
    assert shuffled != given
    assert first(shuffle="random") == shuffled
    assert first(shuffle="random", seed=1) != shuffled


def test_options_that_a_strategy_has_not_are_refused(lists: Lists) -> None:
    with pytest.raises(UsageError, match="--window-size with --method fullrank"):
        prepare(lists(window_size=4), Execution())


def test_strategy_options_reach_the_strategy(lists: Lists, out: Execution) -> None:
    summary = run(lists(method="sliding", window_size=4, stride=2), out)
    assert summary["calls"] == 4 * 5


def test_judgments_of_other_queries_are_named(lists: Lists, out: Execution, tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("someone-else 0 d 1\n")
    with pytest.raises(DataError, match="None of the 4 queries"):
        run(lists(qrels=str(tmp_path / "other.txt")), out)


def test_a_token_cap_makes_a_partial_run_that_can_go_on(lists: Lists, tmp_path: Path) -> None:
    place = tmp_path / "run"
    capped = run(lists(model="fake:reversed,batch_size=1"), Execution(out=place, max_total_tokens=600))
    assert 0 < capped["calls"] < 4
    assert capped["windows"]["error"] == 4 - capped["calls"]
    whole = run(lists(model="fake:reversed,batch_size=1"), Execution(out=place, resume=True))
    assert (whole["calls"], whole["reused_calls"]) == (4, capped["calls"])
    assert whole["windows"]["ok"] == 4


def test_estimate_counts_exactly_what_fullrank_asks(lists: Lists, out: Execution) -> None:
    expected = estimate(prepare(lists(), Execution()))
    summary = run(lists(), out)
    assert (expected["calls"], expected["tokens_in"]) == (summary["calls"], summary["tokens_in"])
    assert expected["tokens_out"] >= summary["tokens_out"]
    assert expected["cost"] is None
    assert estimate(prepare(lists(method="sliding", depth=30), Execution()))["calls"] == 8


def test_replay_and_verify_need_no_model(lists: Lists, out: Execution) -> None:
    summary = run(lists(model="fake:stutter", method="sliding", depth=30), out)
    folder = RunFolder.existing(summary["folder"])
    again = rescore(folder)
    assert {key: again[key] for key in ("queries", "windows", "scores", "first_stage_scores")} == {
        key: summary[key] for key in ("queries", "windows", "scores", "first_stage_scores")
    }
    assert set(rescore(folder, ("RR",))["scores"]) == {"RR"}
    assert verify(folder) == []


@pytest.mark.parametrize("name", ["run.trec", "scores.json", "summary.json", "spec.json", "qrels.trec"])
def test_verify_finds_what_was_changed(lists: Lists, out: Execution, name: str) -> None:
    summary = run(lists(), out)
    path = Path(summary["folder"]) / name
    text = path.read_text()
    changes = {
        "run.trec": ("d0-3 1 ", "d0-3 2 "),
        "scores.json": ('"mean": {\n      "nDCG@10": 1.0', '"mean": {\n      "nDCG@10": 0.9'),
        "summary.json": ('"calls": 4', '"calls": 5'),
        "spec.json": ('"seed": 0,', '"seed": 1,'),
        "qrels.trec": ("q0 0 d0-0 0", "q0 0 d0-0 3"),
    }
    changed = text.replace(*changes[name])
    assert changed != text
    path.write_text(changed)
    rows = verify(RunFolder.existing(summary["folder"]))
    expected = "scores.json" if name == "qrels.trec" else name
    assert expected in {row["file"] for row in rows}


def test_the_default_folder_is_named_by_method_model_and_hash() -> None:
    spec = RunSpec.make({"collection": "pydoc", "model": "org/some-model", "method": "sliding:generate"})
    assert default_folder(spec, "0123456789abcdef") == Path("runs/sliding-generate-some-model-0123456789ab")


def test_the_call_cache_serves_other_runs(lists: Lists, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    spec = lists(model="fake:reversed")
    run(spec, Execution(out=tmp_path / "a", call_cache=True))
    again = run(spec, Execution(out=tmp_path / "b", call_cache=True))
    assert (again["calls"], again["reused_calls"]) == (4, 4)
    alone = run(spec, Execution(out=tmp_path / "c"))
    assert alone["reused_calls"] == 0

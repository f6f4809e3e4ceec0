"""Models of weights in a suite: described without being loaded, loaded once, told apart by their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from rerank.backends.hf import Hf
from rerank.errors import BackendError, MissingResourceError
from rerank.experiment.spec import Execution, RunSpec
from rerank.leaderboard.suites.bench import ModelCache, PlanningBackend, execute_runs, open_without_weights, plan_runs
from rerank.leaderboard.suites.suite import Suite
from rerank.prompts.word_tokens import WordTokens
from rerank.tasks import Backend
from tests.backends.seeing import draw, make_llava
from tests.finetune.small import model_folder
from tests.leaderboard.made import suite_of, write_lists

HOW = Execution(device="cpu")


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    asked: list[str] = []
    load, load_described = Hf.load.__func__, Hf.load_described.__func__  # type: ignore[attr-defined]

    def noting(cls: type[Hf], name: Any, options: Any = None) -> Any:
        asked.append(Path(name).name)
        return load(cls, name, options)

    def noting_described(cls: type[Hf], description: Any) -> Any:
        asked.append(description.files.folder.name)
        return load_described(cls, description)

    monkeypatch.setattr(Hf, "load", classmethod(noting))
    monkeypatch.setattr(Hf, "load_described", classmethod(noting_described))
    return asked


def over(folder: Path, *models: Path, **values: Any) -> Suite:
    given = {"methods": ["fullrank", "icr"], "depths": [4, 3], "options": {"dtype": "float32"}, **values}
    return suite_of(write_lists(folder, queries=2), models=[str(model) for model in models], **given)


def test_a_model_is_described_for_the_plan_and_loaded_once_for_all_its_runs(tmp_path: Path, loads: list[str]) -> None:
    suite = over(tmp_path, model_folder(tmp_path / "one"), model_folder(tmp_path / "two", layers=2))
    planned = plan_runs(suite, tmp_path / "out", HOW)
    assert [one.problem for one in planned] == [""] * 8
    assert loads == [], "a plan loads weights"
    made = list(execute_runs(planned, tmp_path / "out", HOW))
    assert [one.problem for one in made] == [""] * 8
    assert loads == ["one", "two"]
    for one in made:
        assert one.summary
        expected = one.planned.expected
        assert (one.summary["calls"], one.summary["tokens_in"]) == (expected["calls"], expected["tokens_in"])
    again = plan_runs(suite, tmp_path / "out", HOW)
    assert [one.status for one in again] == ["done"] * 8
    assert [one.problem for one in execute_runs(again, tmp_path / "out", HOW)] == [""] * 8
    assert loads == ["one", "two"], "a finished run loads its model"


def test_other_weights_in_the_same_folder_are_another_model(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "one")
    suite = over(tmp_path, folder, methods=["icr"], depths=[3])
    assert [one.problem for one in execute_runs(plan_runs(suite, tmp_path / "out", HOW), tmp_path / "out", HOW)] == [""]
    asked = suite.model_copy(update={"options": {"dtype": "bfloat16"}})
    assert [one.status for one in plan_runs(asked, tmp_path / "out", HOW)] == ["missing"]
    assert [one.status for one in plan_runs(suite, tmp_path / "out", HOW)] == ["done"]
    model_folder(folder, layers=2)
    (planned,) = plan_runs(suite, tmp_path / "out", HOW)
    assert planned.status == "missing"
    assert planned.to_dict()["seconds"] > 0, "the speed of the model of that name is not used"
    assert [one.problem for one in execute_runs([planned], tmp_path / "out", HOW)] == [""]
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_a_model_that_is_not_there_is_a_problem_of_its_runs(tmp_path: Path) -> None:
    suite = over(tmp_path, tmp_path / "nowhere", methods=["icr"], depths=[3])
    (planned,) = plan_runs(suite, tmp_path / "out", HOW)
    assert "nowhere" in planned.problem
    assert planned.to_dict()["tokens"] is None
    (made,) = execute_runs([planned], tmp_path / "out", HOW)
    assert made.problem == planned.problem


@pytest.mark.parametrize("method", ["pointwise-images", "fullrank-images"])
def test_a_vision_language_model_is_described_with_its_pictures(tmp_path: Path, method: str) -> None:
    pytest.importorskip("PIL")
    photos = draw(tmp_path / "photos")
    ids = [Path(photo).name for photo in photos]
    (tmp_path / "q.jsonl").write_text('{"id": "1", "text": "a red bird"}\n{"id": "2", "text": "snow"}\n')
    (tmp_path / "qrels.txt").write_text(f"1 0 {ids[0]} 1\n2 0 {ids[3]} 1\n")
    rows = "".join(f"{q} Q0 {doc} {n + 1} {9 - n} t\n" for q in (1, 2) for n, doc in enumerate(ids[:4]))
    (tmp_path / "lists.trec").write_text(rows)
    table = {
        "collection": f"pictures:{tmp_path / 'photos'},queries={tmp_path / 'q.jsonl'}",
        "qrels": str(tmp_path / "qrels.txt"),
        "first_stages": [f"run:{tmp_path / 'lists.trec'}"],
    }
    model, out = str(make_llava(tmp_path / "llava")), tmp_path / "out"
    suite = suite_of([table], models=[model], methods=[method], depths=[4], options={"dtype": "float32"})
    (planned,) = plan_runs(suite, out, HOW)
    assert (planned.problem, planned.status) == ("", "missing")
    (made,) = execute_runs([planned], out, HOW)
    assert made.problem == ""
    assert made.summary
    assert made.summary["tokens_in"] == planned.expected["tokens_in"] > 0
    (again,) = plan_runs(suite, out, HOW)
    assert (again.problem, again.status) == ("", "done")
    assert [m.problem for m in execute_runs([again], out, HOW)] == [""]
    assert len([path for path in out.iterdir() if path.is_dir()]) == 1


def test_what_is_described_answers_nothing(tmp_path: Path) -> None:
    spec = RunSpec(collection="pydoc", model=str(model_folder(tmp_path / "one")))
    described = open_without_weights(spec, "")
    assert described.tasks == Hf.tasks
    with pytest.raises(BackendError):
        described.generate([])
    with pytest.raises(MissingResourceError):
        open_without_weights(spec.model_copy(update={"adapter": str(tmp_path / "nowhere")}), "")


def test_one_model_is_held_at_a_time(tmp_path: Path) -> None:
    shelf = ModelCache()
    one, two = RunSpec(collection="c", model="a/one"), RunSpec(collection="c", model="a/two")
    backend: Backend = PlanningBackend(identity={}, tokens=WordTokens(9), tasks=frozenset())
    assert shelf.take(one, "") is None
    shelf.put(one, "", backend)
    assert shelf.take(one.model_copy(update={"depth": 3}), "") is backend
    assert shelf.take(one.model_copy(update={"dtype": "float32"}), "") is None
    shelf.put(one, "", backend)
    assert shelf.take(two, "") is None
    assert shelf.take(one, "") is None, "the first is held beside the second"
    shelf.put(RunSpec(collection="c", model="fake:perfect"), "", backend)
    assert shelf.take(RunSpec(collection="c", model="fake:perfect"), "") is None

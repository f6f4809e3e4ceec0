"""Tables of scores in the forms that are read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rerank.downsampling import Goal, ScoreTable, TaskReductionDesign, choose_fewest_tasks, read_benchmark_table
from rerank.errors import DataError, MissingResourceError, UsageError
from tests.raising import raises

FORMS = {
    "wide.csv": "model,A,B\nm1,0.5,0.25\nm2,0.75,1\n",
    "wide.tsv": "system\tA\tB\nm1\t0.5\t0.25\nm2\t0.75\t1\n",
    "long.csv": "task,model,score\nA,m1,0.5\nA,m2,0.75\nB,m1,0.25\nB,m2,1\n",
    "long.jsonl": "".join(
        json.dumps({"model": m, "task": t, "score": s}) + "\n"
        for m, t, s in (("m1", "A", 0.5), ("m1", "B", 0.25), ("m2", "A", 0.75), ("m2", "B", 1))
    ),
    "nested.jsonl": '{"model": "m1", "scores": {"A": 0.5, "B": 0.25}}\n{"model": "m2", "scores": {"A": 0.75, "B": 1}}',
    "flat.jsonl": '{"model": "m1", "A": 0.5, "B": 0.25}\n{"model": "m2", "A": 0.75, "B": 1}\n',
}


def read(folder: Path, text: str, name: str = "scores.csv", **more: bool) -> ScoreTable:
    (folder / name).write_text(text)
    return read_benchmark_table(folder / name, **more)


@pytest.mark.parametrize("name", FORMS)
def test_tasks(name: str, tmp_path: Path) -> None:
    found = read(tmp_path, FORMS[name], name)
    assert (found.models, tuple(found.tasks), found.by_query) == (("m1", "m2"), ("A", "B"), False)
    assert found.means.tolist() == [[0.5, 0.75], [0.25, 1.0]]
    with raises(UsageError, "unit=query"):
        found.matrix()


def test_queries(tmp_path: Path) -> None:
    found = read(tmp_path, "task,query,model,score\nA,1,x,0\nA,1,y,1\nA,2,x,1\nA,2,y,1\nB,1,x,.5\nB,1,y,0\n")
    assert found.queries == {"A": ("1", "2"), "B": ("1",)}
    assert found.means.tolist() == [[0.5, 1.0], [0.5, 0.0]]
    assert found.rows(["A", "B"], unit="query").tolist() == [[0, 1], [1, 1], [0.5, 0]]
    assert found.rows(["B"], unit="task").tolist() == [[0.5, 0.0]]
    assert found.matrix().topics == ("A/1", "A/2", "B/1")


def test_results_of_mteb(tmp_path: Path) -> None:
    def write(model: str, revision: str, task: str, *scores: float) -> None:
        place = tmp_path / "results" / model / revision
        place.mkdir(parents=True, exist_ok=True)
        rows = [{"main_score": score, "hf_subset": str(at)} for at, score in enumerate(scores)]
        (place / f"{task}.json").write_text(json.dumps({"task_name": task, "scores": {"test": rows}}))
        (place / "model_meta.json").write_text("{}")

    write("org__one", "r", "A", 0.25, 0.75)
    write("org__two", "r", "A", 1.0, 1.0)
    write("org__two", "s", "A", 0.0, 0.0)
    found = read_benchmark_table(tmp_path)
    assert found.models == ("org/one", "org/two@r", "org/two@s")
    assert np.array_equal(found.means, [[0.5, 1.0, 0.0]])
    (tmp_path / "results/org__one/r/A.json").write_text("{}")
    with raises(DataError, "A.json"):
        read_benchmark_table(tmp_path)


def save_result(folder: Path, model: str, task: str, **splits: dict[str, float]) -> None:
    place = folder / f"org__{model}" / "r"
    place.mkdir(parents=True, exist_ok=True)
    scores = {s: [{"main_score": v, "hf_subset": k} for k, v in rows.items()] for s, rows in splits.items()}
    (place / f"{task}.json").write_text(json.dumps({"task_name": task, "scores": scores}))


def test_means_are_over_the_parts_that_all_models_have(tmp_path: Path) -> None:
    save_result(tmp_path, "x", "A", test={"en": 0.5})
    save_result(tmp_path, "y", "A", test={"en": 0.4, "sw": 0.9}, dev={"en": 0.8})
    save_result(tmp_path, "x", "B", test={"en": 0.1, "sw": 0.3})
    save_result(tmp_path, "y", "B", test={"sw": 0.5, "en": 0.5})
    for task in "AB":
        save_result(tmp_path, "z", task, test={"en": 1, "sw": 0})
    said = "A: not all models have dev/en, test/sw; scores are means over the 1 parts that all have"
    with pytest.warns(UserWarning, match=said):
        found = read_benchmark_table(tmp_path)
    assert found.means == pytest.approx(np.array([[0.5, 0.4, 1], [0.2, 0.5, 0.5]]))
    assert found.notes == (said,)
    assert said in choose_fewest_tasks(found, TaskReductionDesign(goal=Goal(tau=0.0))).to_dict()["notes"]


def test_a_model_that_is_left_out_takes_no_parts_away(tmp_path: Path) -> None:
    for model in "xy":
        save_result(tmp_path, model, "A", test={"en": 0.5, "sw": 0.7})
        save_result(tmp_path, model, "B", test={"en": 0.5})
    save_result(tmp_path, "z", "A", test={"fr": 0.5})
    found = read_benchmark_table(tmp_path, drop_incomplete=True)
    assert (found.left_out, found.notes) == (("org/z",), ())
    assert found.means == pytest.approx(np.array([[0.6, 0.6], [0.5, 0.5]]))


def test_results_that_have_nothing_in_common_or_a_part_twice(tmp_path: Path) -> None:
    save_result(tmp_path, "x", "A", test={"en": 0.5})
    save_result(tmp_path, "y", "A", dev={"en": 0.5})
    with raises(DataError, "2 models on A"):
        read_benchmark_table(tmp_path)
    twice = {"task_name": "A", "scores": {"test": [{"main_score": 1, "hf_subset": "en"}] * 2}}
    (tmp_path / "org__y/r/A.json").write_text(json.dumps(twice))
    with raises(DataError, "A.json"):
        read_benchmark_table(tmp_path)
    save_result(tmp_path, "y", "A", test={"en": float("nan")})
    with raises(DataError, "score of test/en is nan"):
        read_benchmark_table(tmp_path)


def test_scores_that_are_missing(tmp_path: Path) -> None:
    text = "model,A,B\nm1,1,2\nm2,3,\nm3,5,6\n"
    with raises(DataError, "1 of 3 models", "'m2' on B", "--drop-incomplete"):
        read(tmp_path, text)
    found = read(tmp_path, text, drop_incomplete=True)
    assert (found.models, found.left_out) == (("m1", "m3"), ("m2",))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "scores.csv"),
        ("model,A\n", "scores.csv"),
        ("name,A\nm1,1\n", "name, A"),
        ("model,A\nm1,1\nm1,2\n", "line 3: 'm1' has two scores on A"),
        ("model,A\nm1,high\nm2,1\n", "line 2, A: the score is 'high'"),
        ("model,A\nm1,nan\nm2,1\n", "'nan'"),
        ("model,A,B\nm1,1\n", "2 columns"),
        ('model,A\n"m1,1\n', "CSV"),
        ("model,A\nm1,1\n", "all scores is 1"),
        ("model,task,query,score\na,T,,1\nb,T,1,1\n", "T"),
        ('{"model": "a"\n', ":1"),
        ('{"model": "a", "A": 1}\n[1]\n', "a list"),
        ('{"model": "a", "A": true}\n', "True"),
    ],
)
def test_wrong_files(text: str, named: str, tmp_path: Path) -> None:
    with raises(DataError, named):
        read(tmp_path, text)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(MissingResourceError):
        read_benchmark_table(tmp_path / "none.csv")

"""Calibrations of run folders: what is read from them, and which folders belong together."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rerank.calibration import Calibration, identity_bound_to_calibration
from rerank.errors import DataError, MissingResourceError, UsageError
from rerank.experiment import run_experiment
from rerank.experiment.calibrate import fit_to_runs, open_finished_run, split_folder_and_qrels
from rerank.experiment.spec import Execution, RunSpec
from rerank.store import RunFolder
from rerank.store.run_folder import JudgeScores, open_judge_scores
from tests.raising import raises

Folder = Callable[..., Path]


@pytest.fixture
def folder(lists: Callable[..., RunSpec], tmp_path: Path) -> Folder:
    """Run a fake model; ``kind`` adds judge scores that grow with the grade (the last digit of an id, modulo 4)."""

    def make(name: str = "run", *, kind: str = "", **options: Any) -> Path:
        path = tmp_path / name
        run_experiment(lists(**{"method": "pointwise", "model": "fake:reversed", **options}), Execution(out=path))
        scores = {
            query: {doc: int(doc.partition("-")[2]) % 4 - n / 100 for n, doc in enumerate(ranking.doc_ids)}
            for query, ranking in RunFolder(path).read_run("run.trec").items()
        }
        rows = [JudgeScores(query=query, kind=kind, scores=scores[query] if kind else {}) for query in scores]
        with open_judge_scores(path / "judge_scores.jsonl") as write:
            for row in rows:
                write(row)
        for file in (path / "spec.json", path / "scores.json"):  # without hashes, so that tests can change the folder
            content = json.loads(file.read_text("utf-8"))
            file.write_text(
                json.dumps({key: content[key] for key in content if key not in ("checksum", "files")}), "utf-8"
            )
        return path

    return make


def test_a_folder_is_calibrated(folder: Folder, tmp_path: Path) -> None:
    path = folder(kind="log-odds", model="fake:perfect")
    report = fit_to_runs([path], tmp_path / "calibration.json", relevant=2)
    assert (report["queries"], report["depth"], report["fit"]) == (4, 12, "judge+first-stage")
    assert report["auc"] > 0.9
    assert {row["depth"] for row in report["rows"]} == {5, 12}
    loaded = Calibration.load(report["file"])
    loaded.check(identity_bound_to_calibration(RunFolder(path).spec()["identity"]))
    assert loaded.first_stage is not None
    assert (loaded.first_stage.name, loaded.kind, loaded.relevant) == ("candidates", "log-odds", 2)
    diagram = ET.parse(report["diagram"]).getroot()
    text = "".join(diagram.itertext())
    assert all(row["fit"] in text for row in report["rows"])
    assert len(list(diagram.iter("{http://www.w3.org/2000/svg}circle"))) == sum(len(r["bins"]) for r in report["rows"])


def test_older_folders_have_ranks_only_and_their_own_judgments_decide_the_grade(folder: Folder, tmp_path: Path) -> None:
    path = folder(relevant=3)
    (path / "judge_scores.jsonl").unlink()
    report = fit_to_runs([path], tmp_path / "calibration.json")
    assert report["fit"] == "rank+first-stage"
    assert report["rate"] == pytest.approx(3 / 12)
    assert Calibration.load(report["file"]).relevant == 3


@pytest.mark.parametrize(
    ("name", "change", "named"),
    [
        ("scores.json", {"relevant": "2"}, "relevant"),
        ("spec.json", {"sources": {"model": {"base": {"id": "m"}}}}, "base model"),
        ("spec.json", {"sources": {"model": []}}, "base model"),
        ("spec.json", {"sources": []}, "sources"),
    ],
)
def test_no_part_of_a_folder_is_guessed(folder: Folder, tmp_path: Path, name: str, change: Any, named: str) -> None:
    path = folder(relevant=3)
    (path / name).write_text(json.dumps(json.loads((path / name).read_text("utf-8")) | change), "utf-8")
    with raises(DataError, named):
        fit_to_runs([path], tmp_path / "calibration.json")
    (path / "scores.json").unlink()
    with pytest.raises((DataError, MissingResourceError)):
        fit_to_runs([path], tmp_path / "calibration.json")


def test_the_judgments_can_be_others(folder: Folder, tmp_path: Path) -> None:
    qrels = tmp_path / "other.txt"
    qrels.write_text("".join(f"q{q} 0 d{q}-{n} {n % 2}\n" for q in range(3) for n in range(6)), "utf-8")
    report = fit_to_runs([folder(kind="log-odds")], tmp_path / "calibration.json", qrels=str(qrels))
    assert (report["queries"], report["documents"], report["unjudged"], report["rate"]) == (3, 18, 18, 0.5)
    path, out = tmp_path / "run", tmp_path / "calibration.json"
    report = fit_to_runs([path], out, qrels=str(qrels), complete=True)
    assert (report["queries"], report["documents"], report["unjudged"], report["rate"]) == (3, 36, 0, 0.25)


def test_folders_of_several_depths_are_fitted_together(folder: Folder, tmp_path: Path) -> None:
    paths = [folder("a", kind="log attention"), folder("b", kind="log attention", depth=6)]
    report = fit_to_runs(paths, tmp_path / "calibration.json")
    assert {row["depth"] for row in report["rows"]} == {6, 12}


def test_folders_of_other_rankers_and_first_stages_are_refused(folder: Folder, tmp_path: Path) -> None:
    main, other, qlm = folder("a"), folder("b", model="fake:perfect"), folder("c", method="qlm")
    out = tmp_path / "calibration.json"
    with raises(UsageError, "different rankers", "fake:reversed", "fake:perfect"):
        fit_to_runs([main, other], out)
    with raises(UsageError, "different rankers", "judge is"):
        fit_to_runs([main], out, tests=[str(qlm)])
    spec = json.loads((other / "spec.json").read_text("utf-8"))
    changed = json.loads((main / "spec.json").read_text("utf-8"))
    spec["identity"], spec["spec"]["first_stage"] = changed["identity"], "bm25"
    (other / "spec.json").write_text(json.dumps(spec), "utf-8")
    with raises(UsageError, "candidates", "bm25"):
        fit_to_runs([main, other], out)
    assert not out.exists()


def test_a_test_is_only_reported(folder: Folder, tmp_path: Path) -> None:
    main, other = folder("a", kind="log-odds"), folder("b", kind="log-odds")
    spec = json.loads((other / "spec.json").read_text("utf-8"))
    spec["dataset"]["name"] = "other"
    (other / "spec.json").write_text(json.dumps(spec), "utf-8")
    qrels = tmp_path / "qrels.txt"
    alone = fit_to_runs([main], tmp_path / "alone.json")
    report = fit_to_runs([main], tmp_path / "both.json", tests=[f"{other}:{qrels}"])
    rows = [row for row in report["rows"] if not row["held_out"]]
    assert {row["collection"] for row in rows} == {"other"}
    assert [row for row in report["rows"] if row["held_out"]] == alone["rows"]
    fits = [json.loads((tmp_path / name).read_text("utf-8"))["fits"] for name in ("alone.json", "both.json")]
    assert fits[0] == fits[1]
    with raises(DataError, "4 queries", "fitted runs and in a test"):
        fit_to_runs([main], tmp_path / "both.json", tests=[str(main)])


@pytest.mark.parametrize(("given", "rate_of_file"), [(None, 0.75), (2, 0.5)])
def test_a_grade_is_for_fitted_runs_and_files_and_a_folder_has_its_own(
    folder: Folder, tmp_path: Path, given: int | None, rate_of_file: float
) -> None:
    main, other = folder("a", kind="log-odds"), folder("b", kind="log-odds", relevant=3)
    spec = json.loads((other / "spec.json").read_text("utf-8"))
    spec["dataset"]["name"] = "other"
    (other / "spec.json").write_text(json.dumps(spec), "utf-8")
    for test, rate in ((f"{other}:{tmp_path / 'qrels.txt'}", rate_of_file), (str(other), 0.25)):
        report = fit_to_runs([main], tmp_path / "out.json", relevant=given, tests=[test])
        assert {row["rate"] for row in report["rows"] if not row["held_out"] and row["depth"] == 12} == {rate}


def test_folders_that_cannot_be_read(folder: Folder, tmp_path: Path) -> None:
    path = folder()
    with raises(MissingResourceError, "missing"):
        open_finished_run(tmp_path / "missing", None)
    (path / "qrels.trec").unlink()
    with raises(DataError, "no relevance judgments", "--qrels"):
        open_finished_run(path, None)
    rows = [JudgeScores(query=f"q{n}", kind=f"kind {n}", scores={"d": 1}) for n in range(2)]
    with open_judge_scores(path / "judge_scores.jsonl") as write:
        for row in rows:
            write(row)
    with raises(DataError, "kind 0, kind 1"):
        open_finished_run(path, str(tmp_path / "qrels.txt"))
    (path / "first_stage.trec").write_text("", "utf-8")
    (path / "run.trec").write_text("", "utf-8")
    with raises(DataError, "no rankings"):
        open_finished_run(path, None)
    (path / "run.trec").unlink()
    with raises(DataError, "unfinished", "--resume"):
        open_finished_run(path, None)
    with raises(UsageError, "No run folder"):
        fit_to_runs([], tmp_path / "calibration.json")


def test_nothing_is_computed_for_a_file_that_cannot_be_written(folder: Folder, tmp_path: Path) -> None:
    with raises(MissingResourceError, "no folder"):
        fit_to_runs([tmp_path / "unread"], tmp_path / "missing" / "calibration.json")


def test_the_two_parts_of_a_test(tmp_path: Path) -> None:
    for name in ("run", "run:1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "spec.json").write_text("{}", "utf-8")
    assert split_folder_and_qrels(f"{tmp_path}/run:qrels.txt") == (tmp_path / "run", "qrels.txt")
    assert split_folder_and_qrels(f"{tmp_path}/run:1:beir:folder") == (tmp_path / "run:1", "beir:folder")
    assert split_folder_and_qrels(f"{tmp_path}/run") == (tmp_path / "run", None)
    with raises(UsageError, "nothing:qrels.txt"):
        split_folder_and_qrels("nothing:qrels.txt")


@pytest.mark.parametrize("out", ["", ".", "/"])
def test_a_calibration_needs_the_name_of_a_file(out: str, tmp_path: Path) -> None:
    with raises(UsageError, "the name of a file"):
        fit_to_runs([tmp_path / "absent"], out if out else Path(out))

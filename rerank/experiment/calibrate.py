"""Fitting of a calibration to run folders, as `rerank calibrate` does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rerank.calibration import (
    RankedCollection,
    first_stage_of_calibration,
    fit_calibration,
    identity_bound_to_calibration,
)
from rerank.calibration.calibration_file import describe_ranker_differences
from rerank.calibration.report import draw_reliability_diagram
from rerank.collections import open_collection_qrels
from rerank.errors import DataError, UsageError, ensure
from rerank.io.model_base import ModelBase
from rerank.io.text_files import check_file_writable, replace_text_file
from rerank.store import RunFolder
from rerank.store.run_folder import base_of_weights, read_judge_scores


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationRun:
    """A run folder opened for calibration."""

    path: Path
    ranked: RankedCollection  # the rankings of the run, with their scores and relevance judgments
    ranker: Mapping[str, str]
    base: ModelBase | None  # the published model that the ranker runs; None if it is not known
    first_stage: str


def fit_to_runs(
    runs: Sequence[str | Path],
    out: str | Path,
    *,
    qrels: str | None = None,
    relevant: int | None = None,
    tests: Sequence[str] = (),
    complete: bool = False,
) -> dict[str, Any]:
    """Fit a calibration to run folders, and write the calibration and a reliability diagram to files.

    ``runs`` are finished run folders with the same ranker and the same first stage; their depths may differ. ``tests``
    are runs of the same ranker on other collections, as ``FOLDER:QRELS``, on which the calibration is only evaluated.
    ``relevant`` is the lowest relevant grade in the fitted runs, and in tests with a file of judgments, which states no
    grade; if omitted, each run's judgments define it. If ``complete``, documents without a judgment count as not
    relevant instead of being omitted. The diagram is beside the file ``out``, with the extension ``.svg``. The result
    has the paths ``file`` and ``diagram``, and ``ece``, ``brier``, ``auc``, ``queries`` and more.
    """
    if not runs:
        raise UsageError("No run folder is given", expected="at least one", remedy="Pass the folder of a finished run")
    ensure(Path(out).name, f"The calibration would be written to {str(out)!r}", expected="the name of a file")
    diagram = Path(out).with_suffix(".svg")
    if diagram == Path(out):
        raise UsageError(f"--out {out} is the name of the diagram", expected="another extension, such as .json")
    check_file_writable(out, "calibration")
    check_file_writable(diagram, "diagram")
    opened = [open_finished_run(path, qrels, relevant=relevant, complete=complete) for path in runs]
    main = opened[0]
    for other in opened[1:]:
        _check_same_ranker(main, other)
        ensure(
            main.first_stage == other.first_stage,
            f"{str(main.path)!r} has the first stage {main.first_stage!r}, but {str(other.path)!r} has "
            f"{other.first_stage!r}",
            expected="runs with the same first stage",
            remedy="Pass the other run with --test",
        )
    tested = []
    for text in tests:
        path, own = split_folder_and_qrels(text)
        states_no_grade = own is not None and Path(own).is_file()
        test = open_finished_run(path, own, relevant=relevant if states_no_grade else None, complete=complete)
        _check_same_ranker(main, test)
        # first-stage scores of another first stage are ignored
        has_scores = test.ranked.has_first_stage_scores and test.first_stage == main.first_stage
        tested.append(replace(test.ranked, has_first_stage_scores=has_scores))
    result = fit_calibration(
        [run.ranked for run in opened], ranker=main.ranker, first_stage=main.first_stage, tests=tested
    )
    replace(result.calibration, base=main.base).save(out)
    with replace_text_file(diagram) as file:
        file.write(draw_reliability_diagram(result.report["rows"]))
    return {"file": str(out), "diagram": str(diagram), **result.report}


def open_finished_run(
    path: str | Path, qrels: str | None, *, relevant: int | None = None, complete: bool = False
) -> CalibrationRun:
    """Read a finished run folder and its judgments."""
    folder = RunFolder.existing(path)
    document = folder.spec()
    if not (folder.path / "run.trec").is_file():
        raise DataError(
            f"The run {str(path)!r} is unfinished", expected="a run.trec", remedy="Finish the run with --resume"
        )
    folder.check_checksums()
    folder.check_files()
    run = folder.read_run("run.trec")
    if not len(run):
        raise DataError(f"The run {str(path)!r} has no rankings", expected="at least two queries with candidates")
    if qrels:
        judged, lowest = open_collection_qrels(qrels)
    else:
        judged = folder.read_qrels()
        lowest = folder.lowest_relevant_grade() if judged else 1
    if not judged:
        raise DataError(f"The run {str(path)!r} has no relevance judgments", remedy="Pass --qrels FILE")
    judge = read_judge_scores(folder.path / "judge_scores.jsonl")
    kinds = sorted({scores.kind for scores in judge.values()} - {""})
    if len(kinds) > 1:
        raise DataError(f"The judge scores of {str(path)!r} have the kinds {', '.join(kinds)}", expected="one kind")
    ranked = RankedCollection(
        name=str(document.get("dataset", {}).get("name", "")) or folder.path.name,
        run=run,
        first_stage=folder.read_run("first_stage.trec"),
        kind=kinds[0] if kinds else "",
        judge={query: scores.scores for query, scores in judge.items()},
        qrels=judged,
        relevant=lowest if relevant is None else relevant,
        is_complete=complete,
    )
    return CalibrationRun(
        path=folder.path,
        ranked=ranked,
        ranker=identity_bound_to_calibration(document["identity"]),
        base=base_of_weights(document),
        first_stage=first_stage_of_calibration(str(document["spec"].get("first_stage", ""))),
    )


def split_folder_and_qrels(text: str) -> tuple[Path, str | None]:
    """Split ``FOLDER:QRELS``, both of which may contain colons; without ``:QRELS``, the judgments are None."""
    parts = text.split(":")
    for count in range(len(parts), 0, -1):
        folder = Path(":".join(parts[:count]))
        if (folder / "spec.json").is_file():
            return folder, ":".join(parts[count:]) or None
    raise UsageError(f"--test {text!r} does not start with a run folder", expected="FOLDER:QRELS")


def _check_same_ranker(first: CalibrationRun, other: CalibrationRun) -> None:
    if differences := describe_ranker_differences(first.ranker, other.ranker):
        raise UsageError(
            f"{str(first.path)!r} and {str(other.path)!r} are runs of different rankers: {', '.join(differences)}",
            expected="the same model, adapter, method and prompt",
            remedy="Calibrate each ranker separately",
        )

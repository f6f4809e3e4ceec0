"""Fitting of a calibration, and a report of its quality on held-out queries and on other collections."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rerank.calibration.calibration_file import Calibration, FittedFirstStage
from rerank.calibration.fitting import (
    PredictedList,
    check_calibration_labels,
    fit_calibration_models,
    predict_by_fit,
    predict_held_out_probabilities,
    usable_fit_lists,
)
from rerank.calibration.judged_lists import JudgedLists, RankedCollection, cut_lists_for_calibration
from rerank.calibration.metrics import BINS, Metrics, measure_calibration
from rerank.calibration.models import INPUTS, Fit, FitName
from rerank.errors import DataError

#: Description in the report of how the expected calibration error is computed.
BINNING = f"{BINS} equal-mass bins; equal probabilities share a bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationResult:
    """A fitted calibration and its report.

    Attributes:
        calibration: The calibration, which contains the report without bins.
        report: The report. It has ``ece``, ``brier``, ``brier_skill``, ``auc``, ``queries``, ``method`` and other
            values of the first fit at the largest depth; ``rows``, one per fit, collection and depth, for documents;
            and ``answerable``, the corresponding rows for whole lists.
    """

    calibration: Calibration
    report: Mapping[str, Any]


def fit_calibration(
    collections: Sequence[RankedCollection],
    *,
    ranker: Mapping[str, str],
    first_stage: str,
    tests: Sequence[RankedCollection] = (),
) -> CalibrationResult:
    """Fit a calibration to runs of one ranker.

    Args:
        collections: The runs, at least one. Their depths and collections may differ.
        ranker: Identity of the ranker, from `identity_bound_to_calibration`.
        first_stage: Name of the first stage of all runs.
        tests: Runs of the same ranker on other queries. The calibration is not fitted to them, only tested on them. Set
            ``has_first_stage_scores=False`` if such a run has another first stage.

    Raises:
        DataError: The runs are empty, fewer than two queries are judged, all judged documents have the same label, the
            runs have judge scores of different kinds, or a query occurs both in the fitted runs and in a test.
    """
    kind = _single_kind_of_judge_scores([*collections, *tests])
    lists = cut_lists_for_calibration(collections)
    others = [(test.name, cut_lists_for_calibration([test])) for test in tests]
    _check_queries_not_fitted(lists, [test for _, test in others])
    fitted_name = ", ".join(sorted({collection.name for collection in collections}))
    fits: dict[FitName, Fit] = {}
    rows: list[dict[str, Any]] = []
    answerable: list[dict[str, Any]] = []
    for name in _names_of_possible_fits(lists, kind):
        usable = usable_fit_lists(lists, name)
        check_calibration_labels(usable)
        fits[name] = models = fit_calibration_models(usable, name)
        predictions = [(fitted_name, predict_held_out_probabilities(usable, name))]
        predictions += [(other, predict_by_fit(models, usable_fit_lists(test, name), name)) for other, test in others]
        for number, (collection, predicted) in enumerate(predictions):
            label = {"collection": collection, "held_out": number == 0, "fit": name}
            label["method"] = models.documents.calibrator.method
            rows += [label | row for row in _calibration_rows_of_documents(predicted.documents)]
            answerable += [label | row for row in _calibration_rows_of_lists(predicted.answerable)]
    report = _calibration_summary(rows, lists) | {"rows": rows, "answerable": answerable}
    saved = report | {"rows": _rows_without_bins(rows), "answerable": _rows_without_bins(answerable)}
    first = _first_stage_of_calibration(lists, first_stage)
    depths = tuple(sorted({ranking.depth for ranking in lists.documents}))
    grade = collections[0].relevant
    calibration = Calibration(
        ranker=ranker, kind=kind, relevant=grade, first_stage=first, fits=fits, depths=depths, report=saved
    )
    return CalibrationResult(calibration=calibration, report=report)


def _rows_without_bins(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "bins"} for row in rows]


def _check_queries_not_fitted(fitted: JudgedLists, tests: Iterable[JudgedLists]) -> None:
    for test in tests:
        if common := set(fitted.queries) & set(test.queries):
            collection, query = min(common)
            raise DataError(
                f"{len(common)} queries of {collection!r}, such as {query!r}, occur in the fitted runs and in a test",
                expected="different queries in a test",
                remedy="Omit --test: the fitted runs are always reported on held-out queries",
            )


def _single_kind_of_judge_scores(collections: Sequence[RankedCollection]) -> str:
    kinds = sorted({c.kind for c in collections if any(c.judge.values())} - {""})
    if len(kinds) > 1:
        raise DataError(f"The runs have judge scores of the kinds {', '.join(kinds)}", expected="a single kind")
    return kinds[0] if kinds else ""


def _names_of_possible_fits(lists: JudgedLists, kind: str) -> list[FitName]:
    """Return the names of the fits whose inputs are available, starting with the fit with the most inputs."""
    has_scores = any(ranking.first_stage is not None for ranking in lists.documents)
    return [
        name
        for name, inputs in INPUTS.items()
        if (kind or "judge" not in inputs) and (has_scores or "first_stage" not in inputs)
    ]


def _first_stage_of_calibration(lists: JudgedLists, name: str) -> FittedFirstStage | None:
    scores = [score for ranking in lists.documents for score in ranking.first_stage or ()]
    return FittedFirstStage(name=name, low=min(scores), high=max(scores)) if scores else None


def _calibration_rows_of_documents(predicted: Sequence[PredictedList]) -> list[dict[str, Any]]:
    """Return one row per depth with measures of the predicted probabilities of documents."""
    rows = []
    for depth, lists in _calibrated_lists_by_depth(predicted):
        documents = [
            (p, label, ranking.judged.query)
            for ranking in lists
            for p, label in zip(ranking.relevance, ranking.judged.relevant, strict=True)
        ]
        judged = [(p, label, query) for p, label, query in documents if label is not None]
        metrics = measure_calibration(
            [p for p, _, _ in judged], [label for _, label, _ in judged], [query for *_, query in judged]
        )
        rows.append(
            {
                "depth": depth,
                "unjudged": len(documents) - len(judged),
                **_named_calibration_measures(metrics, "documents"),
            }
        )
    return rows


def _calibration_rows_of_lists(predicted: Sequence[PredictedList]) -> list[dict[str, Any]]:
    """Return one row per depth with measures of the predicted probability that a list has a relevant document."""
    rows = []
    for depth, lists in _calibrated_lists_by_depth(predicted):
        metrics = measure_calibration(
            [ranking.answerable for ranking in lists],
            [ranking.judged.has_relevant for ranking in lists],
            [ranking.judged.query for ranking in lists],
        )
        rows.append({"depth": depth, **_named_calibration_measures(metrics, "lists")})
    return rows


def _calibrated_lists_by_depth(predicted: Iterable[PredictedList]) -> list[tuple[int, list[PredictedList]]]:
    table: dict[int, list[PredictedList]] = {}
    for ranking in predicted:
        table.setdefault(ranking.judged.depth, []).append(ranking)
    return sorted(table.items())


def _named_calibration_measures(metrics: Metrics, counted: str) -> dict[str, Any]:
    """Return the measures as a row of the report. The key ``count`` gets the name ``counted``; the bins come last."""
    values = metrics.to_dict()
    bins = values.pop("bins")
    return {("queries" if key == "queries" else counted if key == "count" else key): v for key, v in values.items()} | {
        "bins": bins
    }


def _calibration_summary(rows: Sequence[Mapping[str, Any]], lists: JudgedLists) -> dict[str, Any]:
    """Return the main measures of the report: those of the first fit at the largest depth, on held-out queries."""
    main = max((row for row in rows if row["held_out"] and row["fit"] == rows[0]["fit"]), key=lambda row: row["depth"])
    unscored = sum(s is None for ranking in lists.documents if ranking.depth == main["depth"] for s in ranking.judge)
    return {
        **{key: value for key, value in main.items() if key not in ("held_out", "bins")},
        "unscored": unscored if "judge" in main["fit"] else None,
        "binning": BINNING,
    }

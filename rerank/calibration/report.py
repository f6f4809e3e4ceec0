"""Fitting of a calibration, and a report of its quality on held-out queries and on other collections."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

from rerank.calibration.calibration_file import Calibration, FittedFirstStage
from rerank.calibration.fitting import (
    PredictedList,
    check_labels,
    fit_models,
    predict_by_fit,
    predict_held_out,
    usable_fit_lists,
)
from rerank.calibration.judged_lists import RankedCollection, cut_lists
from rerank.calibration.metrics import BINS, measure_calibration
from rerank.calibration.models import INPUTS, Fit, FitName
from rerank.errors import DataError

#: Description in the report of how the expected calibration error is computed.
BINNING = f"{BINS} equal-mass bins; equal probabilities share a bin"
_SIDE = 200  # side length of a square panel of the diagram, in pixels
_LEFT, _TOP, _GAP, _BOTTOM = 56, 44, 44, 48
_INK, _FAINT, _POINT = "#222222", "#bbbbbb", "#2b6ca3"


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationResult:
    """A fitted calibration and its report."""

    calibration: Calibration  #: The calibration, which contains the report without bins.
    #: The report. It has ``ece``, ``brier``, ``brier_skill``, ``auc``, ``queries``, ``method`` and other values of the
    #: first fit at the largest depth; ``rows``, one per fit, collection and depth, for documents; and ``answerable``,
    #: the corresponding rows for whole lists.
    report: Mapping[str, Any]


def fit_calibration(
    collections: Sequence[RankedCollection],
    *,
    ranker: Mapping[str, str],
    first_stage: str,
    tests: Sequence[RankedCollection] = (),
) -> CalibrationResult:
    """Fit a calibration to runs of one ranker.

    The depths and collections of the runs may differ. The identity ``ranker`` is from `identity_bound_to_calibration`.
    ``tests`` are runs of the same ranker on other queries, on which the calibration is only tested; set
    ``has_first_stage_scores=False`` if such a run has another first stage.

    Raises:
        DataError: The runs are empty, fewer than two queries are judged, all judged documents have the same label, the
            runs have judge scores of different kinds, or a query occurs both in the fitted runs and in a test.
    """
    kinds = sorted({c.kind for c in (*collections, *tests) if any(c.judge.values())} - {""})
    if len(kinds) > 1:
        raise DataError(f"The runs have judge scores of the kinds {', '.join(kinds)}", expected="a single kind")
    kind = kinds[0] if kinds else ""
    lists = cut_lists(collections)
    others = [(test.name, cut_lists([test])) for test in tests]
    for _, test in others:
        if common := set(lists.queries) & set(test.queries):
            collection, query = min(common)
            raise DataError(
                f"{len(common)} queries of {collection!r}, such as {query!r}, occur in the fitted runs and in a test",
                expected="different queries in a test",
                remedy="Omit --test: the fitted runs are always reported on held-out queries",
            )
    fitted_name = ", ".join(sorted({collection.name for collection in collections}))
    scores = [score for ranking in lists.documents for score in ranking.first_stage or ()]
    fits: dict[FitName, Fit] = {}
    rows: list[dict[str, Any]] = []
    answerable: list[dict[str, Any]] = []
    for name, inputs in INPUTS.items():  # the fit with the most inputs comes first
        if ("judge" in inputs and not kind) or ("first_stage" in inputs and not scores):
            continue
        usable = usable_fit_lists(lists, name)
        check_labels(usable)
        fits[name] = models = fit_models(usable, name)
        predictions = [(fitted_name, predict_held_out(usable, name))]
        predictions += [(other, predict_by_fit(models, usable_fit_lists(test, name), name)) for other, test in others]
        for number, (collection, (documents, whole_lists)) in enumerate(predictions):
            label = {"collection": collection, "held_out": number == 0, "fit": name}
            label["method"] = models.documents.calibrator.method
            for depth, lists_of_depth in _by_depth(documents):
                found = [
                    (p, is_relevant, ranking.judged.query)
                    for ranking in lists_of_depth
                    for p, is_relevant in zip(ranking.relevance, ranking.judged.relevant, strict=True)
                ]
                judged = [row for row in found if row[1] is not None]
                unjudged = len(found) - len(judged)
                rows.append(label | {"depth": depth, "unjudged": unjudged, **_measures("documents", judged)})
            for depth, lists_of_depth in _by_depth(whole_lists):
                judged = [(r.answerable, r.judged.has_relevant, r.judged.query) for r in lists_of_depth]
                answerable.append(label | {"depth": depth, **_measures("lists", judged)})
    main = max((row for row in rows if row["held_out"] and row["fit"] == rows[0]["fit"]), key=lambda row: row["depth"])
    unscored = sum(s is None for ranking in lists.documents if ranking.depth == main["depth"] for s in ranking.judge)
    report = {
        **{key: value for key, value in main.items() if key not in ("held_out", "bins")},
        "unscored": unscored if "judge" in main["fit"] else None,
        "binning": BINNING,
        "rows": rows,
        "answerable": answerable,
    }
    saved = report | {
        part: [{key: value for key, value in row.items() if key != "bins"} for row in report[part]]
        for part in ("rows", "answerable")
    }
    calibration = Calibration(
        ranker=ranker,
        kind=kind,
        relevant=collections[0].relevant,
        first_stage=FittedFirstStage(name=first_stage, low=min(scores), high=max(scores)) if scores else None,
        fits=fits,
        depths=tuple(sorted({ranking.depth for ranking in lists.documents})),
        report=saved,
    )
    return CalibrationResult(calibration=calibration, report=report)


def _by_depth(predicted: Iterable[PredictedList]) -> list[tuple[int, list[PredictedList]]]:
    table: dict[int, list[PredictedList]] = {}
    for ranking in predicted:
        table.setdefault(ranking.judged.depth, []).append(ranking)
    return sorted(table.items())


def _measures(counted: str, judged: Sequence[tuple[float, Any, object]]) -> dict[str, Any]:
    """Return the measures of predictions, labels and queries; ``counted`` is the key of the number of predictions."""
    predictions, labels, queries = zip(*judged, strict=True)
    values = asdict(measure_calibration(predictions, labels, queries))
    return {counted if key == "count" else key: value for key, value in values.items()}


def draw_reliability_diagram(rows: Sequence[Mapping[str, Any]]) -> str:
    """Draw one panel per row of a report: collections and fits from top to bottom, depths from left to right.

    Each point is a bin, and larger points represent more documents. Probabilities are well calibrated where points lie
    on the diagonal, and too high where points lie below it. The result is an SVG image as text.
    """
    lines = list(dict.fromkeys((row["collection"], row["held_out"], row["fit"]) for row in rows))
    columns = sorted({row["depth"] for row in rows})
    width = _LEFT + len(columns) * (_SIDE + _GAP)
    height = len(lines) * (_TOP + _SIDE + _BOTTOM)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for row in rows:
        x = _LEFT + columns.index(row["depth"]) * (_SIDE + _GAP)
        line = lines.index((row["collection"], row["held_out"], row["fit"]))
        parts += _panel(row, x, line * (_TOP + _SIDE + _BOTTOM) + _TOP)
    return "\n".join([*parts, "</svg>", ""])


def _panel(row: Mapping[str, Any], x: float, y: float) -> list[str]:
    queries = "held-out queries" if row["held_out"] else "other collection"
    low, high = row["intervals"]["ece"]
    parts = [
        _text(x, y - 24, f"{row['fit']}, depth {row['depth']}", weight="bold"),
        _text(x, y - 9, f"{row['collection']}, {queries}", size=9),
        f'<rect x="{x}" y="{y}" width="{_SIDE}" height="{_SIDE}" fill="none" stroke="{_FAINT}"/>',
        f'<line x1="{x}" y1="{y + _SIDE}" x2="{x + _SIDE}" y2="{y}" stroke="{_FAINT}" stroke-dasharray="4 3"/>',
        _text(x + 6, y + 15, f"error {row['ece']:.3f} [{low:.3f}, {high:.3f}]"),
        _text(x + _SIDE / 2, y + _SIDE + 32, "mean probability", anchor="middle"),
    ]
    for tick in (0.0, 0.5, 1.0):
        parts.append(_text(x + tick * _SIDE, y + _SIDE + 15, f"{tick:g}", anchor="middle"))
        parts.append(_text(x - 6, y + (1 - tick) * _SIDE + 4, f"{tick:g}", anchor="end"))
    label_x, label_y = x - 30, y + _SIDE / 2
    parts.append(
        f'<text x="{label_x}" y="{label_y}" text-anchor="middle" fill="{_INK}" '
        f'transform="rotate(-90 {label_x} {label_y})">share relevant</text>'
    )
    points = [(x + b["predicted"] * _SIDE, y + (1 - b["observed"]) * _SIDE, b["count"]) for b in row["bins"]]
    line = " ".join(f"{px:.1f},{py:.1f}" for px, py, _ in points)
    parts.append(f'<polyline points="{line}" fill="none" stroke="{_POINT}"/>')
    for px, py, count in points:
        radius = 2 + 6 * (count / row["documents"]) ** 0.5
        parts.append(
            f'<circle cx="{px:.1f}" cy="{py:.1f}" r="{radius:.1f}" fill="{_POINT}" fill-opacity="0.75">'
            f"<title>{count} documents</title></circle>"
        )
    return parts


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 11, weight: str = "normal") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" font-weight="{weight}" '
        f'fill="{_INK}">{escape(text)}</text>'
    )

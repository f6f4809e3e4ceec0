"""Scores of runs: per query, for the whole run, as a matrix of systems, and as report and tables of ``rerank eval``."""

from __future__ import annotations

import csv
import math
import platform
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rerank.errors import DataError, UnknownNameError, UsageError, ensure
from rerank.evaluation.measures import check_measure_has_query_values, describe_grade_use, is_summed_measure
from rerank.evaluation.significance.base import DECIMALS
from rerank.io.reports import Cell, Grid, TableReport, format_tables
from rerank.io.text_files import open_text_file

if TYPE_CHECKING:
    from rerank.evaluation.judgment_coverage import JudgmentCoverage


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Scores of one run by one or several measures, per query or for the whole run; all are finite."""

    run: str
    #: Value of every judged query, in the order of the judgments, for each measure (``values[measure][query]``).
    #: Measures are named as ir_measures prints them, in the order requested.
    values: Mapping[str, Mapping[str, float]]
    #: Values of measures that have one value per run and none per query, so significance tests cannot use them.
    overall: Mapping[str, float] = field(default_factory=dict)
    queries: tuple[str, ...] = ()  #: The judged queries; if omitted, the queries in ``values``.
    missing: tuple[str, ...] = ()  #: Judged queries for which the run has no documents; they score 0.
    unjudged: tuple[str, ...] = ()  #: Queries of the run without judgments; they are excluded.

    def __post_init__(self) -> None:
        if not self.queries:
            object.__setattr__(self, "queries", tuple(next(iter(self.values.values()), {})))
        for measure, row in self.values.items():
            if not row or row.keys() != set(self.queries):
                raise DataError(
                    f"{measure} of run {self.run!r} does not cover the same queries as the first measure",
                    expected="a value for every judged query",
                )
            for query, value in row.items():
                if not math.isfinite(value):
                    raise DataError(
                        f"{measure} of run {self.run!r} is {value} for query {query!r}", expected="a finite number"
                    )
        for measure, value in self.overall.items():
            ensure(
                measure not in self.values and math.isfinite(value),
                f"{measure} of run {self.run!r} is {value} for the whole run",
                expected="a finite number, for a measure without per-query values",
                error=DataError,
            )

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of the measures in the order requested; whole-run measures come last."""
        return (*self.values, *self.overall)

    def by_measure(self, measure: str) -> Mapping[str, float]:
        """Return one value per query id; a `UsageError` if the measure was not computed or has one value per run."""
        if measure in self.values:
            return self.values[measure]
        if measure in self.overall:
            check_measure_has_query_values(measure)
        raise UsageError(
            f"The scores of run {self.run!r} do not include {measure}",
            expected=f"one of: {', '.join(self.values)}" if self.values else "a measure with per-query values",
        )

    def mean(self, measure: str) -> float:
        """Return the mean of a measure over all judged queries, including those missing from the run."""
        row = self.by_measure(measure)
        return math.fsum(row.values()) / len(row)

    def summary(self) -> dict[str, float]:
        """Return the mean of each measure over queries; counts (NumQ, NumRel, NumRet) are summed, as in trec_eval."""
        means = {
            name: math.fsum(row.values()) if is_summed_measure(name) else self.mean(name)
            for name, row in self.values.items()
        }
        return {**means, **self.overall}

    def by_query(self) -> dict[str, dict[str, float]]:
        return {query: {name: row[query] for name, row in self.values.items()} for query in self.queries}


@dataclass(frozen=True, eq=False, kw_only=True)
class ScoreMatrix:
    """Scores of systems on topics by one measure: at least two of each, with unique names and finite values."""

    measure: str  #: Empty if unknown.
    topics: tuple[str, ...]
    systems: tuple[str, ...]
    values: npt.NDArray[np.float64]  #: (topics, systems)

    def __post_init__(self) -> None:
        for kind, names in (("system", self.systems), ("topic", self.topics)):
            if len(names) < 2:
                raise DataError(
                    f"The matrix contains {len(names)} {kind}{'' if len(names) == 1 else 's'}",
                    expected=f"at least two {kind}s",
                )
            name, times = Counter(names).most_common(1)[0]
            if times > 1:
                raise DataError(f"Two {kind}s are named {name!r}", remedy=f"Give each {kind} a different name")
        shape = len(self.topics), len(self.systems)
        if self.values.shape != shape:
            raise DataError(f"The scores have shape {self.values.shape}", expected=f"{shape}")
        if not np.isfinite(self.values).all():
            topic, system = map(int, np.argwhere(~np.isfinite(self.values))[0])
            raise DataError(
                f"System {self.systems[system]!r} scores {self.values[topic, system]} on topic {self.topics[topic]!r}",
                expected="a finite number",
            )

    def deltas(self, a: str, b: str) -> npt.NDArray[np.float64]:
        """Return an array of shape (topics,): the score of system ``a`` minus the score of system ``b``."""
        for name in (a, b):
            if name not in self.systems:
                raise UnknownNameError("system", name, self.systems)
        first, second = self.systems.index(a), self.systems.index(b)
        return np.round(self.values[:, first] - self.values[:, second], DECIMALS)

    def without(self, systems: Collection[str]) -> ScoreMatrix:
        kept = [index for index, system in enumerate(self.systems) if system not in systems]
        return replace(self, systems=tuple(self.systems[index] for index in kept), values=self.values[:, kept])

    def to_scores(self) -> list[Scores]:
        """Return the scores of every system. The measure is named ``score`` if its name is unknown."""
        name = self.measure or "score"
        return [
            Scores(run=system, values={name: dict(zip(self.topics, map(float, column), strict=True))})
            for system, column in zip(self.systems, self.values.T, strict=True)
        ]

    @classmethod
    def from_scores(cls, scores: Sequence[Scores], measure: str) -> ScoreMatrix:
        """Build the matrix of one measure from the scores of runs.

        Raises:
            UsageError: The scores of a run do not include the measure, or the measure has no per-query values.
            DataError: The runs were evaluated on different queries, or there are fewer than two runs or queries.
        """
        topics = scores[0].queries if scores else ()
        columns = []
        for entry in scores:
            row = entry.by_measure(measure)
            if row.keys() != set(topics):
                raise DataError(
                    f"Run {entry.run!r} was evaluated on other queries than {scores[0].run!r}",
                    expected="runs evaluated with the same judgments",
                )
            columns.append([row[topic] for topic in topics])
        if len(topics) == 1:
            raise DataError(f"The runs have 1 judged query, {topics[0]!r}", expected="at least 2 to compare runs")
        values = np.array(columns, dtype=np.float64).reshape(len(columns), len(topics)).T
        return cls(measure=measure, topics=topics, systems=tuple(entry.run for entry in scores), values=values)


_FORM = "a header with the names of the systems, then one row of scores per topic"
#: Accepted names of the column that holds the topic ids.
_TOPIC = ("", "topic", "topic_id", "query", "query_id", "qid")


def read_score_matrix(path: str | Path) -> ScoreMatrix:
    """Read a topic x system matrix from a CSV or tab-separated file, optionally gzipped.

    The first row holds the names of the systems. If the first column is named topic, topic_id, query, query_id or qid,
    or has an empty name, it holds the topic ids. Otherwise topics are numbered from 1.

    Raises:
        MissingResourceError: The file does not exist.
        DataError: The file is empty, a row does not match the header, a score is not a finite number, a name occurs
            twice, or there are fewer than two topics or systems.
    """
    path = Path(path)
    with open_text_file(path) as stream:
        first = next((line for line in stream if line.strip()), "")
    lines: list[tuple[str, list[str]]] = []  # location (file and line number) and cells of each row that is not empty
    with open_text_file(path) as stream:
        reader = csv.reader(stream, delimiter="\t" if "\t" in first else ",", strict=True)
        try:
            for row in reader:
                cells = [cell.strip() for cell in row]
                if cells not in ([], [""]):
                    lines.append((f"{path}, line {reader.line_num}", cells))
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.line_num}: {error}", expected="CSV with balanced quotes") from error
    if not lines:
        raise DataError(f"{path} is empty", expected=_FORM)
    (_, header), *rows = lines
    has_ids = header[0].lower() in _TOPIC
    systems, topics, values = tuple(header[has_ids:]), [], []
    if systems and all(map(_is_fraction, systems)):
        raise DataError(f"The first line of {path} contains numbers, such as {systems[0]!r}", expected=_FORM)
    for number, (where, row) in enumerate(rows, 1):
        if len(row) != len(header):
            raise DataError(f"{where} has {len(row)} columns", expected=f"{len(header)} columns, as in the first line")
        topics.append(row[0] if has_ids else str(number))
        values.append([_parse_cell(cell, where) for cell in row[has_ids:]])
    matrix = np.array(values, dtype=np.float64).reshape(len(rows), len(systems))
    return ScoreMatrix(measure="", topics=tuple(topics), systems=systems, values=matrix)


def _parse_cell(cell: str, where: str) -> float:
    try:
        return float(cell)
    except ValueError as error:
        remedy = "If the first column holds topic ids, name it topic or query"
        raise DataError(f"{where} contains {cell!r}", expected="a number", remedy=remedy) from error


def _is_fraction(text: str) -> bool:
    try:
        return not float(text).is_integer()
    except (ValueError, OverflowError):
        return False


def evaluation_report(
    qrels_name: str, scores: Iterable[tuple[str, Scores]], *, per_query: bool = False
) -> dict[str, Any]:
    """Build the JSON object of ``rerank eval --format json``.

    It has ``qrels``, ``grades`` (how each measure uses grades) and ``runs``, each with ``run`` (its name), numbers of
    ``queries`` (judged), ``missing`` and ``unjudged`` ones, ``scores``, and, if requested, ``per_query``.
    """
    runs: list[dict[str, Any]] = []
    grade_use: dict[str, str] = {}
    for name, entry in scores:
        row: dict[str, Any] = {
            "run": name,
            "queries": len(entry.queries),
            "missing": len(entry.missing),
            "unjudged": len(entry.unjudged),
            "scores": entry.summary(),
        }
        runs.append({**row, "per_query": entry.by_query()} if per_query else row)
        grade_use = grade_use or {measure: text for measure in entry.measures if (text := describe_grade_use(measure))}
    return {"qrels": qrels_name, "grades": grade_use, "runs": runs}


def add_groups_to_evaluation_report(
    report: Mapping[str, Any], name: str, group_scores: Sequence[Mapping[str, Scores]]
) -> dict[str, Any]:
    """Add the key ``by``, the name of a grouping, and ``groups`` to each run: scores by `evaluate_by_group`."""
    runs = [
        {
            **row,
            "groups": {
                group: {"queries": len(scores.queries), "missing": len(scores.missing), "scores": scores.summary()}
                for group, scores in groups.items()
            },
        }
        for row, groups in zip(report["runs"], group_scores, strict=True)
    ]
    return {**report, "by": name, "runs": runs}


def add_coverage_to_evaluation_report(
    report: Mapping[str, Any], coverage: Sequence[JudgmentCoverage]
) -> dict[str, Any]:
    """Add the mappings ``judged`` and ``bounds``, whose keys are measures, to each run of an evaluation report."""
    runs = [
        {**row, "judged": dict(entry.judged), "bounds": {name: list(pair) for name, pair in entry.bounds.items()}}
        for row, entry in zip(report["runs"], coverage, strict=True)
    ]
    return {**report, "runs": runs}


def evaluation_records(report: Mapping[str, Any], covered: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return the flat rows of an evaluation report for CSV: per run and group, per run and query, or per run.

    Rows of whole runs include the judged fraction and the bounds of the ``covered`` measures.
    """
    rows: list[dict[str, Any]] = []
    for row in report["runs"]:
        if "groups" in row:
            rows += [{"run": row["run"], "group": g, **part, **part["scores"]} for g, part in row["groups"].items()]
        elif "per_query" in row:
            rows += [{"run": row["run"], "query": query, **values} for query, values in row["per_query"].items()]
        else:
            coverage = {}
            for measure in covered:
                coverage[f"{measure}_judged"] = row["judged"][measure]
                if measure in row["bounds"]:
                    coverage |= dict(zip((f"{measure}_low", f"{measure}_high"), row["bounds"][measure], strict=True))
            rows.append({**row, **row["scores"], **coverage})
    return rows


#: Python packages whose versions can affect the computed values.
_DISTRIBUTIONS = ("listrank", "numpy", "scipy", "ir-measures")


@cache
def library_versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that compute measures and tests."""
    return {"python": platform.python_version(), **{name: version(name) for name in _DISTRIBUTIONS}}


def table_of_scores(scores: Iterable[tuple[str, Scores]], *, markdown: bool = False, digits: int = 4) -> str:
    """Format runs with the same measures as aligned text or Markdown: queries, missing queries, and each measure."""
    entries = list(scores)
    measures = entries[0][1].measures if entries else ()
    rows = []
    for run, entry in entries:
        values = [format_score(value, digits) for value in entry.summary().values()]
        rows.append([run, str(len(entry.queries)), str(len(entry.missing)), *values])
    return format_tables([Grid(["run", "queries", "missing", *measures], rows)], [], "markdown" if markdown else "text")


def table_of_evaluation(
    qrels: str, scores: Sequence[Scores], *, digits: int = 4, columns: Sequence[Mapping[str, str]] = ()
) -> TableReport:
    """Return a table for a paper with one row per run, sorted by the first measure. The best values are bold.

    The legend shows the judgments without folders. ``columns`` are further ones, as headings and cells per run.
    """
    more = columns or [{}] * len(scores)
    measures, summaries = scores[0].measures, [entry.summary() for entry in scores]
    best = {measure: max(summary[measure] for summary in summaries) for measure in measures}
    rows: list[list[str | Cell]] = [
        [
            entry.run,
            str(len(entry.queries)),
            str(len(entry.missing)),
            *(Cell(format_score(value, digits), "", value == best[m]) for m, value in summary.items()),
            *added.values(),
        ]
        for entry, summary, added in sorted(zip(scores, summaries, more, strict=True), key=lambda t: -t[1][measures[0]])
    ]
    versions = ", ".join(f"{name} {number}" for name, number in library_versions().items())
    legend = [
        f"Means over {len(scores[0].queries)} queries, judgments: {qrels.rpartition('/')[2]}. "
        f"Queries without a ranking score 0. Bold: best value. Versions: {versions}."
    ]
    if more[0]:
        legend.append(
            "judged@k: fraction of judged documents among the first k; bounds: smallest and largest value that judging "
            "the others could lead to."
        )
    return TableReport([Grid(["run", "queries", "missing", *measures, *more[0]], rows)], legend)


def format_score(value: float, digits: int) -> str:
    """Format a score. A whole number larger than 1 is treated as a count and gets no decimals."""
    return str(int(value)) if value.is_integer() and abs(value) > 1 else f"{value:.{digits}f}"


def format_interval(low: float, high: float, digits: int) -> str:
    """Format a confidence interval."""
    return f"[{low:.{digits}f}, {high:.{digits}f}]"


def format_p_value(p: float | None) -> str:
    """Format a p-value with four decimals, a smaller one as ``<0.0001``, and None as a dash."""
    if p is None:
        return "-"
    return f"{p:.4f}" if p >= 0.00005 else "<0.0001"

"""Worth of rerankers: their gain over the first stage, divided by the gain of the perfect order of candidates."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rerank.errors import DataError, ensure
from rerank.evaluation.comparison import check_names, notes_on_judgments, parse_single_measure
from rerank.evaluation.evaluator import evaluate_runs
from rerank.evaluation.scores import format_interval, format_score, library_versions
from rerank.evaluation.significance import student_t_interval
from rerank.evaluation.significance.base import Floats
from rerank.io.reports import Grid, PlainReport, TableReport
from rerank.types import Qrels, Ranking, Run

#: Name of the perfect order in results.
PERFECT = "perfect order"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorthOptions:
    """Options for computing the worth of rerankers."""

    relevant: int = 1  #: Lowest grade that counts as relevant in binary measures whose name does not specify one.
    depth: int | None = None  #: Number of candidates per query that could be reranked; None for all.
    alpha: float = 0.05  #: Intervals have confidence level 1 - alpha.
    resamples: int = 10_000  #: Number of bootstrap resamples of queries for the interval of a share.
    seed: int = 0


def perfect_order_of_candidates(qrels: Qrels, first: Run, depth: int | None = None) -> Run:
    """Return the candidates down to the depth by decreasing grade, 0 if unjudged; equal ones keep their order."""
    rankings = []
    for query, ranking in first.items():
        grades, docs = qrels.get(query, {}), list(ranking.docs)
        head = sorted(docs[:depth], key=lambda doc: -max(0, grades.get(doc.id, 0)))
        rankings.append(Ranking.from_order(ranking.query, head + (docs[depth:] if depth else [])))
    return Run(rankings, name=PERFECT)


def measure_gains(
    qrels: Qrels, first: Run, methods: Sequence[Run], measure: str, options: WorthOptions | None = None
) -> PlainReport:
    """Compare reranked runs (``methods``) with their first stage and with the perfect order of its candidates.

    The result is the JSON object of ``rerank worth``. Its ``rows`` are the first stage, the perfect order and the
    methods, with ``run``, ``mean``, ``interval``, ``gain`` over the first stage with ``gain_interval`` (paired t), and
    ``share`` of the perfect order's gain with ``share_interval`` (percentile bootstrap over queries). The first stage
    has no gain and no share (None). The share is also None for the perfect order, and for all runs if the perfect order
    does not improve on the first stage.
    """
    options = options or WorthOptions()
    ensure(options.depth is None or options.depth >= 1, f"depth is {options.depth}", expected="at least 1")
    name = parse_single_measure(measure, options.relevant)
    runs = [first, perfect_order_of_candidates(qrels, first, options.depth), *methods]
    check_names([run.name for run in runs])
    scores = evaluate_runs(qrels, runs, [measure], relevant=options.relevant)
    values = np.array([list(entry.by_measure(name).values()) for entry in scores])
    queries = values.shape[1]
    found = f"The number of judged queries is {queries}"
    ensure(queries >= 2, found, expected="at least 2, which intervals require", error=DataError)
    notes = []
    for run in methods:
        foreign = sum(bool(set(ranking.doc_ids) - set(first[q].doc_ids)) for q, ranking in run.items() if q in first)
        if foreign:  # the run's share may exceed 1
            notes.append(
                f"Run {run.name!r} ranks documents that {first.name!r} did not retrieve, for {foreign} queries: it did "
                "not rerank this first stage alone."
            )
    notes += notes_on_judgments(qrels, [first, *methods], [name])
    rows = [_row(run.name, place, values, options) for place, run in enumerate(runs)]
    content = {
        "measure": name,
        "queries": queries,
        "depth": options.depth,
        "alpha": options.alpha,
        "resamples": options.resamples,
        "seed": options.seed,
        "rows": rows,
        "versions": library_versions(),
        "notes": notes,
    }
    candidates = "all candidates" if options.depth is None else f"the first {options.depth} candidates"
    legend = [
        f"{queries} queries. Perfect order: {candidates} of the first stage by decreasing grade, unjudged last. Gain: "
        "mean minus that of the first stage (paired t interval). Share: gain divided by that of the perfect order "
        f"(bootstrap over queries, {options.resamples} resamples, seed {options.seed})."
    ]

    def table(digits: int) -> TableReport:
        level = f"{100 * (1 - options.alpha):g}%"
        heads = ["run", name, f"{level} interval", "gain", f"{level} interval", "share", f"{level} interval"]
        cells = [
            [
                row["run"],
                format_score(row["mean"], digits),
                format_interval(row["interval"][0], row["interval"][1], digits),
                *_with_interval(row["gain"], row["gain_interval"], digits),
                *_with_interval(row["share"], row["share_interval"], 2),
            ]
            for row in rows
        ]
        return TableReport([Grid(heads, cells, minor=[2])], legend, notes)

    return PlainReport(content=content, key="rows", table=table)


def _row(name: str, place: int, values: Floats, options: WorthOptions) -> dict[str, Any]:
    """Return the row of one run from (runs, queries) scores. Run 0 is the first stage, and run 1 the perfect order."""
    row: dict[str, Any] = {"run": name, "mean": float(values[place].mean())}
    row["interval"] = list(student_t_interval(values[place].tolist(), 1 - options.alpha))
    row |= dict.fromkeys(("gain", "gain_interval", "share", "share_interval"))
    if place == 0:
        return row
    gain, possible = values[place] - values[0], values[1] - values[0]
    row["gain"], row["gain_interval"] = float(gain.mean()), list(student_t_interval(gain.tolist(), 1 - options.alpha))
    if place > 1 and possible.mean() > 0:
        draws = np.random.default_rng(options.seed).integers(0, len(gain), (options.resamples, len(gain)))
        sums = possible[draws].sum(axis=1)
        shares = gain[draws].sum(axis=1)[sums > 0] / sums[sums > 0]
        row["share"] = float(gain.mean() / possible.mean())
        row["share_interval"] = np.quantile(shares, [options.alpha / 2, 1 - options.alpha / 2]).tolist()
    return row


def _with_interval(value: float | None, interval: Sequence[float] | None, digits: int) -> list[str]:
    if value is None or interval is None:
        return ["-", "-"]
    return [f"{value:+.{digits}f}", format_interval(interval[0], interval[1], digits)]

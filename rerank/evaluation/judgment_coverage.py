"""Coverage of a run by judgments, and the values that its measures could have with complete judgments."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from rerank.evaluation.measure_bounds import bound_measures
from rerank.evaluation.measures import is_summed_measure, parse_measures
from rerank.evaluation.tables import format_confidence_interval
from rerank.types import NOT_JUDGED, UNJUDGED, Qrels, Run

#: Judgments are thin for a measure if a run has a smaller mean fraction of judged documents within the cutoff.
THIN = 0.95
#: Cutoff of the fraction of judged documents for measures without a cutoff.
CUTOFF = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgmentCoverage:
    """How much of one run is judged, per measure, and how far complete judgments could change the measures.

    Attributes:
        cutoffs: Cutoff of each measure, or `CUTOFF` if it has none.
        judged: Fraction of judged documents among the first ``cutoff`` documents, for each measure; the mean over the
            judged queries for which the run has documents, or 1 if there are no such queries.
        bounds: Smallest and largest value of each measure under all completions of the judgments (`bound_measures`),
            both averaged over all judged queries; only measures whose bounds were computed.
    """

    cutoffs: Mapping[str, int]
    judged: Mapping[str, float]
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def columns(self, measures: Sequence[str]) -> dict[str, str]:
        """Return table columns as a mapping from headings to cells: judged fractions, then bounds of measures."""
        fractions = {f"judged@{self.cutoffs[name]}": f"{self.judged[name]:.4f}" for name in measures}
        bounds = {
            f"{name} bounds": format_confidence_interval(*self.bounds[name], 4)
            for name in measures
            if name in self.bounds
        }
        return {**fractions, **bounds}


def cover_runs_by_judgments(
    qrels: Qrels, runs: Sequence[Run], measures: Sequence[str], *, bounds: bool | None = None
) -> tuple[list[JudgmentCoverage], list[str]]:
    """Compute, for each run, the fraction of judged documents and the bounds of its measures.

    Args:
        qrels: The relevance judgments.
        runs: The runs.
        measures: Measures, as ir_measures prints them. Counts and ``Judged`` are ignored.
        bounds: True to compute the bounds of all measures, False for none, and None for the measures with thin
            judgments (`THIN`).

    Returns:
        One entry per run, and the names of the measures selected for bounds. A selected measure may have no bounds.
    """
    parsed = [m for m in parse_measures(measures) if m.NAME != "Judged" and not is_summed_measure(str(m))]
    cutoffs = {str(m): judged_cutoff(str(m)) for m in parsed}
    fractions_of_runs = [_mean_judged_fractions(qrels, run, {*cutoffs.values()}) for run in runs]
    judged = [{name: found[k] for name, k in cutoffs.items()} for found in fractions_of_runs]
    thin = [name for name in cutoffs if any(row[name] < THIN for row in judged)]
    chosen = thin if bounds is None else list(cutoffs) if bounds else []
    coverage = []
    for run, fractions in zip(runs, judged, strict=True):
        found = bound_measures(qrels, run, chosen) if chosen else {}
        means = {name: _mean_bounds(list(row.values())) for name, row in found.items()}
        coverage.append(JudgmentCoverage(cutoffs=cutoffs, judged=fractions, bounds=means))
    return coverage, chosen


def judged_cutoff(measure: str) -> int:
    """Return the cutoff of a measure, or `CUTOFF` if it has none."""
    return int(parse_measures([measure])[0].params.get("cutoff", CUTOFF))


def add_coverage_to_evaluation_report(
    report: Mapping[str, Any], coverage: Sequence[JudgmentCoverage]
) -> dict[str, Any]:
    """Add the mappings ``judged`` and ``bounds``, whose keys are measures, to each run of an evaluation report."""
    runs = [
        {**row, "judged": dict(entry.judged), "bounds": {name: list(pair) for name, pair in entry.bounds.items()}}
        for row, entry in zip(report["runs"], coverage, strict=True)
    ]
    return {**report, "runs": runs}


def _mean_judged_fractions(qrels: Qrels, run: Run, cutoffs: Collection[int]) -> dict[int, float]:
    """Return the mean fraction of judged documents for each cutoff, in a single pass over the run."""
    fractions: dict[int, list[float]] = {cutoff: [] for cutoff in cutoffs}
    for query, grades in qrels.items():
        ranking = run.get(query)
        if ranking is not None and len(ranking):
            for cutoff, row in fractions.items():
                docs = ranking.doc_ids[:cutoff]
                row.append(sum(grades.get(doc, UNJUDGED) not in NOT_JUDGED for doc in docs) / len(docs))
    return {cutoff: fmean(row) if row else 1.0 for cutoff, row in fractions.items()}


def _mean_bounds(values: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return fmean(low for low, _ in values), fmean(high for _, high in values)

"""Summaries and scores of runs; executing a run and verifying a run folder use the same functions."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rerank.evaluation import Scores, evaluate_run
from rerank.evaluation.measures import evaluation_overlap_note
from rerank.experiment.spec import RunSpec
from rerank.judges import FAILURES
from rerank.models.prices import find_model_prices
from rerank.pipeline.results import RankedList, count_statuses
from rerank.tasks.requests import Usage
from rerank.types import Qrels, Run

#: Maximum number of failures that a summary lists.
NAMED_FAILURES = 20


@dataclass(kw_only=True)
class RunTally:
    """Counts over reranked lists, which a summary reports."""

    #: Number of windows per status, such as ``ok``, including statuses without windows.
    windows: dict[str, int] = field(default_factory=lambda: count_statuses(()))
    split: int = 0  # number of windows that exceeded the context and were ranked in parts
    #: The first failures, up to `NAMED_FAILURES`, each with query, status and detail.
    failures: list[dict[str, str]] = field(default_factory=list)
    passages_cut: int = 0  # number of passages that were truncated to make a prompt fit in the context
    tokens_cut: int = 0
    unmatched_calls: int = 0  # number of calls in the log that no request of the finished run matches

    def add(self, ranked: RankedList) -> None:
        for window, verdict in ranked.judged:
            self.windows[verdict.status] += 1
            if verdict.status in FAILURES and len(self.failures) < NAMED_FAILURES:
                failure = {"query": window.query.id, "status": str(verdict.status), "detail": verdict.detail}
                self.failures.append(failure)
        self.split += len(ranked.split)
        self.passages_cut += len(ranked.dropped)
        self.tokens_cut += sum(ranked.dropped.values())

    def failure_rate(self) -> float:
        total = sum(self.windows.values())
        return sum(self.windows[status] for status in FAILURES) / total if total else 0.0


def summarise_run(
    spec: RunSpec, tally: RunTally, usage: Usage, *, queries: int, scores: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the content of summary.json without the name and hash of the folder."""
    prices = find_model_prices(spec.model)
    return {
        "method": spec.shown_method,
        "model": spec.model,
        "depth": spec.depth,
        "queries": queries,
        **summarise_scores(scores),
        "windows": tally.windows,
        "split_windows": tally.split,  # windows that exceeded the context and were ranked in parts
        "complete": not tally.windows["error"],  # if false, --resume repeats the calls without a reply
        "failure_rate": tally.failure_rate(),
        "failures": tally.failures,
        "cut": {"passages": tally.passages_cut, "tokens": tally.tokens_cut},
        **vars(usage),
        **({"unmatched_calls": tally.unmatched_calls} if tally.unmatched_calls else {}),
        "cached_share": usage.cached_share,
        "cost": None if prices is None else prices.cost(usage),
        "prices": None if prices is None else asdict(prices),
    }


def summarise_scores(scores: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the part of a summary that depends on relevance judgments and measures."""
    if scores is None:
        return {"scores": {}, "first_stage_scores": {}, "missing": 0}
    return {
        "scores": scores["run"]["mean"],
        "first_stage_scores": scores["first_stage"]["mean"],
        "missing": scores["run"]["missing"],
    }


def score_runs(
    qrels: Qrels, result: Run, first_stage: Run, *, measures: Sequence[str], relevant: int
) -> dict[str, Any] | None:
    """Return the content of scores.json: means and per-query values of both runs; None without judgments."""
    if not qrels:
        return None
    if message := evaluation_overlap_note(qrels, first_stage):
        warnings.warn(message, stacklevel=2)
    runs = {"run": result, "first_stage": first_stage}
    return {
        "measures": list(measures),
        "relevant": relevant,
        **{key: _as_json(evaluate_run(qrels, run, measures, relevant=relevant)) for key, run in runs.items()},
    }


def _as_json(scores: Scores) -> dict[str, Any]:
    per_query = {measure: dict(values) for measure, values in scores.values.items()}
    return {"mean": scores.summary(), "missing": len(scores.missing), "per_query": per_query}

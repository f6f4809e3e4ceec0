"""Summaries and scores of runs. A run and its verification call the same functions."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from rerank.evaluation import Scores, evaluate
from rerank.evaluation.grade_notes import overlap_note
from rerank.experiment.spec import RunSpec
from rerank.judges import FAILURES
from rerank.models.prices import compute_cost
from rerank.pipeline.results import RerankOutcome
from rerank.tasks.usage import Usage
from rerank.types import Qrels, Run

#: Maximum number of failures that a summary lists.
NAMED_FAILURES = 20


def summarise(
    spec: RunSpec, outcome: RerankOutcome, usage: Usage, *, queries: int, scores: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the content of summary.json without the name and hash of the folder.

    Args:
        spec: The specification.
        outcome: The outcome of the driver.
        usage: The cost of the calls.
        queries: Number of queries, including those without candidates.
        scores: The result of `score_runs`; None without relevance judgments.
    """
    windows = outcome.windows()
    return {
        "method": spec.shown_method,
        "model": spec.model,
        "depth": spec.depth,
        "queries": queries,
        **summarise_scores(scores),
        "windows": windows,
        "split_windows": len(outcome.split),  # exceeded the context; ranked in parts and merged
        "complete": not windows["error"],  # otherwise --resume repeats the calls without a reply
        "failure_rate": outcome.failure_rate(),
        "failures": _failures(outcome),
        "cut": {
            "passages": sum(len(ranked.dropped) for ranked in outcome.lists),
            "tokens": sum(sum(ranked.dropped.values()) for ranked in outcome.lists),
        },
        **vars(usage),
        "cost": compute_cost(spec.model, usage.tokens_in, usage.tokens_out),
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
    """Return the content of scores.json: means and per-query values of the result and of the first stage.

    Returns:
        The scores; None without relevance judgments.
    """
    if not qrels:
        return None
    if message := overlap_note(qrels, first_stage):
        warnings.warn(message, stacklevel=2)
    runs = {"run": result, "first_stage": first_stage}
    return {
        "measures": list(measures),
        "relevant": relevant,
        **{key: _as_json(evaluate(qrels, value, measures, relevant=relevant)) for key, value in runs.items()},
    }


def _as_json(scores: Scores) -> dict[str, Any]:
    return {
        "mean": scores.summary(),
        "missing": len(scores.missing),
        "per_query": {measure: dict(values) for measure, values in scores.values.items()},
    }


def _failures(outcome: RerankOutcome) -> list[dict[str, str]]:
    failed = [(window, verdict) for window, verdict in outcome.judged if verdict.status in FAILURES]
    return [
        {"query": window.query.id, "status": verdict.status, "detail": verdict.detail}
        for window, verdict in failed[:NAMED_FAILURES]
    ]

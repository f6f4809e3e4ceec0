"""The numbers of a run, each computed in one place: a run and its verification call the same functions.

Knows outcomes, usage and scores; knows no folder and no model.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from rerank.evaluation import Scores, evaluate
from rerank.evaluation.grades import overlap_note
from rerank.experiment.prices import cost
from rerank.experiment.spec import RunSpec
from rerank.judges import FAILURES
from rerank.pipeline.driver import Outcome
from rerank.store import Usage
from rerank.types import Qrels, Run

#: Failures that a summary names; the rest is counted.
NAMED_FAILURES = 20


def summarise(
    spec: RunSpec, outcome: Outcome, usage: Usage, *, queries: int, scores: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The content of summary.json, less the folder's own name and hash.

    Args:
        spec: What was asked for.
        outcome: What the driver made of it.
        usage: What it took.
        queries: How many queries took part, those without candidates too.
        scores: What `score` returned; None where there are no judgments.
    """
    windows = outcome.windows()
    return {
        "method": spec.shown_method,
        "model": spec.model,
        "depth": spec.depth,
        "queries": queries,
        **means(scores),
        "windows": windows,
        "split_windows": len(outcome.split),  # too long for the context: ranked in parts and merged
        "complete": not windows["error"],  # else --resume asks the calls without a reply again
        "failure_rate": outcome.failure_rate(),
        "failures": _failures(outcome),
        **vars(usage),
        "cost": cost(spec.model, usage.tokens_in, usage.tokens_out),
    }


def means(scores: Mapping[str, Any] | None) -> dict[str, Any]:
    """The part of a summary that judgments and measures decide."""
    if scores is None:
        return {"scores": {}, "first_stage_scores": {}, "missing": 0}
    return {
        "scores": scores["run"]["mean"],
        "first_stage_scores": scores["first_stage"]["mean"],
        "missing": scores["run"]["missing"],
    }


def score(
    qrels: Qrels, result: Run, first_stage: Run, *, measures: Sequence[str], relevant: int
) -> dict[str, Any] | None:
    """The content of scores.json: means and per-query values of a result and of what it was made from.

    Returns:
        None where there are no judgments.
    """
    if not qrels:
        return None
    if told := overlap_note(qrels, first_stage):
        warnings.warn(told, stacklevel=2)
    made = {"run": result, "first_stage": first_stage}
    return {
        "measures": list(measures),
        "relevant": relevant,
        **{key: _as_json(evaluate(qrels, value, measures, relevant=relevant)) for key, value in made.items()},
    }


def _as_json(scores: Scores) -> dict[str, Any]:
    return {
        "mean": scores.summary(),
        "missing": len(scores.missing),
        "per_query": {measure: dict(values) for measure, values in scores.values.items()},
    }


def _failures(outcome: Outcome) -> list[dict[str, str]]:
    failed = [(window, verdict) for window, verdict in outcome.judged if verdict.status in FAILURES]
    return [
        {"query": window.query.id, "status": verdict.status, "detail": verdict.detail}
        for window, verdict in failed[:NAMED_FAILURES]
    ]

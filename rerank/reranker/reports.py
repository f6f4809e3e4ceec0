"""Report on a ranking (costs and problems). Failed windows and passed deadlines are also logged, without texts."""

from __future__ import annotations

import logging
import time

from rerank.errors import PartialFailureError
from rerank.judges import FAILURES, PromptJudge
from rerank.models.prices import compute_model_cost
from rerank.pipeline.results import RankedList
from rerank.reranker.calls import OnFailure
from rerank.reranker.hits import Cut, RankingReport

_log = logging.getLogger("rerank.reranker")


def report_reranker_ranking(
    ranked: RankedList, judge: PromptJudge, on_failure: OnFailure, deadline: float | None = None
) -> RankingReport:
    """Return the report on a ranking; if windows failed or the deadline passed, log one warning.

    Args:
        ranked: The ranking.
        judge: The judge of its windows.
        on_failure: ``keep`` to only report failed windows, or ``raise`` to raise an error.
        deadline: `time.monotonic` value of the deadline; None for no deadline.
    """
    windows = ranked.windows()
    failures = ranked.failures()
    degraded = []
    if failures:
        counts = ", ".join(f"{n} {status}" for status, n in windows.items() if n and status in FAILURES)
        degraded.append(f"Windows kept their given order: {counts} of {len(ranked.judged)}. {failures[0].detail}")
    if ranked.expired:
        degraded.append("The deadline passed: windows that were not judged kept their given order")
    if degraded:
        _log.warning("Degraded ranking of query %r: %s", ranked.ranking.query.id, "; ".join(degraded))
    if failures and on_failure == "raise":
        raise PartialFailureError(degraded[0], expected="a verdict on every window (on_failure='raise')")
    # A verdict may contain a remark even if it did not fail, such as that the judge received no first-stage scores.
    remarks = dict.fromkeys(verdict.detail for _, verdict in ranked.judged if verdict.status == "ok" and verdict.detail)
    if ranked.ranking.query.instruction and not judge.template.takes_instruction:
        remarks[f"The prompt {judge.template.name!r} has no place for an instruction, so it had no effect"] = None
    if deadline is not None and not ranked.expired and time.monotonic() > deadline:
        remarks["The ranking is complete but late: the deadline passed during the last batch of the model"] = None
    model = judge.backend.identity.get("model", "")
    return RankingReport(
        windows=windows,
        score_kind=ranked.score_kind.name if ranked.score_kind else "",
        has_absolute_scores=ranked.score_kind is not None and ranked.score_kind.scope == "absolute",
        usage=ranked.usage,
        cost=compute_model_cost(model, ranked.usage),
        cut=Cut(passages=len(ranked.dropped), tokens=sum(ranked.dropped.values())),
        expired=ranked.expired,
        notes=(*degraded, *remarks),
    )

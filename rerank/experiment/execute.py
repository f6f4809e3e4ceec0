"""A prepared run from its first call to its summary, in a folder from which it can be resumed and answered.

Knows the order of things and what is written when; results are made in ``pipeline`` and scored in ``evaluation``.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rerank.backends.base import Reply
from rerank.errors import PartialFailureError
from rerank.evaluation import Scores, evaluate
from rerank.experiment.prepare import Prepared, prepare
from rerank.pipeline import Outcome, drive
from rerank.prices import cost
from rerank.spec import Execution, RunSpec
from rerank.store import Logged, RunFolder, Usage, identity_hash, shared_cache
from rerank.types import Qrels, Run

#: Called after each reply.
OnReply = Callable[[Reply], None]
#: Distributions whose versions a run records.
_RECORDED = ("listrank", "torch", "transformers", "peft", "bm25s", "ir-measures", "pytrec-eval-terrier", "numpy")


def run(spec: RunSpec, execution: Execution | None = None, *, on_reply: OnReply = lambda reply: None) -> dict[str, Any]:
    """Prepare and execute a run; return its summary.

    Raises:
        RerankError: Whatever stands in the way; committed calls are kept.
    """
    execution = execution or Execution()
    return execute(prepare(spec, execution), execution, on_reply=on_reply)


def execute(prepared: Prepared, execution: Execution, *, on_reply: OnReply = lambda reply: None) -> dict[str, Any]:
    """Run what was prepared, or answer from its folder if that is finished; return the summary.

    Returns:
        The keys of summary.json: folder, queries, scores, first_stage_scores, windows, calls, reused_calls,
        tokens_in, tokens_out, seconds and more.
    """
    identity = prepared.identity()
    name = identity_hash(identity)
    folder = RunFolder(execution.out or default_folder(prepared.spec, name))
    document = {
        "hash": name,
        "spec": prepared.spec.model_dump(mode="json"),
        "identity": identity,
        "dataset": {"name": prepared.collection.name, "fingerprint": prepared.collection.fingerprint},
        "environment": environment(),
    }
    with folder.begin(document, resume=execution.resume, overwrite=execution.overwrite):
        if folder.finished:
            return _answered(prepared, folder)
        outcome, usage = _drive(prepared, execution, folder, on_reply)
        result = Run(outcome.rankings, name=prepared.method.name.replace(":", "-"))
        folder.write_run("run.trec", result)
        windows = outcome.windows()
        summary = {
            "folder": str(folder.path),
            "hash": name,
            "method": prepared.method.name,
            "model": prepared.spec.model,
            "depth": prepared.spec.depth,
            "queries": len(prepared.candidates),
            **_scored(prepared, folder, result),
            "windows": windows,
            "complete": not windows["error"],  # else --resume asks the calls without a reply again
            "failure_rate": outcome.failure_rate(),
            "failures": _failures(outcome),
            **vars(usage),
            "cost": cost(prepared.spec.model, usage.tokens_in, usage.tokens_out),
        }
        folder.write_json("summary.json", summary)
        return summary


def check_failures(summary: dict[str, Any], max_failure_rate: float) -> None:
    """Raise if more windows failed than was allowed; everything is saved by then.

    Raises:
        PartialFailureError: The failure rate is above ``max_failure_rate``.
    """
    rate = summary["failure_rate"]
    if rate > max_failure_rate:
        counts = ", ".join(f"{summary['windows'][status]} {status}" for status in ("empty", "refused", "error"))
        first = "; ".join(f"query {f['query']}: {f['detail'] or f['status']}" for f in summary["failures"][:3])
        raise PartialFailureError(
            f"{rate:.0%} of the windows failed ({counts}). {first}",
            expected=f"at most {max_failure_rate:.0%} (--max-failure-rate)",
            remedy=f"Results so far are in {summary['folder']!r}; --resume asks the calls without a reply again",
        )


def default_folder(spec: RunSpec, name: str) -> Path:
    """Where a run goes if no folder is named: under ``runs/``, by method, model and hash."""
    model = spec.model.rstrip("/").rpartition("/")[2].replace(":", "-")
    return Path("runs") / f"{spec.method.replace(':', '-')}-{model}-{name[:12]}"


def environment() -> dict[str, str]:
    """Versions and machine, for the record; no part of a run's identity."""
    found = {"python": platform.python_version(), "platform": platform.platform(), "command": " ".join(sys.argv[:2])}
    for distribution in _RECORDED:
        try:
            found[distribution] = version(distribution)
        except PackageNotFoundError:
            continue
    return found | {"started": datetime.now(UTC).isoformat(timespec="seconds")}


def _drive(prepared: Prepared, execution: Execution, folder: RunFolder, on_reply: OnReply) -> tuple[Outcome, Usage]:
    folder.write_candidates(prepared.candidates)
    shared = execution.call_cache if execution.call_cache is not None else prepared.backend.costs_money
    cache = shared_cache() if shared else None
    try:
        with folder.calls() as log:
            backend = Logged(
                backend=prepared.backend,
                log=log,
                cache=cache,
                max_total_tokens=execution.max_total_tokens,
                on_reply=on_reply,
            )
            outcome = drive(prepared.candidates.values(), prepared.strategy, prepared.judge(backend))
            return outcome, backend.usage
    finally:
        if cache is not None:
            cache.close()


def _answered(prepared: Prepared, folder: RunFolder) -> dict[str, Any]:
    """The summary of a finished run, scored again, since measures and judgments are no part of a run's identity."""
    summary = folder.read_json("summary.json") | {"folder": str(folder.path)}
    summary |= _scored(prepared, folder, folder.read_run("run.trec"))
    folder.write_json("summary.json", summary)
    return summary | {"reused_calls": summary["calls"]}


def _scored(prepared: Prepared, folder: RunFolder, result: Run) -> dict[str, Any]:
    if not prepared.qrels:
        return {"scores": {}, "first_stage_scores": {}, "missing": 0}
    folder.write_qrels(prepared.qrels)
    content = score(prepared.qrels, result, prepared.candidates, prepared.spec.measures, prepared.relevant)
    folder.write_json("scores.json", content)
    return {
        "scores": content["run"]["mean"],
        "first_stage_scores": content["first_stage"]["mean"],
        "missing": content["run"]["missing"],
    }


def score(qrels: Qrels, result: Run, candidates: Run, measures: tuple[str, ...], relevant: int) -> dict[str, Any]:
    """The content of scores.json: means and per-query values of a result and of what it was made from."""
    made = {"run": result, "first_stage": candidates}
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
    """What went wrong where, for windows without an order; at most 20 are kept."""
    failed = [(w, v) for w, v in outcome.judged if v.status in ("empty", "refused", "error")]
    return [{"query": w.query.id, "status": v.status, "detail": v.detail} for w, v in failed[:20]]

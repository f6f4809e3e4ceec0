"""A prepared run from its first call to its summary, in a folder from which it can be resumed and answered.

Knows the order of things and what is written when; results are made in ``pipeline`` and scored in ``evaluation``.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rerank.errors import DataError, PartialFailureError
from rerank.experiment.candidates import shuffled
from rerank.experiment.prepare import Prepared, prepare
from rerank.experiment.spec import Execution, RunSpec
from rerank.experiment.summary import means, score, summarise
from rerank.judges import FAILURES
from rerank.pipeline.driver import Outcome, drive
from rerank.store import Logged, RunFolder, Usage, identity_hash, shared_cache
from rerank.tasks import Reply
from rerank.types import Run

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
        folder.write_candidates(prepared.first_stage)
        if prepared.passages:
            folder.write_passages(map(prepared.passages.expand, prepared.first_stage.values()))
        files = {name: folder.file_hash(name) for name in ("first_stage.trec", "queries.jsonl")}
        folder.write_json("spec.json", folder.spec() | {"files": files})
        outcome, usage = _drive(prepared, execution, folder, on_reply)
        result = Run(outcome.rankings, name=run_name(prepared.spec))
        folder.write_run("run.trec", result)
        if outcome.split:
            folder.write_splits(outcome.split)
        queries = len(prepared.first_stage)
        scores = _scored(prepared, folder, result)
        summary = {
            "folder": str(folder.path),
            "hash": name,
            **summarise(prepared.spec, outcome, usage, queries=queries, scores=scores),
        }
        folder.write_json("spec.json", folder.spec() | {"files": files | {"run.trec": folder.file_hash("run.trec")}})
        folder.write_json("summary.json", summary)
        return summary


def check_failures(summary: dict[str, Any], max_failure_rate: float) -> None:
    """Raise if more windows failed than was allowed; everything is saved by then.

    Raises:
        PartialFailureError: The failure rate is above ``max_failure_rate``.
    """
    rate = summary["failure_rate"]
    if rate > max_failure_rate:
        counts = ", ".join(f"{summary['windows'][status]} {status}" for status in sorted(FAILURES))
        first = "; ".join(f"query {f['query']}: {f['detail'] or f['status']}" for f in summary["failures"][:3])
        resumed = "--resume asks the calls without a reply again"  # and no others: a reply that says nothing is a reply
        other = "try another --prompt or model, or accept them with --max-failure-rate"
        raise PartialFailureError(
            f"{rate:.0%} of the windows failed ({counts}). {first}",
            expected=f"at most {max_failure_rate:.0%} (--max-failure-rate)",
            remedy=f"Results so far are in {summary['folder']!r}; {resumed if summary['windows']['error'] else other}",
        )


def default_folder(spec: RunSpec, name: str) -> Path:
    """Where a run goes if no folder is named: under ``runs/``, by method, model and hash."""
    model = spec.model.rstrip("/").rpartition("/")[2].replace(":", "-")
    return Path("runs") / f"{run_name(spec)}-{model}-{name[:12]}"


def run_name(spec: RunSpec) -> str:
    """The tag of a reranked run: its method, or its adapter, with the method where that is not the adapter's own.

    An adapter's own method is known by the files that it names: heads beside the weights. Where they lie is not told.
    Where passages are judged, how they are put together follows.
    """
    method = spec.shown_method
    if spec.adapter:
        method = Path(spec.adapter).name + ("" if method != spec.method else f"-{method}")
    passages = "" if spec.passages is None else f"-passages-{spec.passages}"
    return (method + passages).translate(str.maketrans(":,=", "---"))


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
    shared = execution.call_cache if execution.call_cache is not None else prepared.backend.costs_money
    with folder.calls() as log, shared_cache() if shared else nullcontext() as cache:
        backend = Logged(
            backend=prepared.backend,
            log=log,
            cache=cache,
            max_total_tokens=execution.max_total_tokens,
            on_reply=on_reply,
        )
        candidates = shuffled(prepared.first_stage, prepared.spec)
        judge = prepared.judge(backend)
        top_k, passages = prepared.spec.top_k, prepared.passages
        outcome = drive(candidates.values(), prepared.strategy, judge, top_k=top_k, passages=passages)
        return outcome, backend.usage


def _answered(prepared: Prepared, folder: RunFolder) -> dict[str, Any]:
    """The summary of a finished run; scored again, since measures and judgments are no part of a run's identity."""
    for name, sha in folder.spec().get("files", {}).items():
        if folder.file_hash(name) != sha:
            raise DataError(
                f"{str(folder.path / name)!r} is not what the run left there",
                remedy="See what differs with `rerank verify`, or pass --overwrite to run again",
            )
    summary = folder.read_json("summary.json", "calls") | {"folder": str(folder.path)}
    if prepared.qrels:  # without judgments now, those of before stay
        summary |= means(_scored(prepared, folder, folder.read_run("run.trec")))
    summary |= {"method": prepared.spec.shown_method, "model": prepared.spec.model, "depth": prepared.spec.depth}
    folder.write_json("summary.json", summary)
    return summary | {"reused_calls": summary["calls"]}


def _scored(prepared: Prepared, folder: RunFolder, result: Run) -> dict[str, Any] | None:
    spec = prepared.spec
    scores = score(prepared.qrels, result, prepared.first_stage, measures=spec.measures, relevant=prepared.relevant)
    if scores is not None:
        folder.write_qrels(prepared.qrels)
        folder.write_json("scores.json", scores)
    return scores

"""The demonstration: the main job on the documentation of Python's standard library, with BM25 as the baseline.

Knows which runs make the demonstration and how they are compared, not how they are printed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rerank.collections.pydoc import DEMO_SAMPLE
from rerank.evaluation import compare
from rerank.experiment.spec import RunSpec
from rerank.store import RunFolder
from rerank.types import Run

#: Deep enough that one long list and two windows of twenty are different things.
DEPTH = 30
METHODS = ("fullrank", "sliding")
#: The adapter that comes along, for the model it was trained for.
ADAPTER, BASE = "smollm2-135m-attention", "smollm2-135m"
#: Documentation runs long; what a thing does stands in its first lines, and a small model keeps its bearings.
PASSAGE_TOKENS = 48
MEASURE = "nDCG@10"


def demo_specs(*, model: str, everything: bool = False) -> list[RunSpec]:
    """The runs of the demonstration.

    Args:
        model: The reranker.
        everything: All questions instead of the fixed sample.
    """
    asked: dict[str, Any] = {"collection": "pydoc", "depth": DEPTH, "queries": () if everything else DEMO_SAMPLE}
    asked["measures"] = (MEASURE,)
    plain = [RunSpec(method=one, model=model, max_passage_tokens=PASSAGE_TOKENS, **asked) for one in METHODS]
    return [*plain, RunSpec(adapter=ADAPTER, **asked)] if model == BASE else plain


def demo_report(summaries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Compare the demonstration's runs with BM25.

    Returns:
        ``comparison`` (a `Comparison`) and ``costs`` (a row a run: name, calls, tokens, seconds, windows, folder).
    """
    folders = [RunFolder.existing(summary["folder"]) for summary in summaries]
    runs = [Run(folders[0].read_candidates().values(), name="bm25")]
    runs += [folder.read_run("run.trec") for folder in folders]
    costs = [{"run": run.name, **summary} for run, summary in zip(runs[1:], summaries, strict=True)]
    comparison = compare(folders[0].read_qrels(), runs, MEASURE)
    counted = ("queries", "windows", "calls", "reused_calls", "tokens_in", "tokens_out", "seconds")
    kept = ("run", "method", *counted, "folder")
    return {"comparison": comparison, "costs": [{key: row[key] for key in kept} for row in costs]}

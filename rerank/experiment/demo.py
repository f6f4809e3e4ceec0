"""The runs of `rerank demo`, which rerank BM25's candidates from Python's library documentation, and compare them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rerank.collections.pydoc import DEMO_SAMPLE
from rerank.evaluation import Comparison, compare_runs
from rerank.experiment.demo_page import render_demo_page
from rerank.experiment.prepare import PreparedRun
from rerank.experiment.spec import RunSpec
from rerank.io.text_files import replace_text_file
from rerank.judges.attention import Attention
from rerank.pipeline.evidence import find_evidence
from rerank.store import CallLog, RunFolder, log_calls
from rerank.types import Run

#: Number of candidates. It exceeds one window of twenty, so that full and sliding-window reranking differ.
DEPTH = 30
METHODS = ("fullrank", "sliding")
#: The shipped adapter and its base model.
ADAPTER, BASE = "smollm2-135m-attention", "smollm2-135m"
#: Maximum number of tokens per passage. The first lines of a documentation entry say what it is about, and a small
#: model ranks short passages better.
PASSAGE_TOKENS = 48
MEASURE = "nDCG@10"


def demo_experiment_specs(*, model: str, everything: bool = False) -> list[RunSpec]:
    """Return the specifications of the demonstration's runs.

    Args:
        model: Selector of the model that reranks.
        everything: Whether to use all queries instead of the fixed sample.
    """
    queries = () if everything else DEMO_SAMPLE
    shared: dict[str, Any] = {"collection": "pydoc", "depth": DEPTH, "queries": queries, "measures": (MEASURE,)}
    full, sliding = (
        RunSpec(method=method, model=model, max_passage_tokens=PASSAGE_TOKENS, **shared) for method in METHODS
    )
    if model != BASE:
        return [full, sliding]
    return [RunSpec(model=model, **shared), full, RunSpec(adapter=ADAPTER, **shared)]


def describe_demo_differences(comparison: Comparison) -> list[str]:
    """Return one sentence per pair of runs: which run is better, or that the difference is not significant."""
    sentences = []
    for pair in comparison.pairs:
        a, b, difference, low, high = pair.a, pair.b, pair.difference, pair.low, pair.high
        if difference < 0:
            a, b, difference, low, high = b, a, -difference, -high, -low
        how = "is significantly above" if pair.significant else "is not significantly different from"
        p = "no p-value" if pair.p_adjusted is None else f"p = {pair.p_adjusted:.2g}"
        sentences.append(f"{a} {how} {b}: {difference:+.3f} [{low:+.3f}, {high:+.3f}], {p}")
    return sentences


def compare_demo_with_bm25(summaries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Compare the demonstration's runs with BM25.

    Returns:
        ``comparison`` (a `Comparison`) and ``costs`` (one row per run: name, calls, tokens, seconds, windows, folder).
    """
    folders = [RunFolder.existing(summary["folder"]) for summary in summaries]
    runs = read_demo_runs(folders)
    costs = [{"run": run.name, **summary} for run, summary in zip(runs[1:], summaries, strict=True)]
    comparison = compare_runs(folders[0].read_qrels(), runs, MEASURE)
    counts = ("queries", "windows", "calls", "reused_calls", "tokens_in", "tokens_out", "seconds")
    columns = ("run", "method", *counts, "folder")
    return {"comparison": comparison, "costs": [{key: row[key] for key in columns} for row in costs]}


def read_demo_runs(folders: Sequence[RunFolder]) -> list[Run]:
    """Return the candidates of the first folder, as a run named ``bm25``, and the reranked run of each folder."""
    return [
        Run(folders[0].read_candidates().values(), name="bm25"),
        *(folder.read_run("run.trec") for folder in folders),
    ]


def write_demo_page(
    path: Path, report: dict[str, Any], sentences: Sequence[str], prepared: Sequence[PreparedRun]
) -> None:
    """Write an HTML page with the best documents of each query, before and after reranking.

    Args:
        path: Path of the HTML file. Model calls that find the words to shade are logged in a file next to the page, so
            that they are not repeated.
        report: The result of `compare_demo_with_bm25`.
        sentences: The result of `describe_demo_differences`.
        prepared: The demonstration's runs. If the judge of the last run uses attention, words are shaded by their
            attention.
    """
    reranked = read_demo_runs([RunFolder.existing(row["folder"]) for row in report["costs"]])[1:]
    runs, qrels, last = [prepared[0].first_stage, *reranked], prepared[0].qrels, prepared[-1]
    render = partial(render_demo_page, report["comparison"], sentences, runs, qrels)
    if isinstance(last.judge, Attention):
        with CallLog(path.with_suffix(".calls.sqlite")) as log:
            backend = log_calls(last.backend, log)
            page = render(partial(find_evidence, last.judge, backend, unit="word", threshold=None))
    else:
        page = render(None)
    with replace_text_file(path) as file:
        file.write(page)

"""Methods on the DL19 BM25 top-100 lists: nDCG@10, calls, tokens and CPU seconds, read from their run folders.

    python benchmarks/dl19.py --lists retrieve_results_dl19.json.gz --qrels qrels.dl19-passage.txt --out runs/dl19 \\
        [--methods fullrank sliding ...] [--queries 20] [--depth 40] [--top-k 10] [--markdown]

Resumable: what is finished is read from its run folder. Long: with a small model on two cores and all queries about an
hour for the default methods. Costs are per query; `relative` divides them by those of the baseline, so below 1 is
cheaper. `difference` is that of nDCG@10 to the baseline with its 95 % interval (Student's t over queries). CPU seconds
are those of the process from the loaded model to the finished folder. They are written beside the folder (`NAME.cpu`),
and are missing for a run that was finished elsewhere.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from pathlib import Path
from typing import Any

from rerank.evaluation.significance import student_t_interval
from rerank.experiment import run_experiment
from rerank.experiment.execute import execute_run
from rerank.experiment.prepare import prepare_run
from rerank.experiment.spec import Execution, RunSpec
from rerank.models.lazy_backend import LazyBackend

COSTS = ("calls", "tokens_in", "tokens_out", "seconds", "cpu_seconds")


def main() -> None:
    """Run the methods that are not finished, and compare all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lists", type=Path, required=True, help="candidate lists with passage text (requests format)")
    parser.add_argument("--qrels", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/dl19"))
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--methods", nargs="+", default=["fullrank", "sliding"])
    parser.add_argument("--baseline", default="sliding", help="one of the methods")
    parser.add_argument("--queries", type=int, default=None)
    parser.add_argument("--depth", type=int, default=100)
    parser.add_argument("--top-k", type=int, default=None)
    parser.add_argument("--max-passage-tokens", type=int, default=None)
    parser.add_argument("--batch-size", type=int, default=None)
    parser.add_argument("--markdown", action="store_true", help="also print a table")
    options = parser.parse_args()
    folders = {method: options.out / re.sub(r"\W+", "-", method) for method in options.methods}
    for method, folder in folders.items():
        spec = RunSpec(
            collection=f"requests:{options.lists}",
            first_stage="candidates",
            method=method,
            model=options.model,
            max_queries=options.queries,
            depth=options.depth,
            top_k=options.top_k,
            max_passage_tokens=options.max_passage_tokens,
            qrels=str(options.qrels),
            relevant=2,
            measures=("nDCG@10", "AP", "RR"),
        )
        run(spec, Execution(out=folder, resume=True, batch_size=options.batch_size))
    baseline = read(folders[options.baseline])
    rows = [row_of(method, read(folder), baseline) for method, folder in folders.items()]
    first_stage = baseline["summary"]["first_stage_scores"]
    if options.markdown:
        print(markdown(rows, first_stage["nDCG@10"]))
    print(json.dumps({"queries": baseline["summary"]["queries"], "first_stage_scores": first_stage, "rows": rows}))


def run(spec: RunSpec, execution: Execution) -> None:
    """Execute a run, and add its CPU time, without that of loading the model, to the file beside its folder."""
    folder = execution.out
    assert folder is not None
    if (folder / "summary.json").exists():
        run_experiment(spec, execution)  # checks that the folder has this run
        return
    prepared = prepare_run(spec, execution)
    if isinstance(prepared.backend, LazyBackend):
        prepared.backend.warm_up()
    file = folder.with_suffix(".cpu")
    before = float(file.read_text("utf-8")) if file.exists() else 0.0
    started = time.process_time()
    try:
        execute_run(prepared, execution)
    finally:
        folder.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{before + time.process_time() - started}\n", "utf-8")


def read(folder: Path) -> dict[str, Any]:
    """Return the summary of a finished run, its nDCG@10 per query and its costs per query."""
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    scores = json.loads((folder / "scores.json").read_text("utf-8"))
    file = folder.with_suffix(".cpu")
    totals = {**summary, "cpu_seconds": float(file.read_text("utf-8")) if file.exists() else None}
    costs = {key: None if totals[key] is None else totals[key] / summary["queries"] for key in COSTS}
    return {"summary": summary, "ndcg": scores["run"]["per_query"]["nDCG@10"], "costs": costs}


def row_of(method: str, found: dict[str, Any], baseline: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of a method beside those of the baseline."""
    deltas = [found["ndcg"][query] - baseline["ndcg"][query] for query in found["ndcg"]]
    low, high = student_t_interval(deltas)
    costs, others = found["costs"], baseline["costs"]
    return {
        "method": method,
        "scores": found["summary"]["scores"],
        "difference": sum(deltas) / len(deltas),
        "low": low,
        "high": high,
        **costs,
        "relative": {key: costs[key] / others[key] for key in COSTS if costs[key] and others[key]},
        "windows": found["summary"]["windows"],
    }


def markdown(rows: list[dict[str, Any]], first_stage: float) -> str:
    """Return the rows as a Markdown table."""
    head = ("method", "nDCG@10", "difference [95 %]", "calls", "prompt tokens", "reply tokens", "CPU seconds")
    lines = [
        f"| {' | '.join(head)} |",
        "| --- " * len(head) + "|",
        f"| first stage | {first_stage:.4f} | | 0 | 0 | 0 | |",
    ]
    for row in rows:
        cells = (
            f"`{row['method']}`",
            f"{row['scores']['nDCG@10']:.4f}",
            f"{row['difference']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]",
            *(_cost(row, key) for key in ("calls", "tokens_in", "tokens_out", "cpu_seconds")),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cost(row: dict[str, Any], key: str) -> str:
    if row[key] is None:
        return ""
    relative = f" ({row['relative'][key]:.2f})" if key in row["relative"] else ""
    return f"{row[key]:,.1f}{relative}"


if __name__ == "__main__":
    main()

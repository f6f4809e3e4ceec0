"""Full ranking against sliding windows over the DL19 BM25 top-100 lists: calls, tokens, seconds, nDCG@10.

    python benchmarks/dl19.py --lists retrieve_results_dl19.json.gz --qrels qrels.dl19-passage.txt --out runs/dl19

Resumable: what is finished is read from its run folder. Long: with a small model on two cores about an hour.
Ratios are full / sliding: below 1, full ranking is cheaper.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from rerank.experiment import run_experiment
from rerank.experiment.spec import Execution, RunSpec


def main() -> None:
    """Run both methods and compare what they took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lists", type=Path, required=True, help="candidate lists with passage text (requests format)")
    parser.add_argument("--qrels", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/dl19"))
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--max-passage-tokens", type=int, default=None)
    parser.add_argument("--batch-size", type=int, default=None)
    options = parser.parse_args()
    summaries = {}
    for method in ("fullrank", "sliding"):
        spec = RunSpec(
            collection=f"requests:{options.lists}",
            first_stage="candidates",
            method=method,
            model=options.model,
            max_passage_tokens=options.max_passage_tokens,
            qrels=str(options.qrels),
            relevant=2,
            measures=("nDCG@10", "AP", "RR"),
        )
        execution = Execution(out=options.out / method, resume=True, batch_size=options.batch_size)
        summaries[method] = run_experiment(spec, execution)
    print(json.dumps(comparison(summaries["fullrank"], summaries["sliding"])))


def comparison(full: dict[str, Any], sliding: dict[str, Any]) -> dict[str, Any]:
    """The figures of both runs, and their ratios."""
    keys = ("queries", "calls", "tokens_in", "tokens_out", "seconds", "scores", "windows")
    return {
        "fullrank": {key: full[key] for key in keys},
        "sliding": {key: sliding[key] for key in keys},
        "first_stage_scores": full["first_stage_scores"],
        "calls_ratio": full["calls"] / sliding["calls"],
        "tokens_in_ratio": full["tokens_in"] / sliding["tokens_in"],
        "tokens_out_ratio": full["tokens_out"] / sliding["tokens_out"],
        "seconds_ratio": full["seconds"] / sliding["seconds"],
    }


if __name__ == "__main__":
    main()

"""Append to the lists of a run folder what its first stage has below them, and write the run with a card.

    python eval/leaderboard/fill_lists.py runs/auto --lists retrieve_results_dl19.json.gz --out runs/default

Measures that look below the reranked documents, such as AP, then see lists of the same length as the first stage's.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rerank.collections.requests import Requests
from rerank.io.run_files import write_run
from rerank.store import RunFolder
from rerank.types import Ranking, Run

CARD = """name = "SmolLM2-135M, the default method, first 20"
group = "listrank"
first_stage = "BM25"
before = "BM25"
depth = 100
model = "SmolLM2-135M-Instruct"
method = "auto: qlm,first_stage=0.5, first 20 only"
parameters = 134.5e6
weights = "open"
year = 2024
tokens = {tokens}
source = "eval/leaderboard/record.sh of listrank"
licence = "Apache-2.0"
"""


def main() -> None:
    """Write the run and its card."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="run folder")
    parser.add_argument("--lists", required=True, help="the lists of the first stage (requests format)")
    parser.add_argument("--out", type=Path, required=True, help="path of the run file, without suffixes")
    options = parser.parse_args()
    folder = RunFolder.existing(options.folder)
    reranked, rankings = folder.read_run("run.trec"), []
    for given in Requests(options.lists).candidates().values():
        best = reranked[given.query.id]
        below = [doc for doc in given.docs if doc.id not in set(best.doc_ids)]
        rankings.append(Ranking.from_order(given.query, [*best.docs, *below]))
    write_run(Run(rankings, name=options.out.name), options.out.with_name(f"{options.out.name}.run.gz"))
    summary = folder.read_json("summary.json", "tokens_in", "tokens_out")
    card = CARD.format(tokens=summary["tokens_in"] + summary["tokens_out"])
    options.out.with_name(f"{options.out.name}.toml").write_text(card, encoding="utf-8")


if __name__ == "__main__":
    main()

"""Seconds and memory of the tests of all pairs of systems on one topic x system matrix.

python benchmarks/significance.py [--matrix FILE.csv] [--permutations 100000]

`tukey_100k_seconds` and `tukey_peak_mb`: randomised Tukey HSD in a process of its own, memory of its start included.
`all_tests_seconds`: the paired t-test and Wilcoxon's, each without correction and with Bonferroni's, Holm's,
Benjamini-Hochberg's and Benjamini-Yekutieli's, and Tukey's HSD after ANOVA: eleven decisions on every pair, with the
import of SciPy. Without --matrix, 50 topics and 129 systems are made up, from a seed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time
from pathlib import Path

import numpy as np

from rerank.evaluation import ScoreMatrix, compare_all_runs, read_score_matrix

TOPICS, SYSTEMS = 50, 129
COLUMNS = [(test, name) for test in ("t", "wilcoxon") for name in ("none", "bonferroni", "holm", "bh", "by")]


def made_up() -> ScoreMatrix:
    """Scores between 0 and 1 with effects of topics and systems, in four decimals as published ones are."""
    chance = np.random.default_rng(0)
    topics, systems = chance.normal(0, 1.2, (TOPICS, 1)), chance.normal(0, 0.6, SYSTEMS)
    values = 1 / (1 + np.exp(1.2 - topics - systems - chance.normal(0, 0.7, (TOPICS, SYSTEMS))))
    names = tuple(f"s{n}" for n in range(SYSTEMS))
    return ScoreMatrix(measure="", topics=tuple(map(str, range(TOPICS))), systems=names, values=values.round(4))


def tukey(matrix: ScoreMatrix, permutations: int) -> dict[str, float]:
    """Time one randomised Tukey HSD, and the most memory that this process has held."""
    began = time.perf_counter()
    found = compare_all_runs(matrix, f"tukey-randomised,permutations={permutations}")
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
    return {"seconds": seconds, "peak_mb": peak, "significant": int(found.significant.sum())}


def main() -> None:
    """Run both."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--matrix", type=Path)
    parser.add_argument("--permutations", type=int, default=100_000)
    given = parser.parse_args()
    matrix = read_score_matrix(given.matrix) if given.matrix else made_up()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        randomised = pool.apply(tukey, (matrix, given.permutations))
    began = time.perf_counter()
    counts = {f"{test} {name}": int(compare_all_runs(matrix, test, name).significant.sum()) for test, name in COLUMNS}
    counts["tukey-anova"] = int(compare_all_runs(matrix, "tukey-anova").significant.sum())
    seconds = time.perf_counter() - began
    print(f"{len(matrix.topics)} topics, {len(matrix.systems)} systems", counts, randomised)
    print(
        json.dumps(
            {
                "tukey_100k_seconds": round(randomised["seconds"], 2),
                "tukey_peak_mb": round(randomised["peak_mb"]),
                "all_tests_seconds": round(seconds, 2),
            }
        )
    )


if __name__ == "__main__":
    main()

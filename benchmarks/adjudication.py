"""Seconds of a whole study of orders of judging, and its measuring against ir_measures called once a set of judgments.

python benchmarks/adjudication.py [--runs FOLDER --qrels FILE --relevant 2] [--seeds 10] [--growth]

The study: 15 methods, 10 budgets (10 % to 100 % of the pool), nDCG@10 and AP, t with Benjamini-Hochberg and with Holm,
Wilcoxon with Benjamini-Hochberg, Tukey's HSD after ANOVA; `seeds` walks of every method with chance in it.
`study_seconds` is all of it but reading files. `speedup_over_library_loop`, good above 1: seconds that ir_measures'
evaluator takes for all systems on the judgments of one method, budget and seed / seconds of ours for the same, the
judgments being there already for both. `--growth` times the study with half the systems, topics and pool depth too, as
parts of the whole. Without --runs, 61 systems of 100 documents on 43 topics are made up, from a seed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import ir_measures
import numpy as np

from rerank.adjudication.conclusions import Procedure
from rerank.adjudication.orders import open_judging_order
from rerank.adjudication.pool_measures import Measurer
from rerank.adjudication.pools import pool_runs
from rerank.adjudication.studies import StudyDesign, run_study
from rerank.adjudication.walks import AdjudicationBudget, judge_pool_in_order
from rerank.cli.run_files import read_run_arguments
from rerank.io.run_files import read_qrels
from rerank.types import Document, Qrels, Query, Ranking, Run

METHODS = (
    *("docid", "random", "depth", "ntcir", "borda", "rrf", "dcg", "rbp-a", "rbp-c", "mtf"),
    *("hedge", "mm", "ts", "ucb1-tuned", "mm-ns"),
)
PROCEDURES = (
    Procedure("t", "bh"),
    Procedure("wilcoxon", "bh"),
    Procedure("t", "holm"),
    Procedure("tukey-anova", "none"),
)
SYSTEMS, TOPICS, DEPTH, JUDGED = 61, 43, 100, 215


def made_up() -> tuple[list[Run], Qrels]:
    """Systems of all qualities that share most of what they find."""
    chance = np.random.default_rng(0)
    worth = chance.normal(0, 1, (TOPICS, 400))
    grades = np.digitize(worth, [0.8, 1.4, 2.0])
    judged = [chance.permutation(400)[:JUDGED] for _ in range(TOPICS)]
    qrels = Qrels({f"q{t}": {f"d{d:03d}": int(grades[t, d]) for d in judged[t]} for t in range(TOPICS)})
    runs = []
    for system in range(SYSTEMS):
        scores = worth + chance.normal(0, chance.uniform(0.5, 2.5), worth.shape)
        best = np.argsort(-scores, axis=1)[:, :DEPTH]
        lists = [
            Ranking.from_order(Query(id=f"q{t}"), [Document(id=f"d{d:03d}") for d in row]) for t, row in enumerate(best)
        ]
        runs.append(Run(lists, name=f"s{system}"))
    return runs, qrels


def timed(runs: Sequence[Run], qrels: Qrels, design: StudyDesign) -> tuple[float, int]:
    """Seconds of a study, and how many documents its pool has."""
    began = time.perf_counter()
    found = run_study(runs, qrels, design)
    return time.perf_counter() - began, len(found.pool)


def measuring(runs: Sequence[Run], qrels: Qrels, design: StudyDesign) -> tuple[float, float]:
    """Seconds for one set of judgments: ours, and ir_measures'."""
    pooled = pool_runs(runs, qrels=qrels)
    measurer = Measurer(pooled, runs, qrels, design.measures, relevant=design.relevant)
    ordering = judge_pool_in_order(open_judging_order("depth"), pooled, measurer.relevant_documents(design.relevant))
    began = time.perf_counter()
    values = measurer.measure(ordering, design.budgets)
    ours = (time.perf_counter() - began) / len(design.budgets)
    scored = [{q: dict(zip(r.doc_ids, r.scores, strict=True)) for q, r in run.items()} for run in runs]
    seconds = []
    for at, budget in enumerate(design.budgets):
        judged = {q: dict(grades) for q, grades in measurer.cheap(ordering, ordering.sizes(budget)).items()}
        began = time.perf_counter()
        evaluator = ir_measures.evaluator(list(measurer.measures), judged)
        means = [evaluator.calc_aggregate(run) for run in scored]
        seconds.append(time.perf_counter() - began)
        for name, measure in zip(measurer.names, measurer.measures, strict=True):
            np.testing.assert_allclose(values[name][at].mean(axis=0), [m[measure] for m in means], atol=1e-9)
    return ours, float(np.median(seconds))


def growth(runs: Sequence[Run], qrels: Qrels, design: StudyDesign) -> Iterable[tuple[str, float, int]]:
    """The study on half of everything."""
    few = list(qrels)[: len(qrels) // 2]
    yield ("half the systems", *timed(runs[::2], qrels, design))
    yield ("half the topics", *timed(runs, Qrels({topic: qrels[topic] for topic in few}), design))
    yield ("half the depth", *timed(runs, qrels, replace(design, depth=design.depth // 2)))


def main() -> None:
    """Time all of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=Path, nargs="*", default=[])
    parser.add_argument("--qrels", type=Path)
    parser.add_argument("--relevant", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--growth", action="store_true")
    given = parser.parse_args()
    runs, qrels = (read_run_arguments(given.runs), read_qrels(given.qrels)) if given.runs else made_up()
    design = StudyDesign(
        methods=METHODS,
        budgets=tuple(AdjudicationBudget("share", float(share)) for share in range(10, 101, 10)),
        measures=("nDCG@10", "AP"),
        procedures=PROCEDURES,
        relevant=given.relevant,
        seeds=given.seeds,
    )
    whole, documents = timed(runs, qrels, design)
    print(f"{len(runs)} systems, {len(qrels)} topics, {documents} documents: {whole:.1f} s")
    for name, seconds, pooled in growth(runs, qrels, design) if given.growth else ():
        print(f"{name}, {pooled} documents: {seconds / whole:.2f} of it")
    ours, library = measuring(runs, qrels, design)
    print(f"one set of judgments: {ours * 1000:.1f} ms here, {library * 1000:.0f} ms by ir_measures")
    print(json.dumps({"study_seconds": round(whole, 1), "speedup_over_library_loop": round(library / ours, 1)}))


if __name__ == "__main__":
    main()

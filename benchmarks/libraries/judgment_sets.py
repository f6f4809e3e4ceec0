"""Measures of all systems under many sets of judgments: ours against ir_measures and pytrec_eval, one set at a time."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import ir_measures
import numpy as np
import pytrec_eval
from adjudication import METHODS, made_up

from libraries.processes import Settings, cpu_seconds
from rerank.adjudication.orders import open_judging_order
from rerank.adjudication.pool_measures import Measurer, score_matrices
from rerank.adjudication.pools import pool_runs
from rerank.adjudication.walks import AdjudicationBudget, judge_pool_in_order

MEASURES = ("nDCG@10", "AP", "P@10", "R@100", "RR", "Success@5")
BUDGETS = [AdjudicationBudget("share", float(share)) for share in range(10, 101, 10)]
#: What pytrec_eval calls the two of them that a study measures.
TREC_EVAL = {"ndcg_cut_10", "map"}
SEEDS = 10


def measure(settings: Settings) -> dict[str, Any]:
    """Compare values and CPU time per set of judgments, and say what a study of 15 methods would take."""
    runs, qrels = made_up()
    pooled = pool_runs(runs, qrels=qrels)
    measurer = Measurer(pooled, runs, qrels, MEASURES)
    ordering = judge_pool_in_order(open_judging_order("depth"), pooled, measurer.relevant_documents(1))
    values = measurer.measure(ordering, BUDGETS)
    judged = [measurer.cheap(ordering, ordering.sizes(budget)) for budget in BUDGETS]
    gaps = [
        float(np.abs(values[name][at] - matrix.values).max())
        for at, qrels_of_budget in enumerate(judged)
        for name, matrix in score_matrices(qrels_of_budget, runs, measurer.names).items()
    ]
    study = Measurer(pooled, runs, qrels, ("nDCG@10", "AP"))
    middle = {topic: dict(grades) for topic, grades in judged[len(judged) // 2].items()}
    scored = [{q: dict(zip(r.doc_ids, r.scores, strict=True)) for q, r in run.items()} for run in runs]
    ways: dict[str, Callable[[], object]] = {
        "ours": lambda: study.measure(ordering, BUDGETS),
        "ir_measures": lambda: _with_ir_measures(study.measures, middle, scored),
        "pytrec_eval": lambda: [pytrec_eval.RelevanceEvaluator(middle, TREC_EVAL).evaluate(run) for run in scored],
    }
    times = [{name: cpu_seconds(way) for name, way in ways.items()} for _ in range(settings.repeat)]
    medians = {name: statistics.median(row[name] for row in times) for name in ways}
    medians["ours"] /= len(BUDGETS)
    sets = len(BUDGETS) * sum(SEEDS if open_judging_order(name).random else 1 for name in METHODS)
    return {
        "systems": len(runs),
        "topics": len(qrels),
        "values_compared": sum(matrices.size for matrices in values.values()),
        "largest_difference": max(gaps),
        "cpu_ms_per_set": {name: round(1000 * spent, 2) for name, spent in medians.items()},
        "over_ours": {name: round(spent / medians["ours"], 1) for name, spent in medians.items()},
        "sets_of_a_study": sets,
        "cpu_seconds_of_a_study": {name: round(sets * spent, 1) for name, spent in medians.items()},
    }


def _with_ir_measures(measures: Sequence[Any], judged: Any, scored: Sequence[Any]) -> list[Any]:
    """Measure every system on one set of judgments; the judgments are read once for all systems."""
    evaluator = ir_measures.evaluator(list(measures), judged)
    return [list(evaluator.iter_calc(run)) for run in scored]

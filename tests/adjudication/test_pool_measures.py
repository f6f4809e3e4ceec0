"""Measures of many judgments at once, against ir_measures on each."""

from __future__ import annotations

import numpy as np
import pytest

from rerank.adjudication.orders import open_judging_order
from rerank.adjudication.pool_measures import Measurer, score_matrices
from rerank.adjudication.pools import pool_runs
from rerank.adjudication.walks import AdjudicationBudget, judge_pool_in_order
from rerank.types import Document, Qrels, Query, Ranking, Run

FAST = ("nDCG@10", "nDCG", "AP", "AP(rel=2)@5", "P@5", "P(rel=2)@20", "R@10", "R(rel=3)@3", "RR", "RR@3", "Success@2")
BUDGETS = [AdjudicationBudget.parse(text) for text in ("1", "3", "20%", "50%", "total:40", "100%")]


def made(seed: int) -> tuple[list[Run], Qrels]:
    """Runs of unequal length; one lacks a topic, one topic has nothing relevant, another nothing that is retrieved."""
    chance = np.random.default_rng(seed)
    runs = []
    for system in range(5):
        lists = [
            Ranking.from_order(
                Query(id=f"q{topic}"), [Document(id=f"d{d}") for d in chance.permutation(40)[: chance.integers(1, 30)]]
            )
            for topic in range(6)
            if (system, topic) != (2, 3)
        ]
        runs.append(Run(lists, name=f"s{system}"))
    grades = {
        f"q{topic}": {f"d{d}": int(chance.choice([-1, 0, 0, 1, 2, 3])) for d in chance.permutation(40)[:25]}
        for topic in range(5)
    }
    return runs, Qrels({**grades, "q5": {"d1": 0, "d2": 0}, "q6": {"elsewhere": 2}})


@pytest.mark.parametrize("seed", range(4))
def test_as_ir_measures(seed: int) -> None:
    runs, qrels = made(seed)
    pooled = pool_runs(runs, qrels=qrels)
    measurer = Measurer(pooled, runs, qrels, FAST)
    assert measurer.slow == ()
    ordering = judge_pool_in_order(open_judging_order("random"), pooled, measurer.relevant_documents(1), seed=seed)
    values = measurer.measure(ordering, BUDGETS)
    for at, budget in enumerate(BUDGETS):
        expected = score_matrices(measurer.cheap(ordering, ordering.sizes(budget)), runs, measurer.names)
        for name in measurer.names:
            np.testing.assert_allclose(values[name][at], expected[name].values, atol=1e-12, err_msg=f"{name} {budget}")


def test_what_is_not_here_is_measured_by_ir_measures() -> None:
    runs, qrels = made(9)
    pooled = pool_runs(runs, qrels=qrels)
    measurer = Measurer(pooled, runs, qrels, ["Bpref", "nDCG(dcg='exp-log2')@5", "P@3"], relevant=2)
    assert measurer.names == ("Bpref(rel=2)", "nDCG(dcg='exp-log2')@5", "P(rel=2)@3")
    assert measurer.slow == measurer.names[:2]
    ordering = judge_pool_in_order(open_judging_order("docid"), pooled, measurer.relevant_documents(2))
    values = measurer.measure(ordering, BUDGETS)
    expected = score_matrices(measurer.cheap(ordering, ordering.sizes(BUDGETS[2])), runs, measurer.names)
    for name in measurer.names:
        np.testing.assert_allclose(values[name][2], expected[name].values, atol=1e-12)


def test_everything_judged_is_gold_where_gold_judges_the_pool_only() -> None:
    runs, qrels = made(3)
    pooled = pool_runs(runs, qrels=qrels)
    inside = {topic.id: {doc: qrels[topic.id][doc] for doc in topic.docs} for topic in pooled.topics}
    measurer = Measurer(pooled, runs, Qrels(inside), ["nDCG@10", "AP"])
    ordering = judge_pool_in_order(open_judging_order("mtf"), pooled, measurer.relevant_documents(1))
    values = measurer.measure(ordering, [AdjudicationBudget.parse("100%")])
    for name, matrix in measurer.gold.items():
        np.testing.assert_allclose(values[name][0], matrix.values, atol=1e-12)


def test_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Budgets in small pieces make no difference."""
    runs, qrels = made(5)
    pooled = pool_runs(runs, qrels=qrels)
    measurer = Measurer(pooled, runs, qrels, ["nDCG@10"])
    ordering = judge_pool_in_order(open_judging_order("depth"), pooled, measurer.relevant_documents(1))
    whole = measurer.measure(ordering, BUDGETS)["nDCG@10"]
    monkeypatch.setattr("rerank.adjudication.pool_measures._BATCH_SIZE", 1)
    np.testing.assert_allclose(measurer.measure(ordering, BUDGETS)["nDCG@10"], whole, atol=1e-14)

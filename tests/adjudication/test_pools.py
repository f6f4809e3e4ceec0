"""Pools, budgets, and measures of many judgments at once against ir_measures."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank.adjudication.orders import open_judging_order
from rerank.adjudication.pool_measures import Measurer, score_matrices
from rerank.adjudication.pools import add_unjudged_documents, pool_runs
from rerank.adjudication.walks import AdjudicationBudget, judge_pool_in_order
from rerank.errors import DataError, UsageError
from rerank.types import Document, Qrels, Query, Ranking, Run
from tests.raising import raises
from tests.ranked import run_of

RUNS = [run_of("one", q1="abcd", q2="xy"), run_of("two", q1="bea", q3="z")]
QRELS = Qrels({"q2": {"y": 1}, "q1": {"a": 2, "e": 0, "n": 1}})


def test_the_union_with_ranks() -> None:
    found = pool_runs(RUNS)
    assert [topic.id for topic in found.topics] == ["q1", "q2", "q3"]
    first = found.topics[0]
    assert first.docs == tuple("abcde")
    assert first.ranks.tolist() == [[1, 2, 3, 4, 0], [3, 1, 0, 0, 2]]
    assert (first.lengths.tolist(), first.union) == ([4, 3], 5)
    assert first.lists == ([0, 1, 2, 3], [1, 4, 0])
    assert first.finders == ([0, 1], [0, 1], [0], [0], [1])
    assert found.to_dict() == {"topics": 3, "runs": 2, "documents": 8, "smallest": 1, "largest": 5}


def test_what_gold_judges_with_the_ranks_it_had() -> None:
    found = pool_runs(RUNS, qrels=QRELS)
    assert [(topic.id, topic.docs) for topic in found.topics] == [("q2", ("y",)), ("q1", ("a", "e"))]
    assert found.topics[1].ranks.tolist() == [[1, 0], [3, 2]]
    assert (found.topics[1].lengths.tolist(), found.topics[1].union) == ([4, 3], 5)
    everything = pool_runs(RUNS, qrels=QRELS, unjudged=True)
    assert [topic.docs for topic in everything.topics] == [("x", "y"), tuple("abcde")]


def test_depth() -> None:
    assert pool_runs(RUNS, depth=1).topics[0].docs == ("a", "b")
    with raises(UsageError, "depth is 0"):
        pool_runs(RUNS, depth=0)


def test_bad_input() -> None:
    with raises(DataError):
        pool_runs([])
    with raises(DataError, "2 runs", "'one'"):
        pool_runs([RUNS[0], RUNS[0]])
    with raises(DataError, "gold"):
        pool_runs(RUNS, qrels=Qrels({"q9": {"a": 1}}, name="gold"))


@pytest.mark.parametrize("text", ["10", "10%", "total:5000", "2.5%", "total:1234567", "total:100000000", "0.001%"])
def test_budgets_read_as_they_print(text: str) -> None:
    assert str(AdjudicationBudget.parse(text)) == text


@pytest.mark.parametrize("text", ["", "0", "ten", "1.5", "-3", "120%", "0%", "total:5%", "total:0.5", "10 %%"])
def test_bad_budgets(text: str) -> None:
    with raises(UsageError, repr(text) if text in ("", "ten", "-3", "total:5%", "10 %%") else ""):
        AdjudicationBudget.parse(text)


def test_sizes() -> None:
    pools = [42, 5, 100]
    assert AdjudicationBudget.parse("10").sizes(pools).tolist() == [10, 5, 10]
    assert AdjudicationBudget.parse("10%").sizes(pools).tolist() == [4, 0, 10]  # 0.5 is rounded to even
    assert AdjudicationBudget.parse("50%").sizes([5, 7]).tolist() == [2, 4]  # as Python's round
    assert AdjudicationBudget.parse("total:30").sizes(pools).tolist() == [13, 5, 12]  # 10, 5, 10, then round
    assert AdjudicationBudget.parse("total:9999").sizes(pools).tolist() == pools


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.integers(1, 300))
def test_a_total_is_spent_exactly_and_evenly(pools: list[int], total: int) -> None:
    sizes = AdjudicationBudget("total", float(total)).sizes(pools)
    assert sizes.sum() == min(total, sum(pools))
    assert all(0 <= size <= whole for size, whole in zip(sizes, pools, strict=True))
    full = [size == whole for size, whole in zip(sizes, pools, strict=True)]
    open_ = [int(size) for size, done in zip(sizes, full, strict=True) if not done]
    assert not open_ or max(open_) - min(open_) <= 1


def test_the_rest_of_the_pool_is_unjudged() -> None:
    found = add_unjudged_documents(QRELS, pool_runs(RUNS))
    assert {topic: dict(rows) for topic, rows in found.items()} == {
        "q2": {"x": -1, "y": 1},
        "q1": {"a": 2, "b": -1, "c": -1, "d": -1, "e": 0, "n": 1},
        "q3": {"z": -1},
    }
    assert {topic: dict(rows) for topic, rows in found.judged().items()} == {**QRELS, "q3": {}}
    assert pool_runs(RUNS, qrels=found).topics[1].docs == pool_runs(RUNS, qrels=QRELS).topics[1].docs


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

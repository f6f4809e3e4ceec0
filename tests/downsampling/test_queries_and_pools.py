"""Fewer queries and smaller corpora, on cases counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from rerank.downsampling import Goal, choose_fewest_queries, choose_smallest_pool
from rerank.downsampling.reduction import ReductionStep, documents_per_query, find_smallest, reduce_run
from rerank.errors import UnknownNameError, UsageError
from rerank.evaluation import ScoreMatrix, evaluate_run
from rerank.types import Qrels
from tests.raising import raises
from tests.ranked import run_of

KEEP = Goal(tau=None, recall=0.9, precision=0.8)


def matrix(queries: int, *gaps: float, noise: float = 0.3) -> ScoreMatrix:
    values = np.random.default_rng(0).normal(size=(queries, len(gaps))) * noise + np.array(gaps)
    names = tuple(f"s{at}" for at in range(len(gaps)))
    return ScoreMatrix(measure="", topics=tuple(map(str, range(queries))), systems=names, values=values)


def test_large_differences_need_few_queries_and_small_ones_many() -> None:
    large = choose_fewest_queries(matrix(200, 0.0, 0.5, 1.0), KEEP, seeds=10)
    small = choose_fewest_queries(matrix(200, 0.0, 0.06, 0.12), KEEP, seeds=10)
    assert large.chosen is not None
    assert small.chosen is not None
    assert large.chosen.size < small.chosen.size / 3
    assert [step.size for step in large.steps] == sorted((step.size for step in large.steps), reverse=True)
    assert large.steps[0].size == 200
    assert large.steps[0].figures["recall"] == large.steps[0].more["draws_that_meet"] == 1.0
    assert len(large.kept) == large.chosen.size
    assert len(large.pairs["kept"]) == 3


def test_draws_are_nested_and_named_by_their_seed() -> None:
    scores = matrix(50, 0.0, 0.4)
    first, again = (choose_fewest_queries(scores, KEEP, seeds=3, sizes=[10, 25]) for _ in range(2))
    assert first.to_dict() == again.to_dict()
    assert [step.size for step in first.steps] == [50, 25, 10]
    for wrong in ({"seeds": 0}, {"sizes": [1]}, {"sizes": [51]}):
        with pytest.raises(UsageError):
            choose_fewest_queries(scores, KEEP, **wrong)


def test_the_smallest_of_which_all_larger_ones_do_too() -> None:
    def step(size: int, met: bool) -> ReductionStep:
        return ReductionStep(size=size, label="", figures={}, met=met, more={})

    lucky = (step(2, True), step(4, False), step(8, True), step(16, True))
    assert find_smallest(lucky) == lucky[2]
    assert find_smallest((step(4, True), step(8, False))) is None


A, B = run_of("a", q="abcd", r="efgh"), run_of("b", q="xbya", r="zhge")
QRELS = Qrels({"q": {"a": 1, "d": 2, "c": 0}, "r": {"h": 1}})


def test_pools_by_hand() -> None:
    assert documents_per_query([A], QRELS, 1) == {"q": {"a", "d"}, "r": {"e", "h"}}
    assert documents_per_query([A, B], QRELS, 2) == {"q": set("abxd"), "r": set("efzh")}
    corpus = frozenset("adeh")
    assert reduce_run(B, corpus)["q"].doc_ids == ("a",)
    assert reduce_run(B, corpus)["r"].doc_ids == ("h", "e")


def test_a_document_of_another_querys_pool_is_in_the_corpus() -> None:
    other = run_of("o", q="ebx", r="fxa")
    found = choose_smallest_pool([A, other], QRELS, Goal(tau=0.0), makers=["a"], measure="RR@10", depths=[1])
    # the corpus is a, d, e, h: for q the run o is left with e, which only r's pool holds
    assert found.steps[-1].more["documents"] == 4
    assert found.whole["documents"] == len(set("abcdefghx"))


def test_other_systems_get_better_and_the_makers_first_documents_stay() -> None:
    found = choose_smallest_pool([A, B], QRELS, Goal(tau=1.0), makers=["a"], measure="RR@10", depths=[1, 4])
    assert [step.size for step in found.steps] == [4, 1]
    shallow = frozenset().union(*documents_per_query([A], QRELS, 1).values())
    assert evaluate_run(QRELS, B, ["RR@10"]).summary()["RR@10"] == pytest.approx((1 / 4 + 1 / 2) / 2)
    assert evaluate_run(QRELS, reduce_run(B, shallow), ["RR@10"]).summary()["RR@10"] == 1.0
    assert any("systems are makers" in note for note in found.notes)


def test_pools_of_all_runs_change_nothing_from_the_measures_depth_on() -> None:
    found = choose_smallest_pool([A, B], QRELS, Goal(tau=1.0), measure="RR@2", depths=[1, 2, 3, 250])
    assert [step.size for step in found.steps] == [4, 3, 2, 1]  # no list is longer than 4
    assert [step.figures["tau"] for step in found.steps[:3]] == [1.0] * 3
    assert found.whole["makers"] == ["a", "b"]
    assert any("change nothing" in note for note in found.notes)


def test_wrong_names_and_depths() -> None:
    with raises(UnknownNameError, "'c'"):
        choose_smallest_pool([A, B], QRELS, KEEP, makers=["c"])
    with raises(UsageError, "[0]"):
        choose_smallest_pool([A, B], QRELS, KEEP, depths=[0])

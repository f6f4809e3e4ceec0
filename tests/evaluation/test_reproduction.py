"""Reproduction measures against SciPy and the formulas of the paper; docs/conformance.md has those of repro_eval."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_ind, ttest_rel

from rerank.errors import DataError, UsageError
from rerank.evaluation import evaluate_run
from rerank.evaluation.reproduction import Experiment, kendall_tau_union, measure_reproduction, rank_biased_overlap
from rerank.types import Document, Qrels, Query, Ranking, Run
from tests.raising import raises

DOCS = [f"d{n}" for n in range(12)]


def qrels_of(topics: int, seed: int) -> Qrels:
    chance = np.random.default_rng(seed)
    return Qrels({f"q{q}": {doc: int(chance.integers(0, 3)) for doc in DOCS} for q in range(topics)})


def run_of(name: str, qrels: Qrels, noise: float, seed: int) -> Run:
    chance = np.random.default_rng(seed)
    rankings = []
    for query, judged in qrels.items():
        scored = [(Document(id=d, text=""), judged[d] + float(chance.normal(0, noise))) for d in DOCS]
        rankings.append(Ranking.from_scores(Query(id=query, text=""), scored).top(8))
    return Run(rankings, name=name)


def experiment(qrels: Qrels, seed: int) -> Experiment:
    return Experiment(
        baseline=run_of(f"base {seed}", qrels, 3, seed), advanced=run_of(f"new {seed}", qrels, 1, seed + 1), qrels=qrels
    )


def scores(entry: Experiment, role: str) -> list[float]:
    return [*evaluate_run(entry.qrels, getattr(entry, role), ["nDCG@5"]).values["nDCG@5"].values()]


def test_the_same_collection() -> None:
    qrels = qrels_of(9, 0)
    original, again = experiment(qrels, 1), experiment(qrels, 11)
    found = measure_reproduction(original, again, ["nDCG@5"], depth=6, p=0.8).to_dict()
    assert found["same_collection"]
    for row in found["rows"]:
        x, y = (np.array(scores(entry, row["role"])) for entry in (original, again))
        assert (row["original"], row["again"]) == pytest.approx((x.mean(), y.mean()))
        assert (row["rmse"], row["p"]) == pytest.approx((np.sqrt(((x - y) ** 2).mean()), ttest_rel(x, y).pvalue))
    for row in found["orders"]:
        pairs = [[getattr(e, row["role"])[q].doc_ids[:6] for e in (original, again)] for q in qrels]
        assert row["ktu"] == pytest.approx(sum(kendall_tau_union(a, b) or 0 for a, b in pairs) / len(pairs))
        assert row["rbo"] == pytest.approx(sum(rank_biased_overlap(a, b, 0.8) or 0 for a, b in pairs) / len(pairs))


def test_effects() -> None:
    first, second = qrels_of(9, 0), qrels_of(14, 5)
    original, again = experiment(first, 1), experiment(second, 11)
    (row,) = measure_reproduction(original, again, ["nDCG@5"]).to_dict()["effects"]
    b, a, b2, a2 = (np.mean(scores(e, role)) for e in (original, again) for role in ("baseline", "advanced"))
    assert row["er"] == pytest.approx((a2 - b2) / (a - b))
    assert row["dri"] == pytest.approx((a - b) / b - (a2 - b2) / b2)


def test_another_collection() -> None:
    original, again = experiment(qrels_of(9, 0), 1), experiment(qrels_of(14, 5), 11)
    found = measure_reproduction(original, again, ["nDCG@5"])
    content = found.to_dict()
    assert (content["same_collection"], content["orders"]) == (False, [])
    for row in content["rows"]:
        x, y = (scores(entry, row["role"]) for entry in (original, again))
        assert (row["rmse"], row["p"]) == (None, pytest.approx(ttest_ind(x, y).pvalue))
    assert "another collection" in found.to_table("text")
    for digits in (2, 4):
        assert f" & {content['effects'][0]['er']:.{digits}f} & " in found.to_table("latex", digits)
        assert f" & {content['rows'][0]['original']:.{digits}f} & " in found.to_table("latex", digits)


def test_an_exact_reproduction() -> None:
    original = experiment(qrels_of(5, 0), 1)
    shuffled = Qrels({query: original.qrels[query] for query in [*original.qrels][::-1]})
    found = measure_reproduction(original, replace(original, qrels=shuffled), ["nDCG@5", "P@3"]).to_dict()
    assert {(row["rmse"], row["p"]) for row in found["rows"]} == {(0.0, 1.0)}
    assert [row["ktu"] for row in found["orders"]] == pytest.approx([1.0, 1.0])
    assert [row["rbo"] for row in found["orders"]] == pytest.approx([1.0, 1.0])
    assert [(row["er"], row["dri"]) for row in found["effects"]] == [(1.0, 0.0)] * 2


def test_nothing_to_divide_by() -> None:
    original = experiment(qrels_of(5, 0), 1)
    found = measure_reproduction(
        replace(original, advanced=original.baseline), original, ["Success@8", "nDCG@5"]
    ).to_dict()
    assert [row["er"] for row in found["effects"]] == [None, None]
    nothing = Qrels({query: dict.fromkeys(DOCS, 0) for query in original.qrels})
    (row,) = measure_reproduction(replace(original, qrels=nothing), original, ["P@3"]).to_dict()["effects"]
    assert (row["ri"], row["dri"]) == (None, None)


def test_equal_means_of_different_scores_have_no_effect() -> None:
    """In floating point, the sum of .1 and .2 is not that of .3 and 0."""
    qrels = Qrels({query: {f"d{n}": 1 for n in range(3)} for query in ("q0", "q1")})

    def run(name: str, *relevant: int) -> Run:
        lists = (
            Ranking.from_order(Query(id=query, text=""), [Document(id=f"d{3 - n + i}", text="") for i in range(5)])
            for query, n in zip(qrels, relevant, strict=True)
        )
        return Run(lists, name=name)

    original = Experiment(baseline=run("a", 1, 2), advanced=run("b", 3, 0), qrels=qrels)
    again = replace(original, advanced=run("c", 3, 3))
    (row,) = measure_reproduction(original, again, ["P@10"]).to_dict()["effects"]
    assert (row["improvement"], row["er"]) == (0.0, None)


def test_wrong_options() -> None:
    original = experiment(qrels_of(5, 0), 1)
    with raises(UsageError, "depth is 1"):
        measure_reproduction(original, original, depth=1)
    with raises(DataError):
        measure_reproduction(original, replace(original, qrels=Qrels({"other": {"d0": 1}})))


lists = st.lists(st.integers(0, 30).map(str), max_size=20, unique=True)


def test_tau_union_by_hand() -> None:
    assert kendall_tau_union("abc", "abd") == 1  # the example of the paper: 1 2 3 and 1 2 4
    assert kendall_tau_union("abc", "xyz") == 1  # it says nothing about documents that were not found again
    assert kendall_tau_union("abcd", "dcba") == -1
    assert kendall_tau_union("abc", "cab") == pytest.approx(-1 / 3)  # 3 1 2: two of three pairs are inverted
    assert kendall_tau_union("abcdef", "cab") == pytest.approx(-1 / 3)
    assert (kendall_tau_union("a", "a"), kendall_tau_union("", "ab")) == (None, None)


@given(lists, lists)
def test_tau_union_does_not_depend_on_names(first: list[str], second: list[str]) -> None:
    renamed = dict(zip(map(str, range(31)), np.random.default_rng(0).permutation(31).astype(str), strict=True))
    assert kendall_tau_union(first, second) == kendall_tau_union(
        [renamed[doc] for doc in first], [renamed[doc] for doc in second]
    )


@given(lists, lists, st.sampled_from([0.5, 0.9, 0.95]))
def test_rank_biased_overlap_is_the_weighted_mean_of_overlaps(first: list[str], second: list[str], p: float) -> None:
    depths = range(1, max(len(first), len(second)) + 1)
    agreement = [len(set(first[:d]) & set(second[:d])) / d for d in depths]
    weights = [p ** (d - 1) for d in depths]
    expected = sum(a * w for a, w in zip(agreement, weights, strict=True)) / sum(weights) if weights else None
    assert rank_biased_overlap(first, second, p) == (None if expected is None else pytest.approx(expected))


def test_overlap_of_equal_and_disjoint_lists() -> None:
    assert rank_biased_overlap("abc", "abc") == pytest.approx(1)
    assert rank_biased_overlap("abc", "xyz") == 0
    assert rank_biased_overlap("ab", "ba", 0.5) == pytest.approx((0 + 0.5 * 1) / 1.5)

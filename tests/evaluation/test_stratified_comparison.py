"""Systems over several collections."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ttest_ind, ttest_rel
from statsmodels.stats.multitest import multipletests

from rerank.errors import DataError, UsageError
from rerank.evaluation import ComparisonOptions, ScoreMatrix
from rerank.evaluation.stratified_comparison import compare_over_collections, stratified_t_test
from tests.raising import raises


def matrix(topics: int, seed: int, systems: str = "abc") -> ScoreMatrix:
    values = np.random.default_rng(seed).random((topics, len(systems))) + np.arange(len(systems)) / 9
    return ScoreMatrix(
        measure="AP", topics=tuple(map(str, range(topics))), systems=tuple(systems), values=values.round(3)
    )


def test_one_stratum_is_the_paired_t_test() -> None:
    values = matrix(12, 0).values
    found, expected = stratified_t_test([values[:, 0] - values[:, 1]], 0.1), ttest_rel(values[:, 0], values[:, 1])
    assert (found["p"], found["df"]) == pytest.approx((expected.pvalue, expected.df))
    assert tuple(found["interval"]) == pytest.approx(tuple(expected.confidence_interval(0.9)))


def test_two_strata_are_welchs_test() -> None:
    """The mean of d1 and d2 is 0 exactly if the means of d1 and -d2 are equal."""
    chance = np.random.default_rng(3)
    first, second = chance.normal(0.1, 0.2, 9), chance.normal(0.0, 0.5, 30)
    found, expected = stratified_t_test([first, second]), ttest_ind(first, -second, equal_var=False)
    assert (found["p"], found["df"]) == pytest.approx((expected.pvalue, expected.df))
    assert tuple(2 * np.array(found["interval"])) == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_collections_count_equally() -> None:
    one, two = matrix(10, 1), matrix(40, 2, "cab")
    found = compare_over_collections({"one": one, "two": two}, ComparisonOptions(correction="bh"))
    content = found.to_dict()
    assert (content["measure"], content["correction"]) == ("AP", "bh")
    assert content["collections"] == [{"collection": "one", "topics": 10}, {"collection": "two", "topics": 40}]
    for row in content["systems"]:
        means = [m.values[:, m.systems.index(row["system"])].mean() for m in (one, two)]
        assert row["mean"] == pytest.approx(np.mean(means))
        assert list(row["means"].values()) == pytest.approx(means)
    assert [row["mean"] for row in content["systems"]] == sorted(
        (row["mean"] for row in content["systems"]), reverse=True
    )
    by_name = {row["system"]: row["mean"] for row in content["systems"]}
    for row in content["pairs"]:
        assert row["difference"] == pytest.approx(by_name[row["a"]] - by_name[row["b"]])
        assert list(row["differences"].values()) == pytest.approx(
            [m.deltas(row["a"], row["b"]).mean() for m in (one, two)]
        )
    adjusted = multipletests([row["p"] for row in content["pairs"]], method="fdr_bh")[1]
    assert [row["adjusted_p"] for row in content["pairs"]] == pytest.approx(adjusted)
    assert "topic(collection)" in found.to_table("text")


def test_constant_differences_are_no_evidence() -> None:
    found = stratified_t_test([np.full(5, 0.1), np.full(7, 0.3)])
    assert found == {"difference": pytest.approx(0.2), "interval": pytest.approx([0.2, 0.2]), "df": None, "p": 1.0}


def test_systems_and_collections_that_do_not_fit() -> None:
    with raises(DataError, "d"):
        compare_over_collections({"one": matrix(5, 0), "two": matrix(5, 0, "abd")})
    with raises(UsageError, "number of collections is 1"):
        compare_over_collections({"one": matrix(5, 0)})

"""Systems over several collections, and the analysis of variance against R, statsmodels and SciPy."""

from __future__ import annotations

import csv
import io
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.stats import f as f_test
from scipy.stats import f_oneway, ttest_ind, ttest_rel
from statsmodels.stats.multitest import multipletests

from rerank.errors import DataError, UsageError
from rerank.evaluation import ComparisonOptions, ScoreMatrix
from rerank.evaluation.stratified_comparison import analyse_nested_variance, compare_over_collections, stratified_t_test
from rerank.io.reports import convert_rows_to_csv
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
    records = list(csv.DictReader(io.StringIO(convert_rows_to_csv(found.records()))))
    assert [row["table"] for row in records] == ["systems"] * 3 + ["pairs"] * 3 + ["anova"] * 5
    assert float(records[0]["means.one"]) == content["systems"][0]["means"]["one"]
    systems, pairs, _ = found.tables(2).grids
    row = content["pairs"][0]
    assert systems.rows[0][1] == f"{content['systems'][0]['mean']:.2f}"
    assert (pairs.rows[0][2], pairs.rows[0][4]) == (f"{row['difference']:+.2f}", f"{row['differences']['one']:+.2f}")
    assert f"{row['difference']:+.4f}" not in found.to_table("latex", 2)


def test_constant_differences_are_no_evidence() -> None:
    found = stratified_t_test([np.full(5, 0.1), np.full(7, 0.3)])
    assert found == {"difference": pytest.approx(0.2), "interval": pytest.approx([0.2, 0.2]), "df": None, "p": 1.0}


def test_systems_and_collections_that_do_not_fit() -> None:
    with raises(DataError, "d"):
        compare_over_collections({"one": matrix(5, 0), "two": matrix(5, 0, "abd")})
    with raises(UsageError, "number of collections is 1"):
        compare_over_collections({"one": matrix(5, 0)})


LINES = [line for line in Path(__file__).with_name("nested_anova.csv").read_text().splitlines() if line[0] != "#"]


def cases() -> list[tuple[Any, Any]]:
    """Scores per collection, and R's rows: sum of squares, degrees of freedom, F and p."""
    found = []
    for design, group in groupby(csv.DictReader(LINES), key=lambda row: row["design"]):
        rows = list(group)
        values, arrays = np.array(rows[0]["scores"].split(), dtype=float), []
        for size in map(int, rows[0]["topics"].split()):
            count = size * (int(design) + 1)
            arrays.append(values[:count].reshape(-1, size).T)
            values = values[count:]
        numbers = [[float(r[key]) if r[key] != "NA" else np.nan for key in ("ss", "df", "f", "p")] for r in rows]
        found.append((arrays, dict(zip([row["effect"] for row in rows], numbers, strict=True))))
    return found


def test_p_is_never_0() -> None:
    """The p-value of a huge effect is too small for a float."""
    noise = np.random.default_rng(0).normal(0, 1e-4, (2, 200, 4))
    system, *_ = analyse_nested_variance([part + np.arange(4) for part in noise])
    assert system["p"] is not None
    assert 0 < system["p"] < 1e-300


@pytest.mark.parametrize(("values", "reference"), cases())
def test_r_gives_the_same(values: Any, reference: Any) -> None:
    for row in analyse_nested_variance(values):
        tested = row["effect"] not in ("error", "topic(collection)")  # R does not test the topics
        found = (row["ss"], row["df"], row["f"], row["uncorrected_p"]) if tested else (row["ss"], row["df"])
        assert found == pytest.approx(tuple(reference[row["effect"]][: len(found)]), rel=1e-8)


@pytest.mark.parametrize("values", [values for values, _ in cases()])
def test_epsilon_corrects_the_effects_of_systems_by_the_eigenvalues_of_contrasts(values: Any) -> None:
    """Epsilon is (sum of eigenvalues)^2 / ((m - 1) sum of their squares), of m - 1 orthonormal contrasts."""
    systems = values[0].shape[1]
    contrasts, _ = np.linalg.qr(np.column_stack([np.ones(systems), np.eye(systems)[:, 1:]]))
    parts = [(len(v) - 1) * np.cov(v @ contrasts[:, 1:], rowvar=False).reshape(systems - 1, -1) for v in values]
    eigenvalues = np.linalg.eigvalsh(sum(parts))
    epsilon = eigenvalues.sum() ** 2 / ((systems - 1) * (eigenvalues**2).sum())
    by_name = {row["effect"]: row for row in analyse_nested_variance(values)}
    for row in [*by_name.values()][:-1]:
        factor = epsilon if "system" in row["effect"] else 1
        assert row["epsilon"] == pytest.approx(factor)
        assert row["p"] == pytest.approx(f_test.sf(row["f"], factor * row["df"], factor * by_name[row["error"]]["df"]))
    assert 1 / (systems - 1) <= epsilon <= 1 + 1e-12


@pytest.mark.filterwarnings("ignore:The design matrix is rank-deficient")
@pytest.mark.parametrize("values", [values for values, _ in cases()])
def test_statsmodels_gives_the_same(values: Any) -> None:
    """Sums of squares are differences of the residuals of least squares, in two orders (types I and II)."""
    scores = np.concatenate(values)
    topics, systems = scores.shape
    topic = np.repeat(np.arange(topics), systems)
    system = np.tile(np.arange(systems), topics)
    collection = np.repeat(np.arange(len(values)), [len(part) for part in values])[topic]

    def rest(*factors: Any) -> float:
        columns = [np.ones(len(topic))[:, None]] + [(f[:, None] == np.unique(f)).astype(float) for f in factors]
        return float(sm.OLS(scores.ravel(), np.hstack(columns)).fit().ssr)

    found = {row["effect"]: row for row in analyse_nested_variance(values)}
    cell = system * len(values) + collection
    assert found["system"]["ss"] == pytest.approx(rest() - rest(system))
    assert found["system"]["ss"] == pytest.approx(rest(topic) - rest(topic, system))
    assert found["collection"]["ss"] == pytest.approx(rest(system) - rest(system, collection))
    assert found["topic(collection)"]["ss"] == pytest.approx(rest(system, collection) - rest(system, topic))
    assert found["system:collection"]["ss"] == pytest.approx(rest(system, topic) - rest(system, topic, cell))
    assert found["error"]["ss"] == pytest.approx(rest(topic, cell))
    assert sum(row["ss"] for row in found.values()) == pytest.approx(rest())
    assert found["topic(collection)"]["f"] == pytest.approx(found["topic(collection)"]["ms"] / found["error"]["ms"])


@pytest.mark.parametrize("values", [values for values, _ in cases()])
def test_collections_are_compared_by_topic_means(values: Any) -> None:
    row = next(row for row in analyse_nested_variance(values) if row["effect"] == "collection")
    means = [part.mean(axis=1) for part in values]
    assert (row["f"], row["p"]) == pytest.approx(tuple(f_oneway(*means)))
    # omega squared of a one-way analysis: (SS_b - df MS_w) / (SS_t + MS_w)
    within = sum(((part - part.mean()) ** 2).sum() for part in means) / (sum(map(len, means)) - len(means))
    total = ((np.concatenate(means) - np.concatenate(means).mean()) ** 2).sum()
    between = total - within * (sum(map(len, means)) - len(means))
    assert row["omega_squared"] == pytest.approx((between - (len(means) - 1) * within) / (total + within))


def test_partial_omega_squared_by_hand() -> None:
    rows = {row["effect"]: row for row in analyse_nested_variance(cases()[1][0])}
    error, count = rows["error"]["ms"], 19 * 3
    for name in ("system", "topic(collection)", "system:collection"):
        row = rows[name]
        # Olejnik and Algina: (SS - df MS_e) / (SS + (N - df) MS_e)
        assert row["omega_squared"] == pytest.approx(
            (row["ss"] - row["df"] * error) / (row["ss"] + (count - row["df"]) * error)
        )


def test_scores_without_error() -> None:
    flat = analyse_nested_variance([np.outer(np.arange(1.0, 4.0), [1, 1]), np.outer(np.arange(2.0, 6.0), [1, 1])])
    assert [(row["effect"], row["ss"] > 0, row["f"] is None) for row in flat] == [
        ("system", False, True),
        ("collection", True, False),
        ("topic(collection)", True, True),
        ("system:collection", False, True),
        ("error", False, True),
    ]


def test_designs_without_replication() -> None:
    with raises(DataError, "1 collections"):
        analyse_nested_variance([np.ones((3, 2))])
    with raises(DataError, "2 topics"):
        analyse_nested_variance([np.ones((1, 2)), np.ones((1, 2))])

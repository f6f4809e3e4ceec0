"""The analysis of variance over collections against R, statsmodels and SciPy."""

from __future__ import annotations

import csv
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.stats import f_oneway

from rerank.errors import DataError
from rerank.evaluation.stratified_comparison import analyse_nested_variance
from tests.raising import raises

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
        found = (row["ss"], row["df"], row["f"], row["p"]) if tested else (row["ss"], row["df"])
        assert found == pytest.approx(tuple(reference[row["effect"]][: len(found)]), rel=1e-8)


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

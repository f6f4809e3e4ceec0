"""Topics that a difference takes, and differences that topics can show, against statsmodels."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower

from rerank.errors import UsageError
from rerank.evaluation import ComparisonOptions, Scores, paired_t_power, topics_needed_for_power
from rerank.evaluation.power import report_power_of_runs, smallest_detectable_difference
from tests.raising import raises


@pytest.mark.parametrize(("effect", "needed"), [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10)])
def test_cohens_small_medium_and_large_effects(effect: float, needed: int) -> None:
    """Level 5 %, power 80 %: the sizes that G*Power and R's power.t.test print for paired samples."""
    assert topics_needed_for_power(effect, 1.0) == needed
    assert topics_needed_for_power(-effect / 10, 0.1) == needed, "neither the sign nor the unit matters"


@pytest.mark.parametrize("effect", [0.05, 0.3, 1.5])
@pytest.mark.parametrize("alpha", [0.05, 0.01])
@pytest.mark.parametrize("power", [0.5, 0.9])
def test_it_is_statsmodels(effect: float, alpha: float, power: float) -> None:
    theirs = pytest.importorskip("statsmodels.stats.power").TTestPower()
    assert topics_needed_for_power(effect, 1, alpha, power) == math.ceil(
        theirs.solve_power(effect, alpha=alpha, power=power)
    )
    assert paired_t_power(20, effect, 1, alpha) == pytest.approx(theirs.power(effect, 20, alpha))


def test_the_number_is_the_least() -> None:
    for effect, alpha, wanted in ((0.03, 0.05, 0.8), (0.2, 0.05 / 666, 0.95), (3.0, 0.001, 0.99)):
        needed = topics_needed_for_power(effect, 1, alpha, wanted)
        assert paired_t_power(needed - 1, effect, 1, alpha) < wanted <= paired_t_power(needed, effect, 1, alpha)
    assert topics_needed_for_power(50.0, 1.0) == 2


def test_a_simulation_finds_it_as_often() -> None:
    d = np.random.default_rng(1).normal(0.4, 1, (34, 4000))
    found = np.mean(stats.ttest_1samp(d, 0).pvalue <= 0.05)
    assert paired_t_power(34, 0.4, 1) == pytest.approx(found, abs=0.03)


def test_at_the_extremes() -> None:
    assert paired_t_power(50, 100.0, 1) == 1.0
    assert paired_t_power(50, 1e-9, 1) == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"difference": 0.0, "sd": 1}, "difference is 0.0"),
        ({"difference": math.nan, "sd": 1}, "difference is nan"),
        ({"difference": 1, "sd": 0.0}, "sd is 0.0"),
        ({"difference": 1, "sd": 1, "alpha": 1.0}, "alpha is 1.0"),
        ({"difference": 1, "sd": 1, "power": 1.0}, "power is 1.0"),
        ({"difference": 1e-9, "sd": 1}, "difference of 1e-09"),
    ],
)
def test_what_makes_no_sense(arguments: dict[str, float], named: str) -> None:
    with raises(UsageError, named):
        topics_needed_for_power(**arguments)


def test_a_level_that_no_test_reaches() -> None:
    with raises(UsageError, "alpha is 1e-320", "1e-12"):
        smallest_detectable_difference(3, 0.35, 1e-320)


def test_one_topic_has_no_power() -> None:
    with raises(UsageError, "number of topics is 1"):
        paired_t_power(1, 0.1, 1)


VALUES = np.random.default_rng(2).normal(0.4, 0.1, (30, 3))
SCORES = [Scores(run=f"r{n}", values={"AP": {str(q): float(v) for q, v in enumerate(VALUES[:, n])}}) for n in range(3)]


@pytest.mark.parametrize(("topics", "alpha", "power"), [(10, 0.05, 0.8), (43, 0.05 / 36, 0.9), (250, 0.01, 0.5)])
def test_the_detectable_difference_is_that_of_statsmodels(topics: int, alpha: float, power: float) -> None:
    expected = TTestPower().solve_power(nobs=topics, alpha=alpha, power=power)
    assert smallest_detectable_difference(topics, 0.2, alpha, power) == pytest.approx(0.2 * expected, rel=1e-5)


def test_every_row_has_a_cell_under_every_head() -> None:
    same = [Scores(run=name, values={"AP": {"1": 0.5, "2": 0.25}}) for name in "ab"]
    for scores, difference in ((same, None), (same, 0.0), (same, 0.05), (SCORES, 0.05)):
        grid = report_power_of_runs(scores, "AP", difference=difference).tables().main
        assert {len(row) for row in grid.rows} == {len(grid.heads)} == {5 if difference is None else 6}
    assert grid.heads[-1] == "topics"


def test_the_table_has_as_many_digits_as_requested() -> None:
    found = report_power_of_runs(SCORES[:2], "AP")
    (row,) = found.to_dict()["rows"]
    for digits in (2, 4):
        cells = [f"{row['difference']:+.{digits}f}", f"{row['sd']:.{digits}f}", f"{row['detectable']:.{digits}f}"]
        assert f"r0 & r1 & {' & '.join(cells)} " in found.to_table("latex", digits)
    assert found.to_table("latex") == found.to_table("latex", 4)


def test_all_pairs_or_a_baseline() -> None:
    every = report_power_of_runs(SCORES, "AP", difference=0.05).to_dict()
    assert len(every["rows"]) == 3
    assert every["level"] == pytest.approx(0.05 / 3)
    two = report_power_of_runs(SCORES, "AP", difference=0.05, baseline="r0").to_dict()
    assert [(row["a"], row["b"]) for row in two["rows"]] == [("r1", "r0"), ("r2", "r0")]
    sd = (VALUES[:, 1] - VALUES[:, 0]).std(ddof=1)
    assert two["rows"][0]["sd"] == pytest.approx(sd)
    needed = TTestPower().solve_power(effect_size=0.05 / sd, alpha=0.025, power=0.8)
    assert two["rows"][0]["topics_needed"] == np.ceil(needed)
    alone = report_power_of_runs(SCORES, "AP", options=ComparisonOptions(correction="none"), baseline="r0").to_dict()
    assert alone["rows"][0]["detectable"] < two["rows"][0]["detectable"]
    assert "topics_needed" not in alone["rows"][0]
    with raises(UsageError, "power is 1.5"):
        report_power_of_runs(SCORES, "AP", power=1.5)

"""Power from runs at hand, against statsmodels."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.power import TTestPower

from rerank.errors import UsageError
from rerank.evaluation import ComparisonOptions, Scores
from rerank.evaluation.power import report_power_of_runs, smallest_detectable_difference
from tests.raising import raises

VALUES = np.random.default_rng(2).normal(0.4, 0.1, (30, 3))
SCORES = [Scores(run=f"r{n}", values={"AP": {str(q): float(v) for q, v in enumerate(VALUES[:, n])}}) for n in range(3)]


@pytest.mark.parametrize(("topics", "alpha", "power"), [(10, 0.05, 0.8), (43, 0.05 / 36, 0.9), (250, 0.01, 0.5)])
def test_the_detectable_difference_is_that_of_statsmodels(topics: int, alpha: float, power: float) -> None:
    expected = TTestPower().solve_power(nobs=topics, alpha=alpha, power=power)
    assert smallest_detectable_difference(topics, 0.2, alpha, power) == pytest.approx(0.2 * expected, rel=1e-5)


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

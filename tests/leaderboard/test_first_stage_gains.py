"""Gains over first stages: their own family, against SciPy and statsmodels."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ttest_rel
from statsmodels.stats.multitest import multipletests

from rerank.evaluation import ComparisonOptions, Scores
from rerank.leaderboard.standings import rank_runs
from tests.leaderboard.test_standings import made

BEFORE = (4, 4, 3, None, None)


def columns(scores: list[Scores]) -> list[np.ndarray]:
    return [np.array(list(entry.values["nDCG@10"].values())) for entry in scores]


@pytest.mark.parametrize(("correction", "name"), [("holm", "holm"), ("bh", "fdr_bh"), ("bonferroni", "bonferroni")])
def test_gains_are_corrected_together(correction: str, name: str) -> None:
    scores = made()
    values = columns(scores)
    found = rank_runs(scores, "nDCG@10", options=ComparisonOptions(correction=correction), before=BEFORE)
    tests = [ttest_rel(values[run], values[first]) for run, first in enumerate(BEFORE) if first is not None]
    adjusted = multipletests([test.pvalue for test in tests], method=name)[1]
    gains = [run.gain for run in found.runs if run.gain]
    assert [gain.p for gain in gains] == pytest.approx(adjusted)
    assert [gain.significant for gain in gains] == [p <= 0.05 for p in adjusted]
    for gain, test, run in zip(gains, tests, range(3), strict=True):
        interval = test.confidence_interval(0.95)
        assert (gain.low, gain.high) == pytest.approx((interval.low, interval.high))
        assert gain.difference == pytest.approx(values[run].mean() - values[gain.before].mean())
    assert [run.gain is None for run in found.runs] == [False, False, False, True, True]
    assert "3 gains" in found.gain_rule


def test_a_test_of_all_pairs_together_is_not_corrected_again() -> None:
    scores = made()
    found = rank_runs(scores, "nDCG@10", options=ComparisonOptions(test="tukey-anova"), before=BEFORE)
    assert found.decisions is not None
    p = found.decisions.p_values()[0]
    gain = found.runs[0].gain
    assert gain is not None
    assert gain.p == pytest.approx(p[3])  # the pair (0, 4)


def test_without_first_stages_there_are_no_gains() -> None:
    found = rank_runs(made(), "nDCG@10", before=(None,) * 5)
    assert found.gain_rule == ""
    assert all(run.gain is None for run in found.runs)

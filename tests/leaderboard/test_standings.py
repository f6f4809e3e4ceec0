"""Places, intervals, who beats whom, and the group that ties with the best; against a second implementation."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import t, ttest_rel

from rerank.evaluation import ComparisonOptions, Scores, evaluate_runs
from rerank.leaderboard.standings import format_rank_ranges, rank_runs
from tests.leaderboard.made import judged, noisy

NOISES = (0.1, 0.15, 1.0, 2.0, 6.0)


def made() -> list[Scores]:
    qrels = judged()
    return evaluate_runs(qrels, [noisy(qrels, n, at, name=f"r{at}") for at, n in enumerate(NOISES)], ["nDCG@10"])


def test_places_and_intervals() -> None:
    scores = made()
    found = rank_runs(scores, "nDCG@10")
    values = np.array([list(entry.values["nDCG@10"].values()) for entry in scores])
    assert [run.mean for run in found.runs] == pytest.approx(values.mean(axis=1))
    assert [run.place for run in found.runs] == (len(values) - values.mean(axis=1).argsort().argsort()).tolist()
    half = t.ppf(0.975, values.shape[1] - 1) * values.std(axis=1, ddof=1) / np.sqrt(values.shape[1])
    assert [run.high - run.mean for run in found.runs] == pytest.approx(half)
    assert found.order == sorted(range(5), key=lambda at: -values[at].mean())


def test_who_beats_whom_by_bonferroni() -> None:
    scores = made()
    found = rank_runs(scores, "nDCG@10", options=ComparisonOptions(correction="bonferroni"))
    values = [list(entry.values["nDCG@10"].values()) for entry in scores]
    beats: dict[int, set[int]] = {at: set() for at in range(5)}
    for a, b in combinations(range(5), 2):
        if ttest_rel(values[a], values[b]).pvalue * 10 <= 0.05:
            better, worse = (a, b) if np.mean(values[a]) > np.mean(values[b]) else (b, a)
            beats[better].add(found.runs[worse].place)
    assert {at: set(run.beats) for at, run in enumerate(found.runs)} == beats
    assert found.significant == sum(map(len, beats.values()))
    best = found.order[0]
    assert [at for at, run in enumerate(found.runs) if run.tied] == [
        at for at in range(5) if found.runs[at].place not in beats[best]
    ]
    assert 1 < sum(run.tied for run in found.runs) < 5
    assert sum(run.beaten_by for run in found.runs) == found.significant
    assert "Bonferroni" in found.rule


def test_one_run_is_not_tested() -> None:
    found = rank_runs(made()[:1], "nDCG@10")
    assert (found.pairs, found.significant, found.rule) == (0, 0, "")
    assert found.runs[0].tied
    assert found.notes


def test_one_query_has_no_interval() -> None:
    scores = [Scores(run=name, values={"nDCG@10": {"q": value}}) for name, value in (("a", 0.2), ("b", 0.4))]
    found = rank_runs(scores, "nDCG@10")
    assert [(run.place, run.low, run.high) for run in found.runs] == [(2, 0.2, 0.2), (1, 0.4, 0.4)]


def test_equal_means_keep_their_order() -> None:
    scores = [Scores(run=name, values={"nDCG@10": {"q": 0.2, "r": 0.3}}) for name in "abc"]
    assert [run.place for run in rank_runs(scores, "nDCG@10").runs] == [1, 2, 3]


@pytest.mark.parametrize(("places", "text"), [((), ""), ((3,), "3"), ((1, 2), "1–2"), ((4, 7, 8, 9, 12), "4, 7–9, 12")])
def test_ranges(places: tuple[int, ...], text: str) -> None:
    assert format_rank_ranges(places) == text


def test_a_baseline_is_marked() -> None:
    scores = made()
    for test in ("t", "dunnett", "tukey-anova"):
        found = rank_runs(scores, "nDCG@10", options=ComparisonOptions(test=test), baseline=scores[0].run)
        worst = max(range(len(scores)), key=lambda at: found.runs[at].place)
        assert found.runs[0].mark == ""
        assert found.runs[worst].mark in ("↓", "")
        assert scores[0].run in found.baseline_rule
    assert rank_runs(scores, "nDCG@10").baseline_rule == ""

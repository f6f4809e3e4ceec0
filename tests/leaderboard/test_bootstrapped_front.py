"""The bootstrap of the Pareto front, against a second implementation."""

from __future__ import annotations

import numpy as np
import pytest

from rerank.leaderboard.cost_plot import bootstrap_front, pareto_front, sample_topics


def test_shares_and_band() -> None:
    chance = np.random.default_rng(3)
    costs, values = [3.0, 1.0, 3.0, 0.0, 2.0], chance.uniform(0, 1, (5, 17))
    found = bootstrap_front(costs, values)
    assert found.draws == 1000
    drawn = np.array(sample_topics(17, 1000 * 17)).reshape(1000, 17)
    on, best = np.zeros(5), np.zeros((1000, 4))
    for draw, topics in enumerate(drawn):
        means = np.round(values[:, topics].mean(axis=1), 12)
        on[pareto_front(costs, means.tolist())] += 1
        best[draw] = [max(means[np.array(costs) <= level]) for level in (0, 1, 2, 3)]
    assert found.shares == pytest.approx(on / 1000)
    assert found.low == pytest.approx(np.sort(best, axis=0)[25])
    assert found.high == pytest.approx(np.sort(best, axis=0)[974])
    assert found.best == pytest.approx([max(values.mean(axis=1)[np.array(costs) <= level]) for level in (0, 1, 2, 3)])
    assert found.lowest <= found.low.min()


def test_every_topic_is_drawn_about_equally_often() -> None:
    counts = np.bincount(sample_topics(43, 43_000), minlength=43)
    assert counts.sum() == 43_000
    assert 850 < counts.min() <= counts.max() < 1150


def test_many_topics_get_fewer_samples() -> None:
    assert bootstrap_front([1.0, 2.0], np.ones((2, 5000))).draws == 200


def test_equal_runs_share_the_front() -> None:
    found = bootstrap_front([1.0, 1.0, 1.0], np.array([[0.2, 0.4], [0.2, 0.4], [0.1, 0.1]]))
    assert found.shares.tolist() == [1.0, 1.0, 0.0]


def test_runs_with_equal_means_tie_in_every_sample() -> None:
    first = np.random.default_rng(0).integers(0, 11, 43)
    second = np.concatenate([first[:20][::-1], first[20:]])
    drawn = np.array(sample_topics(43, 1000 * 43)).reshape(1000, 43)
    better = second[drawn].sum(axis=1) > first[drawn].sum(axis=1)  # of whole numbers, without rounding
    assert bootstrap_front([1.0, 2.0], np.stack([first, second]) / 10).shares.tolist() == [1.0, better.mean()]

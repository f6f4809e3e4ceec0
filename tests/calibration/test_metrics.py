from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest

from rerank.calibration.metrics import bin_edges, exact_auc, measure_calibration

NORMAL = NormalDist()


def test_values_by_hand() -> None:
    # Four bins, since equal probabilities share one: gaps .1 - 0, .4 - .5 (two documents), .8 - 1.
    metrics = measure_calibration([0.1, 0.4, 0.4, 0.8], [False, False, True, True], ["a", "a", "b", "b"])
    assert metrics.ece == pytest.approx((0.1 + 2 * 0.1 + 0.2) / 4)
    assert metrics.brier == pytest.approx((0.01 + 0.16 + 0.36 + 0.04) / 4)
    assert metrics.brier_skill == pytest.approx(1 - metrics.brier / 0.25)
    assert metrics.auc == pytest.approx((1 + 1 + 0.5 + 1) / 4)
    assert (metrics.queries, metrics.count, metrics.rate) == (2, 4, 0.5)
    assert [(b.predicted, b.observed, b.count) for b in metrics.bins] == [(0.1, 0, 1), (0.4, 0.5, 2), (0.8, 1, 1)]


def test_bins_have_equal_mass_and_do_not_split_equal_probabilities() -> None:
    p = np.linspace(0, 1, 1000)
    assert np.bincount(np.searchsorted(bin_edges(p), p, side="right")).tolist() == [100] * 10
    ties = np.array([0.2] * 500 + [0.7] * 500)
    assert np.bincount(np.searchsorted(bin_edges(ties), ties, side="right")).tolist() == [500, 500]
    assert bin_edges(np.array([0.3])).tolist() == []


def test_auc_counts_pairs() -> None:
    random = np.random.default_rng(0)
    p, y = random.random(200).round(1), (random.random(200) < 0.3).astype(float)
    positive, negative = p[y == 1], p[y == 0]
    pairs = [(a > b) + 0.5 * (a == b) for a in positive for b in negative]
    assert exact_auc(p, y) == pytest.approx(np.mean(pairs))
    assert exact_auc(p, np.ones(200)) is None


def test_one_label_has_no_skill_and_no_auc() -> None:
    metrics = measure_calibration([0.2, 0.3], [False, False], ["a", "b"])
    assert (metrics.brier_skill, metrics.auc) == (None, None)
    assert set(metrics.intervals) == {"ece", "ece_by_chance", "brier"}
    assert measure_calibration([0.2], [True], ["a"]).ece == pytest.approx(0.8)


def test_intervals_cover_what_other_samples_of_queries_give() -> None:
    """The AUC of a large sample is within most intervals of small ones; documents of a query are alike."""

    def sample(seed: int, queries: int) -> tuple[list[float], list[bool], list[int]]:
        random = np.random.default_rng(seed)
        difficulty = np.repeat(random.normal(0, 1.5, queries), 10)
        logits = random.normal(0, 1, queries * 10)
        labels = random.random(queries * 10) < 1 / (1 + np.exp(-logits - difficulty))
        return (1 / (1 + np.exp(-logits))).tolist(), labels.tolist(), np.repeat(np.arange(queries), 10).tolist()

    truth = measure_calibration(*sample(0, 3000))
    results = [measure_calibration(*sample(seed, 40)) for seed in range(1, 41)]
    for name, value in (("auc", truth.auc), ("brier", truth.brier), ("ece", truth.ece)):
        assert value is not None
        covered = sum(r.intervals[name][0] <= value <= r.intervals[name][1] for r in results)
        assert 33 <= covered <= 40, name


@pytest.mark.parametrize("spread", [0.0, 1.5])
def test_the_error_by_chance_is_that_of_true_probabilities(spread: float) -> None:
    """Calibrated probabilities, with labels that depend on the query as well."""
    observed, expected, corrected, contained = [], [], [], []
    for seed in range(40):
        random = np.random.default_rng(seed)
        group = np.repeat(random.normal(0, spread, 50), 10)
        p = random.uniform(0.2, 0.8, 500)
        # A Gaussian copula: each label has the probability p, and the labels of a query are correlated.
        noise = (group + random.normal(0, 1, 500)) / np.sqrt(1 + spread**2)
        labels = noise < np.array([NORMAL.inv_cdf(value) for value in p])
        metrics = measure_calibration(p.tolist(), labels.tolist(), np.repeat(np.arange(50), 10).tolist())
        observed.append(metrics.ece)
        expected.append(metrics.ece_by_chance)
        corrected.append(metrics.ece_corrected)
        low, high = metrics.intervals["ece_by_chance"]
        contained.append((low <= metrics.ece <= high, metrics.intervals["ece"][0] == 0))
    assert np.mean(observed) == pytest.approx(np.mean(expected), rel=0.12)
    assert np.mean(corrected) < 0.5 * np.mean(observed)
    in_band, is_possible = np.sum(contained, axis=0)
    assert in_band >= 34
    assert is_possible >= 35

"""Predicting tasks from the others, against regressions that are fitted again without each model."""

from __future__ import annotations

import numpy as np
import pytest

from rerank.downsampling.tasks import predict_left_out, predict_omitted, standardise


def fitted_again(predictors: np.ndarray, wanted: np.ndarray, ridge: float) -> list[float]:
    """Ridge regression without each model in turn: the second implementation, by normal equations."""
    guessed = []
    for out in range(len(wanted)):
        kept = [at for at in range(len(wanted)) if at != out]
        x = np.column_stack([np.ones(len(kept)), predictors[:, kept].T])
        penalty = ridge * np.diag([0.0, *[1.0] * len(predictors)])
        weights = np.linalg.solve(x.T @ x + penalty, x.T @ wanted[kept])
        guessed.append(float(np.r_[1.0, predictors[:, out]] @ weights))
    return guessed


@pytest.mark.parametrize(("tasks", "models"), [(2, 9), (5, 12), (30, 8)])
def test_leaving_a_model_out_is_fitting_again_without_it(tasks: int, models: int) -> None:
    chance = np.random.default_rng(tasks)
    predictors, wanted = (standardise(chance.normal(size=(tasks, models))), chance.normal(size=models))
    ours = predict_left_out(predictors.T @ predictors, wanted, 0.7)
    assert ours == pytest.approx(fitted_again(predictors, wanted, 0.7), abs=1e-9)


def test_what_others_say_is_predicted_and_what_they_do_not_is_not() -> None:
    chance = np.random.default_rng(0)
    a, b, alone = chance.normal(size=(3, 20))
    scores = np.stack([a, b, (a + b) / 2, alone, np.full(20, 0.5)])
    found = predict_omitted(scores)
    assert found[2].spearman is not None
    assert found[2].spearman > 0.9
    assert found[2].r2 is not None
    assert found[2].r2 > 0.8
    assert found[3].r2 is not None
    assert found[3].r2 < 0.3
    assert (found[4].spearman, found[4].r2) == (None, None)
    order = sorted(range(5), key=lambda at: found[at].key, reverse=True)
    assert order[:2] == [4, 2]  # a task on which all score the same is missed least
    assert order[-1] == 3


def test_scales_play_no_part() -> None:
    scores = np.random.default_rng(1).normal(size=(4, 10))
    scaled = scores * np.array([[1.0], [100.0], [0.01], [5.0]]) + 3
    assert [one.spearman for one in predict_omitted(scores)] == pytest.approx(
        [one.spearman for one in predict_omitted(scaled)]
    )

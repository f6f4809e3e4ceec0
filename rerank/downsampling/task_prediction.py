"""Prediction of the scores on each task from the scores on the other tasks, over models.

Every task is regressed on all others (ridge regression, scores standardised over models), and the score of each model
is predicted by a fit without that model. A task that is predicted well adds little information.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rerank.evaluation.significance.base import Floats

#: Ridge penalty, needed because benchmarks have more tasks than models.
RIDGE = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPredictability:
    """Quality of the prediction of one task's scores.

    Attributes:
        spearman: Rank correlation of predicted and actual scores; None if all models have equal scores.
        r2: 1 - squared prediction errors / squared errors of the mean of the other models.
    """

    spearman: float | None
    r2: float | None

    @property
    def key(self) -> tuple[float, float]:
        """Sort key: tasks with a larger key are more redundant, tasks with equal scores for all models most."""
        return (np.inf, 0.0) if self.spearman is None or self.r2 is None else (self.spearman, self.r2)


def predict_omitted_tasks(scores: Floats, *, ridge: float = RIDGE) -> list[TaskPredictability]:
    """Predict each task from the others.

    Args:
        scores: (tasks, models); at least two tasks and three models.
        ridge: Weight of the penalty on squared coefficients.

    Returns:
        The predictability of each task, in order.
    """
    standard = standardise_task_scores(scores)
    kernel = standard.T @ standard  # (models, models); removing a task subtracts its outer product
    return [
        _measure_predictability(scores[index], predict_left_out_task(kernel - np.outer(row, row), scores[index], ridge))
        for index, row in enumerate(standard)
    ]


def standardise_task_scores(scores: Floats) -> Floats:
    """Scale the (tasks, models) scores to mean 0 and standard deviation 1 over models; 0 if all are equal."""
    centred = scores - scores.mean(axis=1, keepdims=True)
    deviation = scores.std(axis=1, keepdims=True)
    flat = deviation <= 1e-12
    return np.where(flat, 0.0, centred / np.where(flat, 1.0, deviation))


def predict_left_out_task(kernel: Floats, targets: Floats, ridge: float) -> Floats:
    """Predict each value by ridge regression on the others, with an unpenalised intercept.

    With H the smoother of all values, the leave-one-out prediction is exactly y - (y - Hy) / (1 - diag H).

    Args:
        kernel: (models, models) inner products of the centred predictors.
        targets: (models,) the values y to predict.
        ridge: Weight of the penalty.
    """
    models = len(targets)
    # H = K (K + ridge I)^-1 + 1/n, the second term for the unpenalised intercept
    smoother = kernel @ np.linalg.inv(kernel + ridge * np.eye(models)) + 1 / models
    error = (targets - smoother @ targets) / np.maximum(1 - np.diag(smoother), 1e-12)
    return np.asarray(targets - error)


def _measure_predictability(actual: Floats, predicted: Floats) -> TaskPredictability:
    """Compare predicted with actual scores, (models,) each."""
    from scipy.stats import rankdata

    models = len(actual)
    if np.ptp(actual) <= 1e-12:
        return TaskPredictability(spearman=None, r2=None)
    # the baseline prediction without any task is the mean of the other models
    naive = (actual.sum() - actual) / (models - 1)
    r2 = 1 - float(((actual - predicted) ** 2).sum() / ((actual - naive) ** 2).sum())
    ranks = rankdata(np.round([actual, predicted], 12), axis=1)
    flat = np.ptp(ranks[1]) == 0
    return TaskPredictability(spearman=0.0 if flat else float(np.atleast_2d(np.corrcoef(ranks))[0, 1]), r2=r2)

"""Prediction of models' scores on one task from their scores on the other tasks.

Scores on a task are predicted from the scores on all other tasks by ridge regression over models, with scores
standardised over models. The score of each model is predicted by a regression that was fitted without that model. A
task that can be predicted well adds little information.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rerank.evaluation.significance.base import Floats

#: Ridge penalty, needed because benchmarks have more tasks than models.
RIDGE = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPredictability:
    """Measures of how well the scores on one task can be predicted.

    Attributes:
        spearman: Rank correlation between predicted and actual scores; None if all models have equal scores.
        r2: 1 - e / b; None if all models have equal scores. e is the sum of squared prediction errors, and b is the sum
            of squared errors when each model's score is predicted by the mean of the other models.
    """

    spearman: float | None
    r2: float | None

    @property
    def key(self) -> tuple[float, float]:
        """Sort key: tasks with a larger key are more redundant. The key is largest if all models have equal scores."""
        return (np.inf, 0.0) if self.spearman is None or self.r2 is None else (self.spearman, self.r2)


def predict_omitted_tasks(scores: Floats, *, ridge: float = RIDGE) -> list[TaskPredictability]:
    """Predict the scores on each task from the scores on the other tasks.

    Args:
        scores: (tasks, models) scores for at least two tasks and three models.
        ridge: Weight of the penalty on squared coefficients.

    Returns:
        The predictability of each task, in the order of the rows.
    """
    standard = standardise_scores_for_task_reduction(scores)
    kernel = standard.T @ standard  # (models, models); to remove a task, subtract the outer product of its row
    return [
        _measure_predictability(scores[index], predict_left_out_task(kernel - np.outer(row, row), scores[index], ridge))
        for index, row in enumerate(standard)
    ]


def standardise_scores_for_task_reduction(scores: Floats) -> Floats:
    """Scale each task's scores to mean 0 and standard deviation 1 over models.

    If all scores on a task are equal, they become 0. Both ``scores`` and the result have shape (tasks, models).
    """
    centred = scores - scores.mean(axis=1, keepdims=True)
    deviation = scores.std(axis=1, keepdims=True)
    flat = deviation <= 1e-12
    return np.where(flat, 0.0, centred / np.where(flat, 1.0, deviation))


def predict_left_out_task(kernel: Floats, targets: Floats, ridge: float) -> Floats:
    """Predict each model's score by ridge regression fitted to the other models, with an unpenalised intercept.

    If H is the smoother matrix of the regression fitted to all models, the leave-one-out prediction is exactly
    y - (y - Hy) / (1 - diag H).

    Args:
        kernel: (models, models) inner products of the centred predictors.
        targets: (models,) the values y to predict.
        ridge: Weight of the penalty.
    """
    models = len(targets)
    # H = K (K + ridge I)^-1 + 1/n; the second term is the unpenalised intercept
    smoother = kernel @ np.linalg.inv(kernel + ridge * np.eye(models)) + 1 / models
    error = (targets - smoother @ targets) / np.maximum(1 - np.diag(smoother), 1e-12)
    return np.asarray(targets - error)


def _measure_predictability(actual: Floats, predicted: Floats) -> TaskPredictability:
    """Compare the predicted with the actual scores of the models on one task. Both arrays have shape (models,)."""
    from scipy.stats import rankdata

    models = len(actual)
    if np.ptp(actual) <= 1e-12:
        return TaskPredictability(spearman=None, r2=None)
    # the baseline predicts the mean score of the other models
    naive = (actual.sum() - actual) / (models - 1)
    r2 = 1 - float(((actual - predicted) ** 2).sum() / ((actual - naive) ** 2).sum())
    ranks = rankdata(np.round([actual, predicted], 12), axis=1)
    flat = np.ptp(ranks[1]) == 0
    return TaskPredictability(spearman=0.0 if flat else float(np.atleast_2d(np.corrcoef(ranks))[0, 1]), r2=r2)

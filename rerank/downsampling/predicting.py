"""How well each task is predicted from the others, over models. Arrays in, numbers out.

Every task is regressed on all others (ridge, scores standardised over the models), and each model is predicted by the
fit of the other models. What is predicted well tells little that the rest does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rerank.evaluation.significance.base import Floats

#: Weight of the penalty: benchmarks have more tasks than a plain regression over few models could take.
RIDGE = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """How well one task is predicted.

    Attributes:
        spearman: Rank correlation of what is predicted with what was measured; None where all models score the same.
        r2: 1 - the squared errors of prediction over those of the mean of the other models.
    """

    spearman: float | None
    r2: float | None

    @property
    def key(self) -> tuple[float, float]:
        """The larger, the less the task is missed; a task on which all models score the same is missed least."""
        return (np.inf, 0.0) if self.spearman is None or self.r2 is None else (self.spearman, self.r2)


def predicted(scores: Floats, *, ridge: float = RIDGE) -> list[Predicted]:
    """Predict each task from the others.

    Args:
        scores: (tasks, models); two tasks or more, three models or more.
        ridge: Weight of the penalty on the squared coefficients.

    Returns:
        One for each task, in order.
    """
    standard = standardised(scores)
    kernel = standard.T @ standard
    return [
        _compared(scores[at], left_out(kernel - np.outer(row, row), scores[at], ridge))
        for at, row in enumerate(standard)
    ]


def standardised(scores: Floats) -> Floats:
    """(tasks, models) with mean 0 and deviation 1 over the models; 0 where all score the same."""
    centred = scores - scores.mean(axis=1, keepdims=True)
    deviation = scores.std(axis=1, keepdims=True)
    flat = deviation <= 1e-12
    return np.where(flat, 0.0, centred / np.where(flat, 1.0, deviation))


def left_out(kernel: Floats, wanted: Floats, ridge: float) -> Floats:
    """Each value as the ridge regression on the others predicts it, with an intercept that is not penalised.

    A smoother H of all values gives the prediction of one that is left out as y - (y - Hy) / (1 - diag H), exactly.

    Args:
        kernel: (models, models) inner products of the centred predictors.
        wanted: (models,).
        ridge: Weight of the penalty.
    """
    many = len(wanted)
    smoother = kernel @ np.linalg.inv(kernel + ridge * np.eye(many)) + 1 / many
    error = (wanted - smoother @ wanted) / np.maximum(1 - np.diag(smoother), 1e-12)
    return np.asarray(wanted - error)


def _compared(measured: Floats, guessed: Floats) -> Predicted:
    from scipy.stats import rankdata

    many = len(measured)
    if np.ptp(measured) <= 1e-12:
        return Predicted(spearman=None, r2=None)
    # the mean of the other models is the prediction that knows no task
    naive = (measured.sum() - measured) / (many - 1)
    r2 = 1 - float(((measured - guessed) ** 2).sum() / ((measured - naive) ** 2).sum())
    ranks = rankdata(np.round([measured, guessed], 12), axis=1)
    flat = np.ptp(ranks[1]) == 0
    return Predicted(spearman=0.0 if flat else float(np.atleast_2d(np.corrcoef(ranks))[0, 1]), r2=r2)

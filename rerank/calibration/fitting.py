"""Fitting of calibration models, and prediction of held-out queries by cross-validation over queries.

All lists of a query are in the same fold, so no document of a test query is ever in the training set of its fold.
"""

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rerank.calibration.judged_lists import JudgedList, JudgedLists
from rerank.calibration.metrics import Floats
from rerank.calibration.models import (
    INPUTS,
    LIST_INPUTS,
    Beta,
    Calibrator,
    DocumentModel,
    Fit,
    FitName,
    Isotonic,
    LogisticModel,
    Method,
    Platt,
    document_inputs,
    list_inputs,
    make_non_increasing,
)
from rerank.errors import DataError

#: Folds for predictions on held-out queries, and to compare calibrators; with fewer queries, one fold per query.
OUTER_FOLDS, INNER_FOLDS = 10, 5


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedList:
    """A ranked list with its predicted probabilities."""

    judged: JudgedList
    relevance: tuple[float, ...]  #: Probability of relevance of every document, non-increasing along the ranking.
    answerable: float  #: Probability that at least one document is relevant.


#: Predictions for the lists whose documents are tested, and for those that are tested as a whole (`JudgedLists`).
Predictions = tuple[list[PredictedList], list[PredictedList]]


def usable_fit_lists(lists: JudgedLists, fit: FitName) -> JudgedLists:
    """Return the lists with all inputs of a fit. If it uses judge scores, documents without one are removed."""
    inputs = INPUTS[fit]
    if "first_stage" in inputs:
        lists = lists.select(lambda ranking: None if ranking.first_stage is None else ranking)
    return lists.select(JudgedList.with_judge_scores) if "judge" in inputs else lists


def check_labels(lists: JudgedLists) -> None:
    """Check that a calibration can be fitted to the lists."""
    if (count := len(lists.queries)) < 2:
        raise DataError(
            f"{'No query has' if count == 0 else 'Only 1 query has'} a judged document in its list",
            expected="at least 2 queries, because a calibration is fitted to some queries and tested on others",
            remedy="Check that the qrels belong to the run",
        )
    labels = {label for ranking in lists.documents for label in ranking.relevant if label is not None}
    if len(labels) < 2:
        only = "relevant" if True in labels else "not relevant"
        raise DataError(
            f"All judged documents are {only}",
            expected="relevant documents and documents that are not relevant",
            remedy="Check the lowest relevant grade (--relevant); if the qrels list relevant documents only, pass "
            "--complete to count the others as not relevant",
        )


def fit_models(lists: JudgedLists, fit: FitName, seed: int = 0) -> Fit:
    """Fit the models with one set of inputs to lists from `usable_fit_lists`; the folds depend on the seed."""
    (documents,) = _fit_document_models(lists.documents, fit, [_choose_calibrator(lists, fit, seed)])
    rows = [list_inputs(documents.probabilities(_columns(ranking, fit))) for ranking in lists.answerable]
    labels = np.array([ranking.has_relevant for ranking in lists.answerable], dtype=np.float64)
    return Fit(documents=documents, lists=fit_logistic(LIST_INPUTS, np.array(rows), labels, np.ones(len(rows))))


def predict_held_out(lists: JudgedLists, fit: FitName, seed: int = 0) -> Predictions:
    """Predict the probabilities of every list with models, and a choice of calibrator, from other queries only."""
    documents: list[PredictedList] = []
    answerable: list[PredictedList] = []
    for number, (train, test) in enumerate(_split_folds(lists, OUTER_FOLDS, seed)):
        found = predict_by_fit(fit_models(train, fit, seed + number + 1), test, fit)
        documents, answerable = documents + found[0], answerable + found[1]
    return documents, answerable


def predict_by_fit(models: Fit, lists: JudgedLists, fit: FitName) -> Predictions:
    """Predict the probabilities of lists that have all inputs of the fit."""

    def predict(rankings: Iterable[JudgedList]) -> Iterator[PredictedList]:
        for ranking in rankings:
            relevance = models.documents.probabilities(_columns(ranking, fit))
            answerable = models.answerable(relevance)
            yield PredictedList(judged=ranking, relevance=tuple(relevance), answerable=answerable)

    return list(predict(lists.documents)), list(predict(lists.answerable))


def _columns(ranking: JudgedList, fit: FitName) -> list[Sequence[float]]:
    return document_inputs(
        INPUTS[fit], judge=ranking.judge, first_stage=ranking.first_stage, ranks=ranking.ranks, length=ranking.length
    )


def _split_folds(lists: JudgedLists, folds: int, seed: int) -> list[tuple[JudgedLists, JudgedLists]]:
    """Return the training and test lists of each fold, stratified by the share of relevant documents per query.

    Without stratification, a fold with many relevant test documents has few relevant documents in its training set.
    The probabilities predicted for this fold are then lowest where they should be highest. This artifact of
    cross-validation is large for weak scores (Parker et al. 2007, BMC Bioinformatics 8:326).
    """
    rates: dict[tuple[str, str], list[float]] = {}
    for ranking in lists.documents:
        labels = [label for label in ranking.relevant if label is not None]
        rates.setdefault(ranking.query, []).append(sum(labels) / len(labels))
    numbers = random.Random(seed)
    order = sorted(rates, key=lambda query: (sum(rates[query]) / len(rates[query]), query))
    folds = min(folds, len(order))
    members: list[set[tuple[str, str]]] = [set() for _ in range(folds)]
    for start in range(0, len(order), folds):
        stratum = order[start : start + folds]
        for fold, query in zip(numbers.sample(range(folds), len(stratum)), stratum, strict=True):
            members[fold].add(query)
    return [(lists.of(set(order) - test), lists.of(test)) for test in members if test and len(test) < len(order)]


def _choose_calibrator(lists: JudgedLists, fit: FitName, seed: int) -> Method:
    """Return the kind of calibrator with the lowest Brier score on held-out queries; the simplest if tied."""
    losses = dict.fromkeys(FITTERS, 0.0)
    for train, test in _split_folds(lists, INNER_FOLDS, seed):
        weights = _depth_weights(test.documents)
        for method, model in zip(FITTERS, _fit_document_models(train.documents, fit, FITTERS), strict=True):
            for ranking in test.documents:
                relevance = model.probabilities(_columns(ranking, fit))
                errors = [
                    (p - label) ** 2 for p, label in zip(relevance, ranking.relevant, strict=True) if label is not None
                ]
                losses[method] += weights[ranking.depth] * sum(errors)
    return min(FITTERS, key=lambda method: losses[method])


def _fit_document_models(lists: Sequence[JudgedList], fit: FitName, methods: Iterable[Method]) -> list[DocumentModel]:
    """Fit a regression to the judged documents, and each calibrator to the regression's logits for the same lists.

    The regression has so few parameters that its output for these lists is close to its output for new queries.
    Calibrators are fitted to logits that are made non-increasing along the ranking, as in prediction: averaging
    neighbours after the calibration would make the largest probabilities too small.
    """
    depth_weights = _depth_weights(lists)
    columns = [_columns(ranking, fit) for ranking in lists]
    judged = [[position for position, label in enumerate(ranking.relevant) if label is not None] for ranking in lists]
    labels = np.array([r.relevant[i] for r, kept in zip(lists, judged, strict=True) for i in kept], dtype=np.float64)
    weights = np.array([depth_weights[r.depth] for r, kept in zip(lists, judged, strict=True) for _ in kept])
    # (judged documents, inputs)
    values = np.array([[c[i] for c in inputs] for inputs, kept in zip(columns, judged, strict=True) for i in kept])
    regression = fit_logistic(INPUTS[fit], values, labels, weights)
    ranked = (make_non_increasing(regression.logits(inputs)) for inputs in columns)
    logits = np.array([values[i] for values, kept in zip(ranked, judged, strict=True) for i in kept])
    return [
        DocumentModel(regression=regression, calibrator=FITTERS[method](logits, labels, weights)) for method in methods
    ]


def _depth_weights(lists: Sequence[JudgedList]) -> dict[int, float]:
    """Return the weight of documents in lists of each depth. All depths have the same total weight.

    Shorter lists contain the same documents again, so all weights sum to the largest number of judged ones.
    """
    counts: Counter[int] = Counter()
    for ranking in lists:
        counts[ranking.depth] += sum(label is not None for label in ranking.relevant)
    return {depth: max(counts.values()) / (len(counts) * count) for depth, count in counts.items() if count}


#: Penalty on the squared coefficients of standardised inputs. It corresponds to a standard normal prior.
RIDGE = 1.0
#: Penalty on the squared intercept, which keeps the intercept finite if all labels are equal.
_INTERCEPT_RIDGE = 1e-3
#: Small penalty on the parameters of Platt and beta calibration, which keeps the parameters finite.
_CALIBRATOR_RIDGE = 1e-6
_MAX_STEPS = 100
_TOLERANCE = 1e-10


def fit_logistic(inputs: Sequence[str], values: Floats, labels: Floats, weights: Floats) -> LogisticModel:
    """Fit a logistic regression by Newton's method (iteratively reweighted least squares).

    Values have shape (rows, inputs), labels, which may be probabilities, and positive weights (rows,). The penalised
    log-likelihood is strictly concave, so a solution exists even for separable data and constant inputs.
    """
    means = np.average(values, axis=0, weights=weights)
    sds = np.sqrt(np.average((values - means) ** 2, axis=0, weights=weights))
    sds = np.where(sds > 1e-9 * np.maximum(1.0, np.abs(means)), sds, 1.0)
    design = np.column_stack([np.ones(len(values)), (values - means) / sds])
    penalty = np.full(design.shape[1], RIDGE)
    penalty[0] = _INTERCEPT_RIDGE
    solution = minimise_log_loss(design, labels, weights, penalty)
    return LogisticModel(
        inputs=tuple(inputs),
        means=tuple(means.tolist()),
        sds=tuple(sds.tolist()),
        coefficients=tuple(solution[1:].tolist()),
        intercept=float(solution[0]),
    )


def minimise_log_loss(design: Floats, labels: Floats, weights: Floats, penalty: Floats) -> Floats:
    """Return the (columns,) coefficients b that minimise the weighted, penalised log loss.

    loss(b) = sum_i w_i (log(1 + exp(x_i b)) - y_i x_i b) + sum_j penalty_j b_j^2 / 2, where the x_i are the rows of the
    (rows, columns) design matrix, which includes a column for the intercept. Labels y and weights w are (rows,), and
    the positive penalties (columns,).
    """

    def loss(solution: Floats) -> float:
        logits = design @ solution
        return float(weights @ (np.logaddexp(0.0, logits) - labels * logits) + penalty @ solution**2 / 2)

    solution = np.zeros(design.shape[1])
    current = loss(solution)
    for _ in range(_MAX_STEPS):
        probabilities = 0.5 * (1.0 + np.tanh(design @ solution / 2))
        gradient = design.T @ (weights * (probabilities - labels)) + penalty * solution
        curvature = weights * probabilities * (1.0 - probabilities)
        step = np.linalg.solve(design.T @ (design * curvature[:, None]) + np.diag(penalty), gradient)
        size = 1.0
        while (following := loss(solution - size * step)) > current and size > 1e-8:
            size /= 2  # a full step can overshoot where the curvature is small
        solution = solution - size * step
        if current - following <= _TOLERANCE * (1.0 + abs(current)):
            break
        current = following
    return solution


def fit_platt(logits: Floats, labels: Floats, weights: Floats) -> Platt:
    """Fit Platt scaling to smoothed labels, as in Platt 1999.

    With n1 positive and n0 negative labels, a positive label becomes (n1 + 1) / (n1 + 2), and a negative label
    becomes 1 / (n0 + 2).
    """
    positive = float(weights @ labels)
    smoothed = np.where(labels > 0.5, (positive + 1) / (positive + 2), 1 / ((float(weights.sum()) - positive) + 2))
    design = np.column_stack([logits, np.ones(len(logits))])
    slope, intercept = minimise_log_loss(design, smoothed, weights, np.full(2, _CALIBRATOR_RIDGE))
    if slope < 0:  # a function that reverses the order is replaced by the best constant function
        rate = float(weights @ smoothed) / float(weights.sum())
        slope, intercept = 0.0, math.log(rate / (1 - rate))
    return Platt(slope=float(slope), intercept=float(intercept))


def fit_beta(logits: Floats, labels: Floats, weights: Floats) -> Beta:
    """Fit beta calibration by logistic regression on log(s) and -log(1 - s), without negative coefficients."""
    columns = {"a": -np.logaddexp(0.0, -logits), "b": np.logaddexp(0.0, logits)}
    while True:
        design = np.column_stack([*columns.values(), np.ones(len(logits))])
        solution = minimise_log_loss(design, labels, weights, np.full(design.shape[1], _CALIBRATOR_RIDGE))
        values = dict(zip([*columns, "c"], solution.tolist(), strict=True))
        worst = min(columns, key=lambda name: values[name], default="")
        if not worst or values[worst] >= 0:
            return Beta(a=values.get("a", 0.0), b=values.get("b", 0.0), c=values["c"])
        del columns[worst]


def fit_isotonic(logits: Floats, labels: Floats, weights: Floats) -> Isotonic:
    """Fit an isotonic regression.

    Half a positive observation is added at the lowest point and half a negative observation at the highest point, which
    avoids probabilities of 0 and 1: a few equal labels do not show that others are impossible.
    """
    from scipy.optimize import isotonic_regression

    points, position = np.unique(logits, return_inverse=True)
    mass = np.bincount(position, weights=weights)
    positive = np.bincount(position, weights=weights * labels)
    mass[0] += 0.5
    mass[-1] += 0.5
    positive[0] += 0.5
    fitted = isotonic_regression(positive / mass, weights=mass)
    # The two ends of each constant block define the function; the points between them are redundant.
    ends = np.unique(np.concatenate([fitted.blocks[:-1], fitted.blocks[1:] - 1]))
    return Isotonic(logits=tuple(points[ends].tolist()), probabilities=tuple(fitted.x[ends].tolist()))


#: Functions that fit the calibrators to compare, simplest first. The simplest is used if several are equally good.
FITTERS: dict[Method, Callable[[Floats, Floats, Floats], Calibrator]] = {
    "platt": fit_platt,
    "beta": fit_beta,
    "isotonic": fit_isotonic,
}

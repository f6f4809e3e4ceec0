"""Fitting of calibration models, and prediction of held-out queries by cross-validation over queries.

All lists of a query are in the same fold, so no document of a test query is ever in the training set of its fold.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rerank.calibration.judged_lists import JudgedList, JudgedLists
from rerank.calibration.models import (
    FITTERS,
    INPUTS,
    LIST_INPUTS,
    DocumentModel,
    Fit,
    FitName,
    Method,
    document_inputs,
    fit_logistic,
    list_inputs,
    make_non_increasing,
)
from rerank.errors import DataError

#: Number of folds for predictions on held-out queries, and for the comparison of calibrators. With fewer queries, there
#: is one fold per query.
OUTER_FOLDS, INNER_FOLDS = 10, 5


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedList:
    """A ranked list with its predicted probabilities."""

    judged: JudgedList
    relevance: tuple[float, ...]  #: Probability of relevance of every document, non-increasing along the ranking.
    answerable: float  #: Probability that at least one document is relevant.


@dataclass(frozen=True, slots=True)
class PredictedLists:
    """Predictions for the two parts of `JudgedLists`."""

    documents: tuple[PredictedList, ...]  #: For the lists whose documents are tested.
    answerable: tuple[PredictedList, ...]  #: For the lists that are tested as a whole.

    def __add__(self, other: PredictedLists) -> PredictedLists:
        return PredictedLists(self.documents + other.documents, self.answerable + other.answerable)


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
    """Fit the models with one set of inputs to all lists, which must be from `usable_fit_lists`.

    The calibrators are compared in folds that depend on the seed.
    """
    import numpy as np

    (documents,) = _fit_document_models(lists.documents, fit, [_choose_calibrator(lists, fit, seed)])
    rows = [list_inputs(documents.probabilities(_columns(ranking, fit))) for ranking in lists.answerable]
    labels = np.array([ranking.has_relevant for ranking in lists.answerable], dtype=np.float64)
    return Fit(documents=documents, lists=fit_logistic(LIST_INPUTS, np.array(rows), labels, np.ones(len(rows))))


def predict_held_out(lists: JudgedLists, fit: FitName, seed: int = 0) -> PredictedLists:
    """Predict the probabilities of every list with models that were fitted to other queries.

    The calibrator is chosen on the training set of each fold, so the test queries do not influence this choice either.
    """
    predicted = PredictedLists((), ())
    for number, (train, test) in enumerate(_split_folds(lists, OUTER_FOLDS, seed)):
        predicted += predict_by_fit(fit_models(train, fit, seed + number + 1), test, fit)
    return predicted


def predict_by_fit(models: Fit, lists: JudgedLists, fit: FitName) -> PredictedLists:
    """Predict the probabilities of the lists, which must have all inputs of the fit, with fitted models."""

    def predict(rankings: Iterable[JudgedList]) -> Iterator[PredictedList]:
        for ranking in rankings:
            relevance = models.documents.probabilities(_columns(ranking, fit))
            answerable = models.answerable(relevance)
            yield PredictedList(judged=ranking, relevance=tuple(relevance), answerable=answerable)

    return PredictedLists(tuple(predict(lists.documents)), tuple(predict(lists.answerable)))


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
    import numpy as np

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
    """Return the weight of each document in lists of each depth. All depths have the same total weight.

    The sum of all weights is the largest number of judged documents at any depth, because shorter lists contain the
    same documents again.
    """
    counts: Counter[int] = Counter()
    for ranking in lists:
        counts[ranking.depth] += sum(label is not None for label in ranking.relevant)
    return {depth: max(counts.values()) / (len(counts) * count) for depth, count in counts.items() if count}

"""The models of a calibration: logistic regressions and calibrators, applied in pure Python.

One model predicts whether a document is relevant, the other whether a list has a relevant document. Applying them takes
a few microseconds per document.
"""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rerank.errors import DataError, ensure

#: Smallest distance of probabilities from 0 and 1: they are clipped before logarithms are computed.
_LEAST = 1e-6


def sigmoid(logit: float) -> float:
    """Return 1 / (1 + exp(-logit)) without overflow."""
    if logit >= 0:
        return 1.0 / (1.0 + math.exp(-logit))
    odds = math.exp(logit)
    return odds / (1.0 + odds)


def softplus(value: float) -> float:
    """Return log(1 + exp(value)) without overflow."""
    return max(value, 0.0) + math.log1p(math.exp(-abs(value)))


def make_non_increasing(values: Sequence[float]) -> list[float]:
    """Return the non-increasing sequence that is nearest to ``values`` in least squares (pool adjacent violators).

    Neighbours in the wrong order are replaced by their mean, so the sum does not change. The run time is linear.

    Source: Barlow et al. 1972, Statistical inference under order restrictions.

    >>> make_non_increasing([0.5, 0.2, 0.4, 0.1])
    [0.5, 0.30000000000000004, 0.30000000000000004, 0.1]
    """
    totals: list[float] = []
    counts: list[int] = []
    for value in values:
        total, count = value, 1
        while totals and totals[-1] * count < total * counts[-1]:  # the previous block has a lower mean
            total += totals.pop()
            count += counts.pop()
        totals.append(total)
        counts.append(count)
    result: list[float] = []
    for total, count in zip(totals, counts, strict=True):
        mean = total / count
        result += [min(mean, result[-1]) if result else mean] * count  # rounding may increase the last bit
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class LogisticModel:
    """A logistic regression: logit = intercept + sum over inputs of coefficient * (value - mean) / sd."""

    inputs: tuple[str, ...]
    means: tuple[float, ...]  #: Means of the inputs in the training set.
    sds: tuple[float, ...]  #: Standard deviations of the inputs in the training set; 1 for an input that was constant.
    coefficients: tuple[float, ...]  #: Coefficients of the standardised inputs.
    intercept: float  #: Logit of a row in which all inputs equal their means.

    def __post_init__(self) -> None:
        columns = (self.means, self.sds, self.coefficients)
        if any(len(column) != len(self.inputs) for column in columns):
            raise DataError(
                f"The logistic regression has {len(self.inputs)} inputs, but the numbers of means, standard deviations "
                f"and coefficients are {', '.join(str(len(c)) for c in columns)}",
                expected="one of each per input",
            )
        if not all(math.isfinite(value) for column in (*columns, (self.intercept,)) for value in column):
            raise DataError("The logistic regression has a value that is not finite", expected="finite numbers")
        if any(sd <= 0 for sd in self.sds):
            raise DataError(
                f"The standard deviations of the inputs are {list(self.sds)}", expected="positive numbers only"
            )

    def logits(self, columns: Sequence[Sequence[float]]) -> list[float]:
        """Return one logit per row; ``columns`` holds one sequence per input, all of the same length."""
        slopes = [coefficient / sd for coefficient, sd in zip(self.coefficients, self.sds, strict=True)]
        constant = self.intercept - sum(slope * mean for slope, mean in zip(slopes, self.means, strict=True))
        logits = [constant] * (len(columns[0]) if columns else 0)
        for slope, column in zip(slopes, columns, strict=True):
            logits = [logit + slope * value for logit, value in zip(logits, column, strict=True)]
        return logits


# Calibrators: non-decreasing functions from the logit of a regression to a probability.

Method = Literal["platt", "beta", "isotonic"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Platt:
    """Platt scaling: p = sigmoid(slope * logit + intercept).

    Source: Platt 1999, Probabilistic outputs for support vector machines.
    """

    method: Literal["platt"] = "platt"
    slope: float
    intercept: float

    def __post_init__(self) -> None:
        _check_parameters((self.slope, self.intercept), self.slope)

    def __call__(self, logit: float) -> float:
        return sigmoid(self.slope * logit + self.intercept)


@dataclass(frozen=True, slots=True, kw_only=True)
class Beta:
    """Beta calibration: p = sigmoid(a log(s) - b log(1 - s) + c) with s = sigmoid(logit).

    Source: Kull, Silva Filho and Flach, AISTATS 2017.
    """

    method: Literal["beta"] = "beta"
    a: float
    b: float
    c: float

    def __post_init__(self) -> None:
        _check_parameters((self.a, self.b, self.c), min(self.a, self.b))

    def __call__(self, logit: float) -> float:
        return sigmoid(self.b * softplus(logit) - self.a * softplus(-logit) + self.c)


@dataclass(frozen=True, slots=True, kw_only=True)
class Isotonic:
    """Isotonic regression: a non-decreasing function, linear between its points and constant outside their range.

    Source: Zadrozny and Elkan, KDD 2002.
    """

    method: Literal["isotonic"] = "isotonic"
    logits: tuple[float, ...]  #: Logits of the points, increasing.
    probabilities: tuple[float, ...]  #: Probabilities of the points, non-decreasing.

    def __post_init__(self) -> None:
        if not (count := len(self.logits)) or count != len(self.probabilities):
            raise DataError(
                f"The isotonic calibrator has {count} logits and {len(self.probabilities)} probabilities",
                expected="at least one point, and one probability per point",
            )
        increases = all(a < b for a, b in zip(self.logits, self.logits[1:], strict=False))
        is_ordered = all(a <= b for a, b in zip(self.probabilities, self.probabilities[1:], strict=False))
        if not increases or not is_ordered or not 0 <= self.probabilities[0] <= self.probabilities[-1] <= 1:
            raise DataError(
                "The points of the isotonic calibrator are not in order",
                expected="increasing logits, and non-decreasing probabilities between 0 and 1",
            )
        if not all(map(math.isfinite, self.logits)):
            raise DataError("A logit of the isotonic calibrator is not finite", expected="finite numbers")

    def __call__(self, logit: float) -> float:
        logits, probabilities = self.logits, self.probabilities
        if (after := bisect_right(logits, logit)) == 0:
            return probabilities[0]
        if after == len(logits):
            return probabilities[-1]
        left, right = logits[after - 1], logits[after]
        low, high = probabilities[after - 1], probabilities[after]
        return low + (high - low) * (logit - left) / (right - left)


Calibrator = Platt | Beta | Isotonic


def _check_parameters(values: tuple[float, ...], least_slope: float) -> None:
    ensure(
        all(map(math.isfinite, values)) and least_slope >= 0,
        f"The calibrator has the parameters {list(values)}",
        expected="finite numbers, and no negative slope",
        error=DataError,
    )


FitName = Literal["judge+first-stage", "judge", "rank+first-stage", "rank"]
Input = Literal["judge", "log_rank", "first_stage", "log_length"]
#: The inputs of each fit. Scores are not normalised within a list, because that would remove the differences between
#: lists with and without relevant documents. The rank tells how a document compares with the others of its list, which
#: raw scores that differ from query to query, such as log-likelihoods, do not tell.
INPUTS: Mapping[FitName, tuple[Input, ...]] = {
    "judge+first-stage": ("judge", "first_stage", "log_rank", "log_length"),
    "judge": ("judge", "log_rank", "log_length"),
    "rank+first-stage": ("log_rank", "first_stage", "log_length"),
    "rank": ("log_rank", "log_length"),
}
#: The inputs in older files, which still can be applied.
OLDER_INPUTS: Mapping[FitName, tuple[Input, ...]] = {
    "judge+first-stage": ("judge", "first_stage", "log_length"),
    "judge": ("judge", "log_length"),
}
#: Inputs of the model for whole lists.
LIST_INPUTS = ("logit_max", "log_expected")


def document_inputs(
    inputs: Sequence[str],
    *,
    judge: Sequence[float | None],
    first_stage: Sequence[float] | None,
    ranks: Sequence[int],
    length: int,
) -> list[Sequence[float]]:
    """Return the inputs of the regression for one ranked list, one column of values per name in `INPUTS`.

    Judge and first-stage scores that are an input must not be None. Ranks are those of the final ranking, from 1.
    """
    columns: list[Sequence[float]] = []
    for name in inputs:
        if name == "judge":
            columns.append([score for score in judge if score is not None])
        elif name == "first_stage":
            columns.append(() if first_stage is None else first_stage)
        elif name == "log_rank":
            columns.append([math.log(rank) for rank in ranks])
        else:
            columns.append([math.log(length)] * len(ranks))
    return columns


def list_inputs(relevance: Sequence[float]) -> tuple[float, float]:
    """Return the logit of the largest p, and log(-sum log(1 - p)), for the probabilities p of a list that is not empty.

    If documents were independent, 1 - prod(1 - p) would be the probability of a relevant document. The second input is
    its complementary log-log, which does not saturate in long lists.
    """
    kept = [min(max(p, _LEAST), 1 - _LEAST) for p in relevance]
    largest = max(kept)
    return math.log(largest / (1 - largest)), math.log(-sum(math.log1p(-p) for p in kept))


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentModel:
    """Model of the probability that a document is relevant: a logistic regression followed by a calibrator."""

    regression: LogisticModel  #: The regression, which combines the inputs into a logit.
    calibrator: Calibrator  #: Converts the logits, made non-increasing along the ranking, to probabilities.

    def probabilities(self, columns: Sequence[Sequence[float]]) -> list[float]:
        """Return the probabilities of a whole ranked list, non-increasing because the calibrator is non-decreasing."""
        return [self.calibrator(logit) for logit in make_non_increasing(self.regression.logits(columns))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """The two models of a calibration for one set of inputs, such as judge scores with first-stage scores."""

    documents: DocumentModel  #: Model of the probability that a document is relevant.
    lists: LogisticModel  #: Model of the probability that at least one document of a list is relevant.

    def __post_init__(self) -> None:
        if self.lists.inputs != LIST_INPUTS:
            raise DataError(f"The model of lists has the inputs {list(self.lists.inputs)}", expected=str(LIST_INPUTS))

    def answerable(self, relevance: Sequence[float]) -> float:
        """Return the probability that at least one document is relevant; 0 for an empty list."""
        if not relevance:
            return 0.0
        (logit,) = self.lists.logits([[value] for value in list_inputs(relevance)])
        return sigmoid(logit)

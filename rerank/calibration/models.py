"""The two models of a calibration: one predicts whether a document is relevant, the other whether a list has one.

Both are applied in pure Python and take a few microseconds per document.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rerank.calibration.calibrators import Calibrator
from rerank.calibration.logistic import LogisticModel, sigmoid
from rerank.calibration.monotone import make_non_increasing
from rerank.errors import DataError

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
#: Smallest distance of probabilities from 0 and 1: they are clipped before logarithms are computed.
_LEAST = 1e-6


def document_calibration_inputs(
    inputs: Sequence[str],
    *,
    judge: Sequence[float | None],
    first_stage: Sequence[float] | None,
    ranks: Sequence[int],
    length: int,
) -> list[Sequence[float]]:
    """Return the inputs of the regression for one ranked list: one column of values per input.

    Args:
        inputs: Names of the inputs (`INPUTS`).
        judge: Scores of the judge; if they are an input, no score may be None.
        first_stage: First-stage scores; not None if they are an input.
        ranks: Ranks in the final ranking, from 1.
        length: Length of the list.
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


def list_calibration_inputs(relevance: Sequence[float]) -> tuple[float, float]:
    """Return the two inputs of the model for whole lists, from the probabilities of a list that is not empty.

    For probabilities p, the inputs are the logit of the largest p, and log(-sum log(1 - p)). If documents were
    independent, 1 - prod(1 - p) would be the probability of at least one relevant document. The second input is the
    complementary log-log of this value, which does not saturate in long lists.
    """
    kept = [min(max(p, _LEAST), 1 - _LEAST) for p in relevance]
    largest = max(kept)
    return math.log(largest / (1 - largest)), math.log(-sum(math.log1p(-p) for p in kept))


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentModel:
    """Model of the probability that a document is relevant: a logistic regression followed by a calibrator.

    Attributes:
        regression: The regression, which combines the inputs into a logit.
        calibrator: The calibrator. It converts the logits, made non-increasing along the ranking, to probabilities.
    """

    regression: LogisticModel
    calibrator: Calibrator

    def probabilities(self, columns: Sequence[Sequence[float]]) -> list[float]:
        """Return the probabilities of a whole ranked list, non-increasing because the calibrator is non-decreasing."""
        return [self.calibrator(logit) for logit in self.logits(columns)]

    def logits(self, columns: Sequence[Sequence[float]]) -> list[float]:
        """Return the regression's logits of a whole ranked list, made non-increasing along the ranking."""
        return make_non_increasing(self.regression.logits(columns))


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """The two models of a calibration for one set of inputs, such as judge scores with first-stage scores.

    Attributes:
        documents: Model of the probability that a document is relevant.
        lists: Model of the probability that at least one document of a list is relevant.
    """

    documents: DocumentModel
    lists: LogisticModel

    def __post_init__(self) -> None:
        """Check that the model for whole lists has the inputs `LIST_INPUTS`."""
        if self.lists.inputs != LIST_INPUTS:
            raise DataError(f"The model of lists has the inputs {list(self.lists.inputs)}", expected=str(LIST_INPUTS))

    def answerable(self, relevance: Sequence[float]) -> float:
        """Return the probability that at least one document is relevant; 0 for an empty list."""
        if not relevance:
            return 0.0
        (logit,) = self.lists.logits([[value] for value in list_calibration_inputs(relevance)])
        return sigmoid(logit)

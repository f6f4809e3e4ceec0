"""The loss protocols: a loss maps the model outputs for one list and its label to a number that training minimises.

A loss reads either the tokens of the generated permutation (`TokenLoss`) or one score per document (`ListLoss`). The
recipe selects the source of the scores, so that one formula serves first-token logits, attention and pointwise scores.
The losses of sentence-transformers read the texts themselves (`TextLoss`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from rerank.errors import DataError, UsageError
from rerank.finetune.components import TrainingComponent

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class ListTarget:
    """Label of one training list, as tensors for the losses.

    Attributes:
        ranks: Rank of each document under the label, from 1; float, shape (documents,).
        scores: Scores of the teacher, larger is better, shape (documents,); empty if the teacher assigned none.
    """

    ranks: Tensor
    scores: Tensor


def require_positive_loss_options(**options: float) -> None:
    """Check that the given options are positive finite numbers."""
    for name, value in options.items():
        if not 0 < value < math.inf:
            raise UsageError(f"Option {name} is {value!r}", expected="a finite number above 0")


def require_teacher_scores(target: ListTarget, loss: str) -> Tensor:
    """Return the teacher's scores, shape (documents,), for a loss that needs them."""
    if not len(target.scores):
        raise DataError(
            f"The loss {loss!r} needs teacher scores, but at least one training list has none",
            expected="a label file whose lists have 'scores', one per document of 'initial_list'",
            remedy="Create labels with a teacher that assigns scores, or use a rank-based loss such as ranknet",
        )
    return target.scores


class TokenLoss(TrainingComponent, Protocol):
    """A loss that is computed from the tokens of the generated permutation."""

    #: Input of the loss; distinguishes token losses from list losses.
    of: ClassVar[Literal["tokens"]]

    def weights(self, ranks: Tensor) -> Tensor:
        """Return the weight w_i of each token, shape (tokens,).

        The loss is L = (1/T) sum_i w_i (-log P(y_i | x, y_<i)), where T is the number of tokens, not the sum of the
        weights.

        Args:
            ranks: Rank (from 1) of the document whose identifier contains the token; 0 for separators and the
                end-of-text token. Float, shape (tokens,).
        """


class ListLoss(TrainingComponent, Protocol):
    """A loss that is computed from one score per document."""

    of: ClassVar[Literal["scores"]]

    def __call__(self, scores: Tensor, target: ListTarget) -> Tensor:
        """Return the loss of one list, a scalar.

        Args:
            scores: Scores of the model, float32 of shape (documents,); larger is more relevant.
            target: Label of the list.
        """


class TextLoss(TrainingComponent, Protocol):
    """A loss that itself runs a cross-encoder on the texts of a list."""

    of: ClassVar[Literal["texts"]]

    def build(self, model: Any) -> Any:
        """Return the loss as a torch module for a ``sentence_transformers.CrossEncoder``."""

"""What a loss is: numbers that a model gives about one list and what its label wants -> one number to be made small.

A loss says what it looks at: the tokens of the written order (`TokenLoss`), or one score a document (`ListLoss`). Where
the scores come from is the recipe's choice, so one formula serves first-token logits, attention and pointwise scores.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from rerank.errors import DataError, UsageError
from rerank.finetune.parts import Part

if TYPE_CHECKING:
    from torch import Tensor

#: Where the scores of documents come from: the logits of their identifiers, or of the judge's words, where the model
#: begins to answer; the share of attention that each gets from the end of the prompt, or its logarithm.
Source = Literal["logits", "attention", "log-attention"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the label of one list wants.

    Attributes:
        ranks: (documents,) float, each document's rank under the label, from 1.
        scores: (documents,) the teacher's scores, larger is better; empty if it gave none.
    """

    ranks: Tensor
    scores: Tensor


def above_zero(**options: float) -> None:
    """Refuse options that divide or stretch scores and are no number above 0, NaN and infinity among them.

    Raises:
        UsageError: One is none.
    """
    for name, value in options.items():
        if not 0 < value < math.inf:
            raise UsageError(f"{name}={value}", expected="a number above 0")


def teacher_scores(wanted: Wanted, loss: str) -> Tensor:
    """(documents,) the teacher's scores, for a loss that needs them.

    Raises:
        DataError: The label has none.
    """
    if not len(wanted.scores):
        raise DataError(
            f"The loss {loss!r} and a training list without scores",
            expected="a label file whose lists have 'scores', one for each document of 'initial_list'",
            remedy="Make it with a teacher that scores, or take a loss of ranks such as ranknet or listnet",
        )
    return wanted.scores


class TokenLoss(Part, Protocol):
    """A loss of the written order."""

    #: Tells the two kinds apart.
    of: ClassVar[Literal["tokens"]]

    def weights(self, ranks: Tensor) -> Tensor:
        """How much each token counts.

        The loss is L = (1/T) sum over the T tokens of w_i (-log P(y_i | x, y_<i)), T their number and not the sum of
        the weights.

        Args:
            ranks: (tokens,) float, the rank of the identifier that a token belongs to, from 1; 0 for separators and
                the end of the text.

        Returns:
            (tokens,).
        """


class ListLoss(Part, Protocol):
    """A loss of one score a document."""

    of: ClassVar[Literal["scores"]]

    def __call__(self, scores: Tensor, wanted: Wanted) -> Tensor:
        """The loss of one list, a scalar.

        Args:
            scores: (documents,) float32, larger is more relevant.
            wanted: What the label wants.
        """

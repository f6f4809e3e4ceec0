"""The pointwise judge: is this document relevant, yes or no. Knows neither strategies nor parsing.

Source: Liang et al. 2022, arXiv 2211.09110 (relevance generation), and Nogueira et al., EMNLP Findings 2020, arXiv
2003.06713 (monoT5), who first ranked by the logits of two words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rerank.errors import UsageError
from rerank.judges.base.pointwise import Pointwise
from rerank.types import Query


@dataclass(frozen=True, kw_only=True)
class Score(Pointwise):
    """Score a document by how much likelier the model is to answer yes than no; n requests for n documents.

    score = log P(yes | prompt) - log P(no | prompt), in (-inf, inf), and 0 where both are equally likely. For words of
    one token that is the difference of their logits, and the logarithm of the odds p / (1 - p) of monoT5's softmax over
    the two; the order is the same. Other spellings of the words do not count.

    Attributes:
        yes: The word for a relevant document, spelled as the model would begin its answer.
        no: The word for any other.

    Raises:
        UsageError: The words are empty or equal, or the prompt is one about several passages.
    """

    prompt = "pointwise"

    yes: str = "Yes"
    no: str = "No"

    def __post_init__(self) -> None:
        """Check the words."""
        super().__post_init__()
        if not self.yes or not self.no or self.yes == self.no:
            raise UsageError(f"The answers yes={self.yes!r} and no={self.no!r}", expected="two words that differ")

    def continuations(self, query: Query) -> tuple[str, ...]:
        """The two words."""
        return self.yes, self.no

    def score(self, logs: Sequence[float]) -> float:
        """The formula above."""
        yes, no = logs
        return yes - no

"""The pointwise judge: scores a document by the log-odds of yes over no as the answer to "Is it relevant?".

Source: Liang et al. 2022, arXiv 2211.09110 (relevance generation), and Nogueira et al., EMNLP Findings 2020, arXiv
2003.06713 (monoT5), who first ranked by the logits of two words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rerank.errors import UsageError
from rerank.judges.base.pointwise import PointwiseJudge
from rerank.tasks import ContinuationTask, DecisionTask
from rerank.types import Query


@dataclass(frozen=True, kw_only=True)
class Score(PointwiseJudge):
    """A judge that scores a document by the log-odds of yes over no, with n requests for n documents.

    score = log P(yes | prompt) - log P(no | prompt), in (-inf, inf), and 0 if both are equally likely. If each
    word is a single token, this is the difference of their logits. It equals log(p / (1 - p)), where p is
    monoT5's softmax over the two logits, so the order is the same. Other spellings of the words are not considered.

    Attributes:
        yes: The word for a relevant document, spelled as at the start of a completion.
        no: The word for a document that is not relevant.
    """

    needs = (ContinuationTask, DecisionTask)
    prompt = "pointwise"
    score_name = "log-odds of relevance"

    yes: str = "Yes"
    no: str = "No"

    def __post_init__(self) -> None:
        """Check the two words."""
        super().__post_init__()
        if not self.yes or not self.no or self.yes == self.no:
            raise UsageError(f"yes={self.yes!r} and no={self.no!r} are empty or equal", expected="two different words")

    def continuations(self, query: Query) -> tuple[str, ...]:
        """Return the words for yes and no."""
        return self.yes, self.no

    def score(self, logs: Sequence[float]) -> float:
        """Return log P(yes) - log P(no)."""
        yes, no = logs
        return yes - no

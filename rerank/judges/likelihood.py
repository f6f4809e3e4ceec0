"""The query likelihood judge: scores a document by the log-likelihood of the query given the document.

Source: UPR, Sachan et al., EMNLP 2022, arXiv 2204.07496. Query likelihood is due to Ponte and Croft, SIGIR 1998.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rerank.errors import UsageError
from rerank.judges.base.pointwise import PointwiseJudge
from rerank.prompts.escaping import escape_turn_marks
from rerank.prompts.passages import collapse_passage_whitespace
from rerank.tasks import LikelihoodTask
from rerank.types import Query


@dataclass(frozen=True, kw_only=True)
class Likelihood(PointwiseJudge):
    """A judge that scores a document by the log-likelihood of the query after a prompt that shows only the document.

    score = sum over the query's tokens t of log P(t | prompt, tokens before t). The query has the same number of tokens
    for every document, so the mean used by UPR gives the same order. n documents need n requests with one forward pass
    each; no text is generated.
    """

    needs = (LikelihoodTask,)
    prompt = "query_likelihood"
    score_name = "log-likelihood of the query"

    def __post_init__(self) -> None:
        """Check that the prompt does not show the query."""
        super().__post_init__()
        if self.template.render("one", [""]) != self.template.render("another", [""]):
            raise UsageError(
                f"The prompt {self.template.name!r} shows the query, whose likelihood is to be computed",
                expected="a pointwise prompt without a placeholder for 'query'",
                remedy=f"Omit --prompt to use {self.prompt!r}",
            )

    def continuations(self, query: Query) -> tuple[str, ...]:
        """Return the only continuation: the query, as a single line without marks of chat turns."""
        return (escape_turn_marks(collapse_passage_whitespace(query.text), self.budget.turn_marks),)

    def score(self, logs: Sequence[float]) -> float:
        """Return the log-likelihood of the query."""
        return logs[0]

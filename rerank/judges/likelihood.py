"""The query likelihood judge: how likely the model is to ask the query, having read the document.

Source: UPR, Sachan et al., EMNLP 2022, arXiv 2204.07496; query likelihood is Ponte and Croft, SIGIR 1998.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rerank.errors import UsageError
from rerank.judges.base.pointwise import Pointwise
from rerank.prompts.passages import one_line
from rerank.tasks import LikelihoodTask
from rerank.types import Query


@dataclass(frozen=True, kw_only=True)
class Likelihood(Pointwise):
    """Score a document by the likelihood of the query behind a prompt that shows the document only.

    score = sum over the query's tokens of log P(token | prompt, the tokens before it). A query has as many tokens for
    every document, so the mean that UPR takes gives the same order. n requests for n documents, one forward pass each;
    nothing is written.

    Raises:
        UsageError: The prompt shows the query, so that its likelihood would say nothing, or several passages.
    """

    needs = (LikelihoodTask,)
    prompt = "query_likelihood"

    def __post_init__(self) -> None:
        """Check that the prompt hides the query."""
        super().__post_init__()
        if self.template.render("one", [""]) != self.template.render("another", [""]):
            raise UsageError(
                f"The prompt {self.template.name!r} shows the query to a model that is to guess it",
                expected="a pointwise prompt without a placeholder for 'query'",
                remedy=f"Leave --prompt out to take {self.prompt!r}",
            )

    def continuations(self, query: Query) -> tuple[str, ...]:
        """The query, on one line."""
        return (one_line(query.text),)

    def score(self, logs: Sequence[float]) -> float:
        """The sum of the query's log-probabilities."""
        return logs[0]

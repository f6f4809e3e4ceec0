"""The judge of cross-encoders: every pair of query and document gets a score. Knows neither strategies nor models.

Source: Nogueira and Cho 2019, arXiv 1901.04085 (monoBERT).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rerank.errors import UsageError
from rerank.judges.base import Asking, Verdict, by_score, failed
from rerank.prompts import load_prompt
from rerank.prompts.base import Message
from rerank.prompts.passages import one_line
from rerank.tasks import CrossEncoderTask as Task
from rerank.tasks import Reply, Request, Sampling
from rerank.types import Document, Query, Window


@dataclass(frozen=True, kw_only=True)
class Relate(Asking):
    """Order a window by the scores of its pairs, ties as given; one request a window of any length.

    A document is read as title and text in one line. It is cut, at its end, to what the query leaves of the model's
    context, and to ``max_passage_tokens`` where that is less; never below ``min_passage_tokens``: a query that leaves
    less than that is a `ContextOverflowError`, and is itself never cut. The request's prompt holds the texts that are
    scored: the query's turn, then one turn a document.

    Raises:
        UsageError: A prompt is asked for. A cross-encoder is shown none.
    """

    needs = (Task,)
    prompt = "pair"

    def __post_init__(self) -> None:
        """Refuse what would be without effect."""
        super().__post_init__()
        if self.template.digest != load_prompt(self.prompt).digest:
            raise UsageError(
                f"The prompt {self.template.name!r} for a cross-encoder, which reads the query and the document alone",
                expected="no prompt",
                remedy="Leave --prompt out",
            )

    def requests(self, window: Window) -> list[Request]:
        """One question about all pairs."""
        query = one_line(window.query.text)
        texts = (query, *(self._shown(window.query, doc) for doc in window.docs))
        prompt = tuple(Message("user", text) for text in texts)
        return [Request(prompt=prompt, sampling=Sampling(max_tokens=0), window=window, task=Task())]

    def verdict(self, window: Window, replies: Sequence[Reply]) -> Verdict:
        """The order of falling scores."""
        return failed(replies, len(window)) or by_score(replies[0].scores, len(window))

    def _shown(self, query: Query, doc: Document) -> str:
        """The text of a document that fits beside the query."""
        whole = replace(doc, title="", text=doc.full_text)
        (text,) = self.budget.fit(self.template, Window(query, (whole,)), reply_tokens=0).passages
        return text

"""The cross-encoder judge: a model that was trained to score query-document pairs scores each document.

Source: Nogueira and Cho 2019, arXiv 1901.04085 (monoBERT).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rerank.errors import UsageError
from rerank.judges.base import PromptJudge, ScoreKind, Verdict, failed_judge_verdict
from rerank.prompts import load_prompt
from rerank.prompts.base import Message
from rerank.prompts.budget import FittedPrompt
from rerank.prompts.escaping import escape_turn_marks
from rerank.prompts.passages import collapse_passage_whitespace
from rerank.tasks import CrossEncoderTask, Reply, Request, Sampling
from rerank.types import Document, Query, Window


@dataclass(frozen=True, kw_only=True)
class Relate(PromptJudge):
    """A judge that orders a window of any length by cross-encoder scores. It makes one request per window.

    Ties keep the input order. The title and text of a document are joined to one line. This line is truncated to the
    part of the context that the query leaves free, or to ``max_passage_tokens`` if that is less. If the query leaves
    less than ``min_passage_tokens``, a `ContextOverflowError` is raised. The query is never truncated. The prompt of
    the request contains the texts that are scored: one message with the query, then one per document.

    Attributes:
        together: Whether the model reads the documents of a window together, as jina-reranker-v3 does, so that a score
            depends on the other documents.
    """

    needs = (CrossEncoderTask,)
    prompt = "pair"
    sorts_by_score = True

    together: bool = False

    def __post_init__(self) -> None:
        """Check that no other prompt is given, since it would have no effect."""
        super().__post_init__()
        if self.template.digest != load_prompt(self.prompt).digest:
            raise UsageError(
                f"The prompt {self.template.name!r} was given, but a cross-encoder does not use prompts",
                expected="no prompt",
                remedy="Omit --prompt",
            )

    @property
    def score_kind(self) -> ScoreKind:
        """The meaning of the scores, which can be compared between lists unless documents are read together."""
        if self.together:
            return ScoreKind("relevance within the list", "within")
        return ScoreKind("cross-encoder score", "absolute")

    def make_requests(self, window: Window) -> list[Request]:
        """Return a list of one request for the scores of all query-document pairs."""
        query = escape_turn_marks(collapse_passage_whitespace(window.query.text), self.budget.turn_marks)
        fitted = [self._fit_document(window.query, doc) for doc in window.docs]
        prompt = tuple(Message("user", text) for text in (query, *(prompt.passages[0] for prompt in fitted)))
        dropped = tuple(sum(prompt.dropped) for prompt in fitted) if any(prompt.dropped for prompt in fitted) else ()
        sampling, task = Sampling(max_tokens=0), CrossEncoderTask()
        return [Request(prompt=prompt, sampling=sampling, window=window, task=task, dropped=dropped)]

    def verdict(self, window: Window, replies: Sequence[Reply]) -> Verdict:
        """Order the window by decreasing score."""
        return failed_judge_verdict(replies, len(window)) or self.rank_by_score(replies[0].scores, window)

    def _fit_document(self, query: Query, doc: Document) -> FittedPrompt:
        """Return a prompt with the document, truncated to the part of the context that the query leaves free."""
        whole = replace(doc, title="", text=doc.full_text)
        return self.budget.fit(self.template, Window(query, (whole,)), reply_tokens=0)

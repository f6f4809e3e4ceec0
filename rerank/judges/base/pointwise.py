"""Base class of judges that score one document at a time and sort by score."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from rerank.errors import UsageError
from rerank.judges.base import PromptJudge, ScoreKind, Verdict, failed_judge_verdict, rank_window_by_score
from rerank.judges.base.continuations import make_judge_continuation_request
from rerank.registry import plugin_name
from rerank.tasks import ContinuationTask, LogitTask, Reply, Request
from rerank.types import Document, Query, Window


@dataclass(frozen=True, kw_only=True)
class PointwiseJudge(PromptJudge):
    """A judge with one request per document. Windows can have any length, and documents do not affect each other.

    Raises:
        UsageError: The prompt shows several passages.
    """

    needs: ClassVar[tuple[type[Any], ...]] = (ContinuationTask,)
    sorts_by_score = True
    #: Meaning of the score of a document, such as ``log-likelihood of the query``.
    score_name: ClassVar[str] = "score"

    def __post_init__(self) -> None:
        """Check that the prompt shows one passage."""
        super().__post_init__()
        if self.template.method != "pointwise":
            raise UsageError(
                f"The judge {plugin_name(type(self))!r} cannot use the prompt {self.template.name!r}, whose method is "
                f"{self.template.method}",
                expected="a prompt with 'method: pointwise'",
                remedy=f"Omit --prompt to use {self.prompt!r}",
            )

    @classmethod
    def calls(cls, n: int) -> int:
        """Return the number of requests for a window of ``n`` documents, which is ``n``."""
        return n

    @property
    def score_kind(self) -> ScoreKind:
        """The meaning of a document's score, which does not depend on the other documents."""
        return ScoreKind(self.score_name, "absolute")

    @abstractmethod
    def continuations(self, query: Query) -> tuple[str, ...]:
        """Return the continuations of a document's prompt whose log-probabilities are needed."""

    @abstractmethod
    def score(self, logs: Sequence[float]) -> float:
        """Return a document's score from the log-probabilities of the continuations; larger is more relevant."""

    def make_requests(self, window: Window) -> list[Request]:
        """Return one request per document, with its passage truncated so that it fits."""
        continuations = self.continuations(window.query)
        self._check_words(continuations)
        return [
            make_judge_continuation_request(
                self, Window(window.query, (self._shown(doc),), window.scores[index : index + 1]), continuations
            )
            for index, doc in enumerate(window.docs)
        ]

    def _shown(self, doc: Document) -> Document:
        """Return the document as the prompt shows it: in a verbatim prompt, the title is the beginning of the text.

        Published rerankers, which have verbatim prompts, were trained on title and text without words between them.
        """
        return replace(doc, title="", text=doc.full_text) if self.template.verbatim and doc.title else doc

    def _check_words(self, words: Sequence[str]) -> None:
        """Check that words are single tokens, if the judge reads logits or the prompt is verbatim.

        Raises:
            UsageError: The tokenizer divides a word into several tokens.
        """
        task = self.needs[0]
        if not (task is LogitTask or (task is ContinuationTask and self.template.verbatim)):
            return
        for word, length in zip(words, self.backend.tokens.lengths(list(words)), strict=True):
            if length != 1:
                raise UsageError(
                    f"The word {word!r} has {length} tokens in the tokenizer of {self.backend.identity.get('model')!r}",
                    expected=f"a single token, whose logit the judge {plugin_name(type(self))!r} reads",
                    remedy="Check that the model is of the family for which the prompt was made, or use another method",
                )

    def verdict(self, window: Window, replies: Sequence[Reply]) -> Verdict:
        """Order the window with `rank_by_score`; ties keep the input order.

        If documents have no score, they keep their positions, the others are ordered among the remaining positions, and
        the window counts as a failure.
        """
        expected = len(self.continuations(window.query))
        scores = [self.score(reply.scores) if len(reply.scores) == expected else None for reply in replies]
        verdict = self.rank_scored_documents(scores, window)
        failure = failed_judge_verdict(replies, len(window))
        if failure is None and None in scores:
            failure = rank_window_by_score((), len(window))
        if failure is None:
            return verdict
        missing = f"{scores.count(None)} of {len(window)} documents without a score"
        return replace(failure, order=verdict.order, detail=f"{missing}: {failure.detail}")

"""The single-token judge: orders documents by the logits of their identifiers at the start of the completion.

Source: FIRST, Reddy et al., EMNLP 2024, arXiv 2406.15657, section 3. Before a listwise model generates its first
identifier, its logits already rank all identifiers in almost the same order as the ranking that it would generate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rerank.judges.base import IDENTIFIER_SCORES, ListwiseJudge, Verdict, failed_judge_verdict
from rerank.judges.base.continuations import judge_identifier_continuations, make_judge_continuation_request
from rerank.prompts.identifiers import make_prompt_identifiers, single_token_prompt_identifiers
from rerank.tasks import ContinuationTask, DecisionTask, Reply, Request
from rerank.types import Window


@dataclass(frozen=True, kw_only=True)
class Logits(ListwiseJudge):
    """A judge that orders a window by decreasing log P(identifier | prompt), without generating text.

    Ties keep the input order. Identifiers are letters of one token each: A to Z, then pairs. If a window has more
    documents than the tokenizer has such identifiers, a `UsageError` states the number of identifiers. Each window
    needs one request and one forward pass.
    """

    needs = (ContinuationTask, DecisionTask)
    question = "choice"
    prompt = "listwise_letters"
    score_kind = IDENTIFIER_SCORES
    sorts_by_score = True

    @property
    def identity(self) -> Mapping[str, str]:
        """The letters that the backend's tokenizer allows as identifiers, since replies are parsed with them."""
        return {"letters": " ".join(single_token_prompt_identifiers(self.backend.tokens))}

    def make_requests(self, window: Window) -> list[Request]:
        """Return a list of one request for the log-probability of each identifier at the start of the completion."""
        labels = make_prompt_identifiers("letters", len(window), self.backend.tokens)
        return [
            make_judge_continuation_request(
                self, window, judge_identifier_continuations(labels, self.template), labels=labels
            )
        ]

    def verdict(self, window: Window, replies: Sequence[Reply]) -> Verdict:
        """Order the window by decreasing log-probability."""
        return failed_judge_verdict(replies, len(window)) or self.rank_by_score(replies[0].scores, window)

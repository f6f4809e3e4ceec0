"""The choosing judge: selects the best document of a window, for setwise and pairwise strategies.

Source: setwise prompting, Zhuang et al., SIGIR 2024, arXiv 2310.09497, section 3; for two documents, pairwise
ranking prompting, Qin et al., NAACL Findings 2024, arXiv 2306.17563, section 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rerank.errors import UsageError
from rerank.judges.base import FAILURES, IDENTIFIER_SCORES, ListwiseJudge, ScoreKind, Verdict, failed_judge_verdict
from rerank.judges.base.continuations import judge_identifier_continuations, make_judge_continuation_request
from rerank.judges.generate import SPARE_TOKENS, judge_verdict_from_reply
from rerank.prompts.identifiers import Alphabet, make_prompt_identifiers, single_token_prompt_identifiers
from rerank.tasks import ContinuationTask, DecisionTask, GenerationTask, PermutationTask, Reply, Request, Sampling
from rerank.types import Window


@dataclass(frozen=True, kw_only=True)
class Pick(ListwiseJudge):
    """A judge that asks which document of a window is the most relevant. It makes one request per window.

    A window without a usable reply is a failure. The window keeps its order, so its first document counts as the best.

    Attributes:
        by: ``likelihood`` orders the whole window by log P(identifier | prompt); ties keep their order.
            ``generation`` lets the model generate one identifier; this document comes first, and the others keep their
            order.
        constrain: With ``generation``, allow only an identifier, if the backend supports constrained decoding. Models
            that were trained to generate more, such as tags, need ``false``; the completion is then parsed.
        identifiers: ``letters`` of one token each, or ``numbers``, which need ``generation``.
    """

    needs = (ContinuationTask, DecisionTask, PermutationTask, GenerationTask)
    question = "choice"
    prompt = "pick"

    by: Literal["likelihood", "generation"] = "likelihood"
    constrain: bool = True
    identifiers: Alphabet = "letters"

    def __post_init__(self) -> None:
        """Check that the backend and the identifiers allow this way of choosing."""
        super().__post_init__()
        if self._uses_likelihood and self.identifiers == "numbers":
            raise UsageError(
                "by=likelihood needs identifiers of one token each, but identifiers=numbers may have several tokens",
                expected="identifiers=letters, or by=generation",
            )
        tasks = (ContinuationTask, DecisionTask) if self._uses_likelihood else (PermutationTask, GenerationTask)
        if not any(map(self.supports, tasks)):
            model = self.backend.identity.get("model", "")
            raise UsageError(
                f"The backend of model {model!r} does not support by={self.by}",
                expected=f"by={'generation' if self._uses_likelihood else 'likelihood'}, which the backend supports",
            )

    @property
    def score_kind(self) -> ScoreKind | None:
        """Log-probabilities of the identifiers; None if the choice is generated."""
        return IDENTIFIER_SCORES if self._uses_likelihood else None

    @property
    def sorts_by_score(self) -> bool:
        """Whether the order comes from the log-probabilities of the identifiers."""
        return self._uses_likelihood

    @property
    def identity(self) -> Mapping[str, str]:
        """The letters that the backend's tokenizer allows as identifiers, since replies are parsed with them."""
        if self.identifiers == "numbers":
            return {}
        return {"letters": " ".join(single_token_prompt_identifiers(self.backend.tokens))}

    def make_requests(self, window: Window) -> list[Request]:
        """Return a list of one request that asks for the most relevant document."""
        labels = make_prompt_identifiers(self.identifiers, len(window), self.backend.tokens)
        if self._uses_likelihood:
            return [
                make_judge_continuation_request(
                    self, window, judge_identifier_continuations(labels, self.template), labels=labels
                )
            ]
        items = tuple(f"[{label}]" for label in labels)
        reply_tokens = max(self.backend.tokens.lengths(list(items))) + SPARE_TOKENS
        limits, thinking = self.limits, self.limits.thinking_tokens
        fitted = self.budget.fit(self.template, window, reply_tokens=reply_tokens + thinking, labels=labels)
        sampling = Sampling(
            max_tokens=reply_tokens, temperature=limits.temperature, seed=limits.seed, thinking=thinking
        )
        constrained = self.constrain and self.supports(PermutationTask)
        task = PermutationTask(items=items, count=1) if constrained else GenerationTask()
        return [Request(prompt=fitted.prompt, sampling=sampling, window=window, task=task, dropped=fitted.dropped)]

    def verdict(self, window: Window, replies: Sequence[Reply]) -> Verdict:
        """Order the window by decreasing log-probability, or put the chosen document first."""
        count = len(window)
        if self._uses_likelihood:
            return failed_judge_verdict(replies, count) or self.rank_by_score(replies[0].scores, window)
        labels = make_prompt_identifiers(self.identifiers, count, self.backend.tokens)
        verdict = judge_verdict_from_reply(_close_pick_judge_bracket(replies[0]), count, depth=1, labels=labels)
        if verdict.status in FAILURES:
            return verdict
        best = verdict.order[0]
        return replace(verdict, order=(best, *(position for position in range(count) if position != best)))

    @property
    def _uses_likelihood(self) -> bool:
        return self.by == "likelihood"


def _close_pick_judge_bracket(reply: Reply) -> Reply:
    """Append a missing closing bracket, since after a prompt that ends with "[" a model may stop after the letter."""
    text = reply.text.rstrip()
    is_open = reply.finish == "stop" and "[" in text and "]" not in text
    return replace(reply, text=f"{text}]") if is_open else reply

"""The generating judge: the model generates an order, with constrained decoding or as free text that is parsed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from rerank.judges.base import FAILURES, Limits, ListwiseJudge, ScoreKind, Verdict, failed_judge_verdict
from rerank.parsing import parse_permutation
from rerank.prompts.identifiers import Alphabet, make_prompt_identifiers, single_token_prompt_identifiers
from rerank.tasks import GenerationTask, PermutationTask, Reply, Request, Sampling
from rerank.types import Window

__all__ = ["SPARE_TOKENS", "Generate", "Limits", "judge_verdict_from_reply"]

#: Number of reply tokens in addition to the list of identifiers, since a model may add a line break or a word.
SPARE_TOKENS = 8


@dataclass(frozen=True, kw_only=True)
class Generate(ListwiseJudge):
    """A judge that lets the model generate the order of a window.

    Attributes:
        constrain: Allow only identifiers that have not been generated yet, if the backend supports constrained
            decoding; no reply can then be malformed. Otherwise the completion is parsed.
        identifiers: ``numbers``, which published models were trained with, or ``letters`` of one token each.
    """

    needs: ClassVar[tuple[type[Any], ...]] = (PermutationTask, GenerationTask)

    constrain: bool = True
    identifiers: Alphabet = "numbers"
    _reply_tokens: dict[tuple[str, ...], int] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def suggest_prompt(cls, options: Mapping[str, str]) -> str:
        """Return the name of the built-in prompt for letters; empty for numbers, which any listwise prompt shows."""
        return "listwise_letters" if options.get("identifiers") == "letters" else ""

    @property
    def score_kind(self) -> ScoreKind | None:
        """Log-probabilities of the choices in constrained decoding, given the previous choices; None for free text."""
        return ScoreKind("log-probability of the choice", "within") if self._is_constrained else None

    @property
    def _is_constrained(self) -> bool:
        return self.constrain and self.supports(PermutationTask)

    @property
    def identity(self) -> Mapping[str, str]:
        """The letters that the backend's tokenizer allows as identifiers, since replies are parsed with them."""
        return (
            {"letters": " ".join(single_token_prompt_identifiers(self.backend.tokens))}
            if self.identifiers == "letters"
            else {}
        )

    def make_requests(self, window: Window) -> list[Request]:
        """Return a list of one request, with passages truncated so that prompt and reply fit in the context."""
        labels = make_prompt_identifiers(self.identifiers, len(window), self.backend.tokens)
        thinking = self.limits.thinking_tokens
        reply_tokens = self.reply_tokens(labels, window.depth)
        fitted = self.budget.fit(self.template, window, reply_tokens=reply_tokens + thinking, labels=labels)
        sampling = Sampling(
            max_tokens=reply_tokens, temperature=self.limits.temperature, seed=self.limits.seed, thinking=thinking
        )
        items = tuple(f"[{label}]" for label in labels)
        constrained = self._is_constrained and window.depth
        task = PermutationTask(items=items, count=window.depth) if constrained else GenerationTask()
        return [Request(prompt=fitted.prompt, sampling=sampling, window=window, task=task, dropped=fitted.dropped)]

    def verdict(self, window: Window, replies: Sequence[Reply]) -> Verdict:
        """Return the order parsed from the window's only reply, with log-probabilities if decoding was constrained."""
        labels = make_prompt_identifiers(self.identifiers, len(window), self.backend.tokens)
        verdict = judge_verdict_from_reply(replies[0], len(window), depth=window.depth, labels=labels)
        choices = replies[0].scores
        if verdict.status in FAILURES or not choices or len(choices) > len(window):
            return verdict
        scores: list[float | None] = [None] * len(window)  # None for documents that were not chosen
        for position, score in zip(verdict.order, choices, strict=False):
            scores[position] = score
        return replace(verdict, scores=tuple(scores))

    def reply_tokens(self, labels: Sequence[str], depth: int) -> int:
        """Return the maximum number of tokens of a reply with ``depth`` identifiers.

        This is the number of tokens of the ``depth`` longest identifiers, joined by ``>``, plus `SPARE_TOKENS`.
        """
        key = (*labels, str(depth))
        if key not in self._reply_tokens:
            # Later identifiers are at least as long as earlier ones, so any order of ``depth`` identifiers fits.
            ranking = " > ".join(f"[{label}]" for label in labels[len(labels) - depth :])
            self._reply_tokens[key] = self.backend.tokens.lengths([ranking])[0] + SPARE_TOKENS
        return self._reply_tokens[key]


def judge_verdict_from_reply(
    reply: Reply, count: int, *, depth: int | None = None, labels: Sequence[str] | None = None
) -> Verdict:
    """Return the verdict on a window, parsed from a generated reply; a missing or unreadable reply is a failure.

    Args:
        reply: The reply.
        count: Number of documents in the window.
        depth: Number of documents that were requested; None for all. A reply with this many documents does not count as
            partial.
        labels: Identifiers of the documents, if they are not 1, 2, ...
    """
    if (reply.error or reply.finish == "error") and (failed := failed_judge_verdict([reply], count)):
        return failed
    parsed = parse_permutation(reply.text, count, labels)
    status = "refused" if reply.finish == "refused" and not parsed.order else parsed.status
    if status == "partial" and depth is not None and len(parsed.order) >= depth:
        status = "repaired" if parsed.detail else "ok"
    return Verdict(order=parsed.permutation, status=status, detail=parsed.detail)

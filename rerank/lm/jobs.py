"""One request on its way through a local model. Knows tokens and limits, not how they are decoded."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rerank.lm.tokenizers import HfTokens
from rerank.prompts.base import opening
from rerank.tasks import Reply, Request, Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A request, tokenized.

    Attributes:
        at: Its place among the requests.
        request: What was asked.
        prompt: Its token ids; those of its thoughts too, once they are there.
        sampling: How to decode, with no more new tokens than the context has room for.
        thoughts: What the model thought before it answers.
        thought_tokens: How many tokens that took.
    """

    at: int
    request: Request
    prompt: Sequence[int]
    sampling: Sampling
    thoughts: str = ""
    thought_tokens: int = 0

    @property
    def kind(self) -> type[Any]:
        """What is asked: only jobs of one kind are done together."""
        return type(self.task)

    @property
    def task(self) -> Any:
        """What is asked, of the kind `kind`."""
        return self.request.task

    @property
    def begun(self) -> str:
        """The beginning of the reply that the prompt gives."""
        return opening(self.request.prompt)

    @property
    def seed(self) -> int:
        """Where this request's chance starts: from its own prompt and seed, so that batches do not matter."""
        digest = hashlib.sha256(repr((self.sampling.seed, list(self.prompt))).encode()).digest()
        return int.from_bytes(digest[:8], "big") >> 1

    def after(self, thoughts: str, tokens: Sequence[int], spent: int) -> Job:
        """The same job once the model has thought.

        Args:
            thoughts: What it thought.
            tokens: Prompt, thoughts, and what closes them.
            spent: Tokens of the thoughts.
        """
        return replace(self, prompt=tokens, thoughts=thoughts, thought_tokens=spent)


def limited(sampling: Sampling, room: int) -> Sampling:
    """The same decoding, with no more new tokens than the context has room for."""
    return replace(sampling, max_tokens=min(sampling.max_tokens, room))


def sort_out(requests: Sequence[Request], tokens: HfTokens, model: str) -> tuple[dict[int, Reply], list[list[Job]]]:
    """Requests as jobs, those of one kind together.

    Args:
        requests: What is asked.
        tokens: The model's tokenizer and context.
        model: Its name, for messages.

    Returns:
        Place -> an error, for requests that do not fit the context; and the jobs of the others.
    """
    refused: dict[int, Reply] = {}
    kinds: dict[type[Any], list[Job]] = {}
    for at, (request, prompt) in enumerate(zip(requests, tokens.encode([r.prompt for r in requests]), strict=True)):
        room = tokens.context_size - len(prompt) - request.sampling.thinking
        if room < min(1, request.sampling.max_tokens):
            error = (
                f"The prompt has {len(prompt)} tokens, and the context of {model!r} holds {tokens.context_size} with "
                "the reply"
            )
            refused[at] = Reply(tokens_in=len(prompt), finish="error", error=error)
        else:
            job = Job(at=at, request=request, prompt=prompt, sampling=limited(request.sampling, room))
            kinds.setdefault(job.kind, []).append(job)
    return refused, list(kinds.values())

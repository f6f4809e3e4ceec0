"""Jobs: tokenized requests to a local model, with token limits that fit its context."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rerank.lm.tokenizers import HfTokens
from rerank.prompts.base import reply_prefix_of_prompt
from rerank.tasks import Reply, Request, Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A tokenized request."""

    index: int  # position of the request in its batch
    request: Request
    prompt: Sequence[int]  # token ids of the prompt, and of the thoughts after they have been generated
    #: Decoding settings, whose ``max_tokens`` does not exceed the number of tokens left in the context.
    sampling: Sampling
    #: Lengths in tokens, in increasing order, of the prefixes of the prompt that end at a boundary of its template
    #: (instruction, worked examples, query, passages). Other prompts may begin with the same prefixes.
    boundaries: tuple[int, ...] = ()
    thoughts: str = ""  # text of the thoughts before the answer; empty if there are none
    thought_tokens: int = 0  # number of tokens of the thoughts

    @property
    def task_type(self) -> type[Any]:
        """The class of the task; only jobs of one class share a batch."""
        return type(self.task)

    @property
    def task(self) -> Any:
        """The task, an instance of `task_type`."""
        return self.request.task

    @property
    def reply_prefix(self) -> str:
        """The beginning of the reply that the prompt contains; empty if there is none."""
        return reply_prefix_of_prompt(self.request.prompt)

    @property
    def seed(self) -> int:
        """The seed of this job. It depends only on the prompt and the request's seed, not on the batch."""
        digest = hashlib.sha256(repr((self.sampling.seed, list(self.prompt))).encode()).digest()
        return int.from_bytes(digest[:8], "big") >> 1

    def with_thoughts(self, thoughts: str, prompt: Sequence[int], thought_tokens: int) -> Job:
        """Return this job with the model's thoughts added.

        Args:
            thoughts: Text of the thoughts.
            prompt: Token ids of the prompt, the thoughts and the closing tag.
            thought_tokens: Number of generated tokens of the thoughts.
        """
        return replace(self.with_prompt(prompt), thoughts=thoughts, thought_tokens=thought_tokens)

    def with_prompt(self, prompt: Sequence[int]) -> Job:
        """Return this job with other token ids. Boundaries are kept if the ids before them are unchanged."""
        pairs = enumerate(zip(self.prompt, prompt, strict=False))
        common = next((index for index, (old, new) in pairs if old != new), min(len(self.prompt), len(prompt)))
        boundaries = tuple(length for length in self.boundaries if length <= common and length < len(prompt))
        return replace(self, prompt=prompt, boundaries=boundaries)


def limit_decoding_tokens(sampling: Sampling, available: int) -> Sampling:
    """Return the sampling settings with ``max_tokens`` lowered to ``available`` if it is larger."""
    return replace(sampling, max_tokens=min(sampling.max_tokens, available))


def make_token_jobs(
    requests: Sequence[Request], tokens: HfTokens, model: str
) -> tuple[dict[int, Reply], list[list[Job]]]:
    """Tokenize requests and group them by the class of their tasks.

    Args:
        tokens: The model's token counter, which also contains the context size.
        model: Name of the model, for messages.

    Returns:
        A mapping from the index of each request that does not fit in the context to its error reply, and the jobs of
        the other requests, one list per class of tasks.
    """
    refused: dict[int, Reply] = {}
    groups: dict[type[Any], list[Job]] = {}
    prompts = tokens.encode([request.prompt for request in requests])
    for index, (request, prompt) in enumerate(zip(requests, prompts, strict=True)):
        available = tokens.context_size - len(prompt) - request.sampling.thinking
        if available < min(1, request.sampling.max_tokens):
            error = (
                f"The prompt has {len(prompt)} tokens, but the context of {model!r} holds {tokens.context_size} tokens "
                "of prompt and reply"
            )
            refused[index] = Reply(tokens_in=len(prompt), finish="error", error=error)
        else:
            sampling = limit_decoding_tokens(request.sampling, available)
            boundaries = tokens.boundaries(request.prompt)
            job = Job(index=index, request=request, prompt=prompt, sampling=sampling, boundaries=boundaries)
            groups.setdefault(job.task_type, []).append(job)
    return refused, list(groups.values())

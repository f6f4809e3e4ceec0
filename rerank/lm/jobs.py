"""Jobs: tokenized requests to a local model, with token limits that fit its context, and the thoughts before an answer.

Thoughts of reasoning models are generated freely, and closed by force if they do not end within a token budget.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
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
    def task(self) -> Any:
        return self.request.task

    @property
    def reply_prefix(self) -> str:
        return reply_prefix_of_prompt(self.request.prompt)

    @property
    def seed(self) -> int:
        """The seed of this job. It depends only on the prompt and the request's seed, not on the batch."""
        digest = hashlib.sha256(repr((self.sampling.seed, list(self.prompt))).encode()).digest()
        return int.from_bytes(digest[:8], "big") >> 1

    def with_prompt(self, prompt: Sequence[int]) -> Job:
        """Return this job with other token ids. Boundaries are kept if the ids before them are unchanged."""
        pairs = enumerate(zip(self.prompt, prompt, strict=False))
        common = next((index for index, (old, new) in pairs if old != new), min(len(self.prompt), len(prompt)))
        boundaries = tuple(length for length in self.boundaries if length <= common and length < len(prompt))
        return replace(self, prompt=prompt, boundaries=boundaries)


def tokenize_requests(
    requests: Sequence[Request], tokens: HfTokens, model: str
) -> tuple[dict[int, Reply], list[list[Job]]]:
    """Tokenize requests and group them by the class of their tasks.

    The result is a mapping from the index of each request that does not fit in the context to its error reply, and
    the jobs of the other requests, one list per class of tasks.
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
            sampling = replace(request.sampling, max_tokens=min(request.sampling.max_tokens, available))
            boundaries = tokens.boundaries(request.prompt)
            job = Job(index=index, request=request, prompt=prompt, sampling=sampling, boundaries=boundaries)
            groups.setdefault(type(request.task), []).append(job)
    return refused, list(groups.values())


_OPEN, CLOSE = "<think>", "</think>"
#: Number of tokens by which thoughts may grow when they are tokenized again together with the closing tag.
_SPARE = 4

#: Function that continues the prompts of jobs until `CLOSE` or the token limit. It returns, for each job, the new token
#: ids and whether the last of them is an end-of-sequence token.
ThoughtGenerator = Callable[[Sequence[Job]], Sequence[tuple[list[int], bool]]]


def add_thoughts(generate: ThoughtGenerator, tokens: HfTokens, jobs: Sequence[Job]) -> list[Job]:
    """Generate the requested thoughts and return all jobs, with prompts to which the thoughts have been added.

    The budget in tokens is ``sampling.thinking``; jobs without one are returned unchanged. Thoughts that are still
    open at the end of the budget are closed, so that they never use up the tokens of the answer. A thought is also
    opened for models that were not trained to think.
    """
    opened = {job.index: thought for job in jobs if (thought := open_thought(tokens, job))}
    if not opened:
        return list(jobs)
    rows = dict(zip(opened, generate([*opened.values()]), strict=True))
    return [add_thought(tokens, job, opened[job.index], *rows[job.index]) if job.index in rows else job for job in jobs]


def add_thought(tokens: HfTokens, job: Job, opened: Job, row: list[int], ended: bool) -> Job:
    """Return a job with its thought, the token ids ``row`` that were generated for the job ``opened``."""
    text, closed, _ = tokens.text(row, special=True).partition(CLOSE)
    if ended and not closed:  # the end-of-sequence token is not part of the thoughts
        text = tokens.text(row[:-1], special=True)
    complete = job.with_prompt([*opened.prompt, *tokens.plain(f"{text}{_close_thought(job)}")])
    return replace(complete, thoughts=text.strip(), thought_tokens=len(row))


def _close_thought(job: Job) -> str:
    """Return the closing tag and the text after it: a blank line, except in a verbatim prompt, and the reply prefix."""
    between = "" if job.request.prompt[0].role == "verbatim" else "\n\n"
    return f"{CLOSE}{between}{job.reply_prefix}"


def open_thought(tokens: HfTokens, job: Job) -> Job | None:
    """Return the job that generates the thoughts; None if it has none, or if the prompt fills the context.

    Its prompt ends with a mark that begins the thinking, and its token limit leaves space for the answer.
    """
    if not job.sampling.thinking:
        return None
    text = tokens.render(job.request.prompt, thinking=True)
    text = text[: len(text) - len(job.reply_prefix)] if job.reply_prefix else text
    if not text.rstrip().endswith(_OPEN):
        text += f"{_OPEN}\n"
    prompt = tokens.ids(text)
    closing = len(tokens.plain(_close_thought(job))) + _SPARE
    available = tokens.context_size - len(prompt) - closing - job.sampling.max_tokens
    sampling = replace(job.sampling, max_tokens=max(0, min(job.sampling.thinking, available)), min_tokens=0)
    return replace(job.with_prompt(prompt), sampling=sampling) if sampling.max_tokens else None

"""How a local model does each kind of task: jobs in, replies out. Imports torch through what it calls.

Knows tasks, tokens and texts; how tokens are decoded, weighed or attended to is in the modules that it calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from rerank.lm.decoding import decode, eos_ids
from rerank.lm.icr_scoring import attend
from rerank.lm.jobs import Job
from rerank.lm.log_likelihood import weigh
from rerank.lm.permutation_decoding import permute
from rerank.lm.permutation_grammar import Chain, Ids, behind, pieces
from rerank.lm.thinking import CLOSE
from rerank.lm.tokenizers import HfTokens
from rerank.tasks import AttentionTask, ContinuationTask, GenerationTask, LikelihoodTask, PermutationTask, Reply

#: So much of a prompt's end is tokenized again with what follows it; no token is longer.
_TAIL = 32


def _write(model: Any, tokens: HfTokens, jobs: Sequence[Job]) -> list[Reply]:
    """Text, as it comes."""
    rows = decode(model, [j.prompt for j in jobs], [j.sampling for j in jobs], [j.seed for j in jobs])
    return [written(model, tokens, job, row) for job, row in zip(jobs, rows, strict=True)]


def written(model: Any, tokens: HfTokens, job: Job, row: list[int]) -> Reply:
    """The reply that new token ids are."""
    ended = bool(row) and row[-1] in eos_ids(model)
    text = job.begun + tokens.text(row[:-1] if ended else row)
    return _reply(job, text, len(row), steps=len(row) - 1, ended=ended)


def muse(model: Any, tokens: HfTokens, jobs: Sequence[Job]) -> list[tuple[list[int], bool]]:
    """Thoughts; see `rerank.lm.thinking`."""
    until = (CLOSE, tokens.tokenizer)
    rows = decode(model, [j.prompt for j in jobs], [j.sampling for j in jobs], [j.seed for j in jobs], until=until)
    ends = eos_ids(model)
    return [(row, bool(row) and row[-1] in ends) for row in rows]


def _permute(model: Any, tokens: HfTokens, jobs: Sequence[Job]) -> list[Reply]:
    """Chains of identifiers."""
    chains = [chain_of(tokens, job) for job in jobs]
    rows = permute(model, [j.prompt for j in jobs], chains, [j.sampling for j in jobs], [j.seed for j in jobs])
    replies = []
    for job, row in zip(jobs, rows, strict=True):
        replies.append(_reply(job, chain_text(job.task, row.state.order), len(row.written), steps=row.steps))
    return replies


def _weigh(model: Any, tokens: HfTokens, jobs: Sequence[Job]) -> list[Reply]:
    """Log-probabilities of continuations."""
    continuations = [[_behind(tokens, job, text) for text in job.task.continuations] for job in jobs]
    rows = weigh(model, [job.prompt for job in jobs], continuations)
    return [replace(_reply(job, "", 0, steps=0), scores=tuple(row)) for job, row in zip(jobs, rows, strict=True)]


def _attend(model: Any, tokens: HfTokens, jobs: Sequence[Job]) -> list[Reply]:
    """Attention that passages get; long prompts, so one at a time."""
    replies = []
    for job in jobs:
        seen = attend(model, tokens, job.request.prompt, job.task)
        replies.append(Reply(text=seen.shape, scores=tuple(seen.scores), tokens_in=seen.tokens))
    return replies


#: Kind of task -> how it is done.
DO: dict[type[Any], Callable[[Any, HfTokens, Sequence[Job]], list[Reply]]] = {
    GenerationTask: _write,
    PermutationTask: _permute,
    ContinuationTask: _weigh,
    LikelihoodTask: _weigh,
    AttentionTask: _attend,
}


def chain_text(task: PermutationTask, order: Sequence[int]) -> str:
    """Identifiers as they are written, from their places."""
    return task.separator.join(task.items[at] for at in order)


def chain_of(tokens: HfTokens, job: Job) -> Chain:
    """The grammar of a job's reply."""
    return chain_for(tokens, job.task, _end(tokens, job), job.begun)


def chain_for(tokens: HfTokens, task: PermutationTask, end: str, begun: str) -> Chain:
    """The grammar of a task's reply in the tokens of this tokenizer.

    Args:
        tokens: The tokenizer.
        task: What is to be written.
        end: The end of the prompt's text.
        begun: The beginning of the reply that the prompt gives.
    """
    return Chain(*_pieces(tokens, task.items, task.separator, end, begun), task.count)


@lru_cache(maxsize=64)
def _pieces(tokens: HfTokens, items: tuple[str, ...], separator: str, end: str, begun: str) -> tuple[Any, Any]:
    return pieces(tokens.plain, items, separator, before=end, opening=begun)


def _behind(tokens: HfTokens, job: Job, text: str) -> Ids:
    """Tokens of a text behind a prompt; special tokens that it spells out are broken up, as in the prompt."""
    return behind(tokens.plain, _end(tokens, job), tokens.chat.safe(text))


def _end(tokens: HfTokens, job: Job) -> str:
    return tokens.render(job.request.prompt)[-_TAIL:]


def _reply(job: Job, text: str, count: int, *, steps: int, ended: bool = True) -> Reply:
    """The reply to a job: its text, how many tokens were written in how many steps, and whether it ended by itself."""
    return Reply(
        text=text,
        thoughts=job.thoughts,
        tokens_in=len(job.prompt) - job.thought_tokens,
        tokens_out=count + job.thought_tokens,
        steps=max(0, steps) + job.thought_tokens,
        finish="stop" if ended else "length",
    )

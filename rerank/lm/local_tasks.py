"""Execute the jobs of a local model and return replies. Imports torch indirectly, at import time.

Plan which prefixes of the prompts in a batch are computed once and kept.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from rerank.lm.decoding import decode_continuations, decode_permutations, end_of_sequence_tokens
from rerank.lm.grouped_attention import on_cpu
from rerank.lm.icr_scoring import score_with_attention
from rerank.lm.jobs import CLOSE, Job
from rerank.lm.joined_tokens import TokenIds
from rerank.lm.log_likelihood import compute_log_likelihoods
from rerank.lm.permutation_grammar import PermutationGrammar, tokenize_identifiers
from rerank.lm.prefix_cache import CachedPrefix, PrefixCache, reuse_pays
from rerank.lm.tokenizers import HfTokens, tokenize_text_after
from rerank.tasks import (
    AttentionTask,
    ContinuationTask,
    GenerationTask,
    LikelihoodTask,
    LogitTask,
    PermutationTask,
    Reply,
)

#: Number of characters at the end of a prompt that are tokenized again with the text after the prompt. No token is
#: longer.
_TAIL = 32


def _decode_texts(model: Any, tokens: HfTokens, jobs: Sequence[Job], _: PrefixCache | None) -> list[Reply]:
    rows = decode_continuations(model, [j.prompt for j in jobs], [j.sampling for j in jobs], [j.seed for j in jobs])
    return [make_decoding_reply(model, tokens, job, row) for job, row in zip(jobs, rows, strict=True)]


def make_decoding_reply(model: Any, tokens: HfTokens, job: Job, row: list[int]) -> Reply:
    """Return the reply for the newly generated token ids ``row``, which may end with an end-of-sequence token."""
    ended = bool(row) and row[-1] in end_of_sequence_tokens(model)
    text = job.reply_prefix + tokens.text(row[:-1] if ended else row)
    return make_reply(job, text, len(row), steps=len(row) - 1, ended=ended)


def decode_thought_token_ids(model: Any, tokens: HfTokens, jobs: Sequence[Job]) -> list[tuple[list[int], bool]]:
    """Continue the prompts of jobs up to the end of the thoughts (`rerank.lm.jobs.ThoughtGenerator`)."""
    until = (CLOSE, tokens.tokenizer)
    rows = decode_continuations(
        model, [j.prompt for j in jobs], [j.sampling for j in jobs], [j.seed for j in jobs], until=until
    )
    ends = end_of_sequence_tokens(model)
    return [(row, bool(row) and row[-1] in ends) for row in rows]


def _decode_permutations(model: Any, tokens: HfTokens, jobs: Sequence[Job], cache: PrefixCache | None) -> list[Reply]:
    grammars = [make_job_grammar(tokens, job) for job in jobs]
    prompts, samplings = [j.prompt for j in jobs], [j.sampling for j in jobs]
    prefixes = _load_prefixes(model, jobs, cache)
    rows = decode_permutations(model, prompts, grammars, samplings, [j.seed for j in jobs], prefixes=prefixes)
    replies = []
    for job, row in zip(jobs, rows, strict=True):
        reply = make_reply(job, format_permutation(job.task, row.state.order), len(row.tokens), steps=row.steps)
        replies.append(replace(reply, scores=tuple(row.log_probs), tokens_cached=row.prefix.reused))
    return replies


def _load_prefixes(model: Any, jobs: Sequence[Job], cache: PrefixCache | None) -> list[CachedPrefix]:
    if cache is not None and any(plan := plan_prefixes(jobs, on_accelerator=not on_cpu(model))):
        prompts = [job.prompt for job in jobs]
        if reuse_pays(model, [len(prompt) for prompt in prompts], [max(ends, default=0) for ends in plan]):
            return cache.load(prompts, plan)
    return [CachedPrefix()] * len(jobs)


def _score_continuations(model: Any, tokens: HfTokens, jobs: Sequence[Job], cache: PrefixCache | None) -> list[Reply]:
    prompts = [job.prompt for job in jobs]
    continuations = [tokenize_continuations(tokens, job) for job in jobs]
    prefixes = _load_prefixes(model, jobs, cache)
    as_logits = type(jobs[0].request.task) is LogitTask
    rows = compute_log_likelihoods(model, prompts, continuations, prefixes=prefixes, as_logits=as_logits)
    return [
        replace(make_reply(job, "", 0, steps=0), scores=tuple(row), tokens_cached=prefix.reused)
        for job, row, prefix in zip(jobs, rows, prefixes, strict=True)
    ]


def _score_attention(model: Any, tokens: HfTokens, jobs: Sequence[Job], _: PrefixCache | None) -> list[Reply]:
    # One by one, since the prompts are long.
    return [score_with_attention(model, tokens, job.request.prompt, job.task) for job in jobs]


#: Mapping from each class of tasks to the function that executes its jobs. The last argument of the function is the
#: cache of prompt prefixes; None for no reuse.
TASK_RUNNERS: dict[type[Any], Callable[[Any, HfTokens, Sequence[Job], PrefixCache | None], list[Reply]]] = {
    GenerationTask: _decode_texts,
    PermutationTask: _decode_permutations,
    ContinuationTask: _score_continuations,
    LikelihoodTask: _score_continuations,
    LogitTask: _score_continuations,
    AttentionTask: _score_attention,
}


def format_permutation(task: PermutationTask, order: Sequence[int]) -> str:
    """Return the text of a permutation, given the indices of its identifiers in ``task.items``."""
    return task.separator.join(task.items[index] for index in order)


def make_job_grammar(tokens: HfTokens, job: Job) -> PermutationGrammar:
    """Return the grammar of the reply to a job with a `PermutationTask`, in tokens of this tokenizer."""
    return PermutationGrammar(*job_identifier_tokens(tokens, job), job.task.count)


def job_identifier_tokens(tokens: HfTokens, job: Job) -> tuple[list[TokenIds], list[TokenIds]]:
    """Return the token ids of a job's identifiers at the beginning of the reply, and after a separator."""
    end = end_of_rendered_prompt(tokens, job)
    return identifier_tokens(tokens, job.task.items, job.task.separator, end, job.reply_prefix)


@lru_cache(maxsize=64)
def identifier_tokens(
    tokens: HfTokens, items: tuple[str, ...], separator: str, end: str, prefix: str
) -> tuple[list[TokenIds], list[TokenIds]]:
    """Return the token ids of each identifier at the beginning of a reply, and those after a separator.

    They depend on ``end``, the last characters of the rendered prompt.
    """
    return tokenize_identifiers(tokens.plain, items, separator, before=end, prefix=prefix)


def tokenize_continuations(tokens: HfTokens, job: Job) -> list[TokenIds]:
    """Return the token ids of all continuations of a job; special tokens that they spell out are escaped.

    For a `LogitTask`, words are tokenized without the prompt, as rerankers do. These words are defined by the
    method, not by users, and may be special tokens.
    """
    task: Any = job.request.task
    if type(task) is LogitTask:
        return [tokens.plain(text) for text in task.continuations]
    end = end_of_rendered_prompt(tokens, job)
    return [_tokenize_after_prompt(tokens, end, text) for text in task.continuations]


@lru_cache(maxsize=1024)
def _tokenize_after_prompt(tokens: HfTokens, end: str, text: str) -> TokenIds:
    return tokenize_text_after(tokens.plain, end, tokens.chat.escape(text))


def end_of_rendered_prompt(tokens: HfTokens, job: Job) -> str:
    """Return the last characters of a job's rendered prompt, which affect the tokens of the text after them."""
    return tokens.render(job.request.prompt)[-_TAIL:]


def make_reply(job: Job, text: str, tokens: int, *, steps: int, ended: bool = True) -> Reply:
    """Create the reply to a job.

    The numbers of completion tokens and of ``steps`` (forward passes after the prefill) exclude thoughts. An answer
    that has not ``ended`` was truncated.
    """
    return Reply(
        text=text,
        thoughts=job.thoughts,
        tokens_in=len(job.prompt) - job.thought_tokens,
        tokens_out=tokens + job.thought_tokens,
        steps=max(0, steps) + job.thought_tokens,
        finish="stop" if ended else "length",
    )


#: Minimum fraction of the prompt for which a prefix that ends after the first of several passages is kept. Windows of
#: two to four passages often begin with the same passage (in a heap of pairs, three times out of four); windows of
#: twenty passages never do.
_FIRST_PASSAGE_SHARE = 0.25

#: Minimum number of tokens that a prefix must save if only prompts of this batch share it, on a CPU and on an
#: accelerator. Its additional forward pass reads all weights, which costs as much as processing about 30 tokens on a
#: CPU, and 150 to 300 on an accelerator (operations per second / 16-bit weights read per second: A100 153, H100 295).
_MIN_SAVED, _ACCELERATOR_MIN_SAVED = 32, 256
#: Minimum number of tokens that a prefix of other batches adds on an accelerator: with eight prompts, they save a pass.
_MIN_ADDED = 32


def plan_prefixes(jobs: Sequence[Job], *, on_accelerator: bool = False) -> list[tuple[int, ...]]:
    """Return, per prompt of a batch, the lengths in tokens of its prefixes to compute once, in increasing order.

    Each prefix extends the preceding prefix. Among the prefixes that end at its boundaries, a prompt uses
    - the prefixes before its first passage (instruction, worked examples, query), which occur in other batches as well;
    - the prefix that ends after the first of several passages, if it is a large part of the prompt;
    - the prefixes that it shares with other prompts of the batch, up to the point where these prompts differ.

    At least one token of each prompt remains, since its logits are needed. On an accelerator, prefixes that add few
    tokens have no pass of their own: they belong to the next prefix, if there is one.
    """
    added, saved = (_MIN_ADDED, _ACCELERATOR_MIN_SAVED) if on_accelerator else (0, _MIN_SAVED)
    prefixes = [[tuple(job.prompt[:end]) for end in job.boundaries if 0 < end < len(job.prompt)] for job in jobs]
    counts = Counter(prefix for row in prefixes for prefix in row)
    plan = []
    for job, row in zip(jobs, prefixes, strict=True):
        # Prefixes that are expected to occur in other batches; the last boundaries are those of the passages.
        passages = len(job.request.window.docs)
        before = len(job.boundaries) - passages
        if passages > 1 and before >= 0 and job.boundaries[before] >= _FIRST_PASSAGE_SHARE * len(job.prompt):
            before += 1
        repeating = job.boundaries[: max(0, before)]
        others = [counts[prefix] - 1 for prefix in row]  # prompts of the batch that begin with the same prefix
        chosen, start = [], 0
        for prefix, sharing, sharing_more in zip(row, others, [*others, 0][1:], strict=True):
            end = len(prefix)
            repeats = end in repeating and end - start >= added
            if repeats or (sharing > sharing_more and sharing * (end - start) >= saved):
                chosen.append(end)
                start = end
        plan.append(tuple(chosen))
    return plan

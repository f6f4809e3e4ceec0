"""Generate the thoughts of reasoning models before the answer, within a token budget.

Thoughts are generated freely and closed by force if they do not end within the budget.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from rerank.lm.jobs import Job
from rerank.lm.tokenizers import HfTokens

_OPEN, CLOSE = "<think>", "</think>"
#: Number of tokens by which thoughts may grow when they are tokenized again together with the closing tag.
_SPARE = 4

#: Function that continues the prompts of jobs until `CLOSE` or the token limit. It returns, for each job, the new token
#: ids and whether the last of them is an end-of-sequence token.
ThoughtGenerator = Callable[[Sequence[Job]], Sequence[tuple[list[int], bool]]]


def decode_thoughts_into_jobs(generate: ThoughtGenerator, tokens: HfTokens, jobs: Sequence[Job]) -> list[Job]:
    """Generate the requested thoughts and return all jobs, with prompts to which the thoughts have been added.

    The budget in tokens is ``sampling.thinking``. Thoughts that are still open at the end of the budget are closed, so
    that they never use up the tokens of the answer. A thought is also opened for models that were not trained to think.

    Args:
        generate: Function that generates thoughts with the model.
        tokens: The tokenizer.
        jobs: The jobs; those without a budget are returned unchanged.
    """
    opened = [_open_thought(tokens, job) for job in jobs if job.sampling.thinking]
    thinking = [job for job in opened if job.sampling.max_tokens]
    if not thinking:
        return list(jobs)
    originals = {job.index: job for job in jobs}
    finished = {}
    for opened_job, (row, ended) in zip(thinking, generate(thinking), strict=True):
        job = originals[opened_job.index]
        text, closed, _ = tokens.text(row, special=True).partition(CLOSE)
        if ended and not closed:  # the end-of-sequence token is not part of the thoughts
            text = tokens.text(row[:-1], special=True)
        closing = tokens.plain(f"{text}{_close_thought(job)}")
        finished[job.index] = job.with_thoughts(text.strip(), [*opened_job.prompt, *closing], len(row))
    return [finished.get(job.index, job) for job in jobs]


def _close_thought(job: Job) -> str:
    """Return the closing tag and the text after it: a blank line, except in a verbatim prompt, and the reply prefix."""
    between = "" if job.request.prompt[0].role == "verbatim" else "\n\n"
    return f"{CLOSE}{between}{job.reply_prefix}"


def _open_thought(tokens: HfTokens, job: Job) -> Job:
    """Return the job that generates the thoughts. Its prompt ends with a mark that begins the thinking.

    The token limit of this job leaves space for the answer, and is 0 if the prompt fills the context.
    """
    text = tokens.render(job.request.prompt, thinking=True)
    text = text[: len(text) - len(job.reply_prefix)] if job.reply_prefix else text
    if not text.rstrip().endswith(_OPEN):
        text += f"{_OPEN}\n"
    prompt = tokens.ids(text)
    closing = len(tokens.plain(_close_thought(job))) + _SPARE
    available = tokens.context_size - len(prompt) - closing - job.sampling.max_tokens
    sampling = replace(job.sampling, max_tokens=max(0, min(job.sampling.thinking, available)), min_tokens=0)
    return replace(job.with_prompt(prompt), sampling=sampling)

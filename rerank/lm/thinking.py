"""Thoughts before an answer, within a budget: written freely, closed by force where they do not end in time.

Knows the marks that reasoning models open and close their thoughts with; knows no task, and not who writes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from rerank.lm.jobs import Job
from rerank.lm.tokenizers import HfTokens

_OPEN, CLOSE = "<think>", "</think>"
#: Tokens that a thought may grow by when it is tokenized again together with its end.
_SPARE = 4

#: Continues the prompts of jobs until `CLOSE` or their limits; token ids, and whether the last ends the model's turn.
Writer = Callable[[Sequence[Job]], Sequence[tuple[list[int], bool]]]


def think(write: Writer, tokens: HfTokens, jobs: Sequence[Job]) -> list[Job]:
    """Let the model think about the jobs that want it; return all with prompts that end where it is to answer.

    The budget is ``sampling.thinking``: thoughts that are not closed by then are closed for the model, so that its
    answer always has its own room. A model that was not trained to think is put into a thought all the same.
    """
    opened = [_opened(tokens, job) for job in jobs if job.sampling.thinking]
    pensive = [job for job in opened if job.sampling.max_tokens]
    if not pensive:
        return list(jobs)
    given = {job.at: job for job in jobs}
    thought = {}
    for begun, (row, ended) in zip(pensive, write(pensive), strict=True):
        job = given[begun.at]
        text, closed, _ = tokens.text(row, marks=True).partition(CLOSE)
        if ended and not closed:  # the mark that ends its turn is no thought
            text = tokens.text(row[:-1], marks=True)
        closing = tokens.plain(f"{text}{_close(job)}")
        thought[job.at] = job.after(text.strip(), [*begun.prompt, *closing], len(row))
    return [thought.get(job.at, job) for job in jobs]


def _close(job: Job) -> str:
    return f"{CLOSE}\n\n{job.begun}"


def _opened(tokens: HfTokens, job: Job) -> Job:
    """The job of thinking: the prompt up to an open thought, and as many tokens as leave the answer its room.

    None are left where the prompt fills the context.
    """
    text = tokens.render(job.request.prompt, thinking=True)
    text = text[: len(text) - len(job.begun)] if job.begun else text
    if not text.rstrip().endswith(_OPEN):
        text += f"{_OPEN}\n"
    prompt = tokens.ids(text)
    marks = len(tokens.plain(_close(job))) + _SPARE
    room = tokens.context_size - len(prompt) - marks - job.sampling.max_tokens
    sampling = replace(job.sampling, max_tokens=max(0, min(job.sampling.thinking, room)), min_tokens=0)
    return replace(job, prompt=prompt, sampling=sampling)

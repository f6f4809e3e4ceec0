"""Thoughts before an answer, within a budget: written freely, closed by force where they do not end in time.

Knows the marks that reasoning models open and close their thoughts with; knows no task, and not who writes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from rerank.backends._jobs import Job
from rerank.backends._tokens import HfTokens

_OPEN, CLOSE = "<think>", "</think>"

#: Continues the prompts of jobs until `CLOSE` or their limits; token ids, and whether the last ends the model's turn.
Writer = Callable[[Sequence[Job]], Sequence[tuple[list[int], bool]]]


def think(write: Writer, tokens: HfTokens, jobs: Sequence[Job]) -> list[Job]:
    """Let the model think about the jobs that want it; return all with prompts that end where it is to answer.

    The budget is ``sampling.thinking``: thoughts that are not closed by then are closed for the model, so that its
    answer always has its own room. A model that was not trained to think is put into a thought all the same.
    """
    pensive = [job for job in jobs if job.sampling.thinking]
    if not pensive:
        return list(jobs)
    opened = [
        replace(
            job,
            prompt=_opened(tokens, job),
            sampling=replace(job.sampling, max_tokens=job.sampling.thinking, min_tokens=0),
        )
        for job in pensive
    ]
    thought = {}
    for job, begun, (row, ended) in zip(pensive, opened, write(opened), strict=True):
        text, closed, _ = tokens.text(row, marks=True).partition(CLOSE)
        if ended and not closed:  # the mark that ends its turn is no thought
            text = tokens.text(row[:-1], marks=True)
        closing = tokens.plain(f"{text}{CLOSE}\n\n{job.begun}")
        thought[job.at] = job.after(text.strip(), [*begun.prompt, *closing], len(row))
    return [thought.get(job.at, job) for job in jobs]


def _opened(tokens: HfTokens, job: Job) -> list[int]:
    """The prompt up to an open thought; the beginning of the answer comes behind it."""
    text = tokens.render(job.request.prompt, thinking=True)
    text = text[: len(text) - len(job.begun)] if job.begun else text
    if not text.rstrip().endswith(_OPEN):
        text += f"{_OPEN}\n"
    return tokens.ids(text)

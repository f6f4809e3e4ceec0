"""Thoughts before an answer, within a budget: written freely, closed by force where they do not end in time.

Imports torch through what it calls. Knows the mark that reasoning models close their thoughts with; knows no task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rerank.backends._decoding import decode
from rerank.backends._jobs import Job
from rerank.backends._tokens import HfTokens

_OPEN, _CLOSE = "<think>", "</think>"


def think(model: Any, tokens: HfTokens, jobs: Sequence[Job]) -> list[Job]:
    """Let the model think about each job; return the jobs with prompts that end where it is to answer.

    The budget is ``sampling.thinking``: thoughts that are not closed by then are closed for the model, so that its
    answer always has its own room. A model that was not trained to think is put into a thought all the same.
    """
    prompts = [_opened(tokens, job) for job in jobs]
    budgets = [replace(job.sampling, max_tokens=job.sampling.thinking, min_tokens=0) for job in jobs]
    rows = decode(model, prompts, budgets, [job.seed for job in jobs], until=(_CLOSE, tokens.tokenizer))
    thought = []
    for job, prompt, row in zip(jobs, prompts, rows, strict=True):
        text = tokens.text(row, marks=True).partition(_CLOSE)[0]
        closing = tokens.plain(f"{text}{_CLOSE}\n\n{job.begun}")
        thought.append(job.after(text.strip(), [*prompt, *closing], len(row)))
    return thought


def _opened(tokens: HfTokens, job: Job) -> list[int]:
    """The prompt up to an open thought; the beginning of the answer comes behind it."""
    text = tokens.render(job.request.prompt, thinking=True)
    text = text[: len(text) - len(job.begun)] if job.begun else text
    if not text.rstrip().endswith(_OPEN):
        text += f"{_OPEN}\n"
    return tokens.ids(text)

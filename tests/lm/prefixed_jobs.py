"""Jobs with boundaries, made of token ids."""

from __future__ import annotations

from collections.abc import Sequence

from rerank.lm.jobs import Job
from rerank.prompts.base import Message
from rerank.tasks import LikelihoodTask, Request, Sampling
from rerank.types import Document, Query, Window


def make_job(
    pieces: Sequence[Sequence[int]], passages: int, *, index: int = 0, continuations: Sequence[str] = ("A", "B")
) -> Job:
    """A prompt in pieces; a boundary is at the end of each piece but the last, the last of them those of passages."""
    ends = [sum(map(len, pieces[: count + 1])) for count in range(len(pieces) - 1)]
    window = Window(Query(id="q", text="query"), tuple(Document(id=f"d{n}", text="text") for n in range(passages)))
    task = LikelihoodTask(continuations=tuple(continuations))
    return Job(
        index=index,
        request=Request(prompt=(Message("user", "text"),), sampling=Sampling(max_tokens=1), window=window, task=task),
        prompt=[token for piece in pieces for token in piece],
        sampling=Sampling(max_tokens=1),
        boundaries=tuple(ends),
    )


def piece(start: int, length: int) -> list[int]:
    """Tokens of the tiny models' vocabulary that start with ``start``."""
    return [(start + 7 * number) % 256 for number in range(length)]

"""A session judged by a model: the next documents of all topics go to the backend together.

Knows sessions and graders, neither how a model is loaded nor what is printed.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from rerank.adjudication.judging.grading import Graded, Grader
from rerank.adjudication.judging.judgment import Asked, Judgment
from rerank.adjudication.judging.session import Session
from rerank.adjudication.judging.texts import Texts


def judge_by_model(
    session: Session,
    grader: Grader,
    texts: Texts,
    *,
    name: str = "llm",
    on_judged: Callable[[Asked], None] = lambda asked: None,
) -> dict[str, str]:
    """Let a model judge what is left of a session.

    Topics go in step, so that batches are large though an order waits for its answers; a batch is as large as the
    backend likes, and is saved as soon as it is answered. A reply without a grade is a judgment without one: it is
    saved with its text and counts as not relevant for the order. Where no reply came, nothing is saved and the topic
    waits for the next time.

    Args:
        session: What is judged.
        grader: Who judges.
        texts: What it is shown.
        name: What it is called in the file.
        on_judged: Called after each document.

    Returns:
        Topic -> what went wrong, for the topics that wait.

    Raises:
        BackendError: Nothing can be answered. What was judged before is saved.
        ContextOverflowError: A query leaves no room for a document.
    """
    waiting: dict[str, str] = {}
    while batch := list(islice(session.wanted(besides=waiting), max(1, grader.backend.batch_size))):
        requests = [grader.request(texts.window(asked)) for asked in batch]
        for asked, reply in zip(batch, grader.backend.generate(requests), strict=True):
            graded = grader.read(reply)
            if graded.answered:
                session.record(_judgment(asked, graded, name, reply.seconds))
                on_judged(asked)
            else:
                waiting[asked.topic] = graded.detail
    return waiting


def _judgment(asked: Asked, graded: Graded, name: str, seconds: float) -> Judgment:
    return Judgment(
        topic=asked.topic,
        doc=asked.doc,
        grade=graded.grade,
        gap=None if graded.grade is not None else "failed",
        judge=name,
        seconds=seconds,
        reply=graded.reply,
        detail=graded.detail,
    )

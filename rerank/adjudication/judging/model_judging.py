"""Judging sessions with a language model as the assessor. The next documents of several topics form a batch."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from rerank.adjudication.judging.grader import GradedReply, Grader
from rerank.adjudication.judging.judgment import Judgment, PendingJudgment
from rerank.adjudication.judging.pool_texts import PoolTexts
from rerank.adjudication.judging.session import JudgingSession
from rerank.tasks.concurrent_replies import iterate_task_replies


def judge_session_by_model(
    session: JudgingSession,
    grader: Grader,
    texts: PoolTexts,
    *,
    name: str = "llm",
    on_judged: Callable[[PendingJudgment], None] = lambda pending: None,
) -> dict[str, str]:
    """Let a model judge the remaining documents of a session.

    A judging order must wait for a judgment before it can choose the next document of a topic. All topics therefore
    advance at the same pace, and a batch contains documents of many topics. A judgment is saved as soon as its reply
    arrives; a model in this process returns the replies of a batch together. A reply without a grade is saved as a
    judgment without a grade and counts as not relevant for the judging order. If the backend returns no reply, nothing
    is saved and the topic is skipped until the next call of this function.

    Args:
        session: The session.
        grader: The assessor.
        texts: Queries and documents of the pool.
        name: Name of the assessor in the judgment file.
        on_judged: Called after each judged document.

    Returns:
        Topic -> error message, for topics that were skipped because there was no reply.

    Raises:
        BackendError: The backend cannot be used at all. Earlier judgments are saved.
        ContextOverflowError: A query leaves no space for a document.
    """
    waiting: dict[str, str] = {}
    while batch := list(islice(session.pending(excluding=waiting), max(1, grader.backend.batch_size))):
        requests = [grader.request(texts.window(pending)) for pending in batch]
        for position, reply in iterate_task_replies(grader.backend, requests):
            pending = batch[position]
            graded = grader.read(reply)
            if graded.answered:
                session.record(_judgment_of_reply(pending, graded, name, reply.seconds))
                on_judged(pending)
            else:
                waiting[pending.topic] = graded.detail
    return waiting


def _judgment_of_reply(pending: PendingJudgment, graded: GradedReply, name: str, seconds: float) -> Judgment:
    """Build a judgment from a graded reply."""
    return Judgment(
        topic=pending.topic,
        doc=pending.doc,
        grade=graded.grade,
        gap=None if graded.grade is not None else "failed",
        judge=name,
        seconds=seconds,
        reply=graded.reply,
        detail=graded.detail,
    )

"""Judging sessions with a language model as the assessor; the next documents of all topics form a batch."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from rerank.adjudication.judging.grader import GradedReply, Grader
from rerank.adjudication.judging.judgment import Judgment, PendingJudgment
from rerank.adjudication.judging.pool_texts import PoolTexts
from rerank.adjudication.judging.session import JudgingSession


def judge_session_by_model(
    session: JudgingSession,
    grader: Grader,
    texts: PoolTexts,
    *,
    name: str = "llm",
    on_judged: Callable[[PendingJudgment], None] = lambda pending: None,
) -> dict[str, str]:
    """Let a model judge the remaining documents of a session.

    Topics advance in step, so that batches are large although judging orders wait for judgments. Each batch is saved
    when it completes. A reply without a grade is saved as a judgment without grade and counts as not relevant for the
    judging order. If there is no reply, nothing is saved and the topic is skipped until the next call.

    Args:
        session: The session.
        grader: The assessor.
        texts: Queries and documents of the pool.
        name: Name of the assessor in the file.
        on_judged: Called after each document.

    Returns:
        Topic -> error message, for topics without a reply.

    Raises:
        BackendError: The backend cannot answer at all. Earlier judgments are saved.
        ContextOverflowError: A query leaves no space for a document.
    """
    waiting: dict[str, str] = {}
    while batch := list(islice(session.pending(excluding=waiting), max(1, grader.backend.batch_size))):
        requests = [grader.request(texts.window(pending)) for pending in batch]
        for pending, reply in zip(batch, grader.backend.generate(requests), strict=True):
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

"""Judging sessions with a language model as the assessor, which judges documents of several topics in one batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

from rerank.adjudication.judging.grader import GradedReply, Grader
from rerank.adjudication.judging.judgment import Judgment, PendingJudgment
from rerank.adjudication.judging.pool_texts import PoolTexts
from rerank.adjudication.judging.session import JudgingSession
from rerank.tasks import Backend, Reply, Request
from rerank.tasks.concurrent_replies import iterate_task_replies
from rerank.tasks.worker_map import WorkerMap, check_worker_model


def judge_session_by_model(
    session: JudgingSession,
    grader: Grader,
    texts: PoolTexts,
    *,
    name: str = "llm",
    on_judged: Callable[[PendingJudgment], None] = lambda pending: None,
    workers: GradingWorkers | None = None,
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
        workers: Workers that process the same batches in place of the backend of ``grader``; None to use that backend.

    Returns:
        The error message of each topic that was skipped because the backend returned no reply.

    Raises:
        BackendError: The backend cannot be used at all. Earlier judgments are saved.
        ContextOverflowError: A query leaves no space for a document.
    """
    waiting: dict[str, str] = {}
    reply_stream = _replies_of_backend if workers is None else workers.replies
    with closing(reply_stream(session, grader, texts, waiting)) as replies:
        for pending, reply in replies:
            graded = grader.read(reply)
            if graded.answered:
                session.record(_judgment_of_reply(pending, graded, name, reply.seconds))
                on_judged(pending)
            else:
                waiting[pending.topic] = graded.detail
    return waiting


def _replies_of_backend(
    session: JudgingSession, grader: Grader, texts: PoolTexts, waiting: Mapping[str, str]
) -> Generator[tuple[PendingJudgment, Reply]]:
    """Let the grader's backend process the pending documents in batches. Yield each document with its reply."""
    while batch := list(islice(session.pending(excluding=waiting), max(1, grader.backend.batch_size))):
        requests = [grader.request(texts.window(pending)) for pending in batch]
        for position, reply in iterate_task_replies(grader.backend, requests):
            yield batch[position], reply


@dataclass(frozen=True, kw_only=True)
class GradingWorkers:
    """Workers (other processes or machines) that each open the grader's model and process batches of requests.

    Attributes:
        open_backend: Function that opens the model in a worker.
        apply: Function that applies a task to batches of requests in the workers.
    """

    open_backend: Callable[[], Backend]
    apply: WorkerMap

    def replies(
        self, session: JudgingSession, grader: Grader, texts: PoolTexts, waiting: Mapping[str, str]
    ) -> Generator[tuple[PendingJudgment, Reply]]:
        """Let the workers process the pending documents. Yield each with its reply, in the order of a single process.

        Batches are also those of a single process. Documents that are pending at the same time belong to different
        topics, so their batches do not depend on each other's judgments.
        """
        batches: deque[list[PendingJudgment]] = deque()

        def read_batches(pending: list[PendingJudgment]) -> Iterator[list[Request]]:
            size = max(1, grader.backend.batch_size)
            for start in range(0, len(pending), size):
                batches.append(pending[start : start + size])
                yield [grader.request(texts.window(document)) for document in batches[-1]]

        def read_rounds() -> Iterator[Iterator[list[Request]]]:
            while pending := session.pending(excluding=waiting):
                yield read_batches(pending)

        answer = _AnswerRequests(open_backend=self.open_backend, identity=dict(grader.backend.identity))
        for replies in self.apply(answer, read_rounds(), count=session.left):
            yield from zip(batches.popleft(), replies, strict=True)


@dataclass(frozen=True, kw_only=True)
class _AnswerRequests:
    """The function that workers apply to batches of requests.

    Attributes:
        open_backend: Function that opens the model.
        identity: Identity of the model in the process that writes the judgments, which a worker's model must equal.
    """

    open_backend: Callable[[], Backend]
    identity: Mapping[str, str]

    def open(self) -> Callable[[Sequence[Request]], list[Reply]]:
        backend = self.open_backend()
        check_worker_model(backend.identity, self.identity)
        return backend.generate

    def describe(self, item: Sequence[Request]) -> str:
        topics = dict.fromkeys(request.window.query.id for request in item if request.window is not None)
        return f"documents of the topics {', '.join(map(repr, topics))}"

    def give_up(self, item: Sequence[Request], reason: str) -> list[Reply]:
        return [Reply(finish="error", error=reason) for _ in item]


def _judgment_of_reply(pending: PendingJudgment, graded: GradedReply, name: str, seconds: float) -> Judgment:
    """Convert a graded reply to the judgment that is recorded; its ``gap`` is ``failed`` if there is no grade."""
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

"""A language model as assessor: one prompt per document, and at most one grade per reply.

The built-in prompt follows the idea of UMBRELA (Upadhyay et al. 2024, arXiv 2406.06519): it describes the four grades
of TREC Deep Learning in words, and the model grades one passage at a time. The wording is our own.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from rerank.adjudication.judging.session import SCALE, JudgingSession, Judgment, PendingJudgment, PoolTexts
from rerank.errors import UsageError
from rerank.judges import PromptJudge, Verdict
from rerank.judges.base import continuation_request, failed_verdict, rank_window_by_score
from rerank.prompts import PromptTemplate
from rerank.tasks import Backend, ContinuationTask, DecisionTask, GenerationTask, Reply, Request, Sampling
from rerank.tasks.concurrency import iterate_replies
from rerank.tasks.worker_map import WorkerMap, check_worker_model
from rerank.types import Window

#: Token limit for generated replies: enough for a digit with one or two lines of text around it.
REPLY_TOKENS = 32
#: Servers report a log-probability at or below this value if they do not know the log-probability.
_NOTHING = -1000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GradedReply:
    """The grade parsed from a model's reply."""

    grade: int | None  # the grade; None if the reply contains no grade
    reply: str = ""  # the generated text; empty if grades were compared by likelihood
    detail: str = ""  # reason why there is no grade; empty if there is a grade
    #: Whether the backend returned a reply. If not, the request can be repeated.
    answered: bool = True


@dataclass(frozen=True, kw_only=True)
class Grader(PromptJudge):
    """A language model that grades documents one at a time, with one request per document.

    Raises:
        UsageError: The backend does not support the requested mode, or the prompt is for several passages.
    """

    needs = (ContinuationTask, DecisionTask, GenerationTask)
    question = "score"
    prompt = "grade"

    #: All grades of the scale in ascending order. The prompt must explain them.
    grades: tuple[int, ...] = SCALE
    #: ``likelihood`` selects the grade g with the largest log P(g | prompt), and the lowest grade if several are tied.
    #: No text is generated, and every reply yields a grade. ``generation`` parses generated text. ``auto`` selects
    #: ``likelihood`` if the backend supports it, otherwise ``generation``.
    by: Literal["auto", "likelihood", "generation"] = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_grading_prompt(self.template)
        if not (self._can_weigh if self.weighs else self.supports(GenerationTask)):
            raise UsageError(
                f"--by {self.by} is not supported by the backend of model {self.backend.identity.get('model', '')!r}",
                remedy="Omit --by",
            )

    @property
    def weighs(self) -> bool:
        """Whether the grade is chosen by likelihood instead of being parsed from generated text."""
        return self.by == "likelihood" or (self.by == "auto" and self._can_weigh)

    @property
    def _can_weigh(self) -> bool:
        return self.supports(ContinuationTask) or self.supports(DecisionTask)

    @classmethod
    def calls(cls, n: int) -> int:
        return n

    def make_requests(self, window: Window) -> list[Request]:
        return [self.request(Window(window.query, (doc,))) for doc in window.docs]

    def request(self, window: Window) -> Request:
        """Return the request for a window of one document, which is truncated to fit in the context."""
        if self.weighs:
            return continuation_request(self, window, [str(grade) for grade in reversed(self.grades)])
        limits = self.limits
        fitted = self.budget.fit(self.template, window, reply_tokens=REPLY_TOKENS + limits.thinking_tokens)
        sampling = Sampling(
            max_tokens=REPLY_TOKENS, temperature=limits.temperature, seed=limits.seed, thinking=limits.thinking_tokens
        )
        return Request(prompt=fitted.prompt, sampling=sampling, window=window, task=GenerationTask())

    def read(self, reply: Reply) -> GradedReply:
        """Return the grade in a reply, or the reason why there is none; the lowest grade if several are most likely."""
        if reply.finish == "error":
            return GradedReply(grade=None, detail=reply.error or "no reply", answered=False)
        if reply.finish == "refused":
            return GradedReply(grade=None, reply=reply.text, detail="the provider refused to answer")
        if reply.error:
            return GradedReply(grade=None, detail=reply.error)
        if not self.weighs:
            grade = parse_judged_grade(reply.text, self.grades)
            detail = "" if grade is not None else "no grade in the reply"
            return GradedReply(grade=grade, reply=reply.text, detail=detail)
        scores = reply.scores
        if len(scores) != len(self.grades):
            return GradedReply(grade=None, detail=f"{len(scores)} log-probabilities for {len(self.grades)} grades")
        if any(score != score for score in scores) or max(scores) <= _NOTHING:
            return GradedReply(grade=None, detail="the backend returned no log-probability for any grade")
        # both scores and reversed grades start with the highest grade
        _, grade = max(zip(scores, reversed(self.grades), strict=True), key=lambda pair: (pair[0], -pair[1]))
        return GradedReply(grade=grade)

    def verdict(self, window: Window, replies: Sequence[Reply]) -> Verdict:
        """Rank the window's documents by decreasing grade, ties in input order; fail if a grade is missing."""
        grades = [graded.grade for graded in map(self.read, replies) if graded.grade is not None]
        return failed_verdict(replies, len(window)) or rank_window_by_score(grades, len(window))


def check_grading_prompt(template: PromptTemplate) -> None:
    """Check that a prompt shows a single passage."""
    if template.method != "pointwise":
        raise UsageError(
            f"The prompt {template.name!r} has 'method: {template.method}' and cannot be used for grading",
            expected="a prompt with 'method: pointwise', which shows one passage",
            remedy=f"Omit --prompt to use {Grader.prompt!r}",
        )


#: Numbers that describe the scale and are not grades: "0 to 3", "0-3", "0, 1, 2 or 3", "0 = unrelated", the 3 in "2/3".
_SCALE = re.compile(
    r"\b\d+[ \t]*(?:-|–|—|to|\.\.+)[ \t]*\d+|\b\d+(?:,[ \t]*\d+)+,?[ \t]*(?:or|and)[ \t]*\d+"
    r"|(?:\bout[ \t]+of|/)[ \t]*\d+|\b\d+[ \t]*=[ \t]*[a-z]"
)
#: A number at the start of the reply, where the prompt asks the model to write the grade.
_FIRST = re.compile(r"[\s*_\"'(\[{]*(?P<number>\d+(?:\.\d+)?)(?![\w%]|[.,]\d)")
#: A number labelled as a grade: "Grade: 2", '"grade": "2"', "**Final score** = 2", "a relevance of 2".
_LABELLED = re.compile(
    r"(?<![a-z])(?:grade[ds]?|scored?|rating|rated|label|relevance|judge?ment)(?![a-z])"
    r"(?:[^\w+-]|_){0,6}(?:(?:is|of|as|at|(?:sh|w)ould be)(?![a-z]))?(?:[^\w+-]|_){0,6}"
    r"(?P<number>[+-]?\d+(?:\.\d+)?)(?![\w%])",
    re.I,
)
#: Numbers of the items of a list.
_ITEM = re.compile(r"^[ \t]*\d+[.)][ \t]+(?=\S)", re.M)
_NUMBER = re.compile(r"(?<![\w.,+-])(?P<number>\d+(?:\.\d+)?)(?![\w%]|[.,]\d)")


def parse_judged_grade(reply: str, grades: Sequence[int]) -> int | None:
    """Return the grade in a reply; None if the reply contains no grade.

    The grade is the last number that is labelled as the final score or, without such a label, the first number that is
    labelled as a grade, score or similar. If this number is not on the scale, the reply contains no grade. If no number
    is labelled, the grade is the number at the start of the reply. If that number is missing or not on the scale, the
    grade is the only number in the reply that is on the scale. Numbers that describe the scale and numbers of list
    items are ignored.

    >>> parse_judged_grade('On a scale from 0 to 3: {"grade": 2}', (0, 1, 2, 3))
    2
    """

    def on_scale(match: re.Match[str]) -> int | None:
        value = float(match["number"])
        return int(value) if value in grades else None

    text = _SCALE.sub(" ", reply)
    if len(_ITEM.findall(text)) > 1:
        text = _ITEM.sub("", text)
    if labelled := list(_LABELLED.finditer(text)):
        # UMBRELA's prompt asks for "##final score: 2", which may follow other scores
        final = [match for match in labelled if text[: match.start()].rstrip(" _").lower().endswith("final")]
        return on_scale(final[-1] if final else labelled[0])
    if (first := _FIRST.match(text)) is not None and (grade := on_scale(first)) is not None:
        return grade
    candidates = {on_scale(match) for match in _NUMBER.finditer(text)} - {None}
    return candidates.pop() if len(candidates) == 1 else None


def judge_session_by_model(
    session: JudgingSession,
    grader: Grader,
    texts: PoolTexts,
    *,
    name: str = "llm",
    on_judged: Callable[[PendingJudgment], None] = lambda pending: None,
    workers: GradingWorkers | None = None,
) -> dict[str, str]:
    """Let a model judge the remaining documents of a session; return the errors of topics that got no reply.

    A judging order must wait for a judgment before it can choose the next document of a topic. All topics therefore
    advance at the same pace, and a batch contains documents of many topics. A judgment is saved as soon as its reply
    arrives; a model in this process returns the replies of a batch together. A reply without a grade is saved as a
    judgment without a grade and counts as not relevant for the judging order. If the backend returns no reply, nothing
    is saved and the topic is skipped until the next call of this function. ``workers`` process the same batches in
    place of the backend of ``grader``.

    Raises:
        BackendError: The backend cannot be used at all. Earlier judgments are saved.
        ContextOverflowError: A query leaves no space for a document.
    """
    waiting: dict[str, str] = {}
    reply_stream = _replies_of_backend if workers is None else workers.replies
    with closing(reply_stream(session, grader, texts, waiting)) as replies:
        for pending, reply in replies:
            graded = grader.read(reply)
            if not graded.answered:
                waiting[pending.topic] = graded.detail
                continue
            session.record(
                Judgment(
                    topic=pending.topic,
                    doc=pending.doc,
                    grade=graded.grade,
                    gap=None if graded.grade is not None else "failed",
                    judge=name,
                    seconds=reply.seconds,
                    reply=graded.reply,
                    detail=graded.detail,
                )
            )
            on_judged(pending)
    return waiting


def _replies_of_backend(
    session: JudgingSession, grader: Grader, texts: PoolTexts, waiting: Mapping[str, str]
) -> Generator[tuple[PendingJudgment, Reply]]:
    while batch := list(islice(session.pending(excluding=waiting), max(1, grader.backend.batch_size))):
        requests = [grader.request(texts.window(pending)) for pending in batch]
        for position, reply in iterate_replies(grader.backend, requests):
            yield batch[position], reply


@dataclass(frozen=True, kw_only=True)
class GradingWorkers:
    """Workers (other processes or machines) that each open the grader's model and process batches of requests."""

    open_backend: Callable[[], Backend]  # function that opens the model in a worker
    apply: WorkerMap  # function that applies a task to batches of requests in the workers

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

        answer = _AnswerRequests(self.open_backend, dict(grader.backend.identity))
        for replies in self.apply(answer, read_rounds(), count=session.left):
            yield from zip(batches.popleft(), replies, strict=True)


@dataclass(frozen=True)
class _AnswerRequests:
    """The function that workers apply to batches of requests, with a model of the same identity as in this process."""

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

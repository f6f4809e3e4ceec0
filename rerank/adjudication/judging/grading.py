"""A language model as the judge: one question a document, one grade or none from its reply.

The prompt that is shipped follows the idea of UMBRELA (Upadhyay et al. 2024, arXiv 2406.06519): TREC Deep Learning's
four grades, put into words, and a model that grades one passage at a time. The words are our own. Knows questions and
replies, neither orders of judging nor files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rerank.adjudication.judging.replies import grade_in
from rerank.adjudication.judging.terms import SCALE
from rerank.errors import UsageError
from rerank.judges import Asking, Verdict
from rerank.judges.base import by_score, failed
from rerank.judges.base.continuations import weighing
from rerank.prompts import PromptTemplate
from rerank.tasks import ContinuationTask, GenerationTask, Reply, Request, Sampling
from rerank.types import Window

#: Room for a reply that is written: a digit, or a line or two around it.
REPLY_TOKENS = 32
#: Log-probabilities from here on down say that a server did not tell any.
_NOTHING = -1000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Graded:
    """What a model says of one document.

    Attributes:
        grade: The grade; None where there is none.
        reply: What it wrote; empty where its answer was numbers.
        detail: Why there is no grade, in words.
        answered: Whether there was a reply at all; without one it is worth asking again.
    """

    grade: int | None
    reply: str = ""
    detail: str = ""
    answered: bool = True


@dataclass(frozen=True, kw_only=True)
class Grader(Asking):
    """Ask for the grade of one document at a time. One request a document.

    Attributes:
        grades: The scale, ascending; the prompt must explain it.
        by: ``likelihood`` takes the grade g with the largest log P(g | prompt), the lowest of equal ones, so that every
            reply has a grade and nothing is written. ``generation`` lets the model write and reads its reply. ``auto``
            is the first of them that the backend does.

    Raises:
        UsageError: The backend does not answer in that way, or the prompt is one about several passages.
    """

    needs = (ContinuationTask, GenerationTask)
    prompt = "grade"

    grades: tuple[int, ...] = SCALE
    by: Literal["auto", "likelihood", "generation"] = "auto"

    def __post_init__(self) -> None:
        """Check the prompt, and that the backend answers in the way that is asked for."""
        super().__post_init__()
        check_prompt(self.template)
        if not self.does(ContinuationTask if self.weighs else GenerationTask):
            raise UsageError(
                f"--by {self.by} with model {self.backend.identity.get('model', '')!r}, whose backend does not do that",
                remedy="Leave --by out",
            )

    @property
    def weighs(self) -> bool:
        """Whether grades are weighed rather than written."""
        return self.by == "likelihood" or (self.by == "auto" and self.does(ContinuationTask))

    @classmethod
    def calls(cls, n: int) -> int:
        """One a document."""
        return n

    def requests(self, window: Window) -> list[Request]:
        """One question a document, cut so that it fits."""
        return [self.request(Window(window.query, (doc,))) for doc in window.docs]

    def request(self, window: Window) -> Request:
        """The question about a window of one document.

        Raises:
            ContextOverflowError: It does not fit the context even with the document cut to the floor.
        """
        if self.weighs:
            return weighing(self, window, [str(grade) for grade in reversed(self.grades)])
        limits = self.limits
        fitted = self.budget.fit(self.template, window, reply_tokens=REPLY_TOKENS + limits.thinking_tokens)
        sampling = Sampling(
            max_tokens=REPLY_TOKENS,
            temperature=limits.temperature,
            seed=limits.seed,
            thinking=limits.thinking_tokens,
        )
        return Request(prompt=fitted.prompt, sampling=sampling, window=window, task=GenerationTask())

    def read(self, reply: Reply) -> Graded:
        """The grade in a reply, or why there is none."""
        if reply.finish == "error":
            return Graded(grade=None, detail=reply.error or "no reply", answered=False)
        if reply.finish == "refused":
            return Graded(grade=None, reply=reply.text, detail="the provider refused to answer")
        if self.weighs:
            return self._likeliest(reply.scores)
        grade = grade_in(reply.text, self.grades)
        return Graded(grade=grade, reply=reply.text, detail="" if grade is not None else "no grade in the reply")

    def verdict(self, window: Window, replies: Sequence[Reply]) -> Verdict:
        """The order of falling grades, ties as given; a failure where a document has none."""
        grades = [graded.grade for graded in map(self.read, replies) if graded.grade is not None]
        return failed(replies, len(window)) or by_score(grades, len(window))

    def _likeliest(self, scores: Sequence[float]) -> Graded:
        """From (grades,) log-probabilities, the highest grade first."""
        if len(scores) != len(self.grades):
            return Graded(grade=None, detail=f"{len(scores)} numbers for {len(self.grades)} grades", answered=False)
        if any(score != score for score in scores) or max(scores) <= _NOTHING:
            return Graded(grade=None, detail="the model finds no grade likely at all")
        _, grade = max(zip(scores, reversed(self.grades), strict=True), key=lambda pair: (pair[0], -pair[1]))
        return Graded(grade=grade)


def check_prompt(template: PromptTemplate) -> None:
    """Refuse a prompt about several passages.

    Raises:
        UsageError: It is one.
    """
    if template.method != "pointwise":
        raise UsageError(
            f"Grading with the prompt {template.name!r}, which is {template.method}",
            expected="a prompt with 'method: pointwise', which shows one passage",
            remedy=f"Leave --prompt out to take {Grader.prompt!r}",
        )

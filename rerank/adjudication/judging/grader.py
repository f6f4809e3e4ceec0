"""A language model as assessor: one prompt per document, and at most one grade per reply.

The built-in prompt follows the idea of UMBRELA (Upadhyay et al. 2024, arXiv 2406.06519): it describes the four grades
of TREC Deep Learning in words, and the model grades one passage at a time. The wording is our own.

Parser for grades in generated text. It accepts any text, but returns a grade only if the text clearly has one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rerank.adjudication.judging.judging_terms import SCALE
from rerank.errors import UsageError
from rerank.judges import PromptJudge, Verdict
from rerank.judges.base import failed_judge_verdict, rank_window_by_score
from rerank.judges.base.continuations import make_judge_continuation_request
from rerank.prompts import PromptTemplate
from rerank.tasks import ContinuationTask, DecisionTask, GenerationTask, Reply, Request, Sampling
from rerank.types import Window

#: Token limit for generated replies: enough for a digit with one or two lines of text around it.
REPLY_TOKENS = 32
#: Servers report a log-probability at or below this value if they do not know the log-probability.
_NOTHING = -1000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GradedReply:
    """The grade parsed from a model's reply.

    Attributes:
        grade: The grade; None if the reply contains no grade.
        reply: The generated text; empty if grades were compared by likelihood.
        detail: Reason why there is no grade; empty if there is a grade.
        answered: Whether the backend returned a reply. If not, the request can be repeated.
    """

    grade: int | None
    reply: str = ""
    detail: str = ""
    answered: bool = True


@dataclass(frozen=True, kw_only=True)
class Grader(PromptJudge):
    """A language model that grades documents one at a time, with one request per document.

    Attributes:
        grades: All grades of the scale in ascending order. The prompt must explain them.
        by: ``likelihood`` selects the grade g with the largest log P(g | prompt), and the lowest grade if several are
            tied. No text is generated, and every reply yields a grade. ``generation`` parses generated text. ``auto``
            selects ``likelihood`` if the backend supports it, otherwise ``generation``.

    Raises:
        UsageError: The backend does not support the requested mode, or the prompt is for several passages.
    """

    needs = (ContinuationTask, DecisionTask, GenerationTask)
    question = "score"
    prompt = "grade"

    grades: tuple[int, ...] = SCALE
    by: Literal["auto", "likelihood", "generation"] = "auto"

    def __post_init__(self) -> None:
        """Check that the prompt shows one passage and that the backend supports the mode ``by``."""
        super().__post_init__()
        check_grading_prompt(self.template)
        if not (self._can_weigh if self.weighs else self.supports(GenerationTask)):
            raise UsageError(
                f"--by {self.by} is not supported by the backend of model {self.backend.identity.get('model', '')!r}",
                remedy="Omit --by",
            )

    @property
    def weighs(self) -> bool:
        """True if the grade is chosen by likelihood instead of being parsed from generated text."""
        return self.by == "likelihood" or (self.by == "auto" and self._can_weigh)

    @property
    def _can_weigh(self) -> bool:
        return self.supports(ContinuationTask) or self.supports(DecisionTask)

    @classmethod
    def calls(cls, n: int) -> int:
        """Return ``n``, the number of documents, because each document needs one request."""
        return n

    def make_requests(self, window: Window) -> list[Request]:
        """Return one request per document. Documents are truncated to fit in the context."""
        return [self.request(Window(window.query, (doc,))) for doc in window.docs]

    def request(self, window: Window) -> Request:
        """Return the request for a window of one document.

        Raises:
            ContextOverflowError: The prompt does not fit in the context even if the document is truncated to the
                minimum length.
        """
        if self.weighs:
            return make_judge_continuation_request(self, window, [str(grade) for grade in reversed(self.grades)])
        limits = self.limits
        fitted = self.budget.fit(self.template, window, reply_tokens=REPLY_TOKENS + limits.thinking_tokens)
        sampling = Sampling(
            max_tokens=REPLY_TOKENS,
            temperature=limits.temperature,
            seed=limits.seed,
            thinking=limits.thinking_tokens,
        )
        return Request(prompt=fitted.prompt, sampling=sampling, window=window, task=GenerationTask())

    def read(self, reply: Reply) -> GradedReply:
        """Return the most likely grade or the grade in the generated text, or the reason why there is none."""
        if reply.finish == "error":
            return GradedReply(grade=None, detail=reply.error or "no reply", answered=False)
        if reply.finish == "refused":
            return GradedReply(grade=None, reply=reply.text, detail="the provider refused to answer")
        if reply.error:
            return GradedReply(grade=None, detail=reply.error)
        if self.weighs:
            return self._likeliest(reply.scores)
        grade = parse_judged_grade(reply.text, self.grades)
        return GradedReply(grade=grade, reply=reply.text, detail="" if grade is not None else "no grade in the reply")

    def verdict(self, window: Window, replies: Sequence[Reply]) -> Verdict:
        """Rank the window's documents by decreasing grade, ties in input order; fail if a grade is missing."""
        grades = [graded.grade for graded in map(self.read, replies) if graded.grade is not None]
        return failed_judge_verdict(replies, len(window)) or rank_window_by_score(grades, len(window))

    def _likeliest(self, scores: Sequence[float]) -> GradedReply:
        """Return the grade with the highest log-probability, or the lowest such grade if several are tied.

        The result has no grade if log-probabilities are missing or are not numbers.

        Args:
            scores: (grades,) log-probabilities of the grades, starting with the highest grade.
        """
        if len(scores) != len(self.grades):
            return GradedReply(grade=None, detail=f"{len(scores)} log-probabilities for {len(self.grades)} grades")
        if any(score != score for score in scores) or max(scores) <= _NOTHING:
            return GradedReply(grade=None, detail="the backend returned no log-probability for any grade")
        # both scores and reversed grades start with the highest grade; among tied grades, the lowest is returned
        _, grade = max(zip(scores, reversed(self.grades), strict=True), key=lambda pair: (pair[0], -pair[1]))
        return GradedReply(grade=grade)


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

    Args:
        reply: Generated text without reasoning.
        grades: All grades of the scale.

    >>> parse_judged_grade('On a scale from 0 to 3: {"grade": 2}', (0, 1, 2, 3))
    2
    """
    text = _SCALE.sub(" ", reply)
    if len(_ITEM.findall(text)) > 1:
        text = _ITEM.sub("", text)
    if labelled := list(_LABELLED.finditer(text)):
        # UMBRELA's prompt asks for "##final score: 2", which may follow other scores
        final = [match for match in labelled if text[: match.start()].rstrip(" _").lower().endswith("final")]
        return _assessor_grade_on_scale(grades, (final[-1] if final else labelled[0])["number"])
    if (first := _FIRST.match(text)) is not None and (
        grade := _assessor_grade_on_scale(grades, first["number"])
    ) is not None:
        return grade
    candidates = {_assessor_grade_on_scale(grades, match["number"]) for match in _NUMBER.finditer(text)} - {None}
    return candidates.pop() if len(candidates) == 1 else None


def _assessor_grade_on_scale(grades: Sequence[int], number: str) -> int | None:
    """Convert a number to a grade; None if it is not on the scale."""
    value = float(number)
    return int(value) if value in grades else None

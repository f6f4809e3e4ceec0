"""The judge protocol and the base classes of judges that send prompts to a backend."""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Protocol, Self

from rerank.errors import ContextOverflowError, UsageError
from rerank.judges.base.verdicts import (
    FAILURES,
    STATUSES,
    ScoreKind,
    Status,
    Verdict,
    failed_judge_verdict,
    rank_window_by_score,
    window_z_scores,
)
from rerank.prompts.budget import PromptBudget, check_prompt_passage_limits
from rerank.prompts.template import PromptTemplate
from rerank.registry import plugin_name
from rerank.settings import PromptLimits
from rerank.tasks import (
    Backend,
    QuestionType,
    Reply,
    Request,
    task_backend_sees_pictures,
    task_backend_takes_verbatim,
    tasks_supported_by_backend,
)
from rerank.types import Window

__all__ = [
    "FAILURES",
    "IDENTIFIER_SCORES",
    "STATUSES",
    "Judge",
    "Limits",
    "ListwiseJudge",
    "OversizedWindow",
    "PromptJudge",
    "ScoreKind",
    "Status",
    "Verdict",
    "check_judge_prompt_runs_on_backend",
    "failed_judge_verdict",
    "rank_window_by_score",
    "window_z_scores",
]


@dataclass(frozen=True, slots=True)
class OversizedWindow:
    """The answer of a judge to a window that does not fit in the model's context, so it has to be divided.

    Attributes:
        capacity: Number of documents, counted from the head of the window, that fit; at least two, but not all.
    """

    capacity: int


class Judge(Protocol):
    """A judge orders the documents of a window: it makes requests, which the driver sends, and parses the replies."""

    @property
    def score_kind(self) -> ScoreKind | None:
        """The meaning of the scores in the judge's verdicts; None if the verdicts contain no scores."""

    def requests(self, window: Window) -> list[Request] | OversizedWindow:
        """Return the requests for one window, or an `OversizedWindow` if not all of its documents fit in the context.

        Raises:
            ContextOverflowError: Not even two of the documents fit.
        """

    def verdict(self, window: Window, replies: Sequence[Reply]) -> Verdict:
        """Return the verdict on a window, given the replies to its requests in the order of the requests.

        If the window fails, the verdict has a failure status; no exception is raised.
        """


#: The name under which judges refer to the limits of their prompts.
Limits = PromptLimits


@dataclass(frozen=True, kw_only=True)
class PromptJudge:
    """Base class of judges that send prompts to a backend and parse its replies.

    A subclass declares the tasks that it needs, makes the requests for one window, parses the replies, and states the
    meaning of its scores. Its additional fields are its options, as in ``--method pick,by=likelihood``.

    Attributes:
        backend: The backend that runs the requests.
        template: The prompt template.
        limits: Token budget and decoding settings.
        first_stage: Weight of the first-stage score in the order of a window, for judges that sort by score.

    Raises:
        UsageError: The backend supports none of the tasks, it does not support the pictures that the prompt shows, the
            limits contradict each other or exceed the context of the model, or ``first_stage`` is negative, is not
            finite, or is set for a judge that does not sort by score.
    """

    #: Types of tasks that the judge can use, the preferred type first.
    needs: ClassVar[tuple[type[Any], ...]]
    #: Type of the question that the judge asks if it uses a `DecisionTask`.
    question: ClassVar[QuestionType] = "predicate"
    #: Options that affect the requests but not how replies are parsed.
    request_options: ClassVar[frozenset[str]] = frozenset()
    #: The shipped prompt that suits the judge; empty if any listwise prompt is suitable.
    prompt: ClassVar[str] = ""

    backend: Backend
    template: PromptTemplate
    limits: Limits = field(default_factory=Limits)
    first_stage: float = 0.0

    def __post_init__(self) -> None:
        """Check the backend and the limits. Checks that need a tokenizer are deferred to the first request."""
        self._check_first_stage_weight()
        model = self.backend.identity.get("model", "")
        self.check(self.backend, model)
        check_judge_prompt_runs_on_backend(self.template, self.backend, model)
        check_prompt_passage_limits(self.limits.min_passage_tokens, self.limits.max_passage_tokens)
        if self.limits.context_size is not None:
            _ = self.budget

    def _check_first_stage_weight(self) -> None:
        if not 0 <= self.first_stage < math.inf:
            raise UsageError(f"first_stage is {self.first_stage}", expected="a finite weight of at least 0")
        if self.first_stage and not self.sorts_by_score:
            raise UsageError(
                f"first_stage is {self.first_stage}, but the judge {plugin_name(type(self))!r} does not sort by a "
                "score per document to which first-stage scores could be added",
                expected="a judge that sorts by score, such as likelihood, score, logits or attention",
                remedy="Omit first_stage, or use another method, such as qlm",
            )

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes to copy or pickle, without the prompt budget, which contains a backend's tokenizer."""
        return {name: value for name, value in vars(self).items() if not isinstance(value, PromptBudget)}

    @cached_property
    def budget(self) -> PromptBudget:
        """The prompt budget, which caches the lengths of documents. The first access loads the model's tokenizer."""
        return PromptBudget(
            self.backend.tokens,
            floor=self.limits.min_passage_tokens,
            max_passage_tokens=self.limits.max_passage_tokens,
            context_size=self.limits.context_size,
        )

    @classmethod
    def check(cls, backend: Any, model: str) -> None:
        """Check that a backend supports at least one of the tasks that the judge needs.

        Args:
            backend: The backend, or its class before a model is loaded.
            model: The model's name as the user wrote it, for the message.

        Raises:
            UsageError: The backend supports none of the tasks.
        """
        if not tasks_supported_by_backend(backend) & set(cls.needs):
            name = plugin_name(backend if isinstance(backend, type) else type(backend))
            needed = " or ".join(task.__name__ for task in cls.needs)
            raise UsageError(
                f"The judge {plugin_name(cls)!r} needs {needed}, which the backend {name!r} of model {model!r} does "
                "not support",
                expected="a backend that supports it; `rerank methods` lists the backends of each method",
                remedy="Use --model hf:NAME to run the model through transformers, or another method",
            )

    @classmethod
    def suggest_prompt(cls, options: Mapping[str, str]) -> str:
        """Return the name of the built-in prompt that suits these options; empty if any listwise prompt is suitable."""
        return cls.prompt

    @classmethod
    def calls(cls, n: int) -> int:
        """Return the number of requests for a window of ``n`` documents."""
        return 1

    @property
    def identity(self) -> Mapping[str, str]:
        """Values besides the options that affect the judge's orders, such as the hash of a file named by an option."""
        return {}

    @property
    def score_kind(self) -> ScoreKind | None:
        """The meaning of the scores in the verdicts; None if the verdicts contain no scores."""
        return None

    @property
    def sorts_by_score(self) -> bool:
        """Whether the order of a window comes from `rank_by_score`, so that ``first_stage`` has an effect."""
        return False

    @abstractmethod
    def make_requests(self, window: Window) -> list[Request]:
        """Return the requests for one window, with passages truncated so that they fit.

        Raises:
            ContextOverflowError: The window does not fit in the context even with passages at their minimum length.
        """

    @abstractmethod
    def verdict(self, window: Window, replies: Sequence[Reply]) -> Verdict:
        """Return the verdict on a window, given the replies to its requests."""

    def rank_by_score(self, scores: Sequence[float], window: Window) -> Verdict:
        """Order a window by z(score) + ``first_stage`` * z(first-stage score), or by the score alone.

        Both are z-scores within the window. Infinite scores stay first or last, regardless of the first stage. If the
        window has no first-stage scores, only the judge's scores are used, and the verdict's detail states this.

        Args:
            scores: The judge's score of each document of the window.
            window: The window, with first-stage scores if there are any.

        Returns:
            The verdict, with the judge's own scores and the status that `rank_window_by_score` assigns.
        """
        verdict = rank_window_by_score(scores, len(window))
        if not self.first_stage or verdict.status in FAILURES:
            return verdict
        if not window.scores:
            return replace(verdict, detail="no first-stage scores were given, so only the judge's scores counted")
        combined = [
            own + self.first_stage * first
            for own, first in zip(
                window_z_scores(self.scores_to_combine(scores)), window_z_scores(window.scores), strict=True
            )
        ]
        return replace(rank_window_by_score(combined, len(window)), scores=verdict.scores)

    def rank_scored_documents(self, scores: Sequence[float | None], window: Window) -> Verdict:
        """Order the documents that have a score with `rank_by_score`; documents without a score keep their positions.

        The status is ``partial`` if some documents have no score, and ``empty`` if none has one.
        """
        rated = {position: score for position, score in enumerate(scores) if score is not None}
        first_stage = tuple(window.scores[position] for position in rated if window.scores)
        part = Window(window.query, tuple(window.docs[position] for position in rated), first_stage)
        verdict = self.rank_by_score([*rated.values()], part)
        if len(rated) == len(window):
            return verdict
        order, positions = list(range(len(window))), [*rated]
        for position, best in zip(positions, verdict.order, strict=True):
            order[position] = positions[best]
        detail = f"{len(window) - len(rated)} of {len(window)} documents without a score"
        if not rated:
            return Verdict(order=tuple(order), status="empty", detail=detail)
        return Verdict(order=tuple(order), status="partial", detail=detail, scores=tuple(scores))

    def scores_to_combine(self, scores: Sequence[float]) -> Sequence[float]:
        """Return the scores whose z-scores are added to the first-stage z-scores; by default, the judge's scores."""
        return scores

    def requests(self, window: Window) -> list[Request] | OversizedWindow:
        """Return the requests for one window, or an `OversizedWindow` if not all of its documents fit in the context.

        Raises:
            ContextOverflowError: The window does not fit, and dividing it into smaller windows would not help.
        """
        return self.make_requests(window)

    def with_backend(self, backend: Backend) -> Self:
        """Return this judge with another backend of the same model, such as a backend that logs replies.

        Files are not read again.
        """
        judge = copy.copy(self)
        object.__setattr__(judge, "backend", backend)
        return judge

    def supports(self, task: type[Any]) -> bool:
        """Return whether the backend supports a type of task."""
        return task in tasks_supported_by_backend(self.backend)


#: Scores of judges that use the distribution of the first identifier of a reply.
IDENTIFIER_SCORES = ScoreKind("log-probability of the identifier", "within")


def check_judge_prompt_runs_on_backend(template: PromptTemplate, backend: Any, model: str) -> None:
    """Check that a backend, or its class before a model is loaded, accepts a prompt.

    Raises:
        UsageError: The prompt shows pictures, and the backend does not state that it supports them; or the prompt is
            verbatim, and the backend applies a chat template of its own.
    """
    if template.verbatim and not task_backend_takes_verbatim(backend):
        raise UsageError(
            f"The prompt {template.name!r} contains its own marks of turns, but the backend of {model!r} adds others",
            expected="a backend that runs the text without a chat template, such as hf or vllm",
            remedy="Use --model hf:NAME or vllm:NAME, or another prompt",
        )
    if template.pictures and not task_backend_sees_pictures(backend):
        raise UsageError(
            f"The prompt {template.name!r} shows pictures, but model {model!r} accepts only text",
            expected="a model that accepts pictures",
            remedy="Use --model vlm:NAME, or another method",
        )


class ListwiseJudge(PromptJudge):
    """Base class of judges that show a whole window in one request. The context limits the size of the window.

    Raises:
        UsageError: The prompt shows a single passage.
    """

    def __post_init__(self) -> None:
        """Check that the prompt shows several passages."""
        super().__post_init__()
        if self.template.method == "pointwise":
            raise UsageError(
                f"The judge {plugin_name(type(self))!r} cannot use the pointwise prompt {self.template.name!r}",
                expected="a prompt that shows several passages",
                remedy="Omit --prompt",
            )

    def requests(self, window: Window) -> list[Request] | OversizedWindow:
        """Return the request for a window, or an `OversizedWindow` if not all of its documents fit in the context."""
        try:
            return self.make_requests(window)
        except ContextOverflowError:
            if (capacity := self._capacity(window)) < 2:
                raise
            return OversizedWindow(capacity)

    def _capacity(self, window: Window) -> int:
        """Find by bisection how many documents from the head of an oversized window fit in the context."""
        # Invariant: the first ``fits`` documents fit, and the first ``fails`` documents do not fit.
        fits, fails = 1, len(window)
        while fails - fits > 1:
            middle = (fits + fails) // 2
            try:
                self.make_requests(Window(window.query, window.docs[:middle], window.scores[:middle], window.best))
            except ContextOverflowError:
                fails = middle
            else:
                fits = middle
        return fits

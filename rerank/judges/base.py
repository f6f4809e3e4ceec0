"""The judge protocol, verdicts on windows, and the base classes of judges that send prompts to a backend."""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, Protocol, Self, get_args

from rerank.errors import ContextOverflowError, UsageError
from rerank.prompts.budget import PromptBudget, check_limits
from rerank.prompts.passages import collapse_whitespace, escape_turn_marks
from rerank.prompts.template import PromptTemplate
from rerank.registry import plugin_name
from rerank.settings import PromptLimits
from rerank.tasks import (
    Backend,
    ContinuationTask,
    DecisionTask,
    LogitTask,
    QuestionType,
    Reply,
    Request,
    Sampling,
    task_backend_sees_pictures,
    task_backend_takes_verbatim,
    tasks_supported_by_backend,
)
from rerank.tasks.kinds import MAX_OPTIONS
from rerank.types import Order, Query, Window

#: Status of a judged window. ``ok``: the reply is a permutation in the requested form. ``repaired``: it is complete
#: after dropping duplicate and unknown identifiers, or was written in another form. ``partial``: missing identifiers
#: were appended. ``empty``: the reply has no identifier or cannot be parsed. ``refused``: the reply has no identifier
#: and declines to answer. ``error``: no reply arrived.
Status = Literal["ok", "repaired", "partial", "empty", "refused", "error"]
STATUSES: tuple[Status, ...] = get_args(Status)
#: Statuses that give no information about the documents. The window keeps its order and counts as a failure.
FAILURES: frozenset[Status] = frozenset({"empty", "refused", "error"})


@dataclass(frozen=True, slots=True)
class ScoreKind:
    """The meaning of a judge's scores."""

    name: str  # the quantity, such as ``log-likelihood of the query``; a larger score means more relevant
    #: ``absolute`` if scores of different windows are comparable; ``within`` if they depend on the other documents;
    #: ``latest`` if they do, but the latest window of a document decides, as for a selection.
    scope: Literal["absolute", "within", "latest"]
    #: How a score becomes the number that servers send: ``sigmoid`` of a logit, or ``same``, the score itself, which is
    #: what the model's own code outputs. Empty if the score has no such scale, such as a log-likelihood.
    unit: Literal["sigmoid", "same", ""] = ""


#: Scores of judges that use the distribution of the first identifier of a reply.
IDENTIFIER_SCORES = ScoreKind("log-probability of the identifier", "within")
#: Scores of judges that select a set of documents instead of ranking them.
SELECTION = ScoreKind("1 if selected, otherwise 0", "latest")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The order of one window and how it was obtained."""

    order: Order  # a permutation of the window's positions; the identity permutation if the replies contain no order
    status: Status
    detail: str = ""  # description of the repairs or of the failure; empty if there was neither
    #: One score per document of the window, or None; empty if the judge does not assign scores.
    scores: tuple[float | None, ...] = ()


def rank_window_by_score(scores: Sequence[float], count: int) -> Verdict:
    """Order a window of ``count`` documents by decreasing score; it is ``empty`` if one is missing or NaN.

    >>> rank_window_by_score((0.1, 0.7, 0.1), 3).order
    (1, 0, 2)
    """
    positions = tuple(range(count))
    if len(scores) != count:
        return Verdict(order=positions, status="empty", detail=f"{len(scores)} scores for {count} documents")
    if any(score != score for score in scores):  # NaN, which cannot be sorted
        return Verdict(order=positions, status="empty", detail="the model returned a score that is not a number")
    order = tuple(sorted(positions, key=scores.__getitem__, reverse=True))
    return Verdict(order=order, status="ok", scores=tuple(scores))


def window_z_scores(scores: Sequence[float]) -> list[float]:
    """Return (score - mean) / population standard deviation for each score; all 0 if the scores are equal.

    Mean and deviation are those of the finite scores; infinite scores are returned unchanged.

    >>> window_z_scores([1.0, 3.0, -math.inf])
    [-1.0, 1.0, -inf]
    """
    finite = [score for score in scores if math.isfinite(score)]
    if max(map(abs, finite), default=0.0) > 1e100:  # the squares could overflow
        return window_z_scores([score / 1e200 for score in scores])
    mean, deviation = 0.0, 0.0
    if len(set(finite)) > 1:  # the rounded mean of equal scores may differ from them
        mean = sum(finite) / len(finite)
        deviation = (sum((score - mean) ** 2 for score in finite) / len(finite)) ** 0.5
    return [score if math.isinf(score) else (score - mean) / deviation if deviation else 0.0 for score in scores]


def failed_verdict(replies: Sequence[Reply], count: int) -> Verdict | None:
    """Return the verdict if a reply is missing, which is repeated on resuming, or refused or unreadable; else None."""
    failed = [reply for reply in replies if reply.error or reply.finish in ("error", "refused")]
    if not failed:
        return None
    reply = next((reply for reply in failed if reply.finish == "error"), failed[0])
    status: Status = reply.finish if reply.finish in ("error", "refused") else "empty"
    detail = reply.error or "the provider refused to answer"
    return Verdict(order=tuple(range(count)), status=status, detail=detail)


@dataclass(frozen=True, slots=True)
class OversizedWindow:
    """The answer of a judge to a window that does not fit in the model's context, so it has to be divided."""

    capacity: int  # number of documents, counted from the head of the window, that fit; at least two, but not all


class Judge(Protocol):
    """A judge orders the documents of a window: it makes requests, which the driver sends, and parses the replies."""

    @property
    def score_kind(self) -> ScoreKind | None: ...

    def requests(self, window: Window) -> list[Request] | OversizedWindow:
        """Return the requests for one window, or an `OversizedWindow` if only a part of its documents fits.

        Raises `ContextOverflowError` if not even two of the documents fit.
        """

    def verdict(self, window: Window, replies: Sequence[Reply]) -> Verdict:
        """Return the verdict, given the replies in the order of the requests; a failure is a status, not an error."""


#: The name under which judges refer to the limits of their prompts.
Limits = PromptLimits


@dataclass(frozen=True, kw_only=True)
class PromptJudge:
    """Base class of judges that send prompts to a backend and parse its replies.

    A subclass declares the tasks that it needs, makes the requests for one window, parses the replies, and states the
    meaning of its scores. Its additional fields are its options, as in ``--method pick,by=likelihood``.
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
    limits: Limits = field(default_factory=Limits)  # token budget and decoding settings
    first_stage: float = 0.0  # weight of the first-stage score in the order of a window, for judges that sort by score

    def __post_init__(self) -> None:
        if not 0 <= self.first_stage < math.inf:
            raise UsageError(f"first_stage is {self.first_stage}", expected="a finite weight of at least 0")
        if self.first_stage and not self.sorts_by_score:
            raise UsageError(
                f"first_stage is {self.first_stage}, but the judge {plugin_name(type(self))!r} does not sort by a "
                "score per document to which first-stage scores could be added",
                expected="a judge that sorts by score, such as likelihood, score, logits or attention",
                remedy="Omit first_stage, or use another method, such as qlm",
            )
        model = self.backend.identity.get("model", "")
        self.check(self.backend, model)
        check_judge_prompt_runs_on_backend(self.template, self.backend, model)
        check_limits(self.limits.min_passage_tokens, self.limits.max_passage_tokens)
        if self.limits.context_size is not None:
            _ = self.budget

    def __getstate__(self) -> dict[str, Any]:
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
        """Check that a backend supports at least one of the tasks that the judge needs."""
        if not tasks_supported_by_backend(backend) & set(cls.needs):
            name = plugin_name(backend if isinstance(backend, type) else type(backend))
            needed = " or ".join(task.__name__ for task in cls.needs)
            lacks = getattr(backend, "lacks", "")
            raise UsageError(
                f"The judge {plugin_name(cls)!r} needs {needed}, which the backend {name!r} of model {model!r} does "
                f"not support{lacks and f': {lacks}'}",
                expected="a backend that supports it; `rerank methods` lists the backends of each method",
                remedy="Use a method that generates text, such as --method sliding or --method setwise,by=generation"
                if lacks
                else "Write --model without the backend before the colon, or --model hf:NAME, or use another method"
                if ":" in model and hasattr(backend, "load")
                else "Use --model hf:NAME to run the model through transformers, or another method",
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
        return None

    @property
    def sorts_by_score(self) -> bool:
        """Whether the order of a window comes from `rank_by_score`, so that ``first_stage`` has an effect."""
        return False

    @abstractmethod
    def make_requests(self, window: Window) -> list[Request]:
        """Return the requests for one window, with passages truncated, or raise ContextOverflowError."""

    @abstractmethod
    def verdict(self, window: Window, replies: Sequence[Reply]) -> Verdict: ...

    def rank_by_score(self, scores: Sequence[float], window: Window) -> Verdict:
        """Order a window by z(score) + ``first_stage`` * z(first-stage score), or by the score alone.

        Both are z-scores within the window. Infinite scores stay first or last, regardless of the first stage. If the
        window has no first-stage scores, only the judge's scores are used, and the verdict's detail states this. The
        verdict has the judge's own scores.
        """
        verdict = rank_window_by_score(scores, len(window))
        if not self.first_stage or verdict.status in FAILURES:
            return verdict
        if not window.scores:
            return replace(verdict, detail="no first-stage scores were given, so only the judge's scores counted")
        own, first = window_z_scores(self.scores_to_combine(scores)), window_z_scores(window.scores)
        combined = [a + self.first_stage * b for a, b in zip(own, first, strict=True)]
        return replace(rank_window_by_score(combined, len(window)), scores=verdict.scores)

    def rank_scored_documents(self, scores: Sequence[float | None], window: Window) -> Verdict:
        """Order the documents with a score; others keep their positions, and the status is ``partial`` or ``empty``."""
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
        return self.make_requests(window)

    def with_backend(self, backend: Backend) -> Self:
        """Return this judge with another backend of the same model, such as one that logs replies; reads no files."""
        judge = copy.copy(self)
        object.__setattr__(judge, "backend", backend)
        return judge

    @cached_property
    def _supported(self) -> frozenset[type[Any]]:
        return tasks_supported_by_backend(self.backend)

    def supports(self, task: type[Any]) -> bool:
        return task in self._supported


def check_judge_prompt_runs_on_backend(template: PromptTemplate, backend: Any, model: str) -> None:
    """Check that a backend, or its class before a model is loaded, accepts a prompt."""
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


def continuation_request(
    judge: PromptJudge, window: Window, continuations: Sequence[str], *, labels: Sequence[str] | None = None
) -> Request:
    """Return a request for the log-probability of each continuation of a window's prompt.

    Passages are truncated so that the prompt and the longest continuation fit. The task is of the first type in
    ``judge.needs``: `ContinuationTask` for single tokens, or `LikelihoodTask` for longer texts. If the prompt is plain
    text without chat turns, the continuations begin with a space. If the backend supports only `DecisionTask`, the task
    asks the judge's type of question. ``labels`` are the identifiers of the passages, if they are not 1, 2, ...
    """
    if DecisionTask in judge.needs and judge.supports(DecisionTask) and not judge.supports(judge.needs[0]):
        return _decision_request(judge, window, labels or continuations, labels=labels)
    if judge.template.plain_text:
        continuations = [f" {text}" for text in continuations]
    longest = max(judge.backend.tokens.lengths(list(continuations)), default=0)
    limits = judge.limits
    reply_tokens = longest + limits.thinking_tokens
    fitted = judge.budget.fit(judge.template, window, reply_tokens=reply_tokens, labels=labels)
    sampling = Sampling(
        max_tokens=longest, temperature=limits.temperature, seed=limits.seed, thinking=limits.thinking_tokens
    )
    task: ContinuationTask = judge.needs[0](continuations=tuple(continuations))
    return Request(prompt=fitted.prompt, sampling=sampling, window=window, task=task, dropped=fitted.dropped)


def _decision_request(
    judge: PromptJudge, window: Window, options: Sequence[str], *, labels: Sequence[str] | None
) -> Request:
    if len(options) > MAX_OPTIONS:
        raise ContextOverflowError(
            f"The question has {len(options)} options, and decision APIs accept at most {MAX_OPTIONS}",
            remedy="Lower --depth, or use --method sliding",
        )
    fitted = judge.budget.fit(judge.template, window, reply_tokens=0, labels=labels)
    template = judge.template.with_instruction(window.query.instruction)
    query = escape_turn_marks(collapse_whitespace(window.query.text), judge.budget.turn_marks)
    spans, tail = template.spans(query, fitted.passages, labels=labels)
    task = DecisionTask(question=judge.question, options=tuple(options), spans=spans, tail=tail)
    return Request(
        prompt=fitted.prompt, sampling=Sampling(max_tokens=0), window=window, task=task, dropped=fitted.dropped
    )


class ListwiseJudge(PromptJudge):
    """Base class of judges that show a whole window in one request. The context limits the size of the window."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.template.method == "pointwise":
            raise UsageError(
                f"The judge {plugin_name(type(self))!r} cannot use the pointwise prompt {self.template.name!r}",
                expected="a prompt that shows several passages",
                remedy="Omit --prompt",
            )

    def requests(self, window: Window) -> list[Request] | OversizedWindow:
        try:
            return self.make_requests(window)
        except ContextOverflowError:
            # Find by bisection how many documents from the head of the window fit in the context.
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
            if fits < 2:
                raise
            return OversizedWindow(fits)


@dataclass(frozen=True, kw_only=True)
class PointwiseJudge(PromptJudge):
    """Base class of judges that score one document at a time, with one request per document, and sort by score.

    Windows can have any length, and documents do not affect each other.
    """

    needs: ClassVar[tuple[type[Any], ...]] = (ContinuationTask,)
    sorts_by_score = True
    #: Meaning of the score of a document, such as ``log-likelihood of the query``.
    score_name: ClassVar[str] = "score"
    #: Whether the score is a logit of relevance (`ScoreKind.unit`).
    is_logit: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.template.method != "pointwise":
            raise UsageError(
                f"The judge {plugin_name(type(self))!r} cannot use the prompt {self.template.name!r}, whose method is "
                f"{self.template.method}",
                expected="a prompt with 'method: pointwise'",
                remedy=f"Omit --prompt to use {self.prompt!r}",
            )

    @classmethod
    def calls(cls, n: int) -> int:
        return n

    @cached_property
    def score_kind(self) -> ScoreKind:
        return ScoreKind(self.score_name, "absolute", "sigmoid" if self.is_logit else "")

    @abstractmethod
    def continuations(self, query: Query) -> tuple[str, ...]: ...

    def score(self, logs: Sequence[float]) -> float:
        """Return a document's score from the values of the continuations; larger is more relevant."""
        return logs[0]

    def make_requests(self, window: Window) -> list[Request]:
        continuations, task = self.continuations(window.query), self.needs[0]
        if task is LogitTask or (task is ContinuationTask and self.template.verbatim):
            for word, length in zip(continuations, self.backend.tokens.lengths(list(continuations)), strict=True):
                if length != 1:
                    model = self.backend.identity.get("model")
                    raise UsageError(
                        f"The word {word!r} has {length} tokens in the tokenizer of {model!r}",
                        expected=f"a single token, whose logit the judge {plugin_name(type(self))!r} reads",
                        remedy="Check that the model is of the family for which the prompt was made, or use another "
                        "method",
                    )
        requests = []
        for index, doc in enumerate(window.docs):
            # Published rerankers, which have verbatim prompts, were trained on title and text without words between.
            if self.template.verbatim and doc.title:
                doc = replace(doc, title="", text=doc.full_text)
            part = Window(window.query, (doc,), window.scores[index : index + 1])
            requests.append(continuation_request(self, part, continuations))
        return requests

    def verdict(self, window: Window, replies: Sequence[Reply]) -> Verdict:
        """Order the documents that have a score with `rank_by_score`; the window fails if others have none."""
        expected = len(self.continuations(window.query))
        scores = [self.score(reply.scores) if len(reply.scores) == expected else None for reply in replies]
        failure = failed_verdict(replies, len(window))
        known = [score for score in scores if score is not None]
        if failure is None and len(known) == len(scores):
            return self.rank_by_score(known, window)
        verdict, failure = self.rank_scored_documents(scores, window), failure or rank_window_by_score((), len(window))
        missing = f"{scores.count(None)} of {len(window)} documents without a score"
        return replace(failure, order=verdict.order, detail=f"{missing}: {failure.detail}")

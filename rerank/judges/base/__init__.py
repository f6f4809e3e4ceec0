"""What a judge is: something that puts the documents of a window in order. Knows no strategy."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, get_args, runtime_checkable

from rerank.errors import ContextOverflowError, UsageError
from rerank.prompts.base import SeesPictures
from rerank.prompts.budget import Budget
from rerank.prompts.template import PromptTemplate
from rerank.tasks import Backend, Reply, Request, tasks_of
from rerank.types import Order, Window

#: How a window went. In words: a permutation as asked; complete after dropping repeats and foreign identifiers or
#: reading another form; some identifiers missing and appended; no identifier; no identifier and the model declines;
#: no reply.
Status = Literal["ok", "repaired", "partial", "empty", "refused", "error"]
STATUSES: tuple[Status, ...] = get_args(Status)
#: Statuses that say nothing about the documents: the window keeps its order and counts as a failure.
FAILURES: frozenset[Status] = frozenset({"empty", "refused", "error"})

#: Requests that lie in memory at a time, with all their texts: comparing all pairs makes 9,900 of a list of 100.
_TOGETHER = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One judged window.

    Attributes:
        order: A permutation of the window's positions; the identity where nothing is known.
        status: How it was come by.
        detail: What was repaired or went wrong, in words; empty if nothing.
    """

    order: Order
    status: Status
    detail: str = ""


@dataclass(frozen=True, slots=True)
class TooLong:
    """A window that a judge would have to see at once and cannot.

    Attributes:
        room: How many of its documents fit, counted from its head; two or more, but not all.
    """

    room: int


class Judge(Protocol):
    """Something that puts windows in order."""

    def order(self, windows: Sequence[Window]) -> list[Verdict]:
        """Judge all windows, in the order given; a window that fails is a verdict, not an exception."""


@runtime_checkable
class SupportsParts(Protocol):
    """A judge that sees a whole window at once, and says of one that is too long how much of it fits."""

    def attempt(self, windows: Sequence[Window]) -> Sequence[Verdict | TooLong]:
        """Judge all windows that are not too long, in the order given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Token budget and decoding of a judge.

    Attributes:
        min_passage_tokens: Passages are never cut below that many tokens.
        max_passage_tokens: Nor left longer than that, even where there is room; None for no limit.
        context_size: Use less than the model's context; None for all of it.
        temperature: 0 is greedy.
        seed: For sampling.
        thinking_tokens: What a reasoning model may spend before it answers; 0 asks it not to think.
    """

    min_passage_tokens: int = 32
    max_passage_tokens: int | None = None
    context_size: int | None = None
    temperature: float = 0.0
    seed: int = 0
    thinking_tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class Asking:
    """The part that all judges of this package share: questions about windows, sent together, and their answers read.

    A judge says which tasks it needs, makes the requests of one window, and reads their replies. Its further fields
    are its options, as in ``--method pick,by=likelihood``.

    Attributes:
        backend: Who answers.
        template: How the question is put.
        limits: Token budget and decoding.

    Raises:
        UsageError: The backend does none of the tasks, or the prompt shows pictures and the backend sees none, or the
            limits contradict each other or the model.
    """

    #: Kinds of task that will do, the best first.
    needs: ClassVar[tuple[type[Any], ...]]
    #: Options that decide what is asked and not how replies are read.
    asking_only: ClassVar[frozenset[str]] = frozenset()
    #: The shipped prompt that suits it; empty if any listwise prompt does.
    prompt: ClassVar[str] = ""

    backend: Backend
    template: PromptTemplate
    limits: Limits = field(default_factory=Limits)
    budget: Budget = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check that the backend can answer; make the budget, which remembers how long documents are."""
        model = self.backend.identity.get("model", "")
        self.check(self.backend, model)
        if self.template.pictures and not isinstance(self.backend.tokens, SeesPictures):
            raise UsageError(
                f"The prompt {self.template.name!r} shows pictures, and model {model!r} is asked in texts alone",
                expected="a model that sees pictures",
                remedy="Name one with --model vlm:NAME, or take another method",
            )
        budget = Budget(
            self.backend.tokens,
            floor=self.limits.min_passage_tokens,
            max_passage_tokens=self.limits.max_passage_tokens,
            context_size=self.limits.context_size,
        )
        object.__setattr__(self, "budget", budget)

    @classmethod
    def check(cls, backend: Any, model: str) -> None:
        """Refuse a backend that does none of the tasks needed.

        Args:
            backend: The backend, or its class before a model is loaded.
            model: What the user calls the model.

        Raises:
            UsageError: It does none of them.
        """
        if not tasks_of(backend) & set(cls.needs):
            made = backend if isinstance(backend, type) else type(backend)
            raise UsageError(
                f"The judge {cls.__name__.lower()!r} with model {model!r}: its "
                f"backend, {made.__name__.lower()!r}, cannot be asked to "
                f"{' or '.join(task.__name__.lower() for task in cls.needs)}",
                expected="a backend that can; `rerank methods` lists them",
                remedy="Name the model with --model hf:NAME to run it through transformers, or take another method",
            )

    @classmethod
    def suits(cls, options: Mapping[str, str]) -> str:
        """The shipped prompt that suits it with some options; empty if any listwise prompt does."""
        return cls.prompt

    @classmethod
    def calls(cls, n: int) -> int:
        """How many requests a window of ``n`` documents takes."""
        return 1

    @property
    def identity(self) -> Mapping[str, str]:
        """What decides its orders beyond its options and its prompt, such as the content of a file that they name."""
        return {}

    @abstractmethod
    def requests(self, window: Window) -> list[Request]:
        """The calls for one window, passages cut so that they fit.

        Raises:
            ContextOverflowError: It does not fit the context even with its passages at the floor.
        """

    @abstractmethod
    def verdict(self, window: Window, replies: Sequence[Reply]) -> Verdict:
        """What the replies to a window's requests say."""

    def ask(self, window: Window) -> list[Request] | TooLong:
        """The calls for one window, or that it is too long for one.

        Raises:
            ContextOverflowError: It does not fit, and parts of it would not either.
        """
        return self.requests(window)

    def order(self, windows: Sequence[Window]) -> list[Verdict]:
        """Judge all windows.

        Raises:
            ContextOverflowError: A window does not fit the context even with its passages at the floor.
            BackendError: Nothing can be answered.
        """
        verdicts = []
        for window, found in zip(windows, self.attempt(windows), strict=True):
            if isinstance(found, TooLong):
                self.requests(window)  # says why
                raise ContextOverflowError(f"A window of {len(window)} documents is too long for the context")
            verdicts.append(found)
        return verdicts

    def attempt(self, windows: Sequence[Window]) -> list[Verdict | TooLong]:
        """Judge all windows that fit with one call to the backend, or with several where they are very many.

        Raises:
            ContextOverflowError: Not even two documents of a window fit the context.
            BackendError: Nothing can be answered.
        """
        step = max(1, _TOGETHER // max((self.calls(len(window)) for window in windows), default=1))
        parts = (windows[start : start + step] for start in range(0, len(windows), step))
        return [found for part in parts for found in self._attempt(part)]

    def _attempt(self, windows: Sequence[Window]) -> list[Verdict | TooLong]:
        asked = [self.ask(window) for window in windows]
        requests = [request for found in asked if not isinstance(found, TooLong) for request in found]
        replies = iter(self.backend.generate(requests) if requests else ())
        return [
            found if isinstance(found, TooLong) else self.verdict(window, [next(replies) for _ in found])
            for window, found in zip(windows, asked, strict=True)
        ]

    def does(self, task: type[Any]) -> bool:
        """Whether the backend does a task."""
        return task in tasks_of(self.backend)


class Whole(Asking):
    """A judge whose one request shows the whole window, so that only so many documents fit.

    Raises:
        UsageError: The prompt shows one passage.
    """

    def __post_init__(self) -> None:
        """Check that the prompt is about several passages."""
        super().__post_init__()
        if self.template.method == "pointwise":
            raise UsageError(
                f"The judge {type(self).__name__.lower()!r} with the prompt {self.template.name!r} about one passage",
                expected="a prompt about several passages",
                remedy="Leave --prompt out",
            )

    def ask(self, window: Window) -> list[Request] | TooLong:
        """The call for a window, or how much of it fits."""
        try:
            return self.requests(window)
        except ContextOverflowError:
            if (room := self._room(window)) < 2:
                raise
            return TooLong(room)

    def _room(self, window: Window) -> int:
        """How many documents fit of a window that does not, counted from its head."""
        fits, fails = 1, len(window)
        while fails - fits > 1:
            middle = (fits + fails) // 2
            try:
                self.requests(Window(window.query, window.docs[:middle], window.scores[:middle], window.best))
            except ContextOverflowError:
                fails = middle
            else:
                fits = middle
        return fits


def by_score(scores: Sequence[float], count: int) -> Verdict:
    """The order of falling scores, ties as given; a failure where one is missing or no number.

    >>> by_score((0.1, 0.7, 0.1), 3).order
    (1, 0, 2)
    """
    given = tuple(range(count))
    if len(scores) != count:
        return Verdict(order=given, status="error", detail=f"{len(scores)} scores for {count} documents")
    if any(score != score for score in scores):
        return Verdict(order=given, status="empty", detail="the model gave a score that is no number")
    return Verdict(order=tuple(sorted(given, key=lambda at: -scores[at])), status="ok")


def z_scores(scores: Sequence[float]) -> list[float]:
    """Scores less their mean, over their standard deviation (with n); all 0 where they are equal.

    >>> z_scores([1.0, 3.0])
    [-1.0, 1.0]
    """
    mean = sum(scores) / len(scores)
    deviation = (sum((score - mean) ** 2 for score in scores) / len(scores)) ** 0.5
    return [(score - mean) / deviation if deviation else 0.0 for score in scores]


def failed(replies: Sequence[Reply], count: int) -> Verdict | None:
    """The verdict on a window one of whose replies never came; None if all did."""
    for reply in replies:
        if reply.finish in ("error", "refused"):
            detail = reply.error or "the provider refused to answer"
            return Verdict(order=tuple(range(count)), status=reply.finish, detail=detail)
    return None

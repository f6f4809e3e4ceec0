"""Backends that answer without a model, well or badly on purpose: for documentation, tests and dry runs.

A fake looks at the window, never at the prompt's words, and writes a reply as a model would; the real parser reads
it. Same request, same reply.
"""

from __future__ import annotations

import hashlib
import random
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from pydantic import InstanceOf

from rerank.errors import StorageError, UnknownNameError, UsageError
from rerank.prompts.word_tokens import WordTokens
from rerank.tasks import (
    AttentionTask,
    ContinuationTask,
    CrossEncoderTask,
    GenerationTask,
    LikelihoodTask,
    PermutationTask,
    Reply,
    Request,
)
from rerank.types import Document, Order, Qrels, Window

Kind = Literal["perfect", "reversed", "stutter", "talk", "fail"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(slots=True, eq=False)
class Fake:
    """A backend without a model.

    - ``perfect``: the order of the judgments, ties in the given order; the given order where there are none.
    - ``reversed``: the given order, last first.
    - ``stutter``: a shuffled order with repeats, gaps and foreign identifiers.
    - ``talk``: the perfect order, wrapped in prose that is full of other numbers.
    - ``fail``: no reply, for a share of the requests; the others are answered as by ``perfect``.

    Attributes:
        kind: Which of these.
        seed: Where chance starts, for ``stutter`` and ``fail``.
        p: Chance that ``stutter`` spoils a position.
        rate: Share of requests that ``fail`` does not answer.
        qrels: Judgments for ``perfect``, ``talk`` and ``fail``.
        context_size: Tokens (words and marks) of prompt and reply together.
        batch_size: Requests to hand over at a time.
        delay: Seconds to wait before each reply, so that there is time to interrupt.
        log: File that gets one line (the request's digest) for every reply that is given.
        served: Digests of the requests answered so far, in order.

    Raises:
        UnknownNameError: No such kind.
        UsageError: A number out of its range.
    """

    answers: ClassVar[frozenset[type[Any]]] = frozenset(
        {GenerationTask, PermutationTask, ContinuationTask, LikelihoodTask, AttentionTask, CrossEncoderTask}
    )

    kind: str
    _: KW_ONLY
    seed: int = 0
    p: float = 0.3
    rate: float = 1.0
    qrels: InstanceOf[Qrels] | None = None
    context_size: int = 8192
    batch_size: int = 8
    delay: float = 0.0
    log: Path | None = None
    served: list[str] = field(default_factory=list, init=False, repr=False)
    _warned: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        """Check the options."""
        if self.kind not in KINDS:
            raise UnknownNameError("fake model", self.kind, KINDS)
        for name, value in (("p", self.p), ("rate", self.rate)):
            if not 0 <= value <= 1:
                raise UsageError(f"Option {name}={value} of fake:{self.kind}", expected="a number from 0 to 1")
        if min(self.context_size, self.batch_size) < 1 or self.delay < 0:
            raise UsageError(
                f"fake:{self.kind} with context_size={self.context_size}, batch_size={self.batch_size}, "
                f"delay={self.delay}",
                expected="sizes of at least 1 and a delay of at least 0",
            )

    @property
    def identity(self) -> Mapping[str, str]:
        """The kind and what changes its answers."""
        identity = {"model": f"fake:{self.kind}"}
        if self.kind in ("stutter", "fail"):
            identity["seed"] = str(self.seed)
        if self.kind == "stutter":
            identity["p"] = str(self.p)
        if self.kind == "fail":
            identity["rate"] = str(self.rate)
        if self.qrels is not None and self.kind in ("perfect", "talk", "fail"):
            identity["qrels"] = _digest(self.qrels)
        return identity

    @property
    def tokens(self) -> WordTokens:
        """Counts words and marks."""
        return WordTokens(self.context_size)

    @property
    def costs_money(self) -> bool:
        """Never."""
        return False

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """Answer all requests, in order.

        Raises:
            StorageError: The log cannot be written.
        """
        identity = self.identity
        return [self._serve(request, request.digest(identity)) for request in requests]

    def _serve(self, request: Request, digest: str) -> Reply:
        started = time.perf_counter()
        if self.delay:
            time.sleep(self.delay)
        tokens_in = self.tokens.count(request.prompt)
        # One random number generator a request, so that neither order nor batches matter.
        chance = random.Random(f"{self.seed} {digest}")
        if self.kind == "fail" and chance.random() < self.rate:
            reply = Reply(text="", tokens_in=tokens_in, finish="error", error="fake:fail does not answer this request")
        elif not isinstance(request.task, GenerationTask | PermutationTask):
            shape = "1x1" if isinstance(request.task, AttentionTask) and request.task.per_head else ""  # a single head
            reply = Reply(text=shape, scores=self._scores(request, chance), tokens_in=tokens_in)
        else:
            text = self._text(request, chance)
            (tokens_out,) = self.tokens.lengths([text])
            seconds = time.perf_counter() - started
            reply = Reply(text=text, tokens_in=tokens_in, tokens_out=tokens_out, seconds=seconds)
        self._note(digest)
        return reply

    def _text(self, request: Request, chance: random.Random) -> str:
        window = request.window
        if isinstance(
            request.task, PermutationTask
        ):  # what can be said is prescribed, so no kind of fake can say it badly
            order = self._order(window, chance)[: request.task.count]
            return request.task.separator.join(request.task.items[at] for at in order)
        if self.kind == "stutter":
            return _stutter(len(window), self.p, chance)
        chain = _chain(self._order(window, chance)[: window.wanted])
        return _talk(chain, len(window)) if self.kind == "talk" else chain

    def _order(self, window: Window, chance: random.Random) -> Order:
        if self.kind == "reversed":
            return tuple(reversed(range(len(window))))
        if self.kind == "stutter":
            return tuple(chance.sample(range(len(window)), len(window)))
        return self._perfect(window)

    def _scores(self, request: Request, chance: random.Random) -> tuple[float, ...]:
        """One number for every answer that there could be: documents fall by place, a single one counts by grade."""
        window, task = request.window, request.task
        count = len(task.continuations) if isinstance(task, ContinuationTask) else len(window)
        if len(window) == 1:  # yes or no; likely or not
            grade = float(self._grade(window, chance))
            return (grade, *[0.0] * (count - 1))
        place = {at: rank for rank, at in enumerate(self._order(window, chance))}
        return tuple(-float(place.get(at, count)) for at in range(count))

    def _grade(self, window: Window, chance: random.Random) -> float:
        if self.kind == "stutter":
            return chance.random()
        sign = -1 if self.kind == "reversed" else 1
        grades = self.qrels.get(window.query.id, {}) if self.qrels is not None else {}
        return sign * grades.get(_judged(window.docs[0]), 0)

    def _perfect(self, window: Window) -> Order:
        if self.qrels is None:
            if not self._warned:
                self._warned = True
                warnings.warn(f"fake:{self.kind} has no judgments, so it keeps the given order", stacklevel=2)
            return tuple(range(len(window)))
        grades = self.qrels.get(window.query.id, {})
        return tuple(sorted(range(len(window)), key=lambda at: -grades.get(_judged(window.docs[at]), 0)))

    def _note(self, digest: str) -> None:
        self.served.append(digest)
        if self.log is not None:
            try:
                with self.log.open("a", encoding="utf-8") as file:
                    file.write(f"{digest}\n")
            except OSError as error:
                raise StorageError(
                    f"The log {str(self.log)!r} of fake:{self.kind} cannot be written: {error}"
                ) from error


def _judged(doc: Document) -> str:
    """The id that judgments know: a passage is judged with its document."""
    return doc.part_of or doc.id


def _chain(order: Order) -> str:
    return " > ".join(f"[{at + 1}]" for at in order)


def _stutter(count: int, p: float, chance: random.Random) -> str:
    """A shuffled order; each position is spoilt with probability p: left out, said twice, or a foreign identifier."""
    order = list(range(count))
    chance.shuffle(order)
    said: list[int] = []
    for at in order:
        if chance.random() >= p:
            said.append(at)
            continue
        match chance.choice(("drop", "repeat", "foreign")):
            case "repeat":
                said += [at, chance.choice(said or [at])]
            case "foreign":
                said += [at, count + chance.randrange(1, 100)]
    return _chain(tuple(said))


def _talk(chain: str, count: int) -> str:
    return (
        f"I read all {count} passages twice and spent 3 minutes on them. In my view, 2 or 3 matter most.\n\n"
        f"Ranking: {chain}\n\nThat is 1 list of {count}; I am 90% sure of the first 10."
    )


def _digest(qrels: Qrels) -> str:
    content = sorted((query_id, sorted(judged.items())) for query_id, judged in qrels.items())
    return hashlib.sha256(repr(content).encode()).hexdigest()

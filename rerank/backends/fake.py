"""The backends ``fake`` and ``fake-server``: simulated models, correct or faulty, for docs, tests and dry runs.

A fake derives its reply from the window. It reads the text of the prompt only to score words by attention. It returns
text in the form that a model would generate, and the real parser parses it. Replies are deterministic.
"""

import asyncio
import hashlib
import random
import re
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

from pydantic import InstanceOf

from rerank.errors import StorageError, UnknownNameError, ensure
from rerank.prompts.word_tokens import WordTokens
from rerank.tasks import (
    AttentionTask,
    ContinuationTask,
    CrossEncoderTask,
    FusionTask,
    GenerationTask,
    HeadTask,
    LikelihoodTask,
    LogitTask,
    PermutationTask,
    Reply,
    Request,
)
from rerank.tasks.backends import BaseBackend
from rerank.tasks.concurrency import ConcurrencyLimit, await_on_loop, run_on_loop
from rerank.tasks.kinds import format_token_positions
from rerank.types import Order, Qrels, Window

_WORD = re.compile(r"\w+|[^\w\s]")

FakeKind = Literal["perfect", "reversed", "stutter", "talk", "fail"]
#: Longest delay in seconds: a day.
_MOST_SECONDS = 86_400

KINDS: tuple[FakeKind, ...] = get_args(FakeKind)


@dataclass(eq=False)
class Fake(BaseBackend):
    """A backend without a model, whose replies depend on its kind.

    - ``perfect``: an oracle that reads the qrels; ties, and windows without qrels, keep the input order.
    - ``reversed``: the input order reversed.
    - ``stutter``: a random order with repeated, missing and unknown identifiers.
    - ``talk``: the perfect order inside prose with other numbers.
    - ``fail``: no reply to a fraction of the requests; the other requests get the replies of ``perfect``.
    """

    tasks = frozenset(
        {
            GenerationTask,
            FusionTask,
            PermutationTask,
            ContinuationTask,
            LikelihoodTask,
            LogitTask,
            HeadTask,
            AttentionTask,
            CrossEncoderTask,
        }
    )
    sees_pictures = True  # replies depend on the window, not on the prompt
    costs_money = False

    kind: str
    _: KW_ONLY
    seed: int = 0  # of ``stutter`` and ``fail``
    p: float = 0.3  # probability that ``stutter`` corrupts a position
    rate: float = 1.0  # fraction of requests that ``fail`` does not answer
    qrels: InstanceOf[Qrels] | None = None  # for ``perfect``, ``talk`` and ``fail``
    context_size: int = 8192  # maximum number of words and punctuation marks of prompt and reply together
    batch_size: int = 8
    delay: float = 0.0  # seconds to wait before each reply, for example to have time to interrupt a run
    log: Path | None = None  # file that receives one line (the request's digest) per reply
    served: list[str] = field(default_factory=list, init=False, repr=False)  # digests of the answered requests
    _warned: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UnknownNameError("fake model", self.kind, KINDS)
        for name, value in (("p", self.p), ("rate", self.rate)):
            found = f"Option {name}={value} of fake:{self.kind} is out of range"
            ensure(0 <= value <= 1, found, expected="a number from 0 to 1")
        ensure(
            min(self.context_size, self.batch_size) >= 1 and 0 <= self.delay <= _MOST_SECONDS,
            f"fake:{self.kind} has context_size={self.context_size}, batch_size={self.batch_size}, delay={self.delay}",
            expected=f"sizes of at least 1 and a delay of 0 to {_MOST_SECONDS} seconds",
        )

    @cached_property
    def identity(self) -> Mapping[str, str]:
        identity = {"model": f"fake:{self.kind}"}  # and the options that affect its replies
        if self.kind in ("stutter", "fail"):
            identity["seed"] = str(self.seed)
        if self.kind == "stutter":
            identity["p"] = str(self.p)
        if self.kind == "fail":
            identity["rate"] = str(self.rate)
        if self.qrels is not None and self.kind in ("perfect", "talk", "fail"):
            content = sorted((query_id, sorted(judged.items())) for query_id, judged in self.qrels.items())
            identity["qrels"] = hashlib.sha256(repr(content).encode()).hexdigest()
        return identity

    @cached_property
    def tokens(self) -> WordTokens:
        return WordTokens(self.context_size)

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        identity, replies = self.identity, []
        for request in requests:
            started = time.perf_counter()
            if self.delay:
                time.sleep(self.delay)
            replies.append(self._reply(request, request.digest(identity), started))
        return replies

    def _reply(self, request: Request, digest: str, started: float) -> Reply:
        tokens_in, task = self.tokens.count(request.prompt), request.task
        # Each request has its own random number generator, so the order of requests and batches has no effect.
        rng = random.Random(f"{self.seed} {digest}")
        if self.kind == "fail" and rng.random() < self.rate:
            reply = Reply(text="", tokens_in=tokens_in, finish="error", error="fake:fail does not answer this request")
        elif isinstance(task, AttentionTask) and task.per_token:
            positions, scores = self._score_words(request, task, rng)
            reply = Reply(text=format_token_positions(positions), scores=scores, tokens_in=tokens_in)
        elif not isinstance(task, GenerationTask | FusionTask | PermutationTask):
            shape = "1x1" if isinstance(task, AttentionTask) and task.per_head else ""  # a single head
            reply = Reply(text=shape, scores=self._scores(request, rng), tokens_in=tokens_in)
        else:
            text = self._text(request, rng)
            (tokens_out,) = self.tokens.lengths([text])
            seconds = time.perf_counter() - started
            reply = Reply(text=text, tokens_in=tokens_in, tokens_out=tokens_out, seconds=seconds)
        self.served.append(digest)
        if self.log is not None:
            try:
                with self.log.open("a", encoding="utf-8") as file:
                    file.write(f"{digest}\n")
            except OSError as error:
                raise StorageError(
                    f"The log {str(self.log)!r} of fake:{self.kind} cannot be written: {error}"
                ) from error
        return reply

    def _text(self, request: Request, rng: random.Random) -> str:
        window, count = request.window, len(request.window)
        # Constrained decoding excludes malformed replies, so no kind of fake returns one.
        if isinstance(request.task, PermutationTask):
            order = self._order(window, rng)[: request.task.count]
            return request.task.separator.join(request.task.items[index] for index in order)
        if self.kind == "stutter":
            return _permutation(_stutter(count, self.p, rng))
        permutation = _permutation(self._order(window, rng)[: window.depth])
        if self.kind != "talk":
            return permutation
        return (
            f"I read all {count} passages twice and spent 3 minutes on them. In my view, 2 or 3 matter most.\n\n"
            f"Ranking: {permutation}\n\nThat is 1 list of {count}; I am 90% sure of the first 10."
        )

    def _order(self, window: Window, rng: random.Random) -> Order:
        positions = range(len(window))
        if self.kind == "reversed":
            return tuple(reversed(positions))
        if self.kind == "stutter":
            return tuple(rng.sample(positions, len(window)))
        if self.qrels is None and not self._warned:
            self._warned = True
            warnings.warn(f"fake:{self.kind} has no qrels, so it keeps the input order", stacklevel=2)
        return tuple(sorted(positions, key=lambda index: -self._judged(window, index)))

    def _judged(self, window: Window, index: int) -> int:
        """Return the grade of a candidate; for a passage of a document, the document's grade; 0 without qrels."""
        doc = window.docs[index]
        return self.qrels.get(window.query.id, {}).get(doc.part_of or doc.id, 0) if self.qrels is not None else 0

    def _scores(self, request: Request, rng: random.Random) -> tuple[float, ...]:
        """Return one score per passage or continuation: minus its rank; for a single passage, its grade, then zeros."""
        window, task = request.window, request.task
        count = len(task.continuations) if isinstance(task, ContinuationTask) else len(window)
        if len(window) == 1:  # continuations such as Yes and No: the first one gets the grade
            sign = -1 if self.kind == "reversed" else 1
            grade = rng.random() if self.kind == "stutter" else float(sign * self._judged(window, 0))
            return (grade, *[0.0] * (count - 1))
        ranks = {index: rank for rank, index in enumerate(self._order(window, rng))}
        return tuple(-float(ranks.get(index, count)) for index in range(count))

    def _score_words(
        self, request: Request, task: AttentionTask, rng: random.Random
    ) -> tuple[list[list[int]], tuple[float, ...]]:
        """Return the word positions of each passage, and 1 per word in the query, else 0 (random for ``stutter``)."""
        content = next(turn.content for turn in reversed(request.prompt) if turn.role == "user")
        query = set(_WORD.findall(request.window.query.text.lower()))
        words = [[(w.start(), w[0]) for w in _WORD.finditer(content[start:end])] for start, end in task.spans]
        scores = [
            rng.random() if self.kind == "stutter" else float(word.lower() in query) for row in words for _, word in row
        ]
        return [[position for position, _ in row] for row in words], tuple(scores)


@dataclass(eq=False)
class FakeServer(Fake):
    """A `Fake` whose replies take time, like those of a server: ``--model fake-server:reversed,delay=0.2``."""

    _: KW_ONLY
    batch_size: int = 16
    #: Maximum number of requests that are answered at the same time; the others wait.
    concurrency: int = 8
    #: Make every N-th request slow, where N is this number; 0 for no slow requests.
    slow_every: int = 0
    #: Delay of a slow request in seconds, instead of ``delay``.
    slow_delay: float = 0.0
    arrived: int = field(default=0, init=False, repr=False)
    in_progress: int = field(default=0, init=False, repr=False)
    #: The largest number of requests that were answered at the same time.
    most_in_progress: int = field(default=0, init=False, repr=False)
    _limit: ConcurrencyLimit = field(init=False, repr=False)

    def __post_init__(self) -> None:
        Fake.__post_init__(self)
        ensure(
            self.concurrency >= 1 and self.slow_every >= 0 and 0 <= self.slow_delay <= _MOST_SECONDS,
            f"fake-server:{self.kind} has concurrency={self.concurrency}, slow_every={self.slow_every}, "
            f"slow_delay={self.slow_delay}",
            expected=f"a concurrency of at least 1, no negative number, and a delay of at most {_MOST_SECONDS} seconds",
        )
        self._limit = ConcurrencyLimit(self.concurrency)

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        async def answer_all() -> list[Reply]:
            return list(await asyncio.gather(*map(self._answer, requests)))

        return run_on_loop(answer_all()) if requests else []

    async def agenerate(self, request: Request) -> Reply:
        return await await_on_loop(self._answer(request))

    async def aclose(self) -> None:
        """Do nothing, since there are no connections."""

    async def _answer(self, request: Request) -> Reply:
        async with self._limit:
            started = time.perf_counter()
            self.arrived += 1
            self.in_progress += 1
            self.most_in_progress = max(self.most_in_progress, self.in_progress)
            is_slow = self.slow_every and self.arrived % self.slow_every == 0
            try:
                await asyncio.sleep(self.slow_delay if is_slow else self.delay)
                reply = self._reply(request, request.digest(self.identity), started)
            finally:
                self.in_progress -= 1
            return replace(reply, seconds=time.perf_counter() - started)


def _permutation(order: Order) -> str:
    return " > ".join(f"[{index + 1}]" for index in order)


def _stutter(count: int, p: float, rng: random.Random) -> Order:
    """Return a random order. With probability p, an identifier is omitted or followed by a repeated or unknown one."""
    order = list(range(count))
    rng.shuffle(order)
    written: list[int] = []
    for index in order:
        if rng.random() >= p:
            written.append(index)
            continue
        match rng.choice(("drop", "repeat", "unknown")):
            case "repeat":
                written += [index, rng.choice(written or [index])]
            case "unknown":
                written += [index, count + rng.randrange(1, 100)]
    return tuple(written)

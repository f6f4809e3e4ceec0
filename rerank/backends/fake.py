"""The backend ``fake``: simulated models, correct or deliberately faulty, for documentation, tests and dry runs.

A fake derives its reply from the window. It reads the text of the prompt only to score words by attention. It returns
text in the form that a model would generate, and the real parser parses it. Replies are deterministic.
"""

from __future__ import annotations

import hashlib
import random
import re
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Literal, get_args

from pydantic import InstanceOf

from rerank.errors import StorageError, UnknownNameError, UsageError
from rerank.prompts.word_tokens import WordTokens
from rerank.tasks import (
    AttentionTask,
    ContinuationTask,
    CrossEncoderTask,
    FusionTask,
    GenerationTask,
    LikelihoodTask,
    LogitTask,
    PermutationTask,
    Reply,
    Request,
)
from rerank.tasks.backends import BaseBackend
from rerank.tasks.token_positions import format_task_token_positions
from rerank.types import Document, Order, Qrels, Window

_WORD = re.compile(r"\w+|[^\w\s]")

FakeKind = Literal["perfect", "reversed", "stutter", "talk", "fail"]
KINDS: tuple[FakeKind, ...] = get_args(FakeKind)


@dataclass(eq=False)
class Fake(BaseBackend):
    """A backend without a model, whose replies depend on its kind.

    - ``perfect``: an oracle that reads the qrels; ties, and windows without qrels, keep the input order.
    - ``reversed``: the input order reversed.
    - ``stutter``: a random order with repeated, missing and unknown identifiers.
    - ``talk``: the perfect order inside prose with other numbers.
    - ``fail``: no reply to a fraction of the requests; the other requests get the replies of ``perfect``.

    Attributes:
        kind: Name of the simulated model.
        seed: Seed of ``stutter`` and ``fail``.
        p: Probability that ``stutter`` corrupts a position.
        rate: Fraction of requests that ``fail`` does not answer.
        qrels: Relevance judgments for ``perfect``, ``talk`` and ``fail``.
        context_size: Maximum number of tokens (words and punctuation marks) of prompt and reply together.
        batch_size: Number of requests per batch.
        delay: Seconds to wait before each reply, for example to have time to interrupt a run.
        log: File that receives one line (the request's digest) per reply.
        served: Digests of the requests that have received a reply, in order.
    """

    tasks = frozenset(
        {
            GenerationTask,
            FusionTask,
            PermutationTask,
            ContinuationTask,
            LikelihoodTask,
            LogitTask,
            AttentionTask,
            CrossEncoderTask,
        }
    )
    #: Pictures are accepted, since replies depend on the window, not on the prompt.
    sees_pictures = True

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
                raise UsageError(
                    f"Option {name}={value} of fake:{self.kind} is out of range", expected="a number from 0 to 1"
                )
        if min(self.context_size, self.batch_size) < 1 or self.delay < 0:
            raise UsageError(
                f"fake:{self.kind} has context_size={self.context_size}, batch_size={self.batch_size}, "
                f"delay={self.delay}",
                expected="sizes of at least 1 and a delay of at least 0",
            )

    @property
    def identity(self) -> Mapping[str, str]:
        """The kind of fake, and the options that affect its replies."""
        identity = {"model": f"fake:{self.kind}"}
        if self.kind in ("stutter", "fail"):
            identity["seed"] = str(self.seed)
        if self.kind == "stutter":
            identity["p"] = str(self.p)
        if self.kind == "fail":
            identity["rate"] = str(self.rate)
        if self.qrels is not None and self.kind in ("perfect", "talk", "fail"):
            identity["qrels"] = _fake_backend_qrels_digest(self.qrels)
        return identity

    @property
    def tokens(self) -> WordTokens:
        """A counter of words and punctuation marks."""
        return WordTokens(self.context_size)

    @property
    def costs_money(self) -> bool:
        """Whether calls cost money; always false for this backend."""
        return False

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """Return the replies to all requests, in order."""
        identity = self.identity
        return [self._reply(request, request.digest(identity)) for request in requests]

    def _reply(self, request: Request, digest: str) -> Reply:
        started = time.perf_counter()
        if self.delay:
            time.sleep(self.delay)
        return self._reply_now(request, digest, started)

    def _reply_now(self, request: Request, digest: str, started: float) -> Reply:
        tokens_in = self.tokens.count(request.prompt)
        # Each request has its own random number generator, so the order of requests and batches has no effect.
        rng = random.Random(f"{self.seed} {digest}")
        if self.kind == "fail" and rng.random() < self.rate:
            reply = Reply(text="", tokens_in=tokens_in, finish="error", error="fake:fail does not answer this request")
        elif isinstance(request.task, AttentionTask) and request.task.per_token:
            positions, scores = self._score_words(request, request.task, rng)
            reply = Reply(text=format_task_token_positions(positions), scores=scores, tokens_in=tokens_in)
        elif not isinstance(request.task, GenerationTask | FusionTask | PermutationTask):
            shape = "1x1" if isinstance(request.task, AttentionTask) and request.task.per_head else ""  # a single head
            reply = Reply(text=shape, scores=self._scores(request, rng), tokens_in=tokens_in)
        else:
            text = self._text(request, rng)
            (tokens_out,) = self.tokens.lengths([text])
            seconds = time.perf_counter() - started
            reply = Reply(text=text, tokens_in=tokens_in, tokens_out=tokens_out, seconds=seconds)
        self._log_request(digest)
        return reply

    def _text(self, request: Request, rng: random.Random) -> str:
        window = request.window
        # Constrained decoding excludes malformed replies, so no kind of fake returns one.
        if isinstance(request.task, PermutationTask):
            order = self._order(window, rng)[: request.task.count]
            return request.task.separator.join(request.task.items[index] for index in order)
        if self.kind == "stutter":
            return _fake_stuttered_order(len(window), self.p, rng)
        permutation = _fake_permutation_text(self._order(window, rng)[: window.depth])
        return _fake_talkative_reply(permutation, len(window)) if self.kind == "talk" else permutation

    def _order(self, window: Window, rng: random.Random) -> Order:
        if self.kind == "reversed":
            return tuple(reversed(range(len(window))))
        if self.kind == "stutter":
            return tuple(rng.sample(range(len(window)), len(window)))
        return self._perfect(window)

    def _scores(self, request: Request, rng: random.Random) -> tuple[float, ...]:
        """Return one score per passage or continuation: minus its rank (from 0).

        If the window has a single passage, the first score is its grade (negative for ``reversed``, random for
        ``stutter``), and all others are 0.
        """
        window, task = request.window, request.task
        count = len(task.continuations) if isinstance(task, ContinuationTask) else len(window)
        if len(window) == 1:  # continuations such as Yes and No: the first one gets the grade
            grade = float(self._grade(window, rng))
            return (grade, *[0.0] * (count - 1))
        ranks = {index: rank for rank, index in enumerate(self._order(window, rng))}
        return tuple(-float(ranks.get(index, count)) for index in range(count))

    def _score_words(
        self, request: Request, task: AttentionTask, rng: random.Random
    ) -> tuple[list[list[int]], tuple[float, ...]]:
        """Return the positions of the words of each passage, and a score per word: 1 if it occurs in the query, else 0.

        Scores of ``stutter`` are random.
        """
        content = next(turn.content for turn in reversed(request.prompt) if turn.role == "user")
        query = set(_WORD.findall(request.window.query.text.lower()))
        words = [[(w.start(), w[0]) for w in _WORD.finditer(content[start:end])] for start, end in task.spans]
        scores = [
            rng.random() if self.kind == "stutter" else float(word.lower() in query) for row in words for _, word in row
        ]
        return [[position for position, _ in row] for row in words], tuple(scores)

    def _grade(self, window: Window, rng: random.Random) -> float:
        if self.kind == "stutter":
            return rng.random()
        sign = -1 if self.kind == "reversed" else 1
        grades = self.qrels.get(window.query.id, {}) if self.qrels is not None else {}
        return sign * grades.get(_fake_backend_qrels_id(window.docs[0]), 0)

    def _perfect(self, window: Window) -> Order:
        if self.qrels is None:
            if not self._warned:
                self._warned = True
                warnings.warn(f"fake:{self.kind} has no qrels, so it keeps the input order", stacklevel=2)
            return tuple(range(len(window)))
        grades = self.qrels.get(window.query.id, {})
        return tuple(
            sorted(range(len(window)), key=lambda index: -grades.get(_fake_backend_qrels_id(window.docs[index]), 0))
        )

    def _log_request(self, digest: str) -> None:
        self.served.append(digest)
        if self.log is not None:
            try:
                with self.log.open("a", encoding="utf-8") as file:
                    file.write(f"{digest}\n")
            except OSError as error:
                raise StorageError(
                    f"The log {str(self.log)!r} of fake:{self.kind} cannot be written: {error}"
                ) from error


def _fake_backend_qrels_id(doc: Document) -> str:
    """Return the id under which the qrels list a candidate; for a passage of a document, the document's id."""
    return doc.part_of or doc.id


def _fake_permutation_text(order: Order) -> str:
    return " > ".join(f"[{index + 1}]" for index in order)


def _fake_stuttered_order(count: int, p: float, rng: random.Random) -> str:
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
    return _fake_permutation_text(tuple(written))


def _fake_talkative_reply(permutation: str, count: int) -> str:
    return (
        f"I read all {count} passages twice and spent 3 minutes on them. In my view, 2 or 3 matter most.\n\n"
        f"Ranking: {permutation}\n\nThat is 1 list of {count}; I am 90% sure of the first 10."
    )


def _fake_backend_qrels_digest(qrels: Qrels) -> str:
    content = sorted((query_id, sorted(judged.items())) for query_id, judged in qrels.items())
    return hashlib.sha256(repr(content).encode()).hexdigest()

"""Encoding of texts by the worker processes of an engine, which compute the same vectors as a single process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

from rerank.errors import BackendError
from rerank.tasks.worker_map import WorkerMap, check_worker_model

Rows = TypeVar("Rows")
RowsOut = TypeVar("RowsOut", covariant=True)

#: Number of queries that a worker receives at once; queries are encoded one at a time, as in a single process.
_QUERIES = 32
#: Number of batches of passages that a worker receives at once, so that exchanging messages takes little time.
_BATCHES = 8


class TextEncoder(Protocol[RowsOut]):
    """Protocol of an encoder whose vectors are rows of any type, dense or sparse."""

    @property
    def identity(self) -> Mapping[str, str]:
        """Everything that passage vectors depend on, apart from the passages."""

    def queries(self, texts: Sequence[str]) -> RowsOut:
        """Encode queries one at a time, and return one row per text."""

    def passages(self, texts: Sequence[str]) -> RowsOut:
        """Encode passages as one batch, and return one row per text."""


@dataclass(frozen=True, kw_only=True)
class EncodeTexts(Generic[Rows]):
    """The function by which workers encode batches of texts.

    Attributes:
        load: Function that loads the encoder.
        identity: Identity of the encoder in the process that writes the index; a worker's encoder must have the same.
        kind: Whether the texts are queries or passages.
    """

    load: Callable[[], TextEncoder[Rows]]
    identity: Mapping[str, str]
    kind: Literal["queries", "passages"]

    def open(self) -> Callable[[Sequence[str]], Rows]:
        """Load the encoder, and return its method that encodes queries or passages, depending on ``kind``."""
        encoder = self.load()
        check_worker_model(encoder.identity, self.identity)
        return encoder.queries if self.kind == "queries" else encoder.passages

    def describe(self, item: Sequence[str]) -> str:
        """Return a description of a batch for messages: the number of texts, and the beginning of the first text."""
        return f"a batch of {len(item)} {self.kind} that begins with {item[0][:60]!r}"

    def give_up(self, item: Sequence[str], reason: str) -> Rows:
        """Raise an error for a batch that failed, because an index without its texts would be incomplete."""
        raise BackendError(reason, remedy="Omit these texts, or use --engine local to find the cause")


@dataclass(frozen=True, kw_only=True)
class EncodingWorkers(Generic[Rows]):
    """Workers that encode texts to the same vectors as an encoder in this process.

    Attributes:
        encoder: The encoder, loaded in this process.
        load: Function that loads the same encoder in a worker.
        apply: Function that applies a given function to items in the workers.
        join: Function that concatenates the rows of several batches of queries.
    """

    encoder: TextEncoder[Rows]
    load: Callable[[], TextEncoder[Rows]]
    apply: WorkerMap
    join: Callable[[Sequence[Rows]], Rows]

    def passages(self, batches: Iterable[Sequence[str]], count: int) -> Iterator[Rows]:
        """Yield the rows of each batch, in order, with one row per passage.

        Args:
            batches: Batches of passages, each of which is encoded as a whole by one worker.
            count: Number of batches.
        """
        return self.apply(self._function("passages"), [batches], count=-(-count // _BATCHES), together=_BATCHES)

    def queries(self, texts: Sequence[str]) -> Rows:
        """Return one row per query; a small number of queries is encoded in this process.

        Loading the model in a worker takes longer than encoding a few queries.
        """
        parts = [texts[start : start + _QUERIES] for start in range(0, len(texts), _QUERIES)]
        if len(parts) < 2:
            return self.encoder.queries(texts)
        return self.join(list(self.apply(self._function("queries"), [parts], count=len(parts))))

    def _function(self, kind: Literal["queries", "passages"]) -> EncodeTexts[Rows]:
        return EncodeTexts(load=self.load, identity=dict(self.encoder.identity), kind=kind)

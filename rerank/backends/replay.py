"""A backend that returns recorded replies without calling a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, get_args

from rerank.prompts.word_tokens import WordTokens
from rerank.tasks import Reply, Request, Task

#: Practically unlimited context size: replies are looked up by window, so no prompt may be refused or truncated.
_NO_LIMIT = 1 << 40

#: Query id, document ids in the order of the window, and seed.
_Key = tuple[str, tuple[str, ...], int]


class RecordedCall(Protocol):
    """A recorded reply and its window."""

    @property
    def query_id(self) -> str:
        """Id of the query."""

    @property
    def doc_ids(self) -> tuple[str, ...]:
        """Ids of the window's documents, in the order of the prompt."""

    @property
    def seed(self) -> int:
        """Seed of the sampling settings."""

    @property
    def reply(self) -> Reply:
        """The reply."""


class _RecordedTokens(WordTokens):
    """A token counter that counts words and has the single-token identifiers of the recorded tokenizer."""

    def __init__(self, context_size: int, letters: tuple[str, ...]) -> None:
        super().__init__(context_size)
        self.letters = letters


class Replay:
    """A backend that returns the reply recorded for the window and seed of a request.

    The prompt is ignored, so a run can be replayed without the texts of its documents. If a window was recorded more
    than once, the first reply is used.

    Args:
        calls: The recorded calls of one run.
        identity: Identity of the backend that produced the replies.
        letters: Single-token identifiers of this backend's tokenizer, if the prompts used any.

    Attributes:
        used: The recorded replies that were returned, by window and seed.
    """

    tasks = frozenset(get_args(Task))
    #: Pictures are accepted, since the prompt is ignored.
    sees_pictures = True
    #: Users cannot select it by name, since it needs the calls of a run.
    selectable = False
    batch_size = 1024
    costs_money = False

    def __init__(
        self,
        calls: Iterable[RecordedCall],
        *,
        identity: Mapping[str, str] | None = None,
        letters: tuple[str, ...] = (),
    ) -> None:
        """Index the recorded calls."""
        self._replies: dict[_Key, Reply] = {}
        self.used: dict[_Key, Reply] = {}
        for call in calls:
            self._replies.setdefault((call.query_id, tuple(call.doc_ids), call.seed), call.reply)
        self._identity = dict(identity or {"model": "replay"})
        self._tokens = _RecordedTokens(_NO_LIMIT, letters)

    @property
    def identity(self) -> Mapping[str, str]:
        """The identity of the recorded backend."""
        return self._identity

    @property
    def tokens(self) -> WordTokens:
        """A counter of words, with an unlimited context."""
        return self._tokens

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """Return the recorded replies, in order. If none is recorded, the reply has ``finish="error"``."""
        return [self._find(request) for request in requests]

    def _find(self, request: Request) -> Reply:
        window, seed = request.window, request.sampling.seed
        key = (window.query.id, tuple(doc.id for doc in window.docs), seed)
        if key in self._replies:
            return self.used.setdefault(key, self._replies[key])
        first = window.docs[0].id if window.docs else ""
        return Reply(
            text="",
            finish="error",
            error=f"No reply is recorded for the {len(window)} documents from {first!r} on of query "
            f"{window.query.id!r} with seed {seed}",
        )

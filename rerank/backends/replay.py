"""A backend that answers from recorded replies. Asks nobody; knows nothing of where the records are kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

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

#: Records are found by window, so no prompt may be refused or cut on their account.
_NO_LIMIT = 1 << 40

#: Query id, document ids in the window's order, and the seed.
_Key = tuple[str, tuple[str, ...], int]


class Recorded(Protocol):
    """One recorded reply and the window that it was about."""

    @property
    def query_id(self) -> str:
        """The window's query."""

    @property
    def doc_ids(self) -> tuple[str, ...]:
        """The window's documents, in the order in which they were shown."""

    @property
    def seed(self) -> int:
        """Seed of its sampling."""

    @property
    def reply(self) -> Reply:
        """What came back."""


class _Kept(WordTokens):
    """Counts words; its names of one token are another tokenizer's."""

    def __init__(self, context_size: int, letters: tuple[str, ...]) -> None:
        super().__init__(context_size)
        self.letters = letters


class Replay:
    """Answers a request with what was recorded for its window and seed.

    The prompt does not count, so a run can be replayed without the texts of its documents. Where a window was
    recorded more than once, the first record stands.

    Args:
        calls: What was recorded, from one run.
        identity: That of the backend that gave the replies.
        letters: The names of one token that its tokenizer had, where the prompts used such.

    Attributes:
        used: The records that requests were answered from, each once.
    """

    answers = frozenset(
        {GenerationTask, PermutationTask, ContinuationTask, LikelihoodTask, AttentionTask, CrossEncoderTask}
    )
    batch_size = 1024
    costs_money = False

    def __init__(
        self,
        calls: Iterable[Recorded],
        *,
        identity: Mapping[str, str] | None = None,
        letters: tuple[str, ...] = (),
    ) -> None:
        """Index the records."""
        self._replies: dict[_Key, Reply] = {}
        self.used: dict[_Key, Reply] = {}
        for call in calls:
            self._replies.setdefault((call.query_id, tuple(call.doc_ids), call.seed), call.reply)
        self._identity = dict(identity or {"model": "replay"})
        self._tokens = _Kept(_NO_LIMIT, letters)

    @property
    def identity(self) -> Mapping[str, str]:
        """The recorded one."""
        return self._identity

    @property
    def tokens(self) -> WordTokens:
        """Counts words, in a context without end."""
        return self._tokens

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """Look all requests up, in order; one that was never recorded is a reply with ``finish="error"``."""
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

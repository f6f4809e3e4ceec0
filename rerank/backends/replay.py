"""The backend that replays a run: it returns recorded replies without calling a model."""

import sys
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol, Self, get_args

from rerank.prompts.word_tokens import WordTokens
from rerank.tasks import Reply, Request, Task
from rerank.tasks.backends import BaseBackend
from rerank.tasks.requests import Usage

#: Practically unlimited context size: replies are looked up by window, so no prompt may be refused or truncated.
_NO_LIMIT = 1 << 40

#: Maximum number of queries whose calls are kept in memory, if calls are loaded on demand. This is more than the number
#: of queries that are replayed at the same time.
_QUERIES = 1024

#: Document ids in the order of the window, and seed.
_Key = tuple[tuple[str, ...], int]


class RecordedCall(Protocol):
    """A recorded reply and its window: the ids of its documents, in the order of the prompt."""

    @property
    def query_id(self) -> str: ...
    @property
    def doc_ids(self) -> tuple[str, ...]: ...
    @property
    def seed(self) -> int: ...
    @property
    def reply(self) -> Reply: ...


class _RecordedTokens(WordTokens):
    """A token counter that counts words, and allows the single-token identifiers (``letters``) of the recorded run."""

    letters: tuple[str, ...]


class Replay(BaseBackend):
    """A backend that returns the reply recorded for the window and seed of a request.

    The prompt is ignored, so a run can be replayed without the texts of its documents. If a window was recorded
    more than once, the first reply is used. ``identity`` and ``letters`` (single-token identifiers of the
    tokenizer, empty if the prompts used none) are those of the backend that produced the replies.
    """

    tasks = frozenset(get_args(Task))
    sees_pictures = True  # the prompt is ignored
    selectable = False  # it requires the calls of a run
    batch_size = 1024
    costs_money = False

    def __init__(
        self, calls: Iterable[RecordedCall], *, identity: Mapping[str, str] | None = None, letters: tuple[str, ...] = ()
    ) -> None:
        by_query: defaultdict[str, list[RecordedCall]] = defaultdict(list)
        for call in calls:
            by_query[call.query_id].append(call)
        self._calls_of: Callable[[str], Iterable[RecordedCall] | None] = dict(by_query).get
        self._queries = sys.maxsize
        self._open: OrderedDict[str, dict[_Key, Reply]] = OrderedDict()
        self._unused: dict[str, set[_Key]] = {}
        self.usage = Usage()
        self.identity = dict(identity or {"model": "replay"})
        self.tokens = _RecordedTokens(_NO_LIMIT)
        self.tokens.letters = letters

    @classmethod
    def by_query(cls, calls_of: Callable[[str], Iterable[RecordedCall]], *, letters: tuple[str, ...] = ()) -> Self:
        """Return a backend that loads the recorded calls of a query, given its id, when its first request arrives."""
        replay = cls((), letters=letters)
        replay._calls_of, replay._queries = calls_of, _QUERIES
        return replay

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        return [self._find(request) for request in requests]

    def _find(self, request: Request) -> Reply:
        window, seed = request.window, request.sampling.seed
        replies = self._replies_of(window.query.id)
        key = (tuple(doc.id for doc in window.docs), seed)
        if key in replies:
            if key in self._unused[window.query.id]:
                self._unused[window.query.id].remove(key)
                self.usage.add(replies[key], reused=False)
            return replies[key]
        first = window.docs[0].id if window.docs else ""
        return Reply(
            text="",
            finish="error",
            error=f"No reply is recorded for the {len(window)} documents from {first!r} on of query "
            f"{window.query.id!r} with seed {seed}",
        )

    def _replies_of(self, query_id: str) -> dict[_Key, Reply]:
        if query_id not in self._open:
            replies: dict[_Key, Reply] = {}
            for call in self._calls_of(query_id) or ():
                replies.setdefault((tuple(call.doc_ids), call.seed), call.reply)
            self._open[query_id], self._unused[query_id] = replies, set(replies)
            if len(self._open) > self._queries:
                self._unused.pop(self._open.popitem(last=False)[0])
        return self._open[query_id]

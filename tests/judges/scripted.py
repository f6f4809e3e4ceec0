"""A backend that answers what it is told to, and windows to ask about."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rerank.prompts.word_tokens import WordTokens
from rerank.tasks import GenerationTask, Reply, Request
from rerank.types import Document, Query, Window


def window(*texts: str, query: str = "a question", scores: tuple[float, ...] = ()) -> Window:
    """A window of documents d0, d1, ..."""
    docs = tuple(Document(id=f"d{at}", text=text) for at, text in enumerate(texts))
    return Window(Query(id="q", text=query), docs, scores)


class Scripted:
    """Answers every request with what ``say`` makes of it; keeps the requests."""

    batch_size = 8
    costs_money = False
    sees_pictures = True
    identity: Mapping[str, str] = {"model": "scripted"}

    def __init__(self, say: Callable[[Request], Reply], *tasks: type[Any], context_size: int = 4096) -> None:
        self.say = say
        self.tasks = frozenset(tasks or (GenerationTask,))
        self.tokens = WordTokens(context_size)
        self.asked: list[Request] = []

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        self.asked += requests
        return [self.say(request) for request in requests]


def always(reply: Reply) -> Callable[[Request], Reply]:
    """The same answer to everything."""
    return lambda request: reply

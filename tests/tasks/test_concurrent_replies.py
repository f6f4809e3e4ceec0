"""Requests to a network are answered concurrently, and a slow reply holds back no other."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

import pytest

from rerank.errors import BackendError
from rerank.prompts.base import Message
from rerank.tasks import AsyncBackend, Backend, Reply, Request, Sampling
from rerank.tasks.concurrency import iterate_replies, run_on_loop


def request(text: str) -> Request:
    return Request(prompt=(Message("user", text),), sampling=Sampling(max_tokens=9))


class Network:
    """Repeats the prompt, never answers "hang", and cannot answer "fatal"."""

    identity: Mapping[str, str] = MappingProxyType({})
    tokens: Any = None
    batch_size = 16
    costs_money = False

    def __init__(self) -> None:
        self.cancelled = 0

    async def agenerate(self, request: Request) -> Reply:
        text = request.prompt[0].content
        if text == "fatal":
            raise BackendError("no credit")
        try:
            await asyncio.sleep(60 if text == "hang" else 0)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return Reply(text=text)

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        raise AssertionError(requests)

    def close(self) -> None: ...

    async def aclose(self) -> None: ...


class Local:
    """Repeats the prompts."""

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        return [Reply(text=request.prompt[0].content) for request in requests]


def test_replies_of_a_local_model() -> None:
    replies = iterate_replies(cast(Backend, Local()), [request("a"), request("b")])
    assert [(position, reply.text) for position, reply in replies] == [(0, "a"), (1, "b")]


def test_a_hanging_request_holds_back_no_other() -> None:
    network = Network()
    assert isinstance(network, AsyncBackend)
    replies = iterate_replies(network, [request("hang"), *(request(str(n)) for n in range(1, 16))])
    assert sorted(next(replies)[0] for _ in range(15)) == [*range(1, 16)]
    replies.close()  # type: ignore[attr-defined]
    run_on_loop(asyncio.sleep(0.01))
    assert network.cancelled == 1


def test_an_error_of_all_requests_is_a_reply_beside_others() -> None:
    network = Network()
    network.batch_size = 1
    replies = dict(iterate_replies(network, [request("a"), request("fatal"), request("b")]))
    assert [(replies[n].text, replies[n].finish) for n in range(3)] == [("a", "stop"), ("", "error"), ("b", "stop")]


def test_an_error_of_all_requests_without_any_reply() -> None:
    with pytest.raises(BackendError):
        dict(iterate_replies(Network(), [request("fatal"), request("fatal")]))

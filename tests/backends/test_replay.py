"""Replaying recorded replies."""

from __future__ import annotations

from dataclasses import dataclass

from rerank.backends.replay import Replay
from rerank.prompts.base import Message
from rerank.tasks import Reply, Request, Sampling
from rerank.types import Document, Query, Window


@dataclass(frozen=True)
class Call:
    query_id: str
    doc_ids: tuple[str, ...]
    reply: Reply
    seed: int = 0


def request(query: str, *doc_ids: str, seed: int = 0, text: str = "any") -> Request:
    window = Window(Query(id=query), tuple(Document(id=doc_id) for doc_id in doc_ids))
    return Request(prompt=(Message("user", text),), sampling=Sampling(max_tokens=9, seed=seed), window=window)


FIRST = Reply(text="[2] > [1]", tokens_in=5, tokens_out=3, seconds=1.5)
OTHER = Reply(text="[1] > [2]", finish="length")
REPLAY = Replay(
    [
        Call("q", ("a", "b"), FIRST),
        Call("q", ("b", "a"), OTHER),
        Call("q", ("a", "b"), OTHER),
        Call("q", ("a", "b"), OTHER, seed=7),
    ],
    identity={"model": "m", "weights": "abc"},
)


def test_it_finds_replies_by_window_order_and_seed() -> None:
    asked = [request("q", "b", "a"), request("q", "a", "b"), request("q", "a", "b", seed=7)]
    assert REPLAY.generate(asked) == [OTHER, FIRST, OTHER]


def test_the_prompt_does_not_matter() -> None:
    assert REPLAY.generate([request("q", "a", "b", text="something else")]) == [FIRST]


def test_what_was_not_recorded_is_an_error_reply_that_names_it() -> None:
    found, unknown, empty = REPLAY.generate([request("q", "a", "b"), request("q2", "x", "y"), request("q2")])
    assert found == FIRST
    assert (unknown.finish, unknown.text) == ("error", "")
    assert "the 2 documents from 'x' on of query 'q2' with seed 0" in unknown.error
    assert empty.finish == "error"


def test_it_bears_the_recorded_identity() -> None:
    assert dict(REPLAY.identity) == {"model": "m", "weights": "abc"}
    assert dict(Replay([]).identity) == {"model": "replay"}


def test_no_prompt_is_too_long_for_it() -> None:
    assert REPLAY.tokens.context_size > 10**9

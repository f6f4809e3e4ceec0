"""The digest of a request. Those of the built-in tasks at commit 2d4cd24 are in tests/test_format_compatibility.py."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from rerank.errors import UsageError
from rerank.prompts.base import Message
from rerank.tasks import BackendOptions, ContinuationTask, Reply, Request, Sampling
from tests.raising import raises

IDENTITY = {"model": "some"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Unnamed:
    """A task of another distribution without a name in digests."""

    continuations: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Named(Unnamed):
    format_name: ClassVar[str] = "Weigh"


@dataclass(frozen=True, slots=True, kw_only=True)
class Derived(ContinuationTask):
    """A task that derives from a built-in one."""


def digest(task: Any) -> str:
    request = Request(prompt=(Message("user", "q"),), sampling=Sampling(max_tokens=1), task=task)
    return request.digest(IDENTITY)


@pytest.mark.parametrize("task_class", [Unnamed, Derived])
def test_a_class_without_a_name_is_known_by_its_own(task_class: Any) -> None:
    digests = {digest(task(continuations=("a",))) for task in (task_class, ContinuationTask)}
    assert len(digests) == 2
    assert digest(task_class(continuations=("a",))) != digest(task_class(continuations=("b",)))


def test_the_name_decides_and_not_the_class() -> None:
    assert digest(Named(continuations=("a",))) == digest(ContinuationTask(continuations=("a",)))


@pytest.mark.parametrize("value", [-0.1, math.inf, math.nan])
def test_numbers_that_no_model_takes(value: float) -> None:
    with raises(UsageError, "temperature"):
        Sampling(max_tokens=1, temperature=value)
    with raises(UsageError, "timeout"):
        BackendOptions(timeout=value)


def test_a_reply_can_always_be_stored() -> None:
    reply = Reply(text="[1] \ud83d", thoughts="\udc00", error="\ud800")
    assert (reply.text, reply.thoughts, reply.error) == ("[1] \ufffd", "\ufffd", "\ufffd")

"""The flow of a run: what is recorded is read again, and flows of older runs stay as they were."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from rerank.errors import DataError
from rerank.pipeline.stream import Flow


def flow(**values: Any) -> Flow:
    return Flow.of(SimpleNamespace(batch_size=4, **values))


@pytest.mark.parametrize("made", [flow(), flow(batch_characters=100), flow(batch_characters=None)])
def test_a_recorded_flow_is_read_again(made: Flow) -> None:
    assert Flow.from_json(made.to_json()) == made


def test_a_flow_without_a_maximum_of_characters_is_recorded_as_before() -> None:
    assert flow().to_json() == {"block": 32, "in_flight": 8, "batch_size": 4, "reuse": True}


@pytest.mark.parametrize("characters", [0, "many", 1.5])
def test_a_maximum_that_is_none(characters: Any) -> None:
    with pytest.raises(DataError):
        Flow.from_json({**flow().to_json(), "batch_characters": characters})

"""Choosing heads: the scores by hand, and the whole way from a collection to a list that a judge takes."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rerank.errors import DataError, UnknownNameError, UsageError
from rerank.experiment.head_selection import HeadSelection, score_by_contrast, score_by_mass, select_by_attention
from rerank.experiment.spec import Execution, RunSpec
from tests.raising import raises

WEIGHTS = np.array([[[0.2, 0.5, 0.1], [0.3, 0.3, 0.3]]])  # one layer, two heads, three passages
GOLD = np.array([False, True, False])


def test_the_mass_on_relevant_passages() -> None:
    assert score_by_mass(WEIGHTS, GOLD).tolist() == [[0.5, 0.3]]
    assert score_by_mass(WEIGHTS, np.array([True, True, False])).tolist() == [[0.7, 0.6]]


def test_the_contrast_is_a_softmax_over_one_relevant_passage_and_the_others() -> None:
    found = score_by_contrast(WEIGHTS, GOLD, tau=0.1)
    first = math.exp(5) / (math.exp(5) + math.exp(2) + math.exp(1))
    assert found == pytest.approx(np.array([[first, 1 / 3]]))
    both = score_by_contrast(WEIGHTS, np.array([True, True, False]), tau=0.1)
    each = [math.exp(m) / (math.exp(m) + math.exp(1)) for m in (2, 5)]
    assert both[0, 0] == pytest.approx(sum(each) / 2)


def test_a_small_tau_does_not_overflow() -> None:
    assert score_by_contrast(WEIGHTS, GOLD, tau=1e-4).tolist() == [[1.0, pytest.approx(1 / 3)]]
    assert score_by_contrast(WEIGHTS[:, :, ::-1] * 9, np.array([True, False, False]), tau=1e-4)[0, 0] == 0.0


def test_choices_that_make_no_sense() -> None:
    with raises(UnknownNameError, "qrhead"):
        HeadSelection(method="qrheads")
    with raises(UsageError, "count is 0"):
        HeadSelection(count=0)


@pytest.fixture
def spec(tmp_path: Path) -> Callable[..., RunSpec]:
    def make(**more: Any) -> RunSpec:
        values = {"collection": "pydoc", "depth": 6, "model": "fake:perfect", "prompt": "icr_ie", "max_queries": 3}
        return RunSpec(**{**values, **more})

    return make


@pytest.mark.parametrize("method", ["qrhead", "qrhead-ndcg", "core"])
def test_a_list_comes_out_and_nothing_is_asked_twice(tmp_path: Path, spec: Callable[..., RunSpec], method: str) -> None:
    log = tmp_path / "heads.json.calls"
    replies: list[Any] = []
    for _ in range(2):
        found = select_by_attention(
            spec(), Execution(), HeadSelection(method=method, count=3), log=log, on_reply=replies.append
        )
        assert found.heads == ((0, 0),)  # a fake has one head
        assert found.method == method
        assert found.details["queries"] + found.details["queries_skipped"] == 3
        assert found.model["model"] == "fake:perfect"
    assert len(replies) == 2 * found.details["queries"]


def test_queries_without_relevant_candidates_tell_nothing(tmp_path: Path, spec: Callable[..., RunSpec]) -> None:
    with raises(DataError, "--depth"):
        select_by_attention(spec(depth=1), Execution(), HeadSelection(), log=tmp_path / "calls")

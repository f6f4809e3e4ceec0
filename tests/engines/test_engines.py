"""Engines are named by selectors, and their options are checked."""

from __future__ import annotations

import sys

import pytest

from rerank.backends.fake import Fake
from rerank.engines import open_engine
from rerank.engines.local import Local
from rerank.engines.ray import Ray
from rerank.errors import MissingPrerequisiteError, UnknownNameError, UsageError
from tests.raising import raises


def test_engines_are_opened_by_name() -> None:
    assert open_engine("local", workers=None) == Local()
    assert open_engine("ray") == Ray()
    assert open_engine("ray:10.0.0.1:6379", workers=4, worker_timeout=60.0) == Ray(
        "10.0.0.1:6379", workers=4, worker_timeout=60.0
    )


@pytest.mark.parametrize("options", [{"workers": 0}, {"gpus_per_worker": -1.0}, {"gpus_per_worker": float("nan")}])
def test_options_out_of_range(options: dict[str, float]) -> None:
    with raises(UsageError, "workers"):
        open_engine("ray", **options)


def test_one_process_has_no_workers() -> None:
    with raises(UsageError, "--workers", "--engine ray"):
        open_engine("local", workers=2)
    with pytest.raises(UnknownNameError):
        open_engine("spark")


def test_missing_ray_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with raises(MissingPrerequisiteError, "listrank[ray]"):
        open_engine("ray").start(Fake("reversed"))

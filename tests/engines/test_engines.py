"""Engines are named by selectors, and their options are checked."""

from __future__ import annotations

import socket
import sys
from types import ModuleType

import pytest

from rerank.backends.fake import Fake
from rerank.engines import open_engine
from rerank.engines.local import Local
from rerank.engines.ray import Ray
from rerank.errors import BackendError, MissingPrerequisiteError, UnknownNameError, UsageError
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
    with raises(MissingPrerequisiteError, "[ray]'"):
        open_engine("ray").start(Fake("reversed"))


@pytest.mark.enable_socket
@pytest.mark.parametrize("port", [None, 99999])
def test_an_address_without_a_cluster_is_refused_before_ray_tries_for_minutes(
    port: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = ModuleType("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False, raising=False)
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.data", ModuleType("ray.data"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = server.getsockname()[1]
    address = f"127.0.0.1:{port or free}"
    with raises(BackendError, address):
        open_engine(f"ray:{address}").start(Fake("reversed"))

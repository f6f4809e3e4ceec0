"""Engines are named by selectors, and their options are checked."""

from __future__ import annotations

import socket
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from rerank.backends import vllm
from rerank.backends.fake import Fake
from rerank.backends.hf import Hf
from rerank.backends.vllm import Vllm
from rerank.engines import Local, open_engine
from rerank.engines.ray import Ray
from rerank.errors import BackendError, MissingPrerequisiteError, UnknownNameError, UsageError
from rerank.lm.model_process import LocalModel
from rerank.models.lazy_backend import LazyBackend
from rerank.tasks import BackendOptions
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


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """The resources of a faked cluster of 8 processors, to which Ray is connected."""
    resources: dict[str, float] = {"CPU": 8.0}
    ray: Any = ModuleType("ray")
    ray.is_initialized, ray.cluster_resources = lambda: True, lambda: resources
    ray.nodes = lambda: [{"Alive": True, "Resources": resources}]
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.data", ModuleType("ray.data"))
    return resources


def local_model(backend: Any, **options: Any) -> Any:
    return LazyBackend(backend, SimpleNamespace(options=BackendOptions(**options)))


@pytest.mark.parametrize(
    ("backend", "gpus"),
    [
        (local_model(Hf), 1),
        (local_model(Hf, device="cuda:0"), 1),
        (local_model(Hf, device="cpu"), 0),
        (LocalModel(), 1),
        (local_model(Vllm), 1),
        (local_model(Vllm, tensor_parallel_size=2, pipeline_parallel_size=2), 4),
        (None, 1),  # workers open the encoder of an index
        (Fake("reversed"), 0),
        (LazyBackend(Fake, None), 0),
    ],
)
def test_workers_get_the_gpus_that_their_model_needs_unless_others_are_given(
    cluster: dict[str, float], monkeypatch: pytest.MonkeyPatch, backend: Any, gpus: float
) -> None:
    monkeypatch.setattr(vllm, "built_for", lambda: "cuda")
    for count, given, expected in ((0, None, 0), (8, None, gpus), (8, 0.5, 0.5), (8, 0, 0)):
        cluster["GPU"] = count
        engine = open_engine("ray", workers=2, gpus_per_worker=given)
        engine.start(backend)
        assert engine.record()["gpus_per_worker"] == expected


def test_vllm_for_processors_needs_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "built_for", lambda: "cpu")
    assert Vllm.choose_gpus(BackendOptions(tensor_parallel_size=2)) == 0


@pytest.mark.parametrize(
    ("gpus", "options", "named"),
    [
        (
            4,
            {"workers": 8},
            ["4 GPUs", "at least 8", "--workers 8", "1 for each", "--workers 4 or --gpus-per-worker 0.5"],
        ),
        (3, {"workers": 2, "gpus_per_worker": 2}, ["3 GPUs", "at least 4", "2 for each", "--workers 1"]),
        (1, {"gpus_per_worker": 2}, ["1 GPUs", "at least 2", "Use fewer GPUs per worker"]),
        (0, {"gpus_per_worker": 1}, ["0 GPUs", "at least 1", "Use --gpus-per-worker 0"]),
        (
            3,
            {"workers": 8, "gpus_per_worker": 0.5},
            ["3 GPUs", "at least 4", "Use --workers 6 or --gpus-per-worker 0.33"],
        ),
        (8, {"workers": 9}, ["8 CPUs", "at least 9", "--workers 8"]),
    ],
)
def test_too_few_gpus_are_an_error_in_one_line(
    cluster: dict[str, float], gpus: float, options: dict[str, Any], named: list[str]
) -> None:
    cluster["GPU"] = gpus
    with raises(UsageError, *named) as raised:
        open_engine("ray", **options).start(local_model(Hf))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("each", "remedy"), [(4, "Split the model over fewer GPUs"), (2, "Use --workers 2")])
def test_the_gpus_of_a_worker_are_on_one_machine(cluster: dict[str, float], each: int, remedy: str) -> None:
    cluster["GPU"] = 7
    nodes = [{"Alive": alive, "Resources": {"GPU": count}} for alive, count in ((True, 2), (True, 3), (False, 8))]
    sys.modules["ray"].nodes = lambda: nodes  # type: ignore[attr-defined]
    engine = open_engine("ray", workers=1 if each == 4 else 3, gpus_per_worker=each)
    with raises(UsageError, "have 2, 3 GPUs", f"{each} on one machine", remedy):
        engine.start(local_model(Hf))


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

"""What is known of a model before its weights are loaded is found out without initialising CUDA; GPUs are faked.

A process with CUDA initialised holds memory of the first GPU, beside its workers, and its forks cannot use a GPU.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from rerank.backends import vllm
from rerank.backends.vllm import Vllm
from rerank.experiment import estimate_run_cost, prepare_run
from rerank.experiment.spec import Execution, RunSpec
from rerank.lm import loading
from rerank.lm.memory import MOST_ROWS, free_memory
from rerank.pipeline.stream import Flow
from rerank.tasks import BackendOptions
from tests.backends.conftest import save_tiny

#: Compute capabilities of the GPUs of the machine by their index, and by their UUID.
GPUS: dict[Any, tuple[int, int]] = {0: (8, 0), 1: (7, 5), 2: (9, 0), b"GPU-2": (9, 0)}
AddGpus = Callable[..., None]


@pytest.fixture
def add_gpus(monkeypatch: pytest.MonkeyPatch) -> AddGpus:
    """A function that lets this machine have the GPUs, whose CUDA raises if it is initialised."""

    def refuse() -> None:
        raise AssertionError("CUDA was initialised")

    def find(name: Any, handle: Any) -> int:
        handle._obj.gpu = name
        return 0 if name in GPUS else 6

    def read(handle: Any, major: Any, minor: Any) -> int:
        major._obj.value, minor._obj.value = GPUS[handle.gpu]
        return 0

    def weigh(handle: Any, memory: Any) -> int:
        memory._obj.free = 20 << 30
        return 0

    def number(count: Any) -> int:
        count._obj.value = 3
        return 0

    nvml = SimpleNamespace(
        nvmlDeviceGetCount_v2=number,
        nvmlDeviceGetMemoryInfo=weigh,
        nvmlInit_v2=lambda: 0,
        nvmlDeviceGetHandleByIndex_v2=find,
        nvmlDeviceGetHandleByUUID=find,
        nvmlDeviceGetCudaComputeCapability=read,
    )

    def add(visible: str | None = None, *, library: bool = True) -> None:
        monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
        monkeypatch.setattr(torch.version, "hip", None)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.setattr(torch.cuda, "_lazy_init", refuse)
        monkeypatch.setattr(loading, "_is_cpu_only_torch", lambda: False)
        monkeypatch.setattr(loading, "CDLL", lambda name: nvml if library else SimpleNamespace(), raising=False)
        if visible is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    return add


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "tiny")


@pytest.mark.parametrize(
    ("visible", "device", "dtype"),
    [
        (None, "cuda", "bfloat16"),
        (None, "cuda:1", "float16"),
        ("1", "cuda", "float16"),
        ("1,2", "cuda:1", "bfloat16"),
        ("GPU-2", "cuda", "bfloat16"),
    ],
)
def test_cards_before_ampere_get_float16(add_gpus: AddGpus, visible: str | None, device: str, dtype: str) -> None:
    add_gpus(visible)
    assert loading.pick_dtype("auto", device) == dtype
    assert loading.pick_dtype("float32", device) == "float32"
    assert loading.pick_dtype("auto", device, training=True) == ("bfloat16" if dtype == "bfloat16" else "float32")


@pytest.mark.parametrize("visible", ["0", "0,-1", "0,MIG-1"])
def test_torch_is_asked_only_where_the_library_of_the_driver_fails(
    add_gpus: AddGpus, monkeypatch: pytest.MonkeyPatch, visible: str
) -> None:
    for library in (True, False):
        add_gpus(visible, library=library)
        with pytest.raises(AssertionError, match="initialised"):
            loading.pick_dtype("auto", "cuda:1")
        with monkeypatch.context() as patch:
            patch.setattr(torch.cuda, "get_device_capability", lambda index: (7, 0) if index else (8, 0))
            assert loading.pick_dtype("auto", "cuda:1") == "float16"


def test_the_context_of_cuda_is_not_free(add_gpus: AddGpus, monkeypatch: pytest.MonkeyPatch) -> None:
    add_gpus()
    assert free_memory("cuda:0") == (20 << 30) - loading.CUDA_CONTEXT
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)  # the context has its memory already
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (19 << 30, 24 << 30))
    assert loading.free_memory_of_gpu(0) == 19 << 30


def test_gpus_are_numbered_by_their_driver_only_if_they_are_alike(
    add_gpus: AddGpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_gpus()
    monkeypatch.delenv("CUDA_DEVICE_ORDER")
    with pytest.raises(AssertionError, match="initialised"):  # CUDA counts from the fastest on
        loading.pick_dtype("auto", "cuda:1")
    monkeypatch.setitem(GPUS, 0, (7, 5))
    monkeypatch.setitem(GPUS, 2, (7, 5))
    assert loading.pick_dtype("auto", "cuda:1") == "float16"


def test_gpus_of_amd_and_apple(add_gpus: AddGpus, monkeypatch: pytest.MonkeyPatch) -> None:
    for release, dtype in (("14.0", "bfloat16"), ("26.1", "bfloat16"), ("13.7.8", "float32"), ("", "float32")):
        monkeypatch.setattr(platform, "mac_ver", lambda release=release: (release, ("", "", ""), "arm64"))
        assert loading.pick_dtype("auto", "mps") == dtype
        assert loading.pick_dtype("auto", "mps", training=True) == "float32"
    add_gpus(library=False)
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert loading.pick_dtype("auto", "cuda") == "bfloat16"


def test_a_run_is_prepared_and_estimated(add_gpus: AddGpus, folder: Path) -> None:
    add_gpus()
    spec = RunSpec.make({"collection": "pydoc", "model": str(folder), "method": "qlm", "depth": 2, "max_queries": 2})
    prepared = prepare_run(spec, Execution())
    assert (prepared.backend.identity["dtype"], prepared.backend.batch_size) == ("bfloat16", MOST_ROWS)
    assert 0 < (Flow.of(prepared.backend).batch_tokens or 0) < 20 << 30
    assert estimate_run_cost(prepared)["calls"] == 4
    assert prepared.identity()["model"]["dtype"] == "bfloat16"


def test_an_engine_of_vllm_is_planned(add_gpus: AddGpus, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "find_spec", lambda name: True)
    monkeypatch.setattr(vllm, "_import_engine", lambda: None)
    monkeypatch.setattr(vllm, "built_for", lambda: "cuda")
    for visible, dtype in (("0", "bfloat16"), ("1", "float16")):
        add_gpus(visible)
        plan = Vllm.describe(folder, BackendOptions(device_map="tp"))
        assert (plan.identity["dtype"], plan.settings["dtype"]) == (dtype, dtype)
        assert plan.settings["tensor_parallel_size"] == 2

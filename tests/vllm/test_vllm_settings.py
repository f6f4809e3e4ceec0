"""Arguments of the vLLM engine; vLLM itself is not needed."""

from __future__ import annotations

from typing import Any

import pytest

from rerank.backends.vllm import engine
from rerank.errors import UsageError
from rerank.models import open_model_backend
from rerank.tasks import BackendOptions
from tests.backends.conftest import make_model, make_tokenizer
from tests.raising import raises

pytest.importorskip("torch")


def arguments(monkeypatch: pytest.MonkeyPatch, **options: Any) -> dict[str, Any]:
    monkeypatch.setattr(engine, "built_for", lambda: "cuda")
    given = BackendOptions(dtype="float32", **options)
    return engine.engine_settings(make_model().config, make_tokenizer(), given)


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({}, (1, 1)),
        ({"tensor_parallel_size": 4}, (4, 1)),
        ({"pipeline_parallel_size": 2}, (1, 2)),
        ({"tensor_parallel_size": 2, "pipeline_parallel_size": 3}, (2, 3)),
    ],
)
def test_parallel_sizes_reach_the_engine(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, int], sizes: tuple[int, int]
) -> None:
    found = arguments(monkeypatch, **options)
    assert (found["tensor_parallel_size"], found["pipeline_parallel_size"]) == sizes


@pytest.mark.parametrize("size", ["tensor_parallel_size", "pipeline_parallel_size"])
def test_a_device_map_excludes_sizes(monkeypatch: pytest.MonkeyPatch, size: str) -> None:
    with raises(UsageError, "--device-map"):
        arguments(monkeypatch, device_map="tp", **{size: 2})


@pytest.mark.parametrize("model", ["hf:m", "openai:m", "fake:perfect"])
def test_other_backends_refuse_sizes(model: str) -> None:
    with raises(UsageError, "--tensor-parallel-size 2", model):
        open_model_backend(model, BackendOptions(tensor_parallel_size=2))

"""Weights of adapters that peft computes, against the papers' formulas in numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from rerank.finetune.component_registry import ADAPTERS  # noqa: E402
from rerank.selector import build_from_selector  # noqa: E402
from tests.finetune.tiny import TinyBatches, tiny_model  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft's own
DOWN = "model.layers.1.mlp.down_proj"  # 64 rows, 128 columns


def values(layer: Any, name: str) -> Any:
    value = getattr(layer, name)["default"]
    return getattr(value, "weight", value).detach().double().numpy()


def lora(layer: Any, w: Any) -> Any:
    return w + 2 * values(layer, "lora_B") @ values(layer, "lora_A")


def dora(layer: Any, w: Any) -> Any:
    direction = lora(layer, w)
    return (
        values(layer, "lora_magnitude_vector")[:, None] * direction / np.linalg.norm(direction, axis=1, keepdims=True)
    )


def rslora(layer: Any, w: Any) -> Any:
    return w + 16 / np.sqrt(4) * values(layer, "lora_B") @ values(layer, "lora_A")


def vera(layer: Any, w: Any) -> Any:
    a, b = values(layer, "vera_A")[:, : w.shape[1]], values(layer, "vera_B")[: w.shape[0]]
    return w + values(layer, "vera_lambda_b")[:, None] * b @ (values(layer, "vera_lambda_d")[:, None] * a)


def randlora(layer: Any, w: Any) -> Any:
    """The sum of B_i L_i A G_i, transposed because the matrix is wider than high."""
    ranks, columns = values(layer, "randlora_lambda"), values(layer, "randlora_gamma")
    a, b = values(layer, "randlora_A")[:, 0, : w.shape[0]], values(layer, "randlora_B")[: w.shape[1], : len(columns)]
    b = b.reshape(w.shape[1], -1)
    return w + 20 * sum(b[:, i :: len(columns)] * ranks[:, i] @ a * g for i, g in enumerate(columns)).T


def adalora(layer: Any, w: Any) -> Any:
    return w + 8 / 6 * values(layer, "lora_B") @ (values(layer, "lora_E") * values(layer, "lora_A"))


def lokr(layer: Any, w: Any) -> Any:
    d = values(layer, "lokr_w2_a") @ values(layer, "lokr_w2_b")
    return w + np.kron(values(layer, "lokr_w1"), d)


def oft(layer: Any, w: Any) -> Any:
    rotation = np.zeros((w.shape[1], w.shape[1]))
    for index, entries in enumerate(values(layer, "oft_R")):
        block = np.zeros((8, 8))
        block[np.triu_indices(8, 1)] = entries
        block -= block.T
        at = slice(8 * index, 8 * index + 8)
        rotation[at, at] = (np.eye(8) + block) @ np.linalg.inv(np.eye(8) - block)  # the Cayley transform
    return w @ rotation.T  # peft rotates the inputs as row vectors


@pytest.mark.parametrize(
    ("selector", "formula"),
    [
        ("lora,r=4,alpha=8", lora),
        ("dora,r=4,alpha=8", dora),
        ("rslora,r=4", rslora),
        ("vera,r=4", vera),
        ("randlora,r=4", randlora),
        ("adalora,r=4,alpha=8", adalora),
        ("lokr,r=2", lokr),
        ("oft,block=8", oft),
    ],
)
def test_the_weight_is_that_of_the_paper(selector: str, formula: Callable[[Any, Any], Any]) -> None:
    model = build_from_selector(ADAPTERS, selector).attach(tiny_model(), TinyBatches(), seed=5)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.01)
    w = tiny_model().get_submodule(DOWN).weight.detach().double().numpy()
    wanted = formula(model.get_submodule(f"base_model.model.{DOWN}"), w)
    merged = model.merge_and_unload().get_submodule(DOWN).weight.detach().double().numpy()
    assert np.abs(wanted - w).max() > 1e-5
    assert np.allclose(merged, wanted, atol=1e-6, rtol=1e-4)

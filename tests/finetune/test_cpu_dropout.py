"""Dropout on a CPU: the same distribution as torch's, from a quarter of the random numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from rerank.finetune.trainer.base_model import CpuDropout, use_cpu_dropout  # noqa: E402
from rerank.finetune.trainer.training import train_adapter  # noqa: E402
from tests.finetune.small import recipe  # noqa: E402


@pytest.mark.parametrize("probability", [0.05, 0.5, 0.9])
def test_the_share_of_zeros_and_the_scale_are_those_of_dropout(probability: float) -> None:
    torch.manual_seed(1)
    out = CpuDropout(probability)(torch.ones(401, 997))
    share = float((out == 0).float().mean())
    assert share == pytest.approx(probability, abs=5 * (probability * (1 - probability) / out.numel()) ** 0.5)
    assert out[out != 0].unique().tolist() == [pytest.approx(1 / (1 - probability), rel=1e-3)]


def test_neighbouring_elements_are_independent() -> None:
    """Four elements share a random number."""
    torch.manual_seed(1)
    kept = (CpuDropout(0.5)(torch.ones(1 << 20)) != 0).float().view(-1, 4)
    assert torch.corrcoef(kept.T).fill_diagonal_(0).abs().max() < 0.01


def test_gradients_pass_through_what_is_kept_and_the_seed_decides() -> None:
    layer, values = CpuDropout(0.3), torch.randn(7, 13, requires_grad=True)
    torch.manual_seed(3)
    out = layer(values)
    (gradient,) = torch.autograd.grad(out.sum(), values)
    torch.testing.assert_close(gradient, out.detach() / values.detach())
    torch.manual_seed(3)
    assert torch.equal(layer(values), out)


@pytest.mark.parametrize("values", [torch.ones(6, 9).T.bfloat16(), torch.ones(3, 0), torch.ones(())])
def test_every_shape_and_data_type(values: Any) -> None:
    out = CpuDropout(0.5)(values)
    assert (out.dtype, out.shape) == (values.dtype, values.shape)
    assert set(out.flatten().tolist()) <= {0.0, 2.0}


def test_in_evaluation_and_at_the_ends_it_is_torchs() -> None:
    values = torch.randn(5, 3)
    assert torch.equal(CpuDropout(0.5).eval()(values), values)
    assert torch.equal(CpuDropout(0.0)(values), values)
    assert torch.equal(CpuDropout(1.0)(values), torch.zeros(5, 3))


def test_each_dropout_of_a_model_is_replaced_but_no_subclass() -> None:
    inner = nn.Sequential(nn.Dropout(0.2), nn.Dropout1d(0.3))
    model = nn.Sequential(nn.Dropout(0.1), inner).eval()
    use_cpu_dropout(model)
    assert [type(layer) for layer in (model[0], *inner)] == [CpuDropout, CpuDropout, nn.Dropout1d]
    assert [layer.p for layer in model.modules() if isinstance(layer, CpuDropout)] == [0.1, 0.2]
    assert not any(layer.training for layer in model.modules())


def test_trainings_use_it(model: Path, collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("peft")
    own, calls = CpuDropout.forward, []

    def forward(self: CpuDropout, values: Any) -> Any:
        calls.append(self.p)
        return own(self, values)

    monkeypatch.setattr(CpuDropout, "forward", forward)
    asked = recipe(model, collection, adapter={"name": "lora", "r": 4, "dropout": 0.1}, training={"steps": 1})
    train_adapter(asked, tmp_path / "out", device="cpu")
    assert set(calls) == {0.1}

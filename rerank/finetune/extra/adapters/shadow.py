"""The adapter ShadowPEFT: a small trainable network beside the model that corrects the input of each layer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from rerank.errors import UsageError
from rerank.finetune.adapters.base.peft_methods import PeftAdapter
from rerank.finetune.adapters.base.targets import (
    LinearTargets,
    require_adapter_fraction,
    require_adapter_option_at_least,
)
from rerank.finetune.components import CalibrationBatches

if TYPE_CHECKING:
    from rerank.finetune.recipe import Recipe

Shapes = Sequence[tuple[int, int]]


@dataclass(frozen=True, kw_only=True)
class Shadow(PeftAdapter):
    """ShadowPEFT: a small network of the model's architecture corrects the input of each layer.

    Let h be the hidden state before a layer and s the hidden state of the shadow network. The input of the layer is
    h + alpha U D (h - s), and a gate moves s towards T(output of the layer). U, D, T, the gate and the network are
    trained; U starts at 0. Implemented with `peft.ShadowConfig`. The adapter cannot be merged.

    The paper's second loss, on the outputs of the network, is not applied: peft adds it only if the model computes the
    loss from ``labels``, and the losses of this package do not use ``labels``. ShadowPEFT is the closest available
    method to IAA, which connects the adapters of the layers by a path outside of the layers.

    Attributes:
        r: Width of the corrections, of T and of the gate.
        alpha: Weight of the corrections.
        dropout: Dropout probability of h - s.
        depth: Number of layers of the network beside the model.
        layers: Correct only the first N layers; None for all.
    """

    r: int = 8
    alpha: float = 0.1
    dropout: float = 0.0
    depth: int = 1
    layers: int | None = None

    paper: ClassVar[str] = "Li et al., 2026, arXiv 2604.19254 (ShadowPEFT)"
    summary: ClassVar[str] = "Trains a small network beside the model that corrects each layer's input"
    differs: ClassVar[str] = "Without the second loss, on the outputs of the network"
    merges: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check that ``r``, ``depth`` and ``dropout`` are in range."""
        require_adapter_option_at_least("r", self.r, 1)
        require_adapter_option_at_least("depth", self.depth, 1)
        require_adapter_fraction("dropout", self.dropout)

    def attach(self, model: Any, calibrate: CalibrationBatches, *, seed: int) -> Any:
        """Return the model with the shadow network, and with a correction of the input of each adapted layer."""
        wrapped = super().attach(model, calibrate, seed=seed)
        last = [module for module in wrapped.modules() if hasattr(module, "shadow_update_gate")][-1]
        # The shadow state after the last layer is not used.
        last.shadow_update_gate.requires_grad_(False)
        last.shadow_update_transform.requires_grad_(False)
        # The network is trained in float32, but its inputs come from a model that may be in 16 bits.
        for network in wrapped.base_model.shadow_backbone.values():
            network.register_forward_pre_hook(_widen_shadow_embeddings, with_kwargs=True)
        return wrapped

    def check_recipe(self, recipe: Recipe) -> None:
        """Check that no loss reads attention and no texts are packed, because the shadow network supports neither."""
        from rerank.methods import open_method

        watched = [loss.name for loss in recipe.losses if loss.on in ("attention", "log-attention")]
        judge, size = open_method(recipe.method.method).judge.name, recipe.training.batch_size
        reasons = [
            *([f"the loss {watched[0]!r} on attention"] if watched else []),
            *([f"batch_size = {size}"] if size > 1 else []),
            *(["a method that scores one document at a time"] if judge == "score" else []),
        ]
        if reasons:
            raise UsageError(
                f"The adapter 'shadow' does not support {' and '.join(reasons)}: its network can neither separate "
                "packed texts nor provide attention weights",
                expected="losses on tokens or logits, batch_size = 1 and a method that judges lists",
                remedy="Raise accumulation instead of batch_size, or use another adapter, such as lora",
            )

    def peft_config(self, model: Any, seed: int) -> Any:
        """Return peft's configuration of ShadowPEFT for the model."""
        from peft import ShadowConfig

        return ShadowConfig(
            r=self.r,
            shadow_alpha=self.alpha,
            shadow_dropout=self.dropout,
            shadow_num_hidden_layers=self.depth,
            target_modules=sorted({re.sub(r"(\.\d+)\..*", r"\1", name) for name in self._inside().module_names(model)}),
            task_type="CAUSAL_LM",
        )

    def shapes(self, model: Any) -> list[tuple[int, int]]:
        """Return the shape (rows, columns) of every matrix of the corrected layers."""
        return self._inside().shapes(model)

    def count_trainable(self, shapes: Shapes) -> int:
        """Return the number of parameters of the shadow network, the corrections and the updates of the shadow state.

        The network has ``depth`` copies of a layer with two norms, and a final norm. With the hidden size h, each
        corrected layer has one correction with 2 h r parameters, and each corrected layer except the last has one
        update of s with 4 h r + 2 r + 2 h parameters. The formula is for layers with two norms and no biases, as in
        Llama; other models have a few more parameters.

        Args:
            shapes: Shape (rows, columns) of every matrix of the corrected layers, in the model's order.
        """
        layer = _shortest_adapter_shape_period(shapes)
        layers, hidden = len(shapes) // len(layer), layer[0][1]
        network = self.depth * (sum(rows * columns for rows, columns in layer) + 2 * hidden) + hidden
        moves = (layers - 1) * (4 * hidden * self.r + 2 * self.r + 2 * hidden)
        return network + layers * 2 * hidden * self.r + moves

    def _inside(self) -> LinearTargets:
        # Any limit on the layers, however large, selects only modules inside a numbered layer.
        return LinearTargets(layers=2**31 if self.layers is None else self.layers)


def _widen_shadow_embeddings(
    module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, kwargs | {"inputs_embeds": kwargs["inputs_embeds"].float()}


def _shortest_adapter_shape_period(shapes: Shapes) -> Shapes:
    """Return the shapes of one layer: the shortest prefix whose repetition is the whole sequence of shapes."""
    size = next(
        n
        for n in range(1, len(shapes) + 1)
        if len(shapes) % n == 0 and list(shapes[:n]) * (len(shapes) // n) == list(shapes)
    )
    return shapes[:size]

"""ShadowPEFT."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from rerank.errors import UsageError
from rerank.finetune.adapters.base.peft_methods import PeftMethod
from rerank.finetune.adapters.base.targets import LinearTargets, at_least, share
from rerank.finetune.parts import Calibrate

if TYPE_CHECKING:
    from rerank.finetune.recipe import Recipe

Shapes = Sequence[tuple[int, int]]


@dataclass(frozen=True, kw_only=True)
class Shadow(PeftMethod):
    """A small network of the model's own kind runs beside it and corrects each layer's input; `peft.ShadowConfig`.

    With h the hidden state before a layer and s the shadow's, the layer gets h + alpha U D (h - s), and s moves towards
    T(its output) by a gate; U, D, T, the gate and the network train, U from 0. It cannot be merged. The paper's second
    loss, on the network's own answers, is added by peft where the model computes the loss from ``labels``, which this
    package's losses do not use. The nearest to be had to IAA, which joins adapters in the layers by a path beside them.

    Attributes:
        r: Width of the corrections and of T and the gate.
        alpha: Weight of the corrections.
        dropout: Share of h - s that is dropped in training.
        depth: How many layers the network beside the model has.
        layers: Correct only the first so many layers; None for all.
    """

    r: int = 8
    alpha: float = 0.1
    dropout: float = 0.0
    depth: int = 1
    layers: int | None = None

    paper: ClassVar[str] = "Li et al., 2026, arXiv 2604.19254 (ShadowPEFT)"
    summary: ClassVar[str] = "Trains a small network beside the model that corrects each layer's input"
    merges: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the options."""
        at_least("r", self.r, 1)
        at_least("depth", self.depth, 1)
        share("dropout", self.dropout)

    def attach(self, model: Any, calibrate: Calibrate, *, seed: int) -> Any:
        """See `Adapter`."""
        wrapped = super().attach(model, calibrate, seed=seed)
        last = [module for module in wrapped.modules() if hasattr(module, "shadow_update_gate")][-1]
        # Nobody reads where the shadow goes after the last layer.
        last.shadow_update_gate.requires_grad_(False)
        last.shadow_update_transform.requires_grad_(False)
        # The network trains in float32, and gets the embeddings of a model that may be of 16 bits.
        for network in wrapped.base_model.shadow_backbone.values():
            network.register_forward_pre_hook(_widened, with_kwargs=True)
        return wrapped

    def check_recipe(self, recipe: Recipe) -> None:
        """See `FitsSome`: the network beside the model cannot be told of texts that lie in one row.

        Raises:
            UsageError: A loss looks at attention, or texts are packed.
        """
        from rerank.methods import open_method

        watched = [loss.name for loss in recipe.losses if loss.on in ("attention", "log-attention")]
        judge, size = open_method(recipe.method.method).judge, recipe.training.batch_size
        reasons = [
            *([f"the loss {watched[0]!r} on attention"] if watched else []),
            *([f"batch_size = {size}"] if size > 1 else []),
            *(["a method that scores one document at a time"] if judge == "score" else []),
        ]
        if reasons:
            raise UsageError(
                f"The adapter 'shadow' with {' and '.join(reasons)}: its own network cannot be told which texts lie in "
                "a row, or be watched",
                expected="losses of tokens or logits, batch_size = 1 and a method that asks about lists",
                remedy="Raise accumulation instead of batch_size, or take another adapter, such as lora",
            )

    def config(self, model: Any, seed: int) -> Any:
        """See `PeftMethod`."""
        from peft import ShadowConfig

        return ShadowConfig(
            r=self.r,
            shadow_alpha=self.alpha,
            shadow_dropout=self.dropout,
            shadow_num_hidden_layers=self.depth,
            target_modules=sorted({re.sub(r"(\.\d+)\..*", r"\1", name) for name in self._inside().names(model)}),
            task_type="CAUSAL_LM",
        )

    def shapes(self, model: Any) -> list[tuple[int, int]]:
        """(rows, columns) of every matrix of the layers that are corrected."""
        return self._inside().shapes(model)

    def trainable(self, shapes: Shapes) -> int:
        """Depth times a layer and its two norms; the last norm; 2 h r a correction; 4 h r + 2 r + 2 h a move of s.

        There are as many corrections as layers that are corrected, and one move fewer; h is the hidden size. For a
        model whose layers have two norms and no biases, as Llama's; others have a few numbers more.

        Args:
            shapes: (rows, columns) of every matrix of the layers that are corrected, in the model's order.
        """
        layer = _period(shapes)
        layers, hidden = len(shapes) // len(layer), layer[0][1]
        network = self.depth * (sum(rows * columns for rows, columns in layer) + 2 * hidden) + hidden
        moves = (layers - 1) * (4 * hidden * self.r + 2 * self.r + 2 * hidden)
        return network + layers * 2 * hidden * self.r + moves

    def _inside(self) -> LinearTargets:
        # Only what is in a numbered layer, which a limit on layers that none has says.
        return LinearTargets(layers=2**31 if self.layers is None else self.layers)


def _widened(module: Any, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return given, named | {"inputs_embeds": named["inputs_embeds"].float()}


def _period(shapes: Shapes) -> Shapes:
    """The shortest beginning of a sequence that gives the sequence when it is repeated."""
    size = next(
        n
        for n in range(1, len(shapes) + 1)
        if len(shapes) % n == 0 and list(shapes[:n]) * (len(shapes) // n) == list(shapes)
    )
    return shapes[:size]

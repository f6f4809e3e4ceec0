"""The optimizer protocol: options that build a torch optimizer for a model, and the size of its state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from rerank.finetune.components import ParameterKind, TrainingComponent


class Optimizer(TrainingComponent, Protocol):
    """A component that builds a torch optimizer. Dataclass fields are its options, except the arguments of `build`."""

    @property
    def needs(self) -> str:
        """Required device: ``cuda``, or empty if the optimizer runs on every device."""

    @property
    def fits(self) -> frozenset[ParameterKind]:
        """Kinds of parameters that the optimizer can train; the value may depend on the options.

        A recipe that trains parameters of another kind is rejected before anything is loaded.
        """

    @property
    def reason(self) -> str:
        """Reason, for error messages, why the optimizer trains no other kinds of parameters; empty if it trains all."""

    def build(self, model: Any, *, lr: float, weight_decay: float) -> Any:
        """Return a `torch.optim.Optimizer` over the trainable parameters of ``model``.

        The state of the optimizer consists of tensors and numbers only, so that ``torch.load(weights_only=True)`` can
        read it, and ``load_state_dict`` restores it bit by bit, independent of the data type of the parameters.

        Args:
            model: The model that an adapter's `attach` returned.
            lr: Base learning rate; the scheduler of the trainer scales the learning rate of each parameter group.
            weight_decay: Decoupled weight decay; not applied to vectors (biases and norms).
        """


@runtime_checkable
class SizedOptimizer(Optimizer, Protocol):
    """An optimizer whose state has a known size; all optimizers of this package are of this kind."""

    def count_state(self, shapes: Sequence[tuple[int, int]]) -> int:
        """Return the number of values in the optimizer state after one step, not counting step counters.

        Args:
            shapes: Shape (rows, columns) of every matrix that is trained (`build` may freeze some); vectors and
                embeddings have the shape (1, size).
        """

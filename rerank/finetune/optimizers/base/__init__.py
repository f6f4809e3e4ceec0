"""What an optimizer is here: options that build a torch optimizer over a model, and what it keeps in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

from rerank.finetune.parts import Part, Shape


class Optimizer(Part, Protocol):
    """An optimizer. Its fields are its options, less learning rate and weight decay, which all have."""

    #: ``cuda`` where it does not run without; else empty.
    needs: ClassVar[str]

    @property
    def fits(self) -> frozenset[Shape]:
        """What may train under it: others are refused before anything is loaded. Options may decide it."""

    @property
    def reason(self) -> str:
        """Why it does not fit the others, as a sentence for the message; empty where it fits all."""

    def build(self, model: Any, *, lr: float, weight_decay: float) -> Any:
        """A `torch.optim.Optimizer` over the parameters of ``model`` that ask for gradients.

        Its state is tensors and numbers alone, so that ``torch.load(weights_only=True)`` reads it back, and
        ``load_state_dict`` restores it to the bit whatever the parameters' number type.

        Args:
            model: What an adapter's `attach` returned.
            lr: Learning rate; the trainer's scheduler multiplies each group's own.
            weight_decay: Decoupled; not for biases and norms (vectors).
        """

    def state(self, shapes: Sequence[tuple[int, int]]) -> int:
        """How many numbers it keeps after a step, by the published formula; step counters do not count.

        Args:
            shapes: (rows, columns) of every matrix that trains once the optimizer is built; what is no matrix to
                multiply by, so vectors and embeddings, as (1, size).
        """

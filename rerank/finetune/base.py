"""What the parts of a training share. Knows no method.

A part (an adapter, an optimizer, a way of sampling layers ...) is a frozen dataclass in a file of its own: its fields
are its options, its class attributes are its card. Modules of parts import torch and peft in their functions, so that
listing parts costs nothing.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Protocol

#: What trains: pairs of factors ``lora_A`` and ``lora_B`` whose product is added to a matrix; other new parameters; or
#: the model's own weights.
Shape = Literal["lora", "other", "full"]
SHAPES: tuple[Shape, ...] = ("lora", "other", "full")


class Part(Protocol):
    """The card that every part carries."""

    #: Where it was published, as ``Hu et al., ICLR 2022, arXiv 2106.09685 (LoRA)``; empty for common knowledge.
    paper: ClassVar[str]
    #: One line on what it does.
    summary: ClassVar[str]


class Calibrate(Protocol):
    """Batches of the training data, under the training's own loss, for parts that look before they train."""

    def forward(self, model: Any) -> None:
        """Run a few batches through ``model`` without gradients, for those who watch its layers."""

    def backward(self, model: Any) -> None:
        """Run a few batches, and add the mean loss's gradient to ``.grad`` of every parameter that asks for one."""

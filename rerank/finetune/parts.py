"""What the parts of a training share. Knows no method.

A part (an adapter, an optimizer, a way of sampling layers ...) is a frozen dataclass in a file of its own: its fields
are its options, its class attributes are its card. Modules of parts import torch and peft in their functions, so that
listing parts costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from rerank.finetune.recipe import Recipe

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


@runtime_checkable
class FitsSome(Protocol):
    """A part that goes with some recipes only, for reasons that shapes do not tell."""

    def check_recipe(self, recipe: Recipe) -> None:
        """Refuse a recipe that names it and cannot work, before anything is loaded.

        Args:
            recipe: The whole recipe.

        Raises:
            UsageError: Something in it does not go with the part; the message says why.
            MissingResourceError: A folder that its options name holds not what they want.
        """


@runtime_checkable
class RunsOnSome(Protocol):
    """A part that some machines cannot run."""

    def check_machine(self) -> None:
        """See whether this one can, before anything is loaded.

        Raises:
            MissingPrerequisiteError: A device or a package is not there.
        """


class Calibrate(Protocol):
    """Batches of the training data, under the training's own loss, for parts that look before they train."""

    def forward(self, model: Any) -> None:
        """Run a few batches through ``model`` without gradients, for those who watch its layers."""

    def backward(self, model: Any) -> None:
        """Run a few batches, and add the mean loss's gradient to ``.grad`` of every parameter that asks for one."""

"""Protocols and data types shared by all training components.

A component (an adapter, an optimizer, a loss, a callback ...) is a frozen dataclass in its own file. Its fields are its
options, and its class attributes describe it. These files import torch and peft only inside functions, so listing
components is fast.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from rerank.finetune.recipe import Recipe

#: Kind of the trained parameters. ``lora``: pairs of factors ``lora_A`` and ``lora_B`` whose product is added to a
#: matrix; ``other``: other new parameters; ``full``: the model's own weights.
ParameterKind = Literal["lora", "other", "full"]
PARAMETER_KINDS: tuple[ParameterKind, ...] = ("lora", "other", "full")


class TrainingComponent(Protocol):
    """Protocol of all components of a recipe, such as adapters and losses: each states its paper and a summary.

    If a component is simpler than its paper or differs from it, a class attribute ``differs`` describes the difference;
    the table of methods prints it.
    """

    #: Publication, such as ``Hu et al., ICLR 2022, arXiv 2106.09685 (LoRA)``; empty for common knowledge.
    paper: ClassVar[str]
    #: Description in one line.
    summary: ClassVar[str]


@runtime_checkable
class RecipeConstraint(Protocol):
    """A component with its own check of the recipe, such as a loss that works only with cross-encoders."""

    def check_recipe(self, recipe: Recipe) -> None:
        """Check the recipe before anything is loaded.

        Args:
            recipe: The complete recipe.

        Raises:
            UsageError: A setting of the recipe does not work with this component; the message states the reason.
            MissingResourceError: A folder named by an option lacks required files.
        """


@runtime_checkable
class MachineRequirement(Protocol):
    """A component that needs a particular device or package."""

    def check_machine(self) -> None:
        """Check that this machine meets the requirement, before anything is loaded.

        Raises:
            MissingPrerequisiteError: A required device or package is missing.
        """


class CalibrationBatches(Protocol):
    """Batches of training data with the training loss, for components that are initialised from data."""

    def forward(self, model: Any, lists: int | None = None) -> None:
        """Run a few batches through ``model`` without gradients, for components that observe its layers.

        Args:
            model: The model.
            lists: Number of training lists to use, at most all of them; None for a default number of batches.
        """

    @property
    def first_lr(self) -> float:
        """Learning rate of the first optimizer step; a linear warm-up raises the learning rate afterwards."""

    def backward(self, model: Any, lists: int | None = None) -> None:
        """Add the gradient of the mean loss of a few batches to ``.grad`` of every parameter that requires gradients.

        Args:
            model: The model.
            lists: Number of training lists to use, at most all of them; None for a default number of batches.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeComponents:
    """The components of a recipe, constructed and checked against each other.

    The types of the fields are `Any` because the modules that define the protocols of components import this module.

    Attributes:
        adapter: A `rerank.finetune.adapters.base.Adapter`.
        optimizer: A `rerank.finetune.optimizers.base.Optimizer`.
        layers: Layer sampling method; None to train all layers in every step.
        callbacks: Further components that act between optimizer steps.
        ranks: Method that assigns a rank to each matrix; None to use the same rank for all matrices.
        losses: Losses in the order of the recipe; empty if the recipe has an objective.
        objective: A `rerank.finetune.extra.objectives.base.Objective`; None if the recipe has losses.
    """

    adapter: Any
    optimizer: Any
    layers: Any = None
    callbacks: tuple[Any, ...] = ()
    ranks: Any = None
    losses: tuple[Any, ...] = ()
    objective: Any = None

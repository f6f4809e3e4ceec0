"""Protocols of the components of a training (adapters, optimizers, losses ...), and what their classes share.

A component is a frozen dataclass: its fields are its options, and its class attributes describe it. Modules of
components import torch and peft only inside functions, so listing components is fast; `kernels` computes.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar, runtime_checkable

from rerank.errors import ensure
from rerank.finetune.recipe import Recipe
from rerank.registry import plugin_name

if TYPE_CHECKING:
    from torch import Tensor

Value = TypeVar("Value")

#: Kind of the trained parameters. ``lora``: pairs of factors ``lora_A`` and ``lora_B`` whose product is added to a
#: matrix; ``other``: other new parameters; ``full``: the model's own weights.
ParameterKind = Literal["lora", "other", "full"]
PARAMETER_KINDS: tuple[ParameterKind, ...] = ("lora", "other", "full")
FULL: frozenset[ParameterKind] = frozenset({"full"})
LORA: frozenset[ParameterKind] = frozenset({"lora"})
#: Shapes (rows, columns) of matrices.
Shapes = Sequence[tuple[int, int]]


@cache
def read_methods() -> Mapping[str, Any]:
    """Return the content of ``methods.toml``, the table of training methods."""
    return tomllib.loads(files("rerank.finetune").joinpath("methods.toml").read_text(encoding="utf-8"))


def option(default: Value, **limits: float) -> Value:
    """Return the field of an option whose range `ComponentBase` checks; ``limits`` are those of `check_range`."""
    return field(default=default, metadata={"limits": limits})


@dataclass(frozen=True, kw_only=True)
class ComponentBase:
    """Base class of the components of this package, whose papers and summaries are rows of ``methods.toml``."""

    paper: ClassVar[str]
    summary: ClassVar[str]
    differs: ClassVar[str] = ""

    def __init_subclass__(cls) -> None:
        """Set the attributes of the row with the component's name; base classes and plug-ins have no row."""
        super().__init_subclass__()
        row: Mapping[str, str] = read_methods()["components"].get(plugin_name(cls), {})
        for key in row.keys() - vars(cls).keys():
            setattr(cls, key, row[key])

    def __post_init__(self) -> None:
        for entry in fields(self):
            if limits := entry.metadata.get("limits"):
                check_range(entry.name, getattr(self, entry.name), **limits)


def check_range(
    name: str,
    value: float | None,
    *,
    at_least: float = -math.inf,
    above: float = -math.inf,
    at_most: float = math.inf,
    below: float = math.inf,
) -> None:
    """Check that an option is within its limits, which infinite values and NaN never are; None is always allowed."""
    if value is None:
        return
    limits = {"of at least": at_least, "above": above, "at most": at_most, "below": below}
    stated = " and ".join(f"{words} {limit:g}" for words, limit in limits.items() if math.isfinite(limit))
    number = "a number" if math.isfinite(value) else "a finite number"
    holds = at_least <= value <= at_most and above < value < below
    ensure(holds, f"Option {name} is {value!r}", expected=f"{number} {stated}")


class TrainingComponent(Protocol):
    """Protocol of all components of a recipe, such as adapters and losses: each states its paper and a summary.

    A component may also have ``differs`` (how it differs from its paper), ``check_recipe(recipe)``, which raises a
    `UsageError` if a setting of the recipe does not work with it, or a `MissingResourceError` if a folder named by an
    option lacks files, and ``check_machine()``, which raises a `MissingPrerequisiteError` if a device or package is
    missing. Both run before anything is loaded.
    """

    #: Publication, such as ``Hu et al., ICLR 2022, arXiv 2106.09685 (LoRA)``; empty for common knowledge.
    paper: ClassVar[str]
    #: Description in one line.
    summary: ClassVar[str]


class CalibrationBatches(Protocol):
    """Batches of training data with the training loss, for components that are initialised from data.

    ``lists`` is the number of training lists to use, at most all of them; None for a default number of batches.
    """

    def forward(self, model: Any, lists: int | None = None) -> None:
        """Run a few batches through ``model`` without gradients, for components that observe its layers."""

    @property
    def first_lr(self) -> float:
        """Learning rate of the first optimizer step; a linear warm-up raises the learning rate afterwards."""

    def backward(self, model: Any, lists: int | None = None) -> None:
        """Add the gradient of the mean loss of a few batches to ``.grad`` of the parameters that require gradients."""


class Adapter(TrainingComponent, Protocol):
    """A method that decides which parameters of a model are trained.

    Of a model that `attach` returned, an adapter may also give ``callbacks(model)``, a list of
    `transformers.TrainerCallback` objects, and ``penalty(model)``, a term of the training loss that depends only on the
    adapter's parameters: a scalar tensor with gradients.
    """

    #: Kind of the trained parameters. Optimizers and layer sampling methods support only some kinds.
    shape: ClassVar[ParameterKind]
    #: True if `attach` does not change the outputs of the model, up to rounding.
    identity: ClassVar[bool]
    #: True if `attach` changes weights of the base model, so that a checkpoint has to store them.
    moves_base: ClassVar[bool]
    #: True if the trained parameters can be merged into the base weights (`merge_and_unload` of peft).
    merges: ClassVar[bool]
    #: Output of `save`: an adapter for `peft.PeftModel.from_pretrained`, or a whole model for
    #: `transformers.AutoModelForCausalLM.from_pretrained`.
    saves: ClassVar[Literal["adapter", "model"]]
    #: True if vLLM loads the saved adapter as a LoRA.
    vllm: ClassVar[bool]
    #: Required device: ``cuda``, or empty if the adapter runs on every device.
    needs: ClassVar[str]

    def attach(self, model: Any, calibrate: CalibrationBatches, *, seed: int) -> Any:
        """Return the model to train: a `peft.PeftModel`, or ``model`` itself if its own weights are trained.

        ``model`` is a causal language model of transformers, in evaluation mode. Afterwards ``requires_grad`` is True
        for the trained parameters and False for all others. The result is bit-identical for the same model, data and
        seed; implementations may seed torch's global generator. Options that do not fit the model are a `UsageError`.
        """

    def save(self, model: Any, folder: Path) -> None:
        """Write the trained parameters so that `peft.PeftModel.from_pretrained` loads them onto the base model.

        The saved adapter (``adapter_config.json`` and ``adapter_model.safetensors`` in an existing folder) applies to
        the unmodified base model. If the attribute `saves` is ``model``, a whole model is written instead. ``model`` is
        the result of `attach`; it is not modified, so that training can continue.
        """

    def shapes(self, model: Any) -> list[tuple[int, int]]:
        """Return the shape (rows, columns) of each weight matrix that would be adapted, for `count_trainable`."""

    def count_trainable(self, shapes: Shapes) -> int:
        """Return the number of trainable parameters, by the formula of the adapter's paper.

        For full fine-tuning, ``shapes`` are those of all parameters, with vectors as (1, size).
        """


class Optimizer(TrainingComponent, Protocol):
    """A component that builds a torch optimizer."""

    @property
    def needs(self) -> str:
        """Required device: ``cuda``, or empty if the optimizer runs on every device."""

    @property
    def fits(self) -> frozenset[ParameterKind]:
        """Kinds of parameters that the optimizer can train; a recipe that trains another kind is rejected."""

    @property
    def reason(self) -> str:
        """Reason, for error messages, why the optimizer trains no other kinds of parameters; empty if it trains all."""

    def build(self, model: Any, *, lr: float, weight_decay: float) -> Any:
        """Return a `torch.optim.Optimizer` over the trainable parameters of ``model``.

        Its state consists of tensors and numbers only, so that ``torch.load(weights_only=True)`` can read it, and
        ``load_state_dict`` restores it bit by bit, whatever the data type of the parameters. The trainer's scheduler
        scales the learning rate of each group. The decoupled weight decay is not applied to vectors (biases and norms).
        """


@runtime_checkable
class SizedOptimizer(Optimizer, Protocol):
    """An optimizer whose state has a known size; all optimizers of this package are of this kind."""

    def count_state(self, shapes: Shapes) -> int:
        """Return the number of values in the optimizer state after one step, not counting step counters.

        ``shapes`` are those of the trained matrices (`build` may freeze some); vectors and embeddings are (1, size).
        """


class CallbackPart(TrainingComponent, Protocol):
    """A component that acts between optimizer steps through a trainer callback, such as layer sampling."""

    #: Kinds of trained parameters that the component supports.
    fits: ClassVar[frozenset[ParameterKind]]
    #: Reason why the component does not support the other kinds, as a sentence; empty if it supports all kinds.
    reason: ClassVar[str]

    def callback(self, model: Any, calibrate: CalibrationBatches, *, seed: int) -> Any:
        """Return the `transformers.TrainerCallback` through which the component acts.

        Resumed training must behave like uninterrupted training: random choices depend only on seed and step, or are
        stored in ``TrainerState`` (as ``ExportableState``).
        """


class RankAllocation(TrainingComponent, Protocol):
    """A method that chooses the adapter's rank for each matrix within a fixed budget."""

    def pattern(self, model: Any, targets: Sequence[str], r: int, calibrate: CalibrationBatches) -> Mapping[str, int]:
        """Return the rank of each target, a full module name: mean at most ``r``; 0 leaves a matrix unadapted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListTarget:
    """Label of one training list, as tensors for the losses."""

    ranks: Tensor  #: Rank of each document under the label, from 1; float, shape (documents,).
    scores: Tensor  #: Scores of the teacher, larger is better, shape (documents,); empty if the teacher assigned none.


class TokenLoss(TrainingComponent, Protocol):
    """A loss that is computed from the tokens of the generated permutation."""

    #: Input of the loss; distinguishes token losses from list losses.
    of: ClassVar[Literal["tokens"]]

    def weights(self, ranks: Tensor) -> Tensor:
        """Return the weight w_i of each token, shape (tokens,).

        The loss is L = (1/T) sum_i w_i (-log P(y_i | x, y_<i)) with the number of tokens T. ``ranks``, float and of the
        same shape, are those of the document (from 1) whose identifier contains the token, and 0 for other tokens.
        """


class ListLoss(TrainingComponent, Protocol):
    """A loss that is computed from one score per document, whose source the recipe selects."""

    of: ClassVar[Literal["scores"]]

    def __call__(self, scores: Tensor, target: ListTarget) -> Tensor:
        """Return the loss of one list, a scalar, for float32 scores of shape (documents,); larger is more relevant."""


class TextLoss(TrainingComponent, Protocol):
    """A loss that itself runs a cross-encoder on the texts of a list."""

    of: ClassVar[Literal["texts"]]

    def build(self, model: Any) -> Any:
        """Return the loss as a torch module for a ``sentence_transformers.CrossEncoder``."""


class Objective(TrainingComponent, Protocol):
    """A training objective that replaces the losses of a recipe, such as GRPO."""

    def check(self, recipe: Recipe, adapter: Adapter) -> None:
        """Raise a `UsageError` with the reason if the objective does not support the recipe; nothing is loaded yet."""

    def run(
        self, recipe: Recipe, parts: RecipeComponents, folder: Path, *, device: str, report_to: Sequence[str] = ()
    ) -> Any:
        """Return a `rerank.finetune.trainer.training_run.TrainingRun` that can be started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeComponents:
    """The components of a recipe, constructed and checked against each other."""

    adapter: Any  #: An `Adapter`; its further methods depend on the adapter.
    optimizer: Optimizer
    layers: CallbackPart | None = None  #: Layer sampling method; None to train all layers in every step.
    callbacks: tuple[CallbackPart, ...] = ()
    ranks: RankAllocation | None = None  #: None to use the same rank for all matrices.
    losses: tuple[Any, ...] = ()  #: Token, list and text losses in the order of the recipe; empty with an objective.
    objective: Objective | None = None  #: None if the recipe has losses.

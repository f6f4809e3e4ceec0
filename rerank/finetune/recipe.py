"""What a training is: one frozen value, written as TOML, kept with what it made.

Knows fields and files, and that the parts which they name exist and fit together; not what the parts do. Nothing heavy
is imported, so that a recipe that cannot work is refused before a model is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rerank.errors import UnknownNameError, UsageError, in_words
from rerank.finetune.adapters.base import Adapter
from rerank.finetune.extra.layers.base import Between
from rerank.finetune.extra.objectives.base import Objective
from rerank.finetune.extra.ranks.base import Ranks
from rerank.finetune.losses.base import ListLoss, Source, TokenLoss
from rerank.finetune.optimizers.base import Optimizer
from rerank.finetune.parts import FitsSome, Shape
from rerank.io.text_files import read_toml
from rerank.registry import Registry
from rerank.selector import make

ADAPTERS = Registry("finetune.adapters", "adapter", experimental="finetune.extra.adapters")
OPTIMIZERS = Registry("finetune.optimizers", "optimizer", experimental="finetune.extra.optimizers")
LAYERS = Registry("finetune.extra.layers", "way of sampling layers")
CALLBACKS = Registry("finetune.extra.callbacks", "callback")
LOSSES = Registry("finetune.losses", "loss")
RANKS = Registry("finetune.extra.ranks", "way of choosing ranks")
OBJECTIVES = Registry("finetune.extra.objectives", "objective")


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class _Named(BaseModel):
    """A part by name; all further keys are its options."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str

    @property
    def options(self) -> dict[str, Any]:
        """What is given beside the name."""
        return {key.replace("-", "_"): value for key, value in (self.__pydantic_extra__ or {}).items()}


class LossTable(_Named):
    """A loss by name; further keys are its options."""

    weight: float = Field(default=1.0, gt=0)
    """Its factor in the sum."""
    on: Source | None = None
    """Where the scores of a loss of scores come from; logits if left out."""


class OptimizerTable(_Named):
    """An optimizer by name; further keys are its options."""

    name: str = "adamw"
    lr: float = Field(default=1e-4, gt=0)
    """Learning rate."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled; vectors are spared."""


class DataTable(_Table):
    """What is learnt from."""

    lists: tuple[str, ...]
    """Label files; paths here and in selectors are relative to where the command runs."""
    collection: str | tuple[str, ...] = ""
    """Where ids are looked up, for label files that hold ids only: one for all files, or one for each."""
    documents: int = Field(default=20, ge=2)
    """Documents of a list; longer ones are cut to as many, drawn anew each time they come."""
    shuffle: bool = False
    """Show documents in random order instead of the first stage's."""
    max_lists: int | None = Field(default=None, ge=1)
    """Take only the first so many lists."""


class MethodTable(_Table):
    """The method that is trained for, under the names of a run specification. It is kept with the adapter."""

    method: str = "fullrank"
    """Name of a method, or ``strategy:judge``, with options."""
    prompt: str = "auto"
    """Name of a shipped prompt or path of a YAML file."""
    min_passage_tokens: int = Field(default=32, ge=1)
    """Passages are never cut below that many tokens."""
    max_passage_tokens: int | None = Field(default=None, ge=1)
    """Nor left longer than that."""
    context_size: int | None = Field(default=None, ge=1)
    """Use less than the model's context."""


class ReadoutTable(_Table):
    """Which heads a loss on attention looks at."""

    layers: str = ""
    """First and last layer, as ``9-17``, from 0; empty for all."""
    heads: str = ""
    """A head list of ``rerank heads select``; empty for all heads of the layers."""
    learn: bool = True
    """Learn how much each head counts, and what power of a passage's length."""
    fit: int = Field(default=0, ge=0)
    """Fit both to the model as it is on so many lists, before anything else trains."""
    cut: bool = True
    """Leave the layers above the last one out: nothing that trains depends on them."""


class TrainingTable(_Table):
    """How it is trained."""

    steps: int | None = Field(default=None, ge=1)
    """Optimizer steps; if left out, as many as the epochs take."""
    epochs: float = Field(default=1.0, gt=0)
    """Passes over the lists."""
    batch_size: int = Field(default=1, ge=1)
    """Lists that are read together, packed into one row."""
    accumulation: int = Field(default=8, ge=1)
    """Batches a step."""
    schedule: Literal["linear", "cosine", "constant"] = "cosine"
    """How the learning rate falls."""
    warmup: float = Field(default=0.1, ge=0, le=1)
    """Share of the steps in which it rises."""
    max_grad_norm: float = Field(default=1.0, ge=0)
    """Longer gradients are shortened; 0 for none."""
    neftune: float = Field(default=0.0, ge=0)
    """NEFTune's noise on embeddings (alpha), arXiv 2310.05914; 0 for none."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number type of the frozen weights and of the arithmetic; what trains is kept in float32."""
    checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, a third more time."""
    fsdp: bool = False
    """Share out the frozen weights of the layers over the processes that torchrun starts."""
    save_every: int = Field(default=50, ge=1)
    """Steps between checkpoints."""
    keep: int = Field(default=2, ge=1)
    """Checkpoints that are kept."""
    log_every: int = Field(default=10, ge=1)
    """Steps between lines of the metrics."""


class ValidationTable(_Table):
    """A collection that is ranked with the adapter as it will be used, now and then."""

    collection: str
    """Selector of the collection."""
    first_stage: str = "bm25"
    """Selector of the first stage."""
    depth: int = Field(default=20, ge=2)
    """Candidates a query."""
    max_queries: int | None = Field(default=50, ge=1)
    """Take only the first so many judged queries."""
    queries: tuple[str, ...] = ()
    """Take only these."""
    qrels: str | None = None
    """Judgments, where the collection brings none."""
    measure: str = "nDCG@10"
    """What decides."""
    every: int = Field(default=50, ge=1)
    """Steps between two looks."""
    patience: int | None = Field(default=None, ge=1)
    """Stop after that many looks without a better value."""


class Recipe(_Table):
    """Everything that decides what comes out. Hashable; TOML in, JSON both ways."""

    model: str = "smollm2-135m"
    """Base model: a name of `rerank models`, a folder, or a hub id."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    trust_remote_code: bool = False
    """Run code that comes with the model. Off unless asked for."""
    seed: int = 0
    """For everything that is drawn."""
    data: DataTable
    method: MethodTable = MethodTable()
    losses: tuple[LossTable, ...] = (LossTable(name="importance"),)
    objective: _Named | None = None
    adapter: _Named = _Named(name="lora")
    optimizer: OptimizerTable = OptimizerTable()
    ranks: _Named | None = None
    layers: _Named | None = None
    callbacks: tuple[_Named, ...] = ()
    readout: ReadoutTable = ReadoutTable()
    training: TrainingTable = TrainingTable()
    validation: ValidationTable | None = None

    @model_validator(mode="before")
    @classmethod
    def _in_place_of_losses(cls, values: Any) -> Any:
        named = isinstance(values, Mapping) and values.get("objective") is not None
        return {"losses": (), **values} if named else values

    @model_validator(mode="after")
    def _checked(self) -> Self:
        collections = self.data.collection
        if not isinstance(collections, str) and len(collections) != len(self.data.lists):
            raise ValueError(
                f"{len(collections)} collections for {len(self.data.lists)} files; one for all or for each"
            )
        names = [loss.name for loss in self.losses]
        if self.objective:
            if names:
                raise ValueError(
                    f"losses are {names} and the objective is {self.objective.name!r}; one of both decides"
                )
            return self
        if not names or len(set(names)) < len(names):
            raise ValueError(f"losses are {names}; at least one is needed, and none twice")
        return self

    @classmethod
    def make(cls, values: Mapping[str, Any]) -> Recipe:
        """Check values as they come from a file.

        Raises:
            UnknownNameError: A key that does not exist; the message suggests the nearest.
            UsageError: A value that does not fit.
        """
        try:
            return cls.model_validate(_underscored(values))
        except ValidationError as error:
            raise _said(error) from error

    def parts(self) -> Parts:
        """The parts that it names.

        Raises:
            UnknownNameError: No such part, or no such option of one.
            UsageError: An option out of its range, or parts that do not fit together, with the reason.
        """
        return Parts.of(self)


class Parts(BaseModel):
    """The parts of a recipe, made, and known to fit together."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    adapter: Any
    optimizer: Any
    layers: Any = None
    callbacks: tuple[Any, ...] = ()
    ranks: Any = None
    losses: tuple[Any, ...]
    objective: Any = None

    @classmethod
    def of(cls, recipe: Recipe) -> Parts:
        """Make them; see `Recipe.parts`."""
        adapter: Adapter = make(ADAPTERS, recipe.adapter.name, recipe.adapter.options)
        optimizer: Optimizer = make(OPTIMIZERS, recipe.optimizer.name, recipe.optimizer.options)
        layers: Between | None = make(LAYERS, recipe.layers.name, recipe.layers.options) if recipe.layers else None
        callbacks: tuple[Between, ...] = tuple(make(CALLBACKS, one.name, one.options) for one in recipe.callbacks)
        ranks: Ranks | None = make(RANKS, recipe.ranks.name, recipe.ranks.options) if recipe.ranks else None
        losses: tuple[TokenLoss | ListLoss, ...] = tuple(make(LOSSES, one.name, one.options) for one in recipe.losses)
        shape = adapter.shape
        _fit(f"The optimizer {recipe.optimizer.name!r}", optimizer, shape, recipe.adapter.name)
        if recipe.layers and layers:
            _fit(f"layers = {recipe.layers.name!r}", layers, shape, recipe.adapter.name)
        for named, callback in zip(recipe.callbacks, callbacks, strict=True):
            _fit(f"The callback {named.name!r}", callback, shape, recipe.adapter.name)
        if ranks and not hasattr(adapter, "rank_pattern"):
            raise UsageError(
                f"ranks = {recipe.ranks.name if recipe.ranks else ''!r} with the adapter {recipe.adapter.name!r}",
                expected="an adapter of pairs of low rank, such as lora",
            )
        for named_loss, loss in zip(recipe.losses, losses, strict=True):
            if loss.of == "tokens" and named_loss.on:
                raise UsageError(
                    f"on = {named_loss.on!r} for the loss {named_loss.name!r}",
                    expected="no 'on' for a loss of the written order",
                )
        objective: Objective | None = None
        if recipe.objective:
            objective = make(OBJECTIVES, recipe.objective.name, recipe.objective.options)
            objective.check(recipe, adapter)
        if recipe.training.fsdp:
            _check_shared(recipe, adapter)
        for part in (adapter, optimizer):
            if isinstance(part, FitsSome):
                part.check_recipe(recipe)
        return cls(
            adapter=adapter,
            optimizer=optimizer,
            layers=layers,
            callbacks=callbacks,
            ranks=ranks,
            losses=losses,
            objective=objective,
        )


def _fit(who: str, part: Optimizer | Between, shape: Shape, adapter: str) -> None:
    if shape not in part.fits:
        raise UsageError(
            f"{who} with the adapter {adapter!r}: {part.reason}",
            expected=f"an adapter of which this trains: {', '.join(sorted(part.fits))}",
            remedy="`rerank methods --training` says of every adapter what it trains",
        )


def _check_shared(recipe: Recipe, adapter: Adapter) -> None:
    """Refuse to share out weights that train, change, are packed into bits, or are asked for one token at a time."""
    named = f"fsdp = true with the adapter {recipe.adapter.name!r}"
    frozen = "an adapter over a base that stays as it is, such as lora, rslora or dora"
    if recipe.objective:
        raise UsageError(
            f"fsdp = true with the objective {recipe.objective.name!r}, for which processes write texts of their own",
            expected="losses: all processes have to run each layer equally often",
        )
    if adapter.shape == "full" or adapter.moves_base:
        raise UsageError(f"{named}, which changes the base model's own weights", expected=frozen)
    if adapter.needs:
        raise UsageError(f"{named}, whose base is packed into four bits", expected=frozen)


def read_recipe(path: str | Path) -> Recipe:
    """Read a recipe.

    Raises:
        MissingResourceError: There is no such file.
        DataError: It is no TOML.
        UsageError: It says something that makes no sense.
    """
    return Recipe.make(read_toml(path, "recipe"))


def _underscored(values: Any) -> Any:
    if isinstance(values, Mapping):
        return {str(key).replace("-", "_"): _underscored(value) for key, value in values.items()}
    return [_underscored(one) for one in values] if isinstance(values, list) else values


def _said(error: ValidationError) -> UsageError:
    """The first problem, in our words."""
    problem = error.errors()[0]
    where = [str(part) for part in problem["loc"]]
    name = ".".join(where) or "The recipe"
    if problem["type"] == "extra_forbidden":
        table: Any = Recipe
        for part in where[:-1]:
            table = _table_of(table, part)
        return UnknownNameError("key of a recipe", where[-1], getattr(table, "model_fields", {}))
    if problem["type"] == "missing":
        return UsageError(
            f"The recipe has no {name}",
            expected="it to be given; all else has defaults",
            remedy='The least that a recipe says: [data] with lists = ["labels.jsonl"]',
        )
    shown = "" if isinstance(problem["input"], dict) else f" = {problem['input']!r}"
    return UsageError(f"{name}{shown}: {in_words(problem)}")


def _table_of(table: Any, key: str) -> Any:
    """The table that stands under a key, for the keys that it knows."""
    field = getattr(table, "model_fields", {}).get(key)
    found = field.annotation if field else table
    options = [found, *getattr(found, "__args__", ())]
    return next((one for one in options if isinstance(one, type) and issubclass(one, BaseModel)), table)

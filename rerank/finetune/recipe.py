"""Training recipes: a recipe is an immutable object that is read from TOML and stored beside the training's results.

The pydantic classes check field types, ranges and combinations of fields. A recipe only names its components;
`rerank.finetune.component_registry.make_training_components` constructs them and checks that they fit together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rerank.errors import UnknownNameError, UsageError, describe_pydantic_error
from rerank.io.settings_files import read_toml_file
from rerank.settings import PassageLimits, settings_from_file

#: Source of the document scores of a `ListLoss`. ``logits``: the log-probabilities that the judge uses (of identifiers,
#: of words such as yes and no, or of the query). ``attention``: the attention that each passage receives from the end
#: of the prompt. ``log-attention``: the logarithm of that attention.
ScoreSource = Literal["logits", "attention", "log-attention"]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ComponentTable(_Table, extra="allow"):
    """A table of a recipe that names a component; all further keys are options of the component."""

    name: str

    @property
    def options(self) -> dict[str, Any]:
        """All keys except the declared fields, with underscores instead of hyphens."""
        return {key.replace("-", "_"): value for key, value in (self.__pydantic_extra__ or {}).items()}


class LossTable(ComponentTable):
    """A table of a recipe that names a loss, its weight and its input; other keys are options of the loss."""

    weight: float = Field(default=1.0, gt=0)
    """Factor by which this loss is multiplied in the sum of the losses."""
    on: ScoreSource | None = None
    """Source of the document scores, for losses on scores: logits, attention or log-attention; logits if omitted."""


class OptimizerTable(ComponentTable):
    """The table ``[optimizer]`` of a recipe: the name of an optimizer of this package or of the library transformers.

    Keys other than the declared fields are options of the optimizer.
    """

    name: str = "adamw"
    lr: float = Field(default=1e-4, gt=0)
    """Learning rate."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay; not applied to vectors such as biases and norms."""


class DataTable(_Table):
    """The table of a recipe that describes the training data."""

    lists: tuple[str, ...]
    """Label files, or data sets such as ``hf:owner/name,split=train``. Paths here and in selectors are relative to the
    working directory of the command."""
    collection: str | tuple[str, ...] = ""
    """Collection that contains the documents referenced by id: one for all label files, or one per file."""
    documents: int = Field(default=20, ge=2)
    """Maximum number of documents per list; longer lists are subsampled in every epoch."""
    best: int = Field(default=0, ge=0)
    """Number of best documents, according to the label, that every sample contains."""
    hard: int = Field(default=0, ge=0)
    """Number of hard negatives that every sample contains: documents that the label ranks much lower than the list,
    which is in first-stage order unless it was shuffled. The other documents are drawn at random."""
    shuffle: bool = False
    """Show documents in random order instead of first-stage order."""
    max_lists: int | None = Field(default=None, ge=1)
    """Use only the first N lists."""

    @model_validator(mode="after")
    def _sample_holds_kept_documents(self) -> Self:
        if self.best + self.hard > self.documents:
            raise ValueError(
                f"best = {self.best} and hard = {self.hard}, but documents = {self.documents}; expected documents of "
                "at least their sum"
            )
        return self


class MethodTable(PassageLimits):
    """The table of a recipe with the ranking method for which the model is trained. It is stored with the adapter."""

    method: str = "fullrank"
    """Name of a method, or ``strategy:judge``, with options."""
    prompt: str = "auto"
    """Name of a shipped prompt or path of a YAML file."""

    @model_validator(mode="after")
    def _passages_may_be_as_long_as_they_must(self) -> Self:
        if self.max_passage_tokens is not None and self.max_passage_tokens < self.min_passage_tokens:
            raise ValueError(
                f"max_passage_tokens = {self.max_passage_tokens}, but min_passage_tokens = {self.min_passage_tokens}; "
                "expected a maximum of at least the minimum"
            )
        return self


class ReadoutTable(_Table):
    """The table of a recipe that selects the attention heads used by losses on attention."""

    layers: str = ""
    """First and last layer, such as ``9-17``, counted from 0; all layers if empty."""
    heads: str = ""
    """Head list written by `rerank heads select`; all heads of the layers if empty."""
    learn: bool = True
    """Learn a weight per head, and the exponent of the passage length."""
    fit: int = Field(default=0, ge=0)
    """Number of lists on which head weights and exponent are fitted before the model is trained; 0 disables it."""
    cut: bool = True
    """If the losses use only attention, remove the layers above the last layer whose attention is used."""


class TrainingTable(_Table):
    """The table of a recipe that configures the training loop."""

    steps: int | None = Field(default=None, ge=1)
    """Number of optimizer steps; overrides ``epochs``, from which it is computed if omitted."""
    epochs: float = Field(default=1.0, gt=0)
    """Number of passes over the lists."""
    batch_size: int = Field(default=1, ge=1)
    """Number of lists per batch; they are packed into one row."""
    accumulation: int = Field(default=8, ge=1)
    """Number of batches per optimizer step."""
    schedule: Literal["linear", "cosine", "constant"] = "cosine"
    """Learning rate schedule."""
    warmup: float = Field(default=0.1, ge=0, le=1)
    """Fraction of the optimizer steps during which the learning rate rises."""
    max_grad_norm: float = Field(default=1.0, ge=0)
    """Clip gradients to this norm; 0 disables clipping."""
    neftune: float = Field(default=0.0, ge=0)
    """Alpha of NEFTune's noise on the embeddings, arXiv 2310.05914; 0 disables it."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Data type of frozen weights and computation, and of a LoRA when it is saved; trained parameters are kept in
    float32."""
    checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time. On one GPU, this is turned on
    if the estimated memory exceeds the free memory."""
    fsdp: bool = False
    """Shard the weights over the processes started by torchrun: in full fine-tuning, all weights with their gradients
    and optimizer state; with an adapter, the frozen weights of the layers."""
    save_every: int = Field(default=50, ge=1)
    """Number of steps between checkpoints."""
    keep: int = Field(default=2, ge=1)
    """Number of newest checkpoints to keep."""
    log_every: int = Field(default=10, ge=1)
    """Number of steps between lines of the metrics file."""


class ValidationTable(_Table):
    """The table of a recipe that configures validation at regular intervals.

    The held-out data are labelled lists, a collection that is ranked with the method of the recipe, or both.
    """

    collection: str = ""
    """Selector of a collection that is ranked; nothing is ranked if empty."""
    lists: tuple[str, ...] = ()
    """Label files on which the loss is measured; none of their queries may be among the training lists."""
    documents_in: str = ""
    """Collection that contains the documents of ``lists``; the collection of [data] if omitted."""
    share: float = Field(default=0.0, ge=0, lt=1)
    """Fraction of the training queries whose lists are held out; the loss on these lists is measured."""
    first_stage: str = "bm25"
    """Selector of the first stage."""
    depth: int = Field(default=20, ge=2)
    """Number of candidates per query."""
    max_queries: int | None = Field(default=50, ge=1)
    """Use only the first N judged queries."""
    queries: tuple[str, ...] = ()
    """Use only the queries with these ids."""
    qrels: str | None = None
    """Relevance judgments, if the collection has none."""
    measure: str = "nDCG@10"
    """Measure that selects the best checkpoint. ``loss`` is the loss on held-out lists, and the default without a
    collection."""
    every: int = Field(default=50, ge=1)
    """Number of steps between validations."""
    patience: int | None = Field(default=None, ge=1)
    """Stop after this many validations without improvement."""

    @model_validator(mode="before")
    @classmethod
    def _measure_of_lists_is_the_loss(cls, values: Any) -> Any:
        needs_measure = isinstance(values, Mapping) and not values.get("collection") and "measure" not in values
        return {**values, "measure": "loss"} if needs_measure else values

    @property
    def has_lists(self) -> bool:
        return bool(self.lists or self.share)

    @property
    def ranking_measure(self) -> str:
        return self.measure if self.measure != "loss" else "nDCG@10"

    @model_validator(mode="after")
    def _validates_something(self) -> Self:
        if not (self.collection or self.has_lists):
            raise ValueError("the table contains no held-out data; expected collection, lists or share")
        if (self.measure == "loss" and not self.has_lists) or (self.measure != "loss" and not self.collection):
            raise ValueError(
                f"measure = {self.measure!r} cannot be computed without data; set 'lists' or 'share' for the loss, "
                "and 'collection' for other measures"
            )
        return self


class Recipe(_Table):
    """All settings that determine the result of a training. Recipes are hashable, and are stored as JSON."""

    model: str = "smollm2-135m"
    """Base model: a name listed by `rerank models`, a folder, or a hub id."""
    revision: str | None = None
    """Branch, tag or commit of the model on the hub."""
    trust_remote_code: bool = Field(default=False, strict=True)
    """Run code that is shipped with the model."""
    seed: int = 0
    """Random seed."""
    data: DataTable
    method: MethodTable = MethodTable()
    losses: tuple[LossTable, ...] = (LossTable(name="importance"),)
    objective: ComponentTable | None = None
    adapter: ComponentTable = ComponentTable(name="lora")
    optimizer: OptimizerTable = OptimizerTable()
    ranks: ComponentTable | None = None
    layers: ComponentTable | None = None
    callbacks: tuple[ComponentTable, ...] = ()
    readout: ReadoutTable = ReadoutTable()
    training: TrainingTable = TrainingTable()
    validation: ValidationTable | None = None

    @model_validator(mode="before")
    @classmethod
    def _objective_replaces_losses(cls, values: Any) -> Any:
        has_objective = isinstance(values, Mapping) and values.get("objective") is not None
        return {"losses": (), **values} if has_objective else values

    @model_validator(mode="after")
    def _checked(self) -> Self:
        collections = self.data.collection
        if not isinstance(collections, str) and len(collections) != len(self.data.lists):
            raise ValueError(
                f"there are {len(collections)} collections for {len(self.data.lists)} label files; expected one for "
                "all files, or one per file"
            )
        names = [loss.name for loss in self.losses]
        if self.objective:
            if names:
                raise ValueError(
                    f"both the losses {names} and the objective {self.objective.name!r} are given; expected only one "
                    "of the two"
                )
            if self.validation and self.validation.has_lists:
                raise ValueError(
                    f"held-out lists cannot be used with the objective {self.objective.name!r}, which has no loss on "
                    "lists; expected a collection in [validation]"
                )
            return self
        if not names or len(set(names)) < len(names):
            raise ValueError(f"the losses are {names}; expected at least one, and each name once")
        return self

    @classmethod
    def make(cls, values: Mapping[str, Any]) -> Recipe:
        try:
            return cls.model_validate(_with_underscores(values))
        except ValidationError as error:
            raise _usage_error(error) from error


def read_recipe(path: str | Path, *, trust_remote_code: bool = False) -> Recipe:
    """Read a recipe from a TOML file; ``trust_remote_code`` lets it run Python code that comes with its models."""
    return Recipe.make(settings_from_file(read_toml_file(path, "recipe"), path, trust_remote_code=trust_remote_code))


def _with_underscores(values: Any) -> Any:
    if isinstance(values, Mapping):
        return {str(key).replace("-", "_"): _with_underscores(value) for key, value in values.items()}
    return [_with_underscores(value) for value in values] if isinstance(values, list) else values


def _usage_error(error: ValidationError) -> UsageError:
    problem = error.errors()[0]
    keys = [str(key) for key in problem["loc"]]
    name = ".".join(keys) or "The recipe"
    table: Any = Recipe
    for key in keys[:-1]:
        table = _table_class(table, key)
    fields = getattr(table, "model_fields", {})
    if problem["type"] == "extra_forbidden":
        kind = f"key of [{'.'.join(keys[:-1])}]" if keys[1:] else "key of a recipe"
        tables = {name: _table_class(Recipe, name) for name in Recipe.model_fields}
        owners = [f"[{name}]" for name, one in tables.items() if one is not Recipe and keys[-1] in one.model_fields]
        hint = f"Write it below {' or '.join(owners)}" if owners else ""
        return UnknownNameError(kind, keys[-1], fields, otherwise=hint, limit=len(fields))
    if problem["type"] == "missing":
        return UsageError(
            f"The recipe has no {name}",
            expected=f"a value for {name}; all other keys have defaults",
            remedy='A minimal recipe is: [data] with lists = ["labels.jsonl"]',
        )
    shown = "" if isinstance(problem["input"], dict) else f" = {problem['input']!r}"
    if problem["type"].startswith("model_"):
        return UsageError(f"{name}{shown}", expected=f"a table: [{name}], and its keys in the lines below")
    if problem["type"] == "tuple_type" and not shown:
        return UsageError(f"[{name}] is a single table", expected=f"a list of tables: [[{name}]]")
    meaning = fields[keys[-1]].description if keys and keys[-1] in fields else None
    return UsageError(
        f"{name}{shown}: {describe_pydantic_error(problem)}",
        remedy=f"The key means: {meaning.replace('``', '')}" if meaning else "",
    )


def describe_recipe_keys() -> list[tuple[str, str, str]]:
    """Return table, name with default, and meaning of each key of a recipe, except for the options of components."""
    rows: list[tuple[str, str, str]] = []
    for name, field in Recipe.model_fields.items():
        if (table := _table_class(Recipe, name)) is Recipe:
            rows.append(("", *_key_row(name, field)))
        title = "`[[losses]]`" if name == "losses" else f"`[{name}]`"
        inner = {} if table is Recipe else table.model_fields
        rows += [(title, *_key_row(key, value)) for key, value in inner.items() if value.description]
    return rows


def _key_row(name: str, field: Any) -> tuple[str, str]:
    default = "" if field.is_required() or field.default in (None, "", ()) else f" = {json.dumps(field.default)}"
    return f"`{name}{default}`", " ".join((field.description or "").replace("``", "`").split())


def _table_class(table: Any, key: str) -> Any:
    """Return the pydantic class of the table with a given key; its fields are the valid keys of that table."""
    field = getattr(table, "model_fields", {}).get(key)
    annotation = field.annotation if field else table
    options = [annotation, *getattr(annotation, "__args__", ())]
    return next((option for option in options if isinstance(option, type) and issubclass(option, BaseModel)), table)

"""What a suite is: which rerankers are run over which candidates, written as TOML, and the runs that it stands for.

Knows fields and files, not how runs are made or compared.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from rerank.errors import UsageError
from rerank.experiment.spec import RunSpec, Shuffle
from rerank.io.text_files import read_toml
from rerank.leaderboard.suites.suite_values import (
    check_keys,
    check_unique,
    insert_data_folder,
    normalize_keys,
    to_usage_error,
)
from rerank.methods import open_method

#: What a collection, or the suite as a whole, decides about a run; the rest of a specification is the reranker's.
_OF_CANDIDATES = {"collection", "first_stage", "depth", "max_queries", "queries", "qrels", "measures", "relevant"}
_OF_ORDER = {"shuffle", "seed"}
_OF_RERANKERS = [name for name in RunSpec.model_fields if name not in _OF_CANDIDATES | _OF_ORDER]
_OPTIONS = [name for name in _OF_RERANKERS if name not in ("method", "model", "adapter")]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class CollectionTable(_Table):
    """A collection, and what of the suite is otherwise for it."""

    collection: str
    """Selector of the collection."""
    name: str = ""
    """What it is called in results; if left out, the selector."""
    qrels: str | None = None
    """Judgments, where the collection brings none or others are wanted."""
    relevant: int | None = Field(default=None, ge=1)
    """Lowest grade that binary measures count as relevant; the collection's own if left out."""
    measures: tuple[str, ...] = ()
    """Instead of the suite's."""
    first_stages: tuple[str, ...] = ()
    """Instead of the suite's."""
    depths: tuple[int, ...] = ()
    """Instead of the suite's."""
    max_queries: int | None = Field(default=None, ge=1)
    """Take only the first so many queries."""
    queries: tuple[str, ...] = ()
    """Take only these."""
    rivals: tuple[str, ...] = ()
    """Run files of others, or patterns of such; they are measured and shown beside, not tested against."""

    @property
    def title(self) -> str:
        """Its name, or its selector."""
        return self.name or self.collection


class RerankerTable(BaseModel):
    """One reranker, with the names of a run specification."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str = ""
    """What it is called in results; if left out, its method and model."""

    @property
    def values(self) -> dict[str, Any]:
        """What it says about a run."""
        return dict(self.__pydantic_extra__ or {})


class Suite(_Table):
    """Everything that a suite decides."""

    name: str = Field(pattern=r"^[\w.-]+$")
    """Letters, digits, dashes: its default folder is called so."""
    about: str = ""
    """For people."""
    collections: tuple[CollectionTable, ...] = Field(min_length=1)
    """Tables, or selectors alone."""
    first_stages: tuple[str, ...] = Field(default=("bm25",), min_length=1)
    """Selectors."""
    depths: tuple[int, ...] = Field(default=(100,), min_length=1)
    """Candidates a query."""
    methods: tuple[str, ...] = ("fullrank",)
    """Each is run with each of the models."""
    models: tuple[str, ...] = ()
    """As after ``--model``."""
    adapters: tuple[str, ...] = ()
    """Each brings its model and method."""
    rerankers: tuple[RerankerTable, ...] = ()
    """Further ones, one by one."""
    options: Mapping[str, Any] = {}
    """Of all methods with models: further keys of a run specification. An adapter brings its own."""
    shuffle: Shuffle = "none"
    """Order in which the candidates are given to the rerankers."""
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    """Each run is made once with each of them, and compared by its mean for a query."""
    measures: tuple[str, ...] = Field(default=("nDCG@10",), min_length=1)
    """Names as ir_measures or trec_eval write them; the first one is tested."""
    test: str = "t"
    """Selector of the test."""
    correction: str = "auto"
    """Of p-values, over all pairs of one comparison."""
    alpha: float = Field(default=0.05, gt=0, lt=1)
    """Level of significance."""

    @field_validator("collections", mode="before")
    @classmethod
    def _tables(cls, values: Any) -> Any:
        listed = isinstance(values, list | tuple)
        return [{"collection": one} if isinstance(one, str) else one for one in values] if listed else values

    @model_validator(mode="after")
    def _checked(self) -> Self:
        if not (self.models or self.adapters or self.rerankers):
            raise ValueError("it names no models, no adapters and no rerankers, so there is nothing to run")
        if self.models and not self.methods:
            raise ValueError("it names models and no methods to run them with")
        check_unique("collections", [table.title for table in self.collections])
        for name in ("first_stages", "depths", "methods", "models", "adapters", "seeds", "measures"):
            check_unique(name, getattr(self, name))
        if min(self.depths, default=1) < 1:
            raise ValueError(f"depths has {min(self.depths)}; every depth is at least 1")
        return self

    @classmethod
    def make(cls, values: Mapping[str, Any], *, data: str | Path | None = None) -> Suite:
        """Check values as they come from a file.

        Args:
            values: The file's.
            data: What stands for ``{data}`` in texts.

        Raises:
            UnknownNameError: A key or a method that does not exist; the message suggests the nearest.
            UsageError: A value that does not fit, or ``{data}`` and no folder for it.
        """
        given = insert_data_folder(normalize_keys(values), data)
        _check_keys(given)
        try:
            suite = cls.model_validate(given)
        except ValidationError as error:
            raise to_usage_error(error) from error
        suite.systems()
        return suite

    def with_models(self, models: Sequence[str]) -> Suite:
        """The same methods over the same candidates with these models, and no other rerankers."""
        values = {**self.model_dump(), "models": tuple(models), "adapters": (), "rerankers": ()}
        return Suite.make(values | {"methods": self.methods or Suite.model_fields["methods"].default})

    def systems(self) -> dict[str, dict[str, Any]]:
        """The rerankers: name -> the part of a run specification that makes it.

        Raises:
            UsageError: Two have one name, or a value does not fit.
            UnknownNameError: No such method.
        """
        pairs: list[tuple[str, dict[str, Any]]] = [
            (f"{method} {Path(model).name}", {**self.options, "method": method, "model": model})
            for model, method in itertools.product(self.models, self.methods)
        ]
        pairs += [(Path(adapter).name, {"adapter": adapter}) for adapter in self.adapters]
        pairs += [(table.name or _label(table.values), table.values) for table in self.rerankers]
        made: dict[str, dict[str, Any]] = {}
        for name, values in pairs:
            if name in made:
                raise UsageError(
                    f"Two rerankers of the suite {self.name!r} are called {name!r}",
                    remedy="Give one a name of its own: [[rerankers]] with name = ...",
                )
            made[name] = values
            checked = RunSpec.make({"collection": "none", **values})
            if "method" in values or not checked.adapter:
                open_method(checked.method)
        return made

    def expand(self) -> list[SuiteRun]:
        """The runs, all of one model after the other, so that it is loaded once."""
        return [
            SuiteRun(group=group, system=system, spec=RunSpec.make({**group.values(), **values, **self._order(seed)}))
            for (system, values), group, seed in itertools.product(self.systems().items(), self.groups(), self.seeds)
        ]

    def groups(self) -> Iterator[CandidateGroup]:
        """Collection, first stage and depth: what is compared lies within one of them."""
        for table in self.collections:
            for first_stage in table.first_stages or self.first_stages:
                for depth in table.depths or self.depths:
                    measures = table.measures or self.measures
                    yield CandidateGroup(table=table, first_stage=first_stage, depth=depth, measures=measures)

    def _order(self, seed: int) -> dict[str, Any]:
        return {"shuffle": self.shuffle, "seed": seed}


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateGroup:
    """One collection searched by one first stage to one depth.

    Attributes:
        table: The collection.
        first_stage: Selector of the first stage.
        depth: Candidates a query.
        measures: What is measured, the tested one first.
    """

    table: CollectionTable
    first_stage: str
    depth: int
    measures: tuple[str, ...]

    def __str__(self) -> str:
        """For people."""
        return f"{self.table.title}, {self.first_stage}, depth {self.depth}"

    def values(self) -> dict[str, Any]:
        """The part of a run specification that says where candidates come from and how results are measured."""
        table = self.table
        given = {"qrels": table.qrels, "relevant": table.relevant, "max_queries": table.max_queries}
        return {
            "collection": table.collection,
            "first_stage": self.first_stage,
            "depth": self.depth,
            "measures": self.measures,
            "queries": table.queries,
            **{key: value for key, value in given.items() if value is not None},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteRun:
    """One run of a suite.

    Attributes:
        group: Which candidates.
        system: Which reranker, by its name in the suite.
        spec: The run; seeds of one reranker differ in this alone.
    """

    group: CandidateGroup
    system: str
    spec: RunSpec

    def __str__(self) -> str:
        """For people."""
        return f"{self.group}: {self.system}, seed {self.spec.seed}"


def read_suite(path: str | Path, *, data: str | Path | None = None) -> Suite:
    """Read a suite; paths in it are relative to where the command runs.

    Args:
        path: The file.
        data: What stands for ``{data}`` in its texts.

    Raises:
        MissingResourceError: There is no such file.
        DataError: It is no TOML.
        UsageError: It says something that makes no sense.
    """
    return Suite.make(read_toml(path, "suite"), data=data)


def _label(values: Mapping[str, Any]) -> str:
    if "adapter" in values and "method" not in values:
        return Path(str(values["adapter"])).name
    model = values.get("adapter", values.get("model", RunSpec.model_fields["model"].default))
    return f"{values.get('method', RunSpec.model_fields['method'].default)} {Path(str(model)).name}"


def _check_keys(values: Mapping[str, Any]) -> None:
    """Refuse keys that do not exist, in the suite and in its tables."""
    check_keys("key of a suite", values, Suite.model_fields)
    for table in _tables(values.get("collections")):
        check_keys("key of a collection in a suite", table, CollectionTable.model_fields)
    for table in _tables(values.get("rerankers")):
        check_keys("key of a reranker in a suite", table, ["name", *_OF_RERANKERS])
    for table in _tables([values.get("options")]):
        check_keys("key of [options] in a suite", table, _OPTIONS)


def _tables(values: Any) -> list[Mapping[str, Any]]:
    return [one for one in values if isinstance(one, Mapping)] if isinstance(values, list) else []

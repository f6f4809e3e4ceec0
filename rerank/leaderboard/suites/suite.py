"""The suite format (TOML): rerankers, collections and first stages, and the runs that combine them."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from rerank.assemble import assembly_defaults
from rerank.errors import UnknownNameError, UsageError, describe_pydantic_error
from rerank.experiment.spec import RunSpec, Shuffle
from rerank.io.settings_files import read_toml_file
from rerank.methods import open_method
from rerank.settings import settings_from_file

#: Fields of a run specification set by a collection or the suite; the others belong to the reranker.
_OF_CANDIDATES = {"collection", "first_stage", "depth", "max_queries", "queries", "qrels", "measures", "relevant"}
_OF_ORDER = {"shuffle", "seed"}
_OF_RERANKERS = [name for name in RunSpec.model_fields if name not in _OF_CANDIDATES | _OF_ORDER]
_OPTIONS = [name for name in _OF_RERANKERS if name not in ("method", "model", "adapter")]
DATA = "{data}"  #: Placeholder for the folder given with ``--data``.


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CollectionTable(_Table):
    """A collection of a suite, with settings that override those of the suite for runs on it."""

    collection: str  #: Selector of the collection.
    name: str = ""  #: Name of the collection in the results; the selector if omitted.
    qrels: str | None = None  #: Relevance judgments to use instead of the collection's own judgments.
    #: Lowest grade that binary measures count as relevant; if omitted, the collection's own lowest relevant grade.
    relevant: int | None = Field(default=None, ge=1)
    measures: tuple[str, ...] = ()  #: Measures for this collection; the suite's measures if omitted.
    first_stages: tuple[str, ...] = ()  #: First stages for this collection; the suite's first stages if omitted.
    depths: tuple[int, ...] = ()  #: Depths for this collection; the suite's depths if omitted.
    max_queries: int | None = Field(default=None, ge=1)  #: Use only the first N queries.
    queries: tuple[str, ...] = ()  #: Use only the queries with these ids.
    #: External run files or glob patterns. These runs are evaluated and shown, but not tested for significance.
    rivals: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        return self.name or self.collection


class RerankerTable(BaseModel):
    """A reranker. All keys except ``name`` are fields of a run specification."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str = ""  #: Name of the reranker in the results; method and model if omitted.

    @property
    def values(self) -> dict[str, Any]:
        return dict(self.__pydantic_extra__ or {})


class Suite(_Table):
    """A suite: collections, first stages, rerankers, and settings for the comparison of their runs."""

    #: Name of the suite and of its default folder: letters, digits, dots, dashes and underscores.
    name: str = Field(pattern=r"^[\w-][\w.-]{0,199}$")
    about: str = ""  #: Description for readers.
    collections: tuple[CollectionTable, ...] = Field(min_length=1)  #: Collections, each as a table or as a selector.
    first_stages: tuple[str, ...] = Field(default=("bm25",), min_length=1)  #: Selectors of first stages.
    depths: tuple[int, ...] = Field(default=(100,), min_length=1)  #: Numbers of candidates per query.
    #: Methods. Every method is combined with every model; ``auto`` is the method of the model.
    methods: tuple[str, ...] = ("auto",)
    models: tuple[str, ...] = ()  #: Models, in the form that ``--model`` accepts.
    adapters: tuple[str, ...] = ()  #: Adapters. Each adapter determines its model and method.
    rerankers: tuple[RerankerTable, ...] = ()  #: Additional rerankers, with one table per reranker.
    #: Further fields of the run specification. They apply to all combinations of methods and models.
    options: Mapping[str, Any] = {}
    shuffle: Shuffle = "none"  #: Order in which rerankers receive the candidates.
    #: Seeds. Every run is repeated with each seed; comparisons use the mean over seeds per query.
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    #: Measures, named as in ir_measures or trec_eval. Significance is tested on the first measure.
    measures: tuple[str, ...] = Field(default=("nDCG@10",), min_length=1)
    test: str = "t"  #: Selector of the significance test.
    correction: str = "auto"  #: Correction of p-values for multiple comparisons.
    alpha: float = Field(default=0.05, gt=0, lt=1)  #: Significance level.

    @field_validator("collections", mode="before")
    @classmethod
    def _tables(cls, values: Any) -> Any:
        listed = isinstance(values, list | tuple)
        return [{"collection": table} if isinstance(table, str) else table for table in values] if listed else values

    @model_validator(mode="after")
    def _checked(self) -> Self:
        if not (self.models or self.adapters or self.rerankers):
            raise ValueError("no models, no adapters and no rerankers are given, so there is nothing to run")
        if self.models and not self.methods:
            raise ValueError("models are given, but no methods to use with these models")
        _check_unique("collections", [table.title for table in self.collections])
        for name in ("first_stages", "depths", "methods", "models", "adapters", "seeds", "measures"):
            _check_unique(name, getattr(self, name))
        if min(self.depths, default=1) < 1:
            raise ValueError(f"depths contains {min(self.depths)}; every depth must be at least 1")
        return self

    @classmethod
    def make(cls, values: Mapping[str, Any], *, data: str | Path | None = None) -> Suite:
        """Create a suite from the values of a TOML file. The folder ``data`` replaces ``{data}`` in strings."""
        values = _insert_data_folder(_normalize_keys(values), data)
        _check_keys("key of a suite", values, Suite.model_fields)
        for table in _tables_in(values.get("collections")):
            _check_keys("key of a collection in a suite", table, CollectionTable.model_fields)
        for table in _tables_in(values.get("rerankers")):
            _check_keys("key of a reranker in a suite", table, ["name", *_OF_RERANKERS])
        for table in _tables_in([values.get("options")]):
            _check_keys("key of [options] in a suite", table, _OPTIONS)
        try:
            suite = cls.model_validate(values)
        except ValidationError as error:
            raise _usage_error(error) from error
        suite.systems()
        return suite

    def with_models(self, models: Sequence[str]) -> Suite:
        """Return a copy of the suite in which these models replace all its models, adapters and listed rerankers."""
        values = {**self.model_dump(), "models": tuple(models), "adapters": (), "rerankers": ()}
        return Suite.make(values | {"methods": self.methods or Suite.model_fields["methods"].default})

    def systems(self) -> dict[str, dict[str, Any]]:
        """Return a mapping from the name of each reranker to the fields of its run specification."""
        pairs: list[tuple[str, dict[str, Any]]] = [
            (_label({"method": method, "model": model}), {**self.options, "method": method, "model": model})
            for model, method in itertools.product(self.models, self.methods)
        ]
        pairs += [(Path(adapter).name, {"adapter": adapter}) for adapter in self.adapters]
        pairs += [(table.name or _label(table.values), table.values) for table in self.rerankers]
        systems: dict[str, dict[str, Any]] = {}
        for name, values in pairs:
            if name in systems:
                raise UsageError(
                    f"Two rerankers of the suite {self.name!r} have the name {name!r}",
                    remedy="Set a unique name: name = ... in [[rerankers]]",
                )
            systems[name] = values
            checked = RunSpec.make({"collection": "none", **values})
            if checked.method != "auto":
                open_method(checked.method)
        return systems

    def expand(self) -> list[SuiteRun]:
        """Return all runs, grouped by reranker so that each model is loaded only once."""
        return [
            SuiteRun(
                group=group,
                system=system,
                spec=RunSpec.make({**group.values(), **values, "shuffle": self.shuffle, "seed": seed}),
            )
            for (system, values), group, seed in itertools.product(self.systems().items(), self.groups(), self.seeds)
        ]

    def groups(self) -> Iterator[CandidateGroup]:
        """Yield all combinations of collection, first stage and depth. Only runs of the same group are compared."""
        for table in self.collections:
            for first_stage in table.first_stages or self.first_stages:
                for depth in table.depths or self.depths:
                    measures = table.measures or self.measures
                    yield CandidateGroup(table=table, first_stage=first_stage, depth=depth, measures=measures)


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateGroup:
    """A combination of collection, first stage and depth, which determines the candidates."""

    table: CollectionTable  #: The collection with its settings.
    first_stage: str
    depth: int  #: Number of candidates per query.
    measures: tuple[str, ...]  #: Names of the measures. Significance is tested on the first measure.

    def __str__(self) -> str:
        return f"{self.table.title}, {self.first_stage}, depth {self.depth}"

    def values(self) -> dict[str, Any]:
        """Return the fields of a run specification that determine the candidates and the measures."""
        table = self.table
        optional = {"qrels": table.qrels, "relevant": table.relevant, "max_queries": table.max_queries}
        return {
            "collection": table.collection,
            "first_stage": self.first_stage,
            "depth": self.depth,
            "measures": self.measures,
            "queries": table.queries,
            **{key: value for key, value in optional.items() if value is not None},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteRun:
    """One run of a suite."""

    group: CandidateGroup  #: The group of the run, which determines its candidates.
    system: str  #: Name of the reranker in the suite.
    spec: RunSpec  #: Specification of the run. Runs that differ only in the seed differ only in this attribute.

    def __str__(self) -> str:
        return f"{self.group}: {self.system}, seed {self.spec.seed}"


def read_suite(path: str | Path, *, data: str | Path | None = None, trust_remote_code: bool = False) -> Suite:
    """Read a suite from a TOML file. Its paths are relative to the working directory; ``data`` replaces ``{data}``."""
    values = _insert_data_folder(read_toml_file(path, "suite"), data)
    return Suite.make(settings_from_file(values, path, trust_remote_code=trust_remote_code), data=data)


def _label(values: Mapping[str, Any]) -> str:
    spec = RunSpec.make({"collection": "none", **values})
    if spec.adapter and spec.method == "auto":
        return Path(spec.adapter).name
    method = spec.method
    if method == "auto":
        method = spec.model_copy(update=assembly_defaults({"model": spec.model})).shown_method
    return f"{method} {Path(spec.adapter or spec.model).name}"


def _tables_in(values: Any) -> list[Mapping[str, Any]]:
    return [table for table in values if isinstance(table, Mapping)] if isinstance(values, list) else []


def _check_unique(what: str, values: Sequence[Any]) -> None:
    """Raise a ValueError if a value occurs more than once. pydantic collects this error."""
    value, times = Counter(values).most_common(1)[0] if values else ("", 1)
    if times > 1:
        named = "; give each a unique name" if what == "collections" else ""
        raise ValueError(f"{what} contains {value!r} {times} times{named}")


def _normalize_keys(values: Any) -> Any:
    """Return the values with dashes in keys replaced by underscores, at all levels of nesting."""
    if isinstance(values, Mapping):
        return {str(key).replace("-", "_"): _normalize_keys(value) for key, value in values.items()}
    return [_normalize_keys(value) for value in values] if isinstance(values, list) else values


def _insert_data_folder(values: Any, data: str | Path | None) -> Any:
    """Return the values with ``{data}`` replaced by the folder given with ``--data``."""
    if isinstance(values, Mapping):
        return {key: _insert_data_folder(value, data) for key, value in values.items()}
    if isinstance(values, list):
        return [_insert_data_folder(value, data) for value in values]
    if not isinstance(values, str) or DATA not in values:
        return values
    if data is None:
        raise UsageError(
            f"The suite contains {values!r}, but no folder for {DATA} was given",
            remedy="Pass the folder of the suite's files: --data FOLDER",
        )
    return values.replace(DATA, str(data))


def _check_keys(kind: str, table: Mapping[str, Any], names: Iterable[str]) -> None:
    for key in table:
        if key not in set(names):
            raise UnknownNameError(kind, key, names)


def _usage_error(error: ValidationError) -> UsageError:
    """Return a UsageError for the first invalid value of a suite that pydantic found."""
    problem = error.errors()[0]
    where = ".".join(map(str, problem["loc"]))
    if problem["type"] == "missing":
        return UsageError(
            f"The suite has no {where}",
            expected=f"a value for {where}",
            remedy='A minimal suite: name = "mine", collections = ["pydoc"], models = ["smollm2-135m"]',
        )
    shown = "" if isinstance(problem["input"], dict) else f" = {problem['input']!r:.80}"
    message = describe_pydantic_error(problem)
    return UsageError(f"{where}{shown}: {message}" if where else f"The suite is invalid: {message}")

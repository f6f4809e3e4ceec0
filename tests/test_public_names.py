"""The names that the package promises: each can be imported, in every way that Python has."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from typing import Any

import pytest

import rerank


@pytest.mark.parametrize("name", rerank.__all__)
def test_each_name_alone(name: str) -> None:
    namespace: dict[str, Any] = {}
    exec(f"from rerank import {name}", namespace)
    found = namespace[name]
    assert found is getattr(rerank, name) or name == "__version__"
    assert name in dir(rerank)
    if name != "__version__":
        assert found.__name__ == name
        assert found.__doc__


def test_all_at_once_in_a_fresh_interpreter() -> None:
    code = "from rerank import *; import rerank; print(sorted(set(rerank.__all__) - set(globals())))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_module_hides_a_name() -> None:
    """Importing ``rerank.x`` puts ``x`` on the package, where it would stand before the public name."""
    modules = {module.name for module in pkgutil.iter_modules(rerank.__path__)}
    assert modules & set(rerank.__all__) == set()
    assert len(set(rerank.__all__)) == len(rerank.__all__)


@pytest.mark.parametrize(
    "package", ["evaluation", "evaluation.significance", "retrieval", "collections", "strategies", "judges", "prompts"]
)
def test_the_names_of_the_packages(package: str) -> None:
    module = importlib.import_module(f"rerank.{package}")
    assert [name for name in module.__all__ if not hasattr(module, name)] == []
    assert {inner.name for inner in pkgutil.iter_modules(getattr(module, "__path__", []))} & set(
        module.__all__
    ) == set()


def test_what_is_not_there() -> None:
    with pytest.raises(AttributeError, match="module 'rerank' has no attribute 'rernk'"):
        _ = rerank.rernk
    with pytest.raises(ImportError, match="cannot import name 'rernk'"):
        exec("from rerank import rernk")

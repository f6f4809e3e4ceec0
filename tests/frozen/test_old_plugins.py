"""A plug-in written for commit cf0b9b7f, one per kind, loads, or fails with a message that names it."""

from __future__ import annotations

import importlib
import re
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import rerank
from rerank import registry
from rerank.errors import MissingPrerequisiteError
from rerank.registry import Registry

#: Kind of plug-in -> the class in ``plugins/KIND.txt``.
PLUGINS = {
    "adjudication.orders": "Random",
    "backends": "Replay",
    "collections": "Jsonl",
    "engines": "Local",
    "evaluation.baseline_tests": "Dunnett",
    "evaluation.significance": "Sign",
    "finetune.adapters": "Rslora",
    "finetune.extra.callbacks": "Refactor",
    "finetune.extra.layers": "Lisa",
    "finetune.extra.objectives": "Grpo",
    "finetune.extra.ranks": "Contribution",
    "finetune.labels.teachers": "Run",
    "finetune.losses": "Listnet",
    "finetune.optimizers": "LoraPlus",
    "judges": "WordLogit",
    "retrieval": "Candidates",
    "strategies": "AllPairs",
}


def registry_of(package: str) -> Registry:
    """Return the registry whose entry points have the group ``rerank.PACKAGE``."""
    root = Path(rerank.__file__).parent
    made = re.compile(rf'(Registry|_experimental)\(\s*"{re.escape(package)}"')
    path = next(path for path in root.rglob("*.py") if made.search(path.read_text("utf-8")))
    name = ".".join(("rerank", *path.relative_to(root).with_suffix("").parts))
    module = importlib.import_module(name.removesuffix(".__init__"))
    return next(v for v in vars(module).values() if isinstance(v, Registry) and v.package == package)


@pytest.mark.parametrize("package", sorted(PLUGINS))
def test_an_old_plug_in_loads_or_is_refused_with_its_name(
    package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = f"old_{package.replace('.', '_')}"
    source = (Path(__file__).parent / "plugins" / f"{package}.txt").read_text(encoding="utf-8")
    (tmp_path / f"{module}.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    group = f"rerank.{package}"
    point = EntryPoint("old-one", f"{module}:{PLUGINS[package]}", group)
    monkeypatch.setattr(registry, "_plugin_entry_points", lambda asked, path: (point,) if asked == group else ())
    plugins = registry_of(package)
    assert "old-one" in plugins
    try:
        message = "" if isinstance(plugins.get("old-one"), type) else "no class"
    except MissingPrerequisiteError as error:
        message = str(error)
    finally:
        sys.modules.pop(module, None)
    if message:  # a module or name that it imports has moved
        assert f"'old-one' from '{module}:{PLUGINS[package]}' cannot be loaded" in message
        assert "It was written for another version of listrank" in message

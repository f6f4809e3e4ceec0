"""The page of formulas: a row per method, and a test that exists for each of them. No torch."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from rerank.finetune.component_registry import KIND_REGISTRIES, describe_training_methods, training_components_of_kind

ROOT = Path(__file__).resolve().parents[2]
_ROW = re.compile(
    r"^\| `(?P<name>[\w-]+)` \| .+ \| .+ \| `(?P<path>[\w/.]+)::(?P<test>\w+)` \| (?P<differs>.+) \|$", re.M
)
ROWS = [row.groupdict() for row in _ROW.finditer((ROOT / "docs/training/formulas.md").read_text(encoding="utf-8"))]


def test_every_component_has_one_row() -> None:
    components = [name for kind in KIND_REGISTRIES for name in training_components_of_kind(kind)]
    assert sorted(row["name"] for row in ROWS) == sorted(components)


def test_every_named_test_exists() -> None:
    for row in ROWS:
        tree = ast.parse((ROOT / row["path"]).read_text(encoding="utf-8"))
        assert row["test"] in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, row


def test_a_difference_that_the_table_of_methods_states_is_not_denied() -> None:
    differing = {row["name"] for row in describe_training_methods() if row["differs"]}
    assert [row["name"] for row in ROWS if row["name"] in differing and row["differs"].startswith("none")] == []

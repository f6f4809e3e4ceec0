"""Who may import whom (docs/architecture.md), what importing costs, and how long things are."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import rerank

ROOT = Path(rerank.__file__).parent
GROUND = {
    "progress",
    "types",
    "errors",
    "registry",
    "selector",
    "textfiles",
    "formats",
    "jsontables",
    "paths",
    "pictures",
    "corpus",
    "stages",
    "trained",
}
#: Room -> the rooms that it may import besides itself.
ARROWS = {
    "errors": set(),
    "types": {"errors"},
    "registry": {"errors"},
    "selector": {"errors", "registry"},
    "textfiles": {"errors"},
    "jsontables": {"errors", "textfiles", "types"},
    "formats": {"errors", "types", "textfiles", "jsontables"},
    "paths": set(),
    "pictures": {"errors"},
    "progress": set(),
    "corpus": {"errors", "types"},
    "stages": {"errors", "types"},
    "prices": {"errors"},
    "spec": {"errors"},
    "strategies": GROUND,
    "parsing": GROUND,
    "prompts": GROUND,
    "collections": GROUND,
    "retrieval": GROUND | {"backends", "models"},
    "evaluation": GROUND,
    "adjudication": GROUND | {"evaluation", "backends", "judges", "prompts"},
    "downsampling": GROUND | {"evaluation", "adjudication"},
    "mmteb": GROUND | {"backends", "collections", "retrieval", "experiment", "spec", "store"},
    "backends": GROUND | {"prompts"},
    "judges": GROUND | {"prompts", "parsing", "backends"},
    "methods": GROUND | {"strategies", "judges", "backends"},
    "pipeline": GROUND | {"strategies", "judges"},
    "models": GROUND | {"backends", "prompts", "_pull"},
    "_pull": GROUND | {"backends", "models"},
    "store": GROUND | {"backends", "prompts"},
    "trained": {"errors", "selector", "textfiles"},
    "reranker": GROUND | {"backends", "judges", "methods", "models", "pipeline", "prompts", "strategies", "trained"},
}
EVERYTHING = {"experiment", "finetune", "leaderboard", "doctor", "cli", "__main__", "__init__"}


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("rerank."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.ImportFrom) and node.module == "rerank":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("rerank."))


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows(path: Path) -> None:
    room = room_of(path)
    if room in EVERYTHING:
        return
    assert room in ARROWS, f"{room} is a new room: give it its arrows here and a line in docs/architecture.md"
    assert set(imports(path)) - ARROWS[room] - {room} == set()


def test_every_room_is_on_the_architecture_page() -> None:
    page = (ROOT.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert [room for room in {room_of(path) for path in ROOT.rglob("*.py")} if f"`{room}`" not in page] == []


def fresh(code: str) -> str:
    """Run code in a new interpreter; return what it printed."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_importing_has_no_effects() -> None:
    code = """
import logging, locale, random, sys, warnings
import numpy
def state():
    return (logging.root.level, list(logging.root.handlers), locale.getlocale(), random.getstate(), sys.path[:],
            warnings.filters[:], numpy.get_printoptions(), sys.excepthook, sorted(logging.root.manager.loggerDict))
before = state()
import rerank, rerank.reranker, rerank.experiment, rerank.cli.app, rerank.evaluation
after = state()
print([i for i, (a, b) in enumerate(zip(before, after)) if a != b and i != 8])
"""
    assert fresh(code) == "[]"


HEAVY = (
    *("torch", "transformers", "bm25s", "ir_datasets", "scipy", "numba", "peft", "jax", "faiss"),
    *("sentence_transformers", "pyserini", "jnius"),
)


@pytest.mark.parametrize(
    "arguments",
    [
        *("--help", "--version", "run --help", "methods", "methods --training", "prompts", "models"),
        *("parse --count 2 --format json", "cache"),
    ],
)
def test_commands_without_a_model_import_nothing_heavy(arguments: str, tmp_path: Path) -> None:
    code = f"""
import io, os, sys
os.environ["XDG_CACHE_HOME"] = {str(tmp_path)!r}
sys.argv = ["rerank", *{arguments.split()!r}]
sys.stdin = io.TextIOWrapper(io.BytesIO(b"[2] > [1]"))
from rerank.cli import main
out, sys.stdout = sys.stdout, io.TextIOWrapper(io.BytesIO())
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print([name for name in {HEAVY!r} if name in sys.modules], file=out)
"""
    assert fresh(code) == "[]"


def functions(path: Path) -> Iterator[tuple[str, int, int]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            arguments = node.args
            count = len(arguments.posonlyargs + arguments.args + arguments.kwonlyargs)
            yield node.name, (node.end_lineno or 0) - node.lineno + 1, count


def test_sizes() -> None:
    long_files = [p.name for p in ROOT.rglob("*.py") if len(p.read_text(encoding="utf-8").splitlines()) > 400]
    long_functions = [f"{p.name}:{name}" for p in ROOT.rglob("*.py") for name, lines, _ in functions(p) if lines > 50]
    wide = [f"{p.name}:{name}" for p in ROOT.rglob("*.py") for name, _, count in functions(p) if count > 7]
    assert (long_files, long_functions, wide) == ([], [], [])

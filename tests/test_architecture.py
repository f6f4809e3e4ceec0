"""Import rules between packages (docs/architecture.md), import cycles, what importing costs, and sizes."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import rerank

ROOT = Path(rerank.__file__).parent
#: Package -> the packages that it may import, and with them what those may import.
MAY_IMPORT = {
    "errors": "",
    "types": "errors",
    "registry": "errors",
    "selector": "registry",
    "installation": "errors",
    "settings": "errors",
    "terminal_text": "errors",
    "progress": "terminal_text",
    "io": "types selector installation",
    "prompts": "io progress settings",
    "tasks": "prompts",
    "strategies": "tasks",
    "parsing": "tasks",
    "collections": "tasks",
    "evaluation": "tasks",
    "calibration": "tasks",
    "lm": "tasks",
    "indexing": "lm collections",
    "backends": "lm collections",
    "models": "backends",
    "retrieval": "models indexing",
    "judges": "tasks parsing",
    "methods": "strategies judges backends",
    "store": "strategies judges",
    "pipeline": "strategies judges",
    "assemble": "methods models retrieval pipeline",
    "reranker": "assemble store calibration",
    "engines": "assemble store",
    "experiment": "reranker evaluation engines",
    "adjudication": "reranker evaluation",
    "downsampling": "adjudication",
    "finetune": "experiment adjudication",
    "leaderboard": "experiment adjudication",
    "mmteb": "experiment adjudication",
    "serving": "experiment adjudication",
    "integrations": "experiment adjudication",
    "cli": "finetune leaderboard mmteb serving downsampling",
    "__main__": "cli",
}


@cache
def allowed(package: str) -> frozenset[str]:
    direct = MAY_IMPORT[package].split()
    return frozenset(direct).union(*map(allowed, direct))


@cache
def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    names = {path: ".".join(("rerank", *path.relative_to(ROOT).with_suffix("").parts)) for path in ROOT.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for path, name in names.items()}


def package_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


@cache
def imports(module: str) -> frozenset[str]:
    """The modules of ours that a module imports, inside functions too, except for what only type checkers read."""
    tree = ast.parse(modules()[module].read_text(encoding="utf-8"))
    unread = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in unread:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "rerank":
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in modules() else str(node.module) for name in submodules}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "rerank"}
    return frozenset(found - {module})


def edges() -> Iterator[tuple[str, str]]:
    return ((module, imported) for module in sorted(modules()) for imported in sorted(imports(module)))


def test_packages_import_only_what_their_row_allows() -> None:
    packages = {package_of(module) for module in modules()} - {""}
    assert packages == set(MAY_IMPORT), "give a new package its row here and in docs/architecture.md"
    wrong = [
        (module, imported)
        for module, imported in edges()
        if (package := package_of(module)) and package_of(imported) not in allowed(package) | {package, ""}
    ]
    assert wrong == []


def references(source: str) -> frozenset[str]:
    """The dotted names of ours that a module imports, or reaches as attributes of what it imports."""
    tree = ast.parse(source)
    dotted: dict[str, str] = {}  # name in the module -> what it stands for
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "rerank":
            dotted |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            ours = [alias for alias in node.names if alias.name.split(".")[0] == "rerank"]
            dotted |= {alias.asname or "rerank": alias.name if alias.asname else "rerank" for alias in ours}
            found |= {alias.name for alias in ours}
    attributes = (_dotted_name(node, dotted) for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    built = (_built_registry(node, dotted) for node in ast.walk(tree) if isinstance(node, ast.Call))
    return frozenset(found.union(filter(None, attributes), filter(None, built)))


def _dotted_name(node: ast.AST, dotted: Mapping[str, str]) -> str:
    if isinstance(node, ast.Attribute):
        owner = _dotted_name(node.value, dotted)
        return f"{owner}.{node.attr}" if owner else ""
    return dotted.get(node.id, "") if isinstance(node, ast.Name) else ""


def _built_registry(call: ast.Call, dotted: Mapping[str, str]) -> str:
    """``build_from_selector(judges, ...)`` and the like as ``rerank.judges.judges.build``."""
    function = _dotted_name(call.func, dotted)
    registry = _dotted_name(call.args[0], dotted) if call.args else ""
    return f"{registry}.build" if registry and function.startswith("rerank.selector.build") else ""


def private_names(module: str, source: str) -> list[str]:
    """What a module uses of other packages although its name, or that of its module, begins with an underscore."""
    return [
        name
        for name in sorted(references(source))
        if any(part.startswith("_") and not part.startswith("__") for part in name.split("."))
        and package_of(name) != package_of(module)
    ]


def test_no_package_uses_private_names_of_another() -> None:
    sources = {module: path.read_text(encoding="utf-8") for module, path in modules().items()}
    private = {module: private_names(module, source) for module, source in sources.items()}
    assert {module: names for module, names in private.items() if names} == {}


@pytest.mark.parametrize(
    "source",
    [
        "from rerank.models import _local_path",
        "from rerank.models._pull import download",
        "from rerank import _private",
        "import rerank.models._pull",
        "import rerank.models\nrerank.models._local_path",
        "from rerank import models as m\nm._local_path",
        "from rerank.store import RunFolder\nRunFolder._clear",
    ],
)
def test_private_names_are_found(source: str) -> None:
    assert len(private_names("rerank.judges.pointwise", source)) == 1


def test_there_are_no_import_cycles() -> None:
    graph = {module: set(imports(module)) for module in modules()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


#: What turns names into a ranker: only `rerank.assemble` uses it, so that all ways in agree.
ASSEMBLING = {
    *(
        "rerank.judges.open_judge",
        "rerank.judges.check_judge_runs_on_backend",
        "rerank.judges.check_judge_prompt_runs_on_backend",
    ),
    *("rerank.models.open_model_backend", "rerank.models.backend_class_of_model", "rerank.models.prompt_for_model"),
    *("rerank.strategies.open_strategy", "rerank.judges.judges.build", "rerank.strategies.strategies.build"),
    "rerank.backends.BACKENDS.build",
}
#: The modules that define it, and the reading of method cards, which counts the calls of a strategy.
DEFINING = {"rerank.assemble", "rerank.judges", "rerank.models", "rerank.strategies", "rerank.methods"}
#: These use models for another purpose than ranking, or only look at the class of a backend.
NOT_RANKING = {
    "rerank.cli.judging": {"rerank.models.backend_class_of_model", "rerank.models.open_model_backend"},
    "rerank.cli.label": {"rerank.models.open_model_backend"},
    "rerank.cli.tools": {"rerank.models.open_model_backend", "rerank.models.backend_class_of_model"},
    "rerank.leaderboard.suites.bench": {"rerank.models.backend_class_of_model"},
}


def test_only_one_module_assembles_rankers() -> None:
    used = {
        module: references(path.read_text(encoding="utf-8")) & ASSEMBLING
        for module, path in modules().items()
        if module not in DEFINING
    }
    assert {module: names for module, names in used.items() if names} == NOT_RANKING


def test_what_assembles_has_the_names_that_are_looked_for() -> None:
    """A function that is renamed must not escape the tests above and below."""
    from rerank import selector

    assert {"build_from_selector", "build_from_selector_options"} <= vars(selector).keys()
    for name in ASSEMBLING:
        module, _, function = name.removesuffix(".build").rpartition(".")
        assert hasattr(importlib.import_module(module), function)


@pytest.mark.parametrize(
    "source",
    [
        "from rerank.models import open_model_backend",
        "from rerank import models\nmodels.open_model_backend('x')",
        "import rerank.models\nrerank.models.open_model_backend('x')",
        "import rerank.judges as j\nj.open_judge('x')",
        "from rerank.judges import judges\nfrom rerank.selector import build_from_selector as b\nb(judges, 'x')",
        "from rerank import strategies, selector\nselector.build_from_selector_options(strategies.strategies, 'x', {})",
    ],
)
def test_assembling_is_found(source: str) -> None:
    assert len(references(source) & ASSEMBLING) == 1


def test_assembled_rankers_may_be_opened_anywhere() -> None:
    source = "from rerank.assemble import assemble_ranker as a\nsetup = a({})\nsetup.open_judge(setup.open_backend())"
    assert not references(source) & ASSEMBLING


def test_every_package_is_on_the_architecture_page() -> None:
    page = (ROOT.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert [package for package in MAY_IMPORT if f"`{package}`" not in page] == []


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


def test_importing_the_reranker_imports_no_numpy() -> None:
    names = ("numpy", *HEAVY)
    assert fresh(f"import sys; from rerank import Reranker; print([n for n in {names!r} if n in sys.modules])") == "[]"


def functions(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            arguments = node.args
            count = len(arguments.posonlyargs + arguments.args + arguments.kwonlyargs)
            yield node.name, count


def test_numbers_of_parameters() -> None:
    assert [f"{p.name}:{name}" for p in ROOT.rglob("*.py") for name, count in functions(p) if count > 7] == []


def test_databases_are_closed() -> None:
    """A connection as a context manager ends a transaction and stays open, about which Python 3.13 warns."""
    everywhere = [path for folder in (ROOT, ROOT.parent / "tests") for path in folder.rglob("*.py")]
    left_open = "with sqlite3" + ".connect("
    assert [path.name for path in everywhere if left_open in path.read_text(encoding="utf-8")] == []

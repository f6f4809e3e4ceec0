"""Settings for every test: modules whose imports are not installed are not collected, and one thread computes.

Numerical libraries read the number of threads when they are first imported, so it is set before anything imports them.
"""

from __future__ import annotations

import gc
import os
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

if not find_spec("vllm"):  # which chooses its threads itself; elsewhere they would only wait for each other
    for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(_name, "1")

_IMPORT = re.compile(r"^(?:try:\n    )?(?:import|from) ([\w.]+)(?: import (\w+))?", re.M)
_ROOT = Path(__file__).parent
_IMPORTS = {
    path: {name for found in _IMPORT.findall(path.read_text(encoding="utf-8")) for name in (found[0], ".".join(found))}
    for path in (
        *(_ROOT / "rerank").rglob("*.py"),
        *(path for path in (_ROOT / "tests").rglob("*.py") if not path.name.startswith(("test_", "conftest"))),
    )
}


def _unusable() -> set[Path]:
    """Return the modules that import a package which is not installed, and the modules that import these."""
    optional = (
        *("torch", "transformers", "tokenizers", "peft", "trl", "vllm", "fastapi", "uvicorn", "prometheus_client"),
        *("starlette", "langchain_core", "llama_index", "haystack", "pyterrier", "dspy"),
        *("safetensors", "sentence_transformers", "datasets", "ray"),
    )
    missing = {name for name in optional if not find_spec(name)}
    while True:
        paths = {p for p, names in _IMPORTS.items() if missing & {*names, *(name.split(".")[0] for name in names)}}
        modules = {".".join(path.relative_to(_ROOT).with_suffix("").parts) for path in paths}
        modules = {name.removesuffix(".__init__") for name in modules} - missing
        if not modules:
            return paths
        missing |= modules


collect_ignore = sorted(map(str, _unusable()))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the slowest tests first, so that no worker is left alone with one of them at the end."""
    items.sort(key=lambda item: not any(map(item.get_closest_marker, ("full", "model"))))


def pytest_collection_finish() -> None:
    """Exclude what the collection has loaded from garbage collection: trainers collect often, and it is large."""
    gc.collect()
    gc.freeze()

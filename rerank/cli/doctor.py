"""What is installed here and what it is good for. Knows names of distributions, not how they are used."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rerank.errors import MissingPrerequisiteError
from rerank.io.paths import cache_dir
from rerank.models import MODELS, is_pulled
from rerank.retrieval.lucene.java import find_java

#: Distribution, module, and the extra that brings it; an empty extra is the base install.
_PARTS = (
    ("ir-measures", "ir_measures", ""),
    ("pytrec-eval-terrier", "pytrec_eval", ""),
    ("bm25s", "bm25s", ""),
    ("PyStemmer", "Stemmer", ""),
    ("scipy", "scipy", ""),
    ("httpx", "httpx", ""),
    ("tenacity", "tenacity", ""),
    ("ir-datasets", "ir_datasets", "irds"),
    ("matplotlib", "matplotlib", "plots"),
    ("torch", "torch", "hf"),
    ("transformers", "transformers", "hf"),
    ("peft", "peft", "hf"),
    ("sentence-transformers", "sentence_transformers", "cross-encoder"),
    ("faiss-cpu", "faiss", "dense"),
    ("jieba", "jieba", "cjk"),
    ("fugashi", "fugashi", "cjk"),
    ("pillow", "PIL", "images"),
    ("trl", "trl", "train"),
    ("mteb", "mteb", "mteb"),
    ("pyserini", "pyserini", "lucene"),
    ("vllm", "vllm", "vllm"),
)


def examine() -> list[dict[str, str]]:
    """Check every part.

    Returns:
        Rows of ``check``, ``state`` (``ok``, ``absent`` for what is optional, ``broken``), ``found`` and ``remedy``.
    """
    rows = [_row("python", "ok", f"{platform.python_version()} on {platform.machine()}, {os.cpu_count()} cores")]
    rows += [_part(*part) for part in _PARTS]
    rows.append(_java())
    for name in MODELS:
        pulled = is_pulled(name)
        remedy = "" if pulled else f"rerank models pull {name}"
        rows.append(_row(f"model {name}", "ok" if pulled else "absent", "pulled" if pulled else "", remedy))
    rows.append(_folder(cache_dir()))
    return rows


def _part(distribution: str, module: str, extra: str) -> dict[str, str]:
    remedy = f"pip install 'listrank[{extra}]'" if extra else "pip install --force-reinstall listrank"
    try:
        found = version(distribution)
    except PackageNotFoundError:
        return _row(distribution, "absent" if extra else "broken", "", remedy)
    try:
        importlib.import_module(module)
    except (ImportError, OSError) as error:  # OSError: a shared library that does not load
        return _row(distribution, "broken", f"{found}, but it does not import: {error}", remedy)
    return _row(distribution, "ok", found)


def _java() -> dict[str, str]:
    """Only the first stage ``lucene`` runs on it, so its absence is not a fault."""
    try:
        home, found = find_java()
    except MissingPrerequisiteError as error:
        return _row("java", "absent", error.found, error.remedy)
    return _row("java", "ok", f"{found} in {home}")


def _folder(path: Path) -> dict[str, str]:
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    if not os.access(existing, os.W_OK):
        return _row("cache folder", "broken", f"{path} cannot be written", "Set XDG_CACHE_HOME to a folder that can")
    return _row("cache folder", "ok", f"{path}, {shutil.disk_usage(existing).free / 1e9:.0f} GB free")


def _row(check: str, state: str, found: str, remedy: str = "") -> dict[str, str]:
    return {"check": check, "state": state, "found": found, "remedy": remedy}

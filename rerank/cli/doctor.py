"""Checks of the installation: distributions, Java, models and the cache folder."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version

from rerank.errors import MissingPrerequisiteError
from rerank.io.paths import cache_dir
from rerank.models import MODELS, is_model_downloaded
from rerank.retrieval.lucene import find_java

#: Name of a distribution, name of its module, and extra that installs it (empty for the base installation).
_PARTS = (
    ("ir-measures", "ir_measures", ""),
    ("pytrec-eval-terrier", "pytrec_eval", ""),
    ("bm25s", "bm25s", ""),
    ("PyStemmer", "Stemmer", ""),
    ("scipy", "scipy", ""),
    ("httpx2", "httpx2", ""),
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
    ("psycopg", "psycopg", "pgvector"),
    ("qdrant-client", "qdrant_client", "qdrant"),
    ("opensearch-py", "opensearchpy", "opensearch"),
    ("elasticsearch", "elasticsearch", "elasticsearch"),
    ("ray", "ray", "ray"),
    ("vllm", "vllm", "vllm"),
)


def examine_installation() -> list[dict[str, str]]:
    """Check all parts of the installation.

    Returns:
        Rows with ``check``, ``state`` (``ok``, ``broken``, or ``absent`` for a missing optional part), ``found`` and
        ``remedy``.
    """
    rows = [_row("python", "ok", f"{platform.python_version()} on {platform.machine()}, {os.cpu_count()} cores")]
    rows += [_examine_part(*part) for part in _PARTS]
    try:
        home, release = find_java()  # only the first stage ``lucene`` needs it
        rows.append(_row("java", "ok", f"{release} in {home}"))
    except MissingPrerequisiteError as error:
        rows.append(_row("java", "absent", error.found, error.remedy))
    for name in MODELS:
        if is_model_downloaded(name):
            rows.append(_row(f"model {name}", "ok", "downloaded"))
        else:
            rows.append(_row(f"model {name}", "absent", "", f"rerank models pull {name}"))
    path = cache_dir()
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    if os.access(existing, os.W_OK):
        free = shutil.disk_usage(existing).free / 1e9
        rows.append(_row("cache folder", "ok", f"{path}, {free:.0f} GB free"))
    else:
        remedy = "Set XDG_CACHE_HOME to a writable folder"
        rows.append(_row("cache folder", "broken", f"{path} is not writable", remedy))
    return rows


def _row(check: str, state: str, found: str, remedy: str = "") -> dict[str, str]:
    return {"check": check, "state": state, "found": found, "remedy": remedy}


def _examine_part(distribution: str, module: str, extra: str) -> dict[str, str]:
    remedy = f"pip install 'listrank[{extra}]'" if extra else "pip install --force-reinstall listrank"
    try:
        installed = version(distribution)
    except PackageNotFoundError:
        return _row(distribution, "absent" if extra else "broken", "", remedy)
    try:
        importlib.import_module(module)
    except (ImportError, OSError) as error:  # OSError: a shared library cannot be loaded
        return _row(distribution, "broken", f"{installed}, but it cannot be imported: {error}", remedy)
    return _row(distribution, "ok", installed)

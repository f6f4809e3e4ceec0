"""LLM listwise reranking and retrieval evaluation.

The names below are the front door; they are imported when first used, so that ``import rerank`` stays cheap.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import Any

_HOMES = {
    "Document": "rerank.types",
    "Qrels": "rerank.types",
    "Query": "rerank.types",
    "Ranking": "rerank.types",
    "Run": "rerank.types",
    "Reranker": "rerank.reranker",
    "RunSpec": "rerank.experiment.spec",
    "compare": "rerank.evaluation",
    "evaluate": "rerank.evaluation",
    "open_collection": "rerank.collections",
    "open_retriever": "rerank.retrieval",
    "read_qrels": "rerank.io.run_files",
    "read_run": "rerank.io.run_files",
    "write_run": "rerank.io.run_files",
}
__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name == "__version__":
        return version("listrank")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'rerank' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, for completion."""
    return sorted(__all__)

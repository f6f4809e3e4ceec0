"""Listwise reranking of search results with LLMs, and evaluation of retrieval.

The public names below are imported on first use, so that ``import rerank`` is fast.
"""

import importlib
from typing import Any

_MODULES = {
    "Document": "rerank.types",
    "Qrels": "rerank.types",
    "Query": "rerank.types",
    "Ranking": "rerank.types",
    "Run": "rerank.types",
    "Reranker": "rerank.reranker",
    "InMemoryCorpus": "rerank.retrieval.base.given_documents",
    "Search": "rerank.retrieval.base.stages",
    "RunSpec": "rerank.experiment.spec",
    "compare_runs": "rerank.evaluation",
    "evaluate_run": "rerank.evaluation",
    "open_collection": "rerank.collections",
    "open_first_stage": "rerank.retrieval",
    "read_qrels": "rerank.io.run_files",
    "read_run": "rerank.io.run_files",
    "write_run": "rerank.io.run_files",
}
__all__ = [*_MODULES, "__version__"]


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name == "__version__":
        from importlib.metadata import version

        return version("listrank")
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'rerank' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names, for tab completion."""
    return sorted(__all__)

"""First stages, which retrieve the candidates. Each module is one first stage, which is opened by name."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from rerank.collections.base.corpus import SupportsDropSelf, SupportsExclusion
from rerank.io.paths import named_path_errors
from rerank.registry import Registry
from rerank.retrieval.base import Corpus, FirstStage, IndexedRetriever, Retriever
from rerank.retrieval.base.lists import ExcludingRetriever
from rerank.retrieval.base.stages import RetrieverSource
from rerank.selector import build_from_selector

__all__ = [
    "Corpus",
    "FirstStage",
    "Retriever",
    "check_first_stage",
    "first_stages",
    "open_first_stage",
    "retriever_index_bytes",
    "retriever_index_folders",
]

first_stages = Registry("retrieval", "first stage")


def check_first_stage(selector: str) -> None:
    """Check the name and the options of a first stage, without opening it."""
    build_from_selector(first_stages, selector)


@named_path_errors()
def open_first_stage(selector: str, corpus: Corpus) -> RetrieverSource:
    """Open a first stage over a corpus, e.g. ``"bm25"``, ``"bm25,k1=1.2,b=0.75"``, ``"run:file.trec"``.

    If the collection's ``drop_self`` is true, a document whose id equals the query's id is removed from its ranking; so
    are documents that the collection excludes for the query.

    Returns:
        A retriever that can be chained with rerankers: ``open_first_stage("bm25", c) % 100 >> reranker % 10``.
    """
    retriever = cast(FirstStage, build_from_selector(first_stages, selector)).over(corpus)
    drops_self = isinstance(corpus, SupportsDropSelf) and corpus.drop_self
    excluded = corpus.excluded() if isinstance(corpus, SupportsExclusion) else {}
    if drops_self or excluded:
        retriever = ExcludingRetriever(retriever=retriever, excluded=excluded, drops_self=drops_self)
    return RetrieverSource(retriever)


def retriever_index_folders(retriever: Retriever) -> frozenset[Path]:
    """Return the folders of a retriever's index, also inside wrappers; empty if there is no index."""
    if isinstance(retriever, RetrieverSource | ExcludingRetriever):
        return retriever_index_folders(retriever.retriever)
    return frozenset(retriever.folders if isinstance(retriever, IndexedRetriever) else ())


def retriever_index_bytes(retriever: Retriever) -> int:
    """Return the size in bytes of a retriever's index on disk, without the document texts; 0 if it has no index."""
    files = (file for folder in retriever_index_folders(retriever) for file in folder.rglob("*") if file.is_file())
    return sum(file.stat().st_size for file in files)

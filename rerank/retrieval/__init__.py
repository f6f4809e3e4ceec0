"""First stages: where the candidates come from. One a file, opened by name."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from rerank.collections.base.corpus import SaysDropSelf
from rerank.registry import Registry
from rerank.retrieval.base import Corpus, FirstStage, KeepsIndex, Retriever
from rerank.retrieval.base.lists import WithoutSelf
from rerank.retrieval.base.stages import Search
from rerank.selector import build

__all__ = ["Corpus", "FirstStage", "Retriever", "first_stages", "index_bytes", "index_folders", "open_retriever"]

first_stages = Registry("retrieval", "first stage")


def open_retriever(selector: str, corpus: Corpus) -> Search:
    """Open a first stage over a collection, e.g. ``"bm25"``, ``"bm25,k1=1.2,b=0.75"``, ``"run:file.trec"``.

    Where the collection says so (``drop_self``), a document whose id equals the query's is left out of its list.

    Returns:
        A retriever that can also be joined with rerankers: ``open_retriever("bm25", c) % 100 >> reranker % 10``.
    """
    retriever = cast(FirstStage, build(first_stages, selector)).over(corpus)
    drops = isinstance(corpus, SaysDropSelf) and corpus.drop_self
    return Search(WithoutSelf(retriever) if drops else retriever)


def index_folders(retriever: Retriever) -> frozenset[Path]:
    """The folders of what a retriever searches, whatever it is wrapped in; none where it keeps nothing of its own."""
    if isinstance(retriever, Search | WithoutSelf):
        return index_folders(retriever.retriever)
    return frozenset(retriever.folders if isinstance(retriever, KeepsIndex) else ())


def index_bytes(retriever: Retriever) -> int:
    """Bytes on disk of what a retriever searches, documents' texts left out; 0 where it keeps nothing of its own."""
    files = (file for folder in index_folders(retriever) for file in folder.rglob("*") if file.is_file())
    return sum(file.stat().st_size for file in files)

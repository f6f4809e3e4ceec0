"""First stages: where the candidates come from. One a file, opened by name."""

from __future__ import annotations

from typing import cast

from rerank.registry import Registry
from rerank.retrieval.base import Corpus, FirstStage, Retriever
from rerank.selector import build

__all__ = ["Corpus", "FirstStage", "Retriever", "first_stages", "open_retriever"]

first_stages = Registry("retrieval", "first stage")


def open_retriever(selector: str, corpus: Corpus) -> Retriever:
    """Open a first stage over a collection, e.g. ``"bm25"``, ``"bm25,k1=1.2,b=0.75"``, ``"run:file.trec"``."""
    return cast(FirstStage, build(first_stages, selector)).over(corpus)

"""First stages, which retrieve the candidates for reranking. Each module defines the one of its name."""

from pathlib import Path
from typing import cast

from rerank.collections.base import SupportsDropSelf, SupportsExclusion, SupportsSource
from rerank.errors import UsageError, error_repr
from rerank.io.paths import named_path_errors
from rerank.registry import Registry
from rerank.retrieval.base import Corpus, FirstStage, IndexedRetriever, Retriever, SupportsWorkers
from rerank.retrieval.base.stages import ExcludingRetriever, RetrieverSource, SourceRetriever
from rerank.selector import build_from_selector
from rerank.tasks.worker_map import WorkerMap

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

first_stages = Registry(
    "retrieval",
    "first stage",
    shared={
        "retrieval.run": "run candidates",
        "retrieval.base.document_stores": "elasticsearch opensearch pgvector qdrant",
    },
)


def check_first_stage(selector: str, *, with_workers: bool = False) -> None:
    """Check the name and the options of a first stage, without opening an index or loading a model.

    Raises:
        UnknownNameError: There is no such first stage or option.
        UsageError: An option is out of range, or the first stage cannot use workers but ``with_workers`` is set.
    """
    stage = build_from_selector(first_stages, selector)
    if with_workers and not isinstance(stage, SupportsWorkers):
        raise UsageError(
            f"The first stage {selector!r} cannot use the workers of an engine",
            expected="a first stage that encodes texts with a model: dense or sparse",
            remedy="Omit --engine",
        )


@named_path_errors()
def open_first_stage(selector: str, corpus: Corpus, *, workers: WorkerMap | None = None) -> RetrieverSource:
    """Open a first stage over a corpus, e.g. ``"bm25"``, ``"bm25,k1=1.2,b=0.75"``, ``"run:file.trec"``.

    Documents that the collection excludes for a query are removed from the query's ranking. If the collection's
    ``drop_self`` is true, a document with the same id as the query is removed, too. ``workers``, if not None, encode
    the texts instead of this process. The retriever can be chained with rerankers, for example to return the best 10 of
    the first 100 documents of each query: ``open_first_stage("bm25", c) % 100 >> reranker % 10``.

    Raises:
        UnknownNameError: There is no such first stage or option.
        UsageError: The corpus is no collection, such as a list of texts, or an option is out of range.
        RerankError: The first stage cannot be opened.
    """
    check_first_stage(selector, with_workers=workers is not None)
    if not hasattr(corpus, "docs"):
        raise UsageError(
            f"The corpus is {error_repr(corpus)}",
            expected="a collection",
            remedy="Use InMemoryCorpus(texts) for a list of texts, or open_collection(NAME) for a named one",
        )
    stage = build_from_selector(first_stages, selector)
    if workers is None:
        retriever = cast(FirstStage, stage).over(corpus)
    else:
        retriever = cast(SupportsWorkers, stage).over_with_workers(corpus, workers)
    drops_self = isinstance(corpus, SupportsDropSelf) and corpus.drop_self
    excluded = corpus.excluded() if isinstance(corpus, SupportsExclusion) else {}
    if drops_self or excluded:
        retriever = ExcludingRetriever(retriever=retriever, excluded=excluded, drops_self=drops_self)
    if isinstance(corpus, SupportsSource):
        retriever = SourceRetriever(retriever, corpus)
    return RetrieverSource(retriever)


def retriever_index_folders(retriever: Retriever) -> frozenset[Path]:
    """Return the index folders of a retriever or, if it wraps another one, of the latter; empty without an index."""
    if isinstance(retriever, RetrieverSource | ExcludingRetriever | SourceRetriever):
        return retriever_index_folders(retriever.retriever)
    return frozenset(retriever.folders if isinstance(retriever, IndexedRetriever) else ())


def retriever_index_bytes(retriever: Retriever) -> int:
    """Return the size in bytes of a retriever's index on disk, without the document texts; 0 if it has no index."""
    files = (file for folder in retriever_index_folders(retriever) for file in folder.rglob("*") if file.is_file())
    return sum(file.stat().st_size for file in files)

"""Options of first stages for models, for encoding texts with them, and for indexing and searching vectors."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rerank.errors import UsageError
from rerank.registry import plugin_name
from rerank.types import Document

if TYPE_CHECKING:
    from rerank.indexing.documents import StoredDocuments
    from rerank.indexing.vector_index import VectorIndex


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Options for loading the model of a first stage."""

    #: Data type of the model: ``float32``, ``bfloat16``, ``float16``, or ``auto``, which depends on the hardware.
    #: Vectors are always saved as float32.
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    #: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, or ``auto``, which selects the first accelerator, or the CPU if there is
    #: none.
    device: str = "auto"
    revision: str = ""  # branch, tag or commit on the hub; empty for the default branch
    trust_remote_code: bool = False  # whether to run Python code that comes with the model


@dataclass(frozen=True, kw_only=True)
class EncoderOptions(ModelOptions):
    """Options of a model that embeds texts."""

    #: Text put before every query; ``auto`` for the prompt saved with the model, ``none`` for no prompt.
    query_prompt: str = "auto"
    normalise: bool = True  # whether to scale vectors to length 1, so that scores are cosines instead of inner products
    #: Number of leading dimensions to keep, for Matryoshka models (Kusupati et al., NeurIPS 2022); 0 to keep all.
    dim: int = 0

    @property
    def passage_prompt(self) -> str:
        """Text put before every document; ``none`` if only queries are encoded."""
        return "none"


#: Minimum values of the options that are counts.
_MINIMA = {
    **dict.fromkeys(("nlist", "pq", "rescore"), 0),
    **dict.fromkeys(("batch_size", "ef_construction", "ef_search", "nprobe", "shard_documents"), 1),
    "m": 2,
}


@dataclass(frozen=True, kw_only=True)
class VectorOptions(ModelOptions):
    """Options shared by all first stages with vector search."""

    #: Kind of index: ``flat`` compares the query with every document; ``hnsw`` and ``ivfpq`` are approximate, and
    #: faster for millions of documents.
    index: Literal["flat", "hnsw", "ivfpq"] = "flat"
    batch_size: int = 32  # number of documents embedded per batch; a killed process loses at most one batch
    m: int = 32  # for ``hnsw``: number of links per document
    ef_construction: int = 200  # for ``hnsw``: number of candidates considered when a document is linked
    ef_search: int = 128  # for ``hnsw``: number of candidates considered in a search
    nlist: int = 0  # for ``ivfpq``: number of cells; 0 to choose it by the number of documents
    #: For ``ivfpq``: number of bytes per document code, which must divide the dimension (m of product quantisation); 0
    #: for the largest divisor up to a quarter of the dimension.
    pq: int = 0
    nprobe: int = 32  # for ``ivfpq``: number of cells visited in a search
    #: For ``ivfpq``: number of candidates rescored with their full embeddings; 0 to keep the scores of the codes.
    rescore: int = 1000
    #: For ``flat``: maximum number of documents per shard; shards are searched one after another, and results do not
    #: depend on their size.
    shard_documents: int = 1_000_000

    def __post_init__(self) -> None:
        self._check_minima(_MINIMA)

    @abstractmethod
    def text_of(self, doc: Document) -> str:
        """Return the text of a document that the encoder embeds."""

    @abstractmethod
    def made_from(self, documents: StoredDocuments) -> Mapping[str, str]:
        """Return names and values of everything that embeddings depend on, apart from the corpus and the encoder."""

    def vector_index(self) -> VectorIndex:
        """Return the kind of index that the options select, with its settings."""
        from rerank.indexing.vector_index import FlatIndex, HnswIndex, IvfPqIndex

        if self.index == "hnsw":
            return HnswIndex(self.m, self.ef_construction, self.ef_search)
        if self.index == "ivfpq":
            return IvfPqIndex(self.nlist, self.pq, self.nprobe, self.rescore)
        return FlatIndex(self.shard_documents)

    def _check_minima(self, minima: Mapping[str, int]) -> None:
        for name, lowest in minima.items():
            if (value := getattr(self, name)) < lowest:
                raise UsageError(
                    f"The first stage {plugin_name(type(self))!r} has {name}={value}",
                    expected=f"a whole number of at least {lowest}",
                )

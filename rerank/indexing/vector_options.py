"""The options that first stages over vectors share: how a model is loaded, and what index its vectors go into.

Imports neither numpy nor faiss before an index is asked for.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rerank.errors import UsageError
from rerank.types import Document

if TYPE_CHECKING:
    from rerank.indexing.documents import Documents
    from rerank.indexing.vector_index import Kind

#: Options that are counts, and the least that each may be.
_LEAST = {
    **dict.fromkeys(("nlist", "pq", "rescore"), 0),
    **dict.fromkeys(("batch_size", "ef_construction", "ef_search", "nprobe"), 1),
    "m": 2,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorOptions:
    """Options of every search by vectors.

    Attributes:
        index: ``flat`` compares every document; ``hnsw`` and ``ivfpq`` are faster on millions and may miss some.
        dtype: Number format of the model: ``float32``, ``bfloat16``, ``float16``, or ``auto``, which depends on the
            machine. Embeddings are always saved as float32.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, or ``auto``: the first accelerator, else the processor.
        batch_size: Documents embedded together; what a kill can lose.
        revision: Branch, tag or commit on the hub; empty is the default branch.
        trust_remote_code: Run the Python code that comes with a model. Off unless asked for.
        m: HNSW: links of a document.
        ef_construction: HNSW: candidates looked at when a document is linked.
        ef_search: HNSW: candidates looked at in a search.
        nlist: IVF-PQ: cells; 0 chooses by the number of documents.
        pq: IVF-PQ: bytes of a document's code (the m of product quantisation); 0 is a quarter of the dimensions.
        nprobe: IVF-PQ: cells that a search looks into.
        rescore: IVF-PQ: candidates scored anew with their full embeddings; 0 leaves the scores of the codes.

    Raises:
        UsageError: A number is out of range.
    """

    index: Literal["flat", "hnsw", "ivfpq"] = "flat"
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    device: str = "auto"
    batch_size: int = 32
    revision: str = ""
    trust_remote_code: bool = False
    m: int = 32
    ef_construction: int = 200
    ef_search: int = 128
    nlist: int = 0
    pq: int = 0
    nprobe: int = 32
    rescore: int = 1000

    def __post_init__(self) -> None:
        """Check the ranges."""
        self._at_least(_LEAST)

    @abstractmethod
    def text_of(self, doc: Document) -> str:
        """What the encoder is given of a document."""

    @abstractmethod
    def made_from(self, documents: Documents) -> Mapping[str, str]:
        """What embeddings depend on besides the collection and the encoder."""

    def kind(self) -> Kind:
        """The index."""
        from rerank.indexing.vector_index import Flat, Hnsw, IvfPq

        if self.index == "hnsw":
            return Hnsw(self.m, self.ef_construction, self.ef_search)
        return IvfPq(self.nlist, self.pq, self.nprobe, self.rescore) if self.index == "ivfpq" else Flat()

    def _at_least(self, least: Mapping[str, int]) -> None:
        for name, lowest in least.items():
            if (value := getattr(self, name)) < lowest:
                raise UsageError(
                    f"The first stage {type(self).__name__.lower()!r} with {name}={value}",
                    expected=f"a whole number from {lowest} up",
                )

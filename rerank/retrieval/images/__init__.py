"""Image retrieval with text queries: a CLIP-like model embeds texts and pictures, and faiss searches the embeddings."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, ClassVar

from rerank.collections.base import Corpus
from rerank.errors import DataError, RerankError, UsageError
from rerank.indexing.options import VectorOptions
from rerank.io.pictures import open_picture, picture_size
from rerank.retrieval.dense import DenseRetriever
from rerank.types import Document

if TYPE_CHECKING:
    from pathlib import Path

    from rerank.indexing.documents import StoredDocuments
    from rerank.indexing.text_encoder import Encoder, Floats
    from rerank.indexing.vector_index import Searcher, VectorIndex

_UNSEEN = "unseen.npy"


@dataclass(frozen=True)
class Images(VectorOptions):
    """Options for retrieving images from the field ``image``, in addition to those of `VectorOptions`.

    Scores are cosines. Documents whose pictures are missing or unreadable stay in the collection: they come last in
    every ranking that is deep enough, with a score below all cosines, and a warning states their number.
    """

    model: str  # a model that embeds texts and pictures (CLIP, SigLIP ...): a folder, or ``owner/model`` on the hub
    _: KW_ONLY
    query_prompt: str = ""  # text put before every query, such as ``a photo of ``
    #: Path of an .npy file with embeddings computed by this model, float16 or float32, one row per picture. If it is
    #: given, no picture is opened; if empty, the pictures are embedded.
    embeddings: str = ""
    #: Path of a file with the document ids in the order of the rows: a text file with one id per line, or an .npy file.
    #: Required with ``embeddings``.
    ids: str = ""

    def __post_init__(self) -> None:
        VectorOptions.__post_init__(self)
        if bool(self.embeddings) != bool(self.ids):
            raise UsageError(
                f"The first stage 'images' has embeddings={self.embeddings!r} and ids={self.ids!r}",
                expected="both options or neither",
            )

    def over(self, corpus: Corpus) -> ImageRetriever:
        from rerank.retrieval.base.model_folders import locate_retrieval_model
        from rerank.retrieval.images.encoder import PrecomputedEmbeddings, load_image_encoder

        encoder: Encoder = load_image_encoder(locate_retrieval_model(self.model, kind="picture"), self)
        if self.embeddings:
            encoder = PrecomputedEmbeddings(self.embeddings, self.ids, encoder)
        return ImageRetriever(self, corpus, encoder)

    def check_prerequisites(self) -> None:
        from rerank.retrieval.images.encoder import require_packages

        require_packages()

    def text_of(self, doc: Document) -> str:
        """Return what the encoder reads: the path of the picture or, with precomputed embeddings, the document's id."""
        return doc.id if self.embeddings else doc.image

    def made_from(self, documents: StoredDocuments) -> Mapping[str, str]:
        """Return what the embeddings depend on, as a mapping: a hash of the picture sizes reveals most changes.

        Precomputed embeddings depend only on ids, so the mapping then contains no hash.
        """
        if self.embeddings:
            return {"reads": "ids"}
        sizes, has_picture = hashlib.sha256(), False
        for doc in documents:
            has_picture = has_picture or bool(doc.image)
            sizes.update(picture_size(doc.image).to_bytes(8, "big", signed=True))
        if not has_picture:
            raise DataError(
                "No document of the collection has a picture",
                expected="documents with a path in 'image'",
                remedy="Search texts with --first-stage bm25 or dense",
            )
        return {"reads": "pictures", "sizes": sizes.hexdigest()}


class ImageRetriever(DenseRetriever):
    """A retriever with the picture embeddings of one collection, which are zeros for unreadable pictures."""

    stage: ClassVar[str] = "images"

    def __init__(self, options: Images, corpus: Corpus, encoder: Encoder) -> None:
        self._unseen: list[int] = []
        super().__init__(options, corpus, encoder)
        self.unseen = tuple(self._documents[position].id for position in self._unseen)
        if self.unseen:
            why = (
                "its id is not in the file of ids"
                if options.embeddings
                else _skip_reason(self._documents[self._unseen[0]])
            )
            shown = ", ".join(map(repr, self.unseen[:3]))
            warnings.warn(
                f"{len(self.unseen)} of {len(self._documents)} pictures cannot be read and are ranked last: "
                f"{shown}{' ...' if len(self.unseen) > 3 else ''}. Reason for the first: {why}",
                stacklevel=3,
            )

    def _write(self, index: VectorIndex, matrix: Floats, folder: Path) -> None:
        from rerank.retrieval.images.encoder import save_documents_without_vector

        save_documents_without_vector(matrix, folder / _UNSEEN)
        index.write(matrix, folder)

    def _read(self, index: VectorIndex, matrix: Floats, folder: Path) -> Searcher:
        from rerank.retrieval.images.encoder import rank_documents_without_vector_last, read_documents_without_vector

        unseen = read_documents_without_vector(folder / _UNSEEN, len(matrix))
        self._unseen = unseen.tolist()
        return rank_documents_without_vector_last(index.read(matrix, folder), unseen, len(matrix))


def _skip_reason(doc: Document) -> str:
    try:
        open_picture(doc.image)
    except RerankError as error:
        return str(error)
    return f"{doc.image!r} could not be read when it was embedded, but can be now; remove the cache folder to embed it"

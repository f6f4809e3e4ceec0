"""Retrieval of pictures: queries and pictures as vectors of a CLIP-like model of transformers, searched with faiss.

Embeddings and indexes are kept and mapped as those of `rerank.retrieval.dense` are. Knows no reranker.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, ClassVar

from rerank.collections.base.corpus import Corpus
from rerank.errors import DataError, RerankError, UsageError
from rerank.indexing.vector_options import VectorOptions
from rerank.io.pictures import open_picture, picture_size
from rerank.retrieval.dense import DenseRetriever
from rerank.types import Document

if TYPE_CHECKING:
    from pathlib import Path

    from rerank.indexing.documents import Documents
    from rerank.indexing.text_encoder import Encoder, Floats
    from rerank.indexing.vector_index import Kind, Searcher

_UNSEEN = "unseen.npy"


@dataclass(frozen=True, slots=True)
class Images(VectorOptions):
    """Options of retrieval of pictures, beside those of `VectorOptions`; documents are the pictures in ``image``.

    Scores are cosines. A document whose picture is missing or cannot be read loses no place in the collection: it
    comes last in every list that is deep enough to hold it, with a score below all cosines, and a warning says how
    many there are.

    Attributes:
        model: A folder or ``owner/model`` on the hub, of a model that embeds texts and pictures (CLIP, SigLIP ...).
        query_prompt: Text set before every query, such as ``a photo of ``.
        embeddings: An .npy file of embeddings of the pictures by this model, float16 or float32, one row each; no
            picture is opened then.
        ids: The documents' ids in the order of its rows: a text file with one on each line, or an .npy file.

    Raises:
        UsageError: A number is out of range, or one of ``embeddings`` and ``ids`` is named without the other.
    """

    model: str
    _: KW_ONLY
    query_prompt: str = ""
    embeddings: str = ""
    ids: str = ""

    def __post_init__(self) -> None:
        """Check the ranges."""
        VectorOptions.__post_init__(self)
        if bool(self.embeddings) != bool(self.ids):
            raise UsageError(
                f"The first stage 'images' with embeddings={self.embeddings!r} and ids={self.ids!r}",
                expected="both or neither",
            )

    def over(self, corpus: Corpus) -> ImageRetriever:
        """Load the model and open the saved index of ``corpus``; embed and build the first time.

        Raises:
            MissingPrerequisiteError: The extra ``images`` is not installed.
            MissingResourceError: There is no such model, or no such file of embeddings.
            BackendError: The model failed; embeddings that were committed stay.
            DataError: No document has a picture; the weights are damaged; or a file of embeddings or ids is wrong.
            StorageError: The cache folder cannot be written.
            UsageError: The model is of another kind, or an option does not fit it or this machine.
        """
        from rerank.retrieval.images.encoder import load_image_encoder
        from rerank.retrieval.images.precomputed import Precomputed

        encoder: Encoder = load_image_encoder(self)
        if self.embeddings:
            encoder = Precomputed(self.embeddings, self.ids, encoder)
        return ImageRetriever(self, corpus, encoder)

    def check_parts(self) -> None:
        """See that torch, transformers, faiss and Pillow are there.

        Raises:
            MissingPrerequisiteError: One of them does not import.
        """
        from rerank.retrieval.images.encoder import require_images

        require_images()

    def text_of(self, doc: Document) -> str:
        """The path of the picture, or the id that a row of ready embeddings is found by."""
        return doc.id if self.embeddings else doc.image

    def made_from(self, documents: Documents) -> Mapping[str, str]:
        """The sizes of the files, so that pictures that came, went or changed are noticed without reading them.

        Raises:
            DataError: No document has a picture.
        """
        if self.embeddings:
            return {"reads": "ids"}
        sizes, found = hashlib.sha256(), False
        for doc in documents:
            found = found or bool(doc.image)
            sizes.update(picture_size(doc.image).to_bytes(8, "big", signed=True))
        if not found:
            raise DataError(
                "No document of the collection has a picture",
                expected="documents with a path in 'image'",
                remedy="Search texts with --first-stage bm25 or dense",
            )
        return {"reads": "pictures", "sizes": sizes.hexdigest()}


class ImageRetriever(DenseRetriever):
    """Vectors of the pictures of one collection and the model that made them. Made by `Images.over`.

    A picture that cannot be seen has a row of zeros among the embeddings.

    Attributes:
        unseen: Ids of the documents whose pictures cannot be read, or have no ready embedding.
    """

    stage: ClassVar[str] = "images"

    def __init__(self, options: Images, corpus: Corpus, encoder: Encoder) -> None:
        """Open or build documents, embeddings and index, and say what cannot be seen."""
        self._unseen: list[int] = []
        super().__init__(options, corpus, encoder)
        self.unseen = tuple(self._documents[at].id for at in self._unseen)
        if self.unseen:
            why = "it has no row" if options.embeddings else _why(self._documents[self._unseen[0]])
            shown = ", ".join(map(repr, self.unseen[:3]))
            warnings.warn(
                f"{len(self.unseen)} of {len(self._documents)} pictures cannot be seen and stand at the end of every "
                f"list: {shown}{' ...' if len(self.unseen) > 3 else ''}. The first: {why}",
                stacklevel=3,
            )

    def _write(self, kind: Kind, matrix: Floats, folder: Path) -> None:
        from rerank.retrieval.images.missing_vectors import save_unseen

        save_unseen(matrix, folder / _UNSEEN)
        kind.write(matrix, folder)

    def _read(self, kind: Kind, matrix: Floats, folder: Path) -> Searcher:
        from rerank.retrieval.images.missing_vectors import last, read_unseen

        unseen = read_unseen(folder / _UNSEEN, len(matrix))
        self._unseen = unseen.tolist()
        return last(kind.read(matrix, folder), unseen, len(matrix))


def _why(doc: Document) -> str:
    try:
        open_picture(doc.image)
    except RerankError as error:
        return str(error)
    return f"{doc.image!r} could not be read when it was embedded, and can be now; remove the cache to embed it"

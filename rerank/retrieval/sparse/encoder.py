"""Text -> sparse vectors with a model of sentence-transformers' class SparseEncoder: SPLADE, inference-free, CSR.

Torch and the rest are imported when a model is loaded. Knows no index and no collection.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_array, vstack

from rerank.errors import BackendError, UsageError
from rerank.indexing.text_encoder import encoded, load_model, locate, prompt_of, require

if TYPE_CHECKING:
    from rerank.retrieval.sparse import Sparse


class SentenceSparseEncoder:
    """A SparseEncoder with its prompts and the most dimensions that a vector may have.

    Attributes:
        size: Dimensions: for SPLADE the words of the vocabulary.
        identity: What vectors of passages depend on.
        query_identity: What vectors of queries depend on besides.
    """

    def __init__(self, model: Any, options: Sparse, *, identity: Mapping[str, str]) -> None:
        """Wrap what is loaded; see `load_sparse_encoder`."""
        self._model = model
        self._most = options.max_active_dims or model.max_active_dims
        self._query_most = options.query_max_active_dims or model.max_active_dims
        self._query_prompt = prompt_of(model, options.query_prompt, "query")
        self._passage_prompt = prompt_of(model, options.passage_prompt, "document")
        self.size = int(self.passages(["a"]).shape[1])
        self.identity: Mapping[str, str] = {
            **identity,
            "passage_prompt": self._passage_prompt,
            "max_active_dims": str(self._most),
        }
        self.query_identity: Mapping[str, str] = {
            "query_prompt": self._query_prompt,
            "query_max_active_dims": str(self._query_most),
        }

    def queries(self, texts: Sequence[str]) -> csr_array:
        """Encode queries one by one: what stands beside a text in a batch changes the last digits of its vector.

        Raises:
            BackendError: The model fails, or gives numbers that are not finite.
        """
        encode = self._model.encode_query
        rows = [self._encode(encode, [text], self._query_prompt, self._query_most) for text in texts]
        stacked: Any = vstack(rows, format="csr") if rows else csr_array((0, self.size), dtype=np.float32)
        found: csr_array = stacked
        return found

    def passages(self, texts: Sequence[str]) -> csr_array:
        """Encode passages in one batch, in smaller ones where memory does not hold it.

        Raises:
            BackendError: The model fails, or gives numbers that are not finite.
        """
        return self._encode(self._model.encode_document, texts, self._passage_prompt, self._most)

    def _encode(self, encode: Callable[..., Any], texts: Sequence[str], prompt: str, most: int | None) -> csr_array:
        def embed(given: list[str], size: int) -> csr_array:
            settings = {"show_progress_bar": False, "save_to_cpu": True, "max_active_dims": most}
            return _as_rows(encode(given, prompt=prompt, batch_size=size, **settings))

        rows = encoded(embed, texts)
        if not np.isfinite(rows.data).all():
            raise BackendError("The model gave a vector that is not finite", remedy="Try dtype=float32")
        return rows


def _as_rows(tensor: Any) -> csr_array:
    """A sparse tensor of torch as rows: float32, columns sorted, no zeros."""
    tensor = tensor.coalesce()
    values, (rows, columns) = tensor.values().float().numpy(), tensor.indices().numpy()
    found = csr_array((values, (rows, columns)), shape=tuple(tensor.shape), dtype=np.float32)
    found.eliminate_zeros()
    found.sort_indices()
    return found


def load_sparse_encoder(options: Sparse) -> SentenceSparseEncoder:
    """Load the model that the options name, from a folder or the hub.

    Raises:
        MissingPrerequisiteError: The extra ``sparse`` is not installed.
        MissingResourceError: There is no such model.
        UsageError: It is a model of another kind, or an option does not fit this machine.
        UnknownNameError: It is no known name, folder or hub id.
        DataError: Its weights are damaged, or pickled.
    """
    name = locate(options.model, kind="sparse")
    require_sparse()
    model, identity = load_model("SparseEncoder", name, options)
    if _is_padded_out(model, name, options.revision):
        raise UsageError(
            f"{str(name)!r} is no sparse encoder: it has no head of a masked language model and no trained autoencoder",
            expected="a model of sentence-transformers' class SparseEncoder, such as a SPLADE model",
            remedy="Use dense:MODEL for a model of embeddings",
        )
    return SentenceSparseEncoder(model, options, identity=identity)


def require_sparse() -> None:
    """Check that everything is there before hours are spent.

    Raises:
        MissingPrerequisiteError: A part of the extra does not import.
    """
    require(stage="sparse", faiss=False)


def _is_padded_out(model: Any, name: Path | str, revision: str) -> bool:
    """Whether the library made up for what the model lacks with an autoencoder of random weights, as it does."""
    from sentence_transformers.util import load_file_path

    if not any(type(module).__name__ == "SparseAutoEncoder" for module in model.modules()):
        return False
    listed = load_file_path(str(name), "modules.json", revision=revision or None)
    return listed is None or "SparseAutoEncoder" not in Path(listed).read_text("utf-8")

"""An encoder of sparse text vectors with models of the class SparseEncoder in sentence-transformers.

The encoder supports SPLADE models, inference-free models, and dense models with a sparse autoencoder (CSR,
contrastive sparse representation).

Torch and sentence-transformers are imported when a model is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from scipy.sparse import csr_array, vstack

from rerank.errors import BackendError, UsageError
from rerank.indexing.text_encoder import (
    ModelOptions,
    PromptOptions,
    encode_texts_in_batch,
    load_encoder_model,
    locate_encoder,
    require_encoder_packages,
    resolve_encoder_prompt,
)
from rerank.io.model_hash import MODULES


class SparseEncoderOptions(ModelOptions, PromptOptions, Protocol):
    """Protocol of the options of a `SentenceSparseEncoder`: model loading, prompts and sparsity."""

    @property
    def max_active_dims(self) -> int:
        """Maximum number of nonzero dimensions per passage; 0 for the model's setting."""

    @property
    def query_max_active_dims(self) -> int:
        """Maximum number of nonzero dimensions per query; 0 for the model's setting."""


class SentenceSparseEncoder:
    """A SparseEncoder of sentence-transformers with its prompts and its maximum numbers of nonzero dimensions.

    Attributes:
        size: Dimension of the vectors; for SPLADE, the size of the vocabulary.
        identity: Everything that passage vectors depend on, apart from the passages.
        query_identity: Everything that query vectors depend on, in addition to ``identity``.
    """

    def __init__(self, model: Any, options: SparseEncoderOptions, *, identity: Mapping[str, str]) -> None:
        """Wrap a model that is already loaded, for example by `load_sparse_encoder`."""
        self._model = model
        self._max_dims = options.max_active_dims or model.max_active_dims
        self._query_max_dims = options.query_max_active_dims or model.max_active_dims
        self._query_prompt = resolve_encoder_prompt(model, options.query_prompt, "query")
        self._passage_prompt = resolve_encoder_prompt(model, options.passage_prompt, "document")
        self.size = int(self.passages(["a"]).shape[1])
        self.identity: Mapping[str, str] = {
            **identity,
            "passage_prompt": self._passage_prompt,
            "max_active_dims": str(self._max_dims),
        }
        self.query_identity: Mapping[str, str] = {
            "query_prompt": self._query_prompt,
            "query_max_active_dims": str(self._query_max_dims),
        }

    def queries(self, texts: Sequence[str]) -> csr_array:
        """Encode queries one at a time, since other texts in a batch would change the last digits of a vector.

        Returns:
            An array of shape (texts, size).
        """
        encode = self._model.encode_query
        rows = [self._encode(encode, [text], self._query_prompt, self._query_max_dims) for text in texts]
        stacked: Any = vstack(rows, format="csr") if rows else csr_array((0, self.size), dtype=np.float32)
        vectors: csr_array = stacked
        return vectors

    def passages(self, texts: Sequence[str]) -> csr_array:
        """Encode passages in one batch, or in smaller batches if memory runs out.

        Returns:
            An array of shape (texts, size).
        """
        return self._encode(self._model.encode_document, texts, self._passage_prompt, self._max_dims)

    def _encode(self, encode: Callable[..., Any], texts: Sequence[str], prompt: str, max_dims: int | None) -> csr_array:
        def embed(batch: list[str], size: int) -> csr_array:
            settings = {"show_progress_bar": False, "save_to_cpu": True, "max_active_dims": max_dims}
            return _sparse_encoder_output_as_rows(encode(batch, prompt=prompt, batch_size=size, **settings))

        rows = encode_texts_in_batch(embed, texts)
        if not np.isfinite(rows.data).all():
            raise BackendError("The model returned a vector with a non-finite weight", remedy="Try dtype=float32")
        return rows


def _sparse_encoder_output_as_rows(tensor: Any) -> csr_array:
    """Convert a sparse torch tensor to a float32 matrix in CSR format with sorted columns and without stored zeros."""
    tensor = tensor.coalesce()
    values, (rows, columns) = tensor.values().float().numpy(), tensor.indices().numpy()
    matrix = csr_array((values, (rows, columns)), shape=tuple(tensor.shape), dtype=np.float32)
    matrix.eliminate_zeros()
    matrix.sort_indices()
    return matrix


def load_sparse_encoder(name: Path | str, options: SparseEncoderOptions) -> SentenceSparseEncoder:
    """Load a SparseEncoder from a folder or the hub.

    Args:
        name: The folder, or ``owner/model`` on the hub.
        options: Options for loading the model, its prompts, and its numbers of nonzero dimensions.
    """
    require_sparse_retrieval_packages()
    files = locate_encoder(name, options)
    model, identity = load_encoder_model("SparseEncoder", files, options)
    if _sparse_encoder_has_untrained_autoencoder(model, files.folder):
        raise UsageError(
            f"{str(name)!r} is not a sparse encoder: it has no masked language model head and no trained autoencoder",
            expected="a model of sentence-transformers' class SparseEncoder, such as a SPLADE model",
            remedy="Use dense:MODEL for an embedding model",
        )
    return SentenceSparseEncoder(model, options, identity=identity)


def require_sparse_retrieval_packages() -> None:
    """Check that the packages of the extra ``sparse`` can be imported."""
    require_encoder_packages(stage="sparse", faiss=False)


def _sparse_encoder_has_untrained_autoencoder(model: Any, folder: Path) -> bool:
    """Return whether the library has added an autoencoder with random weights, as it does for a dense model."""
    if not any(type(module).__name__ == "SparseAutoEncoder" for module in model.modules()):
        return False
    modules = folder / MODULES
    return not modules.is_file() or "SparseAutoEncoder" not in modules.read_text("utf-8")

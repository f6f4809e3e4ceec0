"""An encoder of texts with a sentence-transformers model."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from rerank.errors import BackendError, MissingPrerequisiteError, UsageError
from rerank.indexing.options import EncoderOptions, ModelOptions
from rerank.installation import install_command
from rerank.lm.encoders import encode_in_batch, load_model, resolve_prompt
from rerank.lm.loading import named_loading_errors, quiet_transformers
from rerank.lm.model_files import ModelFiles, locate_model
from rerank.lm.out_of_memory import BatchLimit

Floats = NDArray[np.float32]
EncodedRows = TypeVar("EncodedRows", covariant=True)


class TextEncoder(Protocol[EncodedRows]):
    """Protocol of encoders of queries and passages; the rows that they return may be dense or sparse."""

    @property
    def identity(self) -> Mapping[str, str]:
        """Everything that passage vectors depend on, apart from the passages."""

    @property
    def query_identity(self) -> Mapping[str, str]:
        """Everything that query vectors depend on, in addition to ``identity``. Saved vectors do not depend on it."""

    @property
    def size(self) -> int:
        """Dimension of the vectors."""

    def queries(self, texts: Sequence[str]) -> EncodedRows:
        """Encode queries one at a time, and return an array of shape (queries, size)."""

    def passages(self, texts: Sequence[str]) -> EncodedRows:
        """Encode passages as one batch, and return an array of shape (passages, size)."""


#: An encoder whose vectors are float32 rows, called embeddings.
Encoder = TextEncoder[Floats]


class SentenceEncoder:
    """A sentence-transformers model with its prompts. Vectors are truncated to ``dim`` before they are normalised."""

    def __init__(self, model: Any, options: EncoderOptions, *, identity: Mapping[str, str]) -> None:
        self._model, self._limit = model, BatchLimit()
        self._normalise = options.normalise
        self._dim: int | None = None
        self._query_prompt = resolve_prompt(model, options.query_prompt, "query")
        self.query_identity = {"query_prompt": self._query_prompt}
        self._passage_prompt = resolve_prompt(model, options.passage_prompt, "document")
        # a trial embedding, since not every model states its dimension
        full_size = self.passages(["a"]).shape[1]
        if options.dim > full_size:
            raise UsageError(
                f"Dense retrieval has dim={options.dim}", expected=f"at most {full_size}, the dimension of the model"
            )
        self._dim = self.size = options.dim or full_size
        self.identity = {
            **identity,
            "passage_prompt": self._passage_prompt,
            "normalise": str(self._normalise),
            "dim": str(self.size),
        }

    def queries(self, texts: Sequence[str]) -> Floats:
        """Embed queries one at a time, because other texts in a batch would change the last digits of a vector."""
        rows = [self._encode(self._model.encode_query, [text], self._query_prompt) for text in texts]
        return np.concatenate(rows) if rows else np.empty((0, self.size), dtype=np.float32)

    def passages(self, texts: Sequence[str]) -> Floats:
        """Embed passages in one batch, or in smaller batches if memory runs out."""
        return self._encode(self._model.encode_document, texts, self._passage_prompt)

    def _encode(self, encode: Callable[..., Any], texts: Sequence[str], prompt: str) -> Floats:
        def embed(batch: list[str]) -> Floats:
            rows = encode(batch, prompt=prompt, batch_size=len(batch), show_progress_bar=False)
            return np.asarray(rows, dtype=np.float32)

        rows = np.concatenate(encode_in_batch(embed, texts, self._limit))[:, : self._dim]
        if not np.isfinite(rows).all():
            raise BackendError("The model returned an embedding that is not finite", remedy="Try dtype=float32")
        return unit_rows(rows) if self._normalise else np.ascontiguousarray(rows, dtype=np.float32)


def unit_rows(rows: Any) -> Floats:
    """Scale the rows of an array to length 1; a row of zeros stays at 0 instead of becoming NaN."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.ascontiguousarray(rows / np.maximum(lengths, np.finfo(np.float32).tiny), dtype=np.float32)


def load_text_encoder(name: Path | str, options: EncoderOptions) -> SentenceEncoder:
    """Load a sentence-transformers model from a folder or the hub."""
    require_encoder_packages()
    model, identity = load_model("SentenceTransformer", files := locate_encoder(name, options), options)
    with named_loading_errors(files, options.device):
        return SentenceEncoder(model, options, identity=identity)


def locate_encoder(name: Path | str, options: ModelOptions) -> ModelFiles:
    """Return the local files of an encoder (`rerank.lm.model_files.locate_model`)."""
    return locate_model(name, options.revision, code=options.trust_remote_code)


def require_encoder_packages(*, stage: str = "dense", faiss: bool = True, sentences: bool = True) -> None:
    """Check that the packages of a first stage can be imported, before work starts that may take hours."""
    names = ["torch", "transformers", *(["faiss"] if faiss else []), *(["sentence_transformers"] if sentences else [])]
    try:
        for name in names[:2]:
            importlib.import_module(name)
        with quiet_transformers():
            for name in names[2:]:
                importlib.import_module(name)
    except ImportError as error:
        raise MissingPrerequisiteError(
            f"The first stage {stage!r} needs {', '.join(names)}, but not all can be imported: {error}",
            remedy=f"Run: {install_command(stage)}",
        ) from error

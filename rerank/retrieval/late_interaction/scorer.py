"""MaxSim scores of texts, computed with models of the class MultiVectorEncoder in sentence-transformers.

Torch and sentence-transformers are imported when a model is loaded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from rerank.errors import BackendError, UsageError
from rerank.indexing.text_encoder import (
    ModelOptions,
    PromptOptions,
    encode_texts_in_batch,
    load_encoder_model,
    locate_encoder,
    resolve_encoder_prompt,
)
from rerank.io.settings_files import try_read_json_object

#: Names under which sentence-transformers and PyLate save multi-vector models.
_TYPES = {"MultiVectorEncoder", "ColBERT"}


class MaxSimOptions(ModelOptions, PromptOptions, Protocol):
    """Protocol of the options of a `MaxSimScorer`: model loading, prompts and batch size."""

    @property
    def batch_size(self) -> int:
        """Number of texts encoded per batch."""


class MaxSimScorer:
    """A MultiVectorEncoder of sentence-transformers with its prompts, which scores texts by MaxSim."""

    def __init__(self, model: Any, options: MaxSimOptions) -> None:
        """Wrap a model that is already loaded, for example by `load_maxsim_scorer`."""
        self._model = model
        self._batch_size = options.batch_size
        self._query_prompt = resolve_encoder_prompt(model, options.query_prompt, "query")
        self._passage_prompt = resolve_encoder_prompt(model, options.passage_prompt, "document")

    def score(self, query: str, texts: Sequence[str]) -> list[float]:
        """Return the score of each text for a query.

        Texts that are longer than the model's limit are truncated by sentence-transformers. Equal texts are scored
        only once and so have equal scores, although the other texts of a batch affect the last digits of a score. If
        the model keeps no token of a text, such as an empty text, the text receives the lowest score of the other
        texts, or 0 if there are none.
        """
        # Longest texts first: batches need little padding, and if memory runs out, it does so at the start.
        distinct = sorted(set(texts), key=lambda text: (-len(text), text))
        vectors = self._encode("query", [query], self._query_prompt)
        scores: dict[str, float] = {}
        for start in range(0, len(distinct), self._batch_size):
            batch = distinct[start : start + self._batch_size]
            rows = self._encode("document", batch, self._passage_prompt)
            kept = [(text, row) for text, row in zip(batch, rows, strict=True) if len(row)]
            if kept:
                values = self._model.similarity(vectors, [row for _, row in kept])[0].tolist()
                scores |= dict(zip((text for text, _ in kept), values, strict=True))
        if not all(map(math.isfinite, scores.values())):
            raise BackendError("The model returned a score that is not finite", remedy="Try dtype=float32")
        lowest = min(scores.values(), default=0.0)
        return [scores.get(text, lowest) for text in texts]

    def _encode(self, side: str, texts: Sequence[str], prompt: str) -> list[Any]:
        """Return one tensor of shape (tokens, dimensions) per text."""
        encode = getattr(self._model, f"encode_{side}")
        return encode_texts_in_batch(
            lambda batch, size: list(encode(batch, prompt=prompt, batch_size=size, show_progress_bar=False)), texts
        )


def load_maxsim_scorer(name: Path | str, options: MaxSimOptions) -> MaxSimScorer:
    """Load a MultiVectorEncoder from a folder or the hub.

    Args:
        name: The folder, or ``owner/model`` on the hub.
        options: Options for loading the model, its prompts and its batch size.
    """
    files = locate_encoder(name, options)
    model, _ = load_encoder_model("MultiVectorEncoder", files, options)
    if not _has_trained_token_vectors(files.folder):
        raise UsageError(
            f"{str(name)!r} is not a multi-vector model: the library would add a projection with random weights",
            expected="a model of sentence-transformers' class MultiVectorEncoder, such as a ColBERT model",
            remedy="Use dense:MODEL for an embedding model",
        )
    return MaxSimScorer(model, options)


def _has_trained_token_vectors(folder: Path) -> bool:
    """Return whether a model was trained to represent a text by one vector per token.

    Such models are those saved by sentence-transformers or PyLate, the ColBERT models of Stanford, and the retrieval
    classes of transformers, as in ``MultiVectorEncoder._load_default_modules``.
    """
    architectures = try_read_json_object(folder / "config.json").get("architectures") or []
    return try_read_json_object(folder / "config_sentence_transformers.json").get("model_type") in _TYPES or any(
        kind == "HF_ColBERT" or kind.endswith("ForRetrieval") for kind in architectures
    )

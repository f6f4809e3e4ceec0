"""Late interaction: the relevance of a text from its token vectors and those of the query.

Supported models are those of the class MultiVectorEncoder in sentence-transformers, such as ColBERT models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rerank.errors import BackendError, UsageError
from rerank.lm.encoders import LoadingOptions, encode_in_batch, load_model, resolve_prompt
from rerank.lm.model_files import ModelFiles
from rerank.lm.out_of_memory import BatchLimit
from rerank.tasks.interruption import raise_if_interrupted


class MaxSimScorer:
    """A MultiVectorEncoder of sentence-transformers with its prompts, which scores texts by MaxSim.

    The score of a text is the sum over the query's tokens of the largest inner product with a token of the text,
    s(q, d) = sum_i max_j q_i . d_j (Khattab and Zaharia, SIGIR 2020, arXiv 2004.12832, equation 3). For models that
    were trained with the mean over the query's tokens instead of the sum, the score is this mean.
    """

    def __init__(
        self, model: Any, *, batch_size: int, query_prompt: str = "auto", passage_prompt: str = "auto"
    ) -> None:
        self.model = model
        self._batch_size, self._limit = batch_size, BatchLimit()
        self.query_prompt = resolve_prompt(model, query_prompt, "query")
        self.passage_prompt = resolve_prompt(model, passage_prompt, "document")

    def score(self, query: str, texts: Sequence[str]) -> list[float]:
        """Return the score of each text for a query.

        Texts that are longer than the model's limit are truncated by sentence-transformers. Equal texts are scored only
        once and so have equal scores, although the other texts of a batch affect the last digits of a score. A text of
        which the model keeps no token receives the lowest score of the other texts, or 0 if there are none.
        """
        # Longest texts first: batches need little padding, and if memory runs out, it does so at the start.
        distinct = sorted(set(texts), key=lambda text: (-len(text), text))
        vectors = self._encode("query", [query], self.query_prompt)
        scores: dict[str, float] = {}
        for start in range(0, len(distinct), self._batch_size):
            raise_if_interrupted()
            batch = distinct[start : start + self._batch_size]
            rows = self._encode("document", batch, self.passage_prompt)
            kept = [(text, row) for text, row in zip(batch, rows, strict=True) if len(row)]
            if kept:
                values = self.model.similarity(vectors, [row for _, row in kept])[0].tolist()
                scores |= dict(zip((text for text, _ in kept), values, strict=True))
        if not all(map(math.isfinite, scores.values())):
            raise BackendError("The model returned a score that is not finite", remedy="Try dtype=float32")
        lowest = min(scores.values(), default=0.0)
        return [scores.get(text, lowest) for text in texts]

    def _encode(self, side: str, texts: Sequence[str], prompt: str) -> list[Any]:
        """Return one tensor of shape (tokens, dimensions) per text."""
        encode = getattr(self.model, f"encode_{side}")

        def run(batch: list[str]) -> list[Any]:
            return list(encode(batch, prompt=prompt, batch_size=len(batch), show_progress_bar=False))

        return [row for rows in encode_in_batch(run, texts, self._limit) for row in rows]


def load_multi_vector_model(files: ModelFiles, options: LoadingOptions) -> tuple[Any, dict[str, str]]:
    """Load a MultiVectorEncoder, and return it with its identity, which includes the folders of all its modules."""
    model, identity = load_model("MultiVectorEncoder", files, options)
    if not files.is_multi_vector:
        raise UsageError(
            f"{str(files)!r} is not a multi-vector model: the library would add a projection with random weights",
            expected="a model of sentence-transformers' class MultiVectorEncoder, such as a ColBERT model",
            remedy="For an embedding model, use --first-stage dense:MODEL",
        )
    return model, identity

"""A reranker with the interface of a sentence-transformers cross-encoder; that package need not be installed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict, Unpack, cast

import numpy as np

from rerank.errors import UnknownNameError, UsageError, error_repr
from rerank.integrations.framework_reranker import FrameworkReranker
from rerank.reranker.hits import compute_pair_scores


class CrossEncoderOptions(TypedDict, total=False):
    """Further arguments of the methods of sentence-transformers, which are accepted so that existing calls work."""

    batch_size: int  # without effect, as the two following: the model's own batch size applies
    show_progress_bar: bool | None
    num_workers: int
    convert_to_numpy: bool  # whether scores are numpy numbers (the default) or Python numbers, in a list
    convert_to_tensor: bool  # whether scores are tensors of torch; takes precedence over ``convert_to_numpy``


class RerankerCrossEncoder(FrameworkReranker):
    """A reranker with the methods ``rank`` and ``predict`` of `sentence_transformers.CrossEncoder`."""

    def __init__(self, model: str | None = None, /, **fields: Any) -> None:
        super().__init__(**fields if model is None else {"model": model, **fields})

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        return_documents: bool = False,
        **options: Unpack[CrossEncoderOptions],
    ) -> list[dict[str, Any]]:
        """Return the best ``top_k`` documents, best first: ``corpus_id``, ``score`` and, if requested, ``text``."""
        _check_options(options)
        return [
            {"corpus_id": position, "score": score, **({"text": documents[position]} if return_documents else {})}
            for position, score in self.rank_positions(query, documents, top_k)
        ]

    def predict(
        self, sentences: Sequence[tuple[str, str]] | tuple[str, str], **options: Unpack[CrossEncoderOptions]
    ) -> Any:
        """Return the score of each pair of a query and a document, shape (pairs,), or a number for a single pair.

        The documents of a query are ranked together. Scores are those of `rank` (`Hit.unit_score`). Where these are
        1 / rank, they are the method's own scores if these do not depend on other documents; otherwise scores of
        different queries have no common scale. Every pair has a score; ``top_n`` and ``threshold`` have no effect.

        Raises:
            UsageError: An option would change the scores or does not exist, or a pair is not a query and a document.
        """
        _check_options(options)
        is_pair = len(sentences) > 0 and isinstance(sentences[0], str)
        pairs = cast(Sequence[tuple[str, str]], [sentences] if is_pair else sentences)
        rows: dict[str, list[int]] = {}
        for row, pair in enumerate(pairs):
            if len(pair) != 2:
                raise UsageError(f"Pair {row} is {error_repr(pair)}", expected="a query and a document")
            rows.setdefault(pair[0], []).append(row)
        lists = list(self.open_reranker().rank_many((query, [pairs[row][1] for row in rows[query]]) for query in rows))
        scores = np.zeros(len(pairs))
        for query_rows, hits, hit_scores in zip(rows.values(), lists, compute_pair_scores(lists)[0], strict=True):
            for hit, score in zip(hits, hit_scores, strict=True):
                scores[query_rows[hit.corpus_id]] = score
        found = scores[0] if is_pair else scores
        if options.get("convert_to_tensor"):
            import torch

            return torch.as_tensor(found)
        return found if options.get("convert_to_numpy", True) else found.tolist()


def _check_options(options: CrossEncoderOptions) -> None:
    for name in options:
        if name in ("activation_fn", "activation_fct", "apply_softmax"):
            raise UsageError(
                f"{name} cannot be applied to the scores of a reranker",
                expected="a call without this argument",
                remedy="For probabilities, pass calibration= in settings",
            )
        if name not in CrossEncoderOptions.__annotations__:
            raise UnknownNameError("option of a cross-encoder", name, list(CrossEncoderOptions.__annotations__))

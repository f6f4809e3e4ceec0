"""The interface of sentence-transformers' cross-encoder."""

from __future__ import annotations

import numpy as np
import pytest

from rerank.integrations.cross_encoder import RerankerCrossEncoder

MODEL = RerankerCrossEncoder(model="fake:reversed", top_n=1)


def test_rank() -> None:
    assert MODEL.rank("q", ["a", "b"], top_k=2) == [{"corpus_id": 1, "score": 1.0}, {"corpus_id": 0, "score": 0.5}]
    assert MODEL.rank("q", ["a", "b"], return_documents=True) == [{"corpus_id": 1, "score": 1.0, "text": "b"}]


def test_predict_ranks_the_documents_of_each_query() -> None:
    scores = MODEL.predict([("q", "a"), ("r", "b"), ("q", "c"), ("q", "a")])
    assert isinstance(scores, np.ndarray)
    assert scores == pytest.approx([1 / 3, 1, 1 / 2, 1])
    assert MODEL.predict(("q", "a")) == 1.0
    assert isinstance(MODEL.predict([]), np.ndarray)

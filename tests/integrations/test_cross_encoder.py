"""The interface of sentence-transformers' cross-encoder."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rerank.errors import UsageError
from rerank.integrations.cross_encoder import RerankerCrossEncoder
from tests.raising import raises

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


def test_a_pair_of_one_text_is_an_error() -> None:
    with raises(UsageError, "Pair 1"):
        MODEL.predict([("q", "a"), ("q",)])  # type: ignore[list-item]


def test_scores_of_a_pointwise_method_do_not_depend_on_other_pairs() -> None:
    model = RerankerCrossEncoder("fake:reversed", settings={"method": "pointwise"})
    first, second = model.predict([("q", "a"), ("r", "b")])
    assert (first, second) == (model.predict(("q", "a")), model.predict(("r", "b")))
    assert first != 1.0


def test_arguments_of_sentence_transformers() -> None:
    model = RerankerCrossEncoder("fake:reversed")
    assert model.model == RerankerCrossEncoder(model="fake:reversed").model == "fake:reversed"
    ignored: dict[str, Any] = {"batch_size": 8, "show_progress_bar": False, "num_workers": 0}
    assert model.rank("q", ["a", "b"], 1, True, **ignored) == [{"corpus_id": 1, "score": 1.0, "text": "b"}]
    assert model.predict([("q", "a"), ("q", "b")], **ignored, convert_to_numpy=False) == [0.5, 1.0]
    assert model.predict(("q", "a"), convert_to_numpy=False) == 1.0


@pytest.mark.parametrize("name", ["apply_softmax", "activation_fn", "batchsize"])
def test_arguments_that_cannot_be_kept(name: str) -> None:
    options: dict[str, Any] = {name: True}
    for call in (lambda: MODEL.rank("q", ["a"], **options), lambda: MODEL.predict(("q", "a"), **options)):
        with raises(UsageError, name):
            call()


def test_scores_as_tensors() -> None:
    torch = pytest.importorskip("torch")
    scores = MODEL.predict([("q", "a"), ("q", "b")], convert_to_tensor=True)
    assert isinstance(scores, torch.Tensor)
    assert scores.tolist() == [0.5, 1.0]

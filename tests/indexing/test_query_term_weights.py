from __future__ import annotations

import math

import pytest

from rerank.indexing.bm25_index import inverse_document_frequency, query_side_weights, saturated_weights


@pytest.mark.parametrize(("k3", "expected"), [(0, (1, 1)), (8, (9 * 3 / 11, 1)), (1e9, (3, 1))])
def test_saturation(k3: float, expected: tuple[float, float]) -> None:
    weights = saturated_weights(["a", "b", "a", "a"], k3)
    assert tuple(weights.values()) == pytest.approx(expected)


def test_the_query_is_weighted_as_a_document() -> None:
    idf = {"a": 2.0, "b": 0.5}
    weights = query_side_weights(["a", "b", "a"], idf.__getitem__, k1=0.9, b=0.4, average_length=6)
    saturation = 0.9 * (0.6 + 0.4 * 3 / 6)
    assert weights == pytest.approx({"a": 2.0 * 2 / (2 + saturation), "b": 0.5 * 1 / (1 + saturation)})


def test_idf() -> None:
    assert inverse_document_frequency(10, 10) == pytest.approx(math.log(1 + 0.5 / 10.5))
    assert inverse_document_frequency(10, 0) == pytest.approx(math.log(22))

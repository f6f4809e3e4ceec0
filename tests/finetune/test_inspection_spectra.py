"""Formulas of changes, against tables worked out by hand and against second implementations."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rerank.errors import UsageError
from rerank.finetune.inspection import report
from tests.raising import raises

torch = pytest.importorskip("torch")


def turned(size: int) -> Any:
    """(size, size) a reflection whose first column is (1, .., 1) / sqrt(size)."""
    aim = torch.full((size,), 1 / math.sqrt(size))
    normal = aim - torch.eye(size)[0]
    normal /= normal.norm()
    return torch.eye(size) - 2 * torch.outer(normal, normal)


def falling(size: int) -> Any:
    """diag(size, .., 1)."""
    return torch.diag(torch.arange(size, 0, -1.0))


def random(rows: int, columns: int, seed: int = 0) -> Any:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def left_vectors(matrix: Any) -> Any:
    return torch.linalg.svd(matrix, full_matrices=False)[0]


def test_a_planted_intruder_is_found_and_the_untrained_matrix_has_none() -> None:
    # The directions of a diagonal matrix are the axes. Those of its reflection are the reflection's columns: the first
    # has cosine 1/sqrt(8) = .354 with every axis, the others at least 1 - 1/(8 - sqrt(8)) = .807 with one of them.
    before = left_vectors(falling(8))
    after = left_vectors(turned(8) @ falling(8))
    assert report.find_intruder_dimensions(before, before) == []
    assert report.find_intruder_dimensions(before, after) == [0]
    assert report.find_intruder_dimensions(before, after, epsilon=0.353) == []
    assert report.find_intruder_dimensions(before, after, epsilon=0.354) == [0]
    assert report.find_intruder_dimensions(before, after, epsilon=0.8) == [0]
    assert report.find_intruder_dimensions(before, after, epsilon=0.81) == list(range(8))
    assert report.find_intruder_dimensions(before, after, epsilon=0.81, top=3) == [0, 1, 2]


def test_an_intruder_past_the_first_few_is_not_looked_at() -> None:
    order = [1, 0, 2, 3, 4, 5, 6, 7]
    before = left_vectors(falling(8))
    after = left_vectors(turned(8)[:, order] @ falling(8))
    assert report.find_intruder_dimensions(before, after, top=1) == []
    assert report.find_intruder_dimensions(before, after, top=2) == [1]


def test_a_large_change_in_a_new_direction_intrudes_and_a_small_one_does_not() -> None:
    weight = random(48, 32)
    new = torch.outer(torch.nn.functional.normalize(random(48, 1, 1).flatten(), dim=0), random(32, 1, 2).flatten())
    before = left_vectors(weight)
    assert report.find_intruder_dimensions(before, left_vectors(weight + 1e-3 * new)) == []
    assert report.find_intruder_dimensions(before, left_vectors(weight + 30 * new))[:1] == [0]


def test_intruders_are_made_smaller_and_the_rest_stays() -> None:
    weight, mirror = falling(8), turned(8)
    changed = mirror @ falling(8)
    same, found, left = report.shrink_intruder_dimensions(weight, changed, 1.0)
    assert (found, left) == (1, 1)
    assert torch.allclose(same, changed, atol=1e-6)
    quarter, found, left = report.shrink_intruder_dimensions(weight, changed, 0.25)
    expected = mirror @ torch.diag(torch.tensor([2.0, 7, 6, 5, 4, 3, 2, 1]))
    assert (found, left) == (1, 1)
    assert torch.allclose(quarter, expected, atol=1e-5)
    _, found, left = report.shrink_intruder_dimensions(weight, changed, 0.25, top=3)  # 2 is no longer among 7, 6, 5
    assert (found, left) == (1, 0)
    gone, _, _ = report.shrink_intruder_dimensions(weight, changed, 0.0)
    assert torch.allclose(gone, mirror @ torch.diag(torch.tensor([0.0, 7, 6, 5, 4, 3, 2, 1])), atol=1e-5)


def test_without_intruders_nothing_moves_by_a_bit() -> None:
    weight = random(20, 12)
    changed = weight + 1e-4 * random(20, 12, 1)
    same, found, left = report.shrink_intruder_dimensions(weight, changed, 0.0)
    assert (found, left) == (0, 0)
    assert torch.equal(same, changed)


@pytest.mark.parametrize(
    ("values", "rank"),
    [
        ([2.0, 2.0, 2.0, 2.0], 4.0),
        ([5.0, 0.0, 0.0], 1.0),
        ([3.0, 1.0], math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))),  # 1.7548
        ([0.0, 0.0], 0.0),
    ],
)
def test_entropy_rank(values: list[float], rank: float) -> None:
    assert report.entropy_rank(torch.tensor(values)) == pytest.approx(rank)


def test_numerical_rank() -> None:
    product = random(30, 3) @ random(3, 20, 1)
    values = torch.linalg.svdvals(product)
    assert report.numerical_rank(values, 30) == 3 == int(torch.linalg.matrix_rank(product))
    assert report.numerical_rank(torch.tensor([4.0, 2.0, 1.0]), 3, floor=1.5) == 2
    assert report.numerical_rank(torch.zeros(3), 3) == 0
    assert report.numerical_rank(torch.empty(0), 3) == 0


@settings(max_examples=20)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 15), st.integers(0, 99))
def test_the_spectrum_of_factors_is_that_of_their_product(rows: int, columns: int, rank: int, seed: int) -> None:
    left, right = random(rows, rank, seed).double(), random(rank, columns, seed + 100).double()
    found = report.product_singular_values(left, right)
    expected = torch.linalg.svdvals(left @ right)
    assert len(found) == min(rows, columns, rank)
    assert torch.allclose(found, expected[: len(found)], atol=1e-10)


def test_sparsity_counts_entries_within_the_tolerance() -> None:
    delta = torch.tensor([[0.0, 9e-6, -9e-6, 2e-5], [1.0, -1.0, 0.0, -1.1e-5]])
    assert report.update_sparsity(delta) == 0.5
    assert report.update_sparsity(delta, 0.0) == 0.25
    assert report.update_sparsity(delta, 2.0) == 1.0


SPECTRA = {"a": [4.0, 2.0, 1.0, 1.0], "b": [3.0, 3.0, 3.0, 3.0]}


@pytest.mark.parametrize(
    ("reduction", "threshold", "ranks"),
    [
        (0.0, 0.0, {"a": 4, "b": 4}),
        (0.1, 0.25, {"a": 2, "b": 4}),  # both values of .25 go together
        (0.25, 0.25, {"a": 2, "b": 4}),
        (0.3, 0.5, {"a": 1, "b": 4}),
        (0.375, 0.5, {"a": 1, "b": 4}),
        (0.4, 1.0, {"a": 1, "b": 1}),  # the largest of each is kept
    ],
)
def test_rank_profile(reduction: float, threshold: float, ranks: dict[str, int]) -> None:
    assert report.rank_profile(SPECTRA, reduction) == (threshold, ranks)


@settings(max_examples=50)
@given(
    st.dictionaries(st.text("xyz", min_size=1), st.lists(st.floats(0, 1), min_size=1, max_size=9), min_size=1),
    st.just(0.0) | st.floats(0.01, 0.95),
)
def test_rank_profile_drops_at_least_what_was_asked_and_no_step_less_would_do(
    found: dict[str, list[float]], reduction: float
) -> None:
    scaled = {name: sorted([1.0, *values], reverse=True) for name, values in found.items()}
    threshold, ranks = report.rank_profile(scaled, reduction)

    def dropped(bound: float) -> float:
        return sum(sum(v <= bound for v in values) / len(values) for values in scaled.values()) / len(scaled)

    bound = threshold if reduction > 0 else -1.0
    assert dropped(bound) >= reduction - 1e-9
    lower = [v for values in scaled.values() for v in values if v < bound]
    assert not lower or dropped(max(lower)) < reduction
    assert ranks == {name: max(1, sum(v > bound for v in values)) for name, values in scaled.items()}


def test_rank_profile_of_zeros_that_are_kept() -> None:
    assert report.rank_profile({"a": [1.0, 0.0]}, 0.0) == (0.0, {"a": 2})
    assert report.rank_profile({"a": [1.0, 0.0]}, 0.2) == (0.0, {"a": 1})


@pytest.mark.parametrize("reduction", [-0.1, 1.0, math.nan])
def test_rank_profile_refuses_what_is_no_share(reduction: float) -> None:
    with raises(UsageError, "rank reduction"):
        report.rank_profile(SPECTRA, reduction)

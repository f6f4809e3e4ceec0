from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rerank.strategies.self_consistency import Votes, count_votes, kemeny_order


def count_disagreements(votes: Votes, order: Sequence[int]) -> int:
    """The number of votes that an order contradicts: the sum of Kendall distances to the voting orders."""
    return sum(votes[b][a] for rank, a in enumerate(order) for b in order[rank + 1 :])


def ballots(n: int, most: int = 6) -> st.SearchStrategy[list[list[int]]]:
    return st.lists(st.permutations(range(n)), min_size=1, max_size=most)


cases = st.integers(0, 6).flatmap(lambda n: st.tuples(st.just(n), ballots(n), st.none() | st.integers(1, 6)))


@settings(deadline=None)
@given(cases)
def test_no_other_order_has_fewer_votes_against_it(case: tuple[int, list[list[int]], int | None]) -> None:
    n, orders, wanted = case
    votes = count_votes(orders, n, depth=wanted)
    found = kemeny_order(votes)
    assert sorted(found) == list(range(n))
    assert count_disagreements(votes, found) == min(
        count_disagreements(votes, order) for order in permutations(range(n))
    )


@given(st.integers(2, 7).flatmap(lambda n: st.tuples(st.just(n), ballots(n))))
def test_the_cost_is_the_sum_of_kendalls_distances(case: tuple[int, list[list[int]]]) -> None:
    n, orders = case
    found = kemeny_order(count_votes(orders, n))
    place = {a: rank for rank, a in enumerate(found)}
    discordant = sum(place[a] > place[b] for order in orders for i, a in enumerate(order) for b in order[i + 1 :])
    assert count_disagreements(count_votes(orders, n), found) == discordant


def test_a_circle_is_cut_where_fewest_want_it() -> None:
    # 0 before 1 (5 to 2), 1 before 2 (4 to 3), 2 before 0 (5 to 2): the second gives way
    orders = [[0, 1, 2]] * 2 + [[1, 2, 0]] * 2 + [[2, 0, 1]] * 3
    assert kemeny_order(count_votes(orders, 3)) == [2, 0, 1]


def test_ties_stay_as_given() -> None:
    assert kemeny_order(count_votes([[0, 1, 2], [2, 1, 0]], 3)) == [0, 1, 2]
    assert kemeny_order(count_votes([[3, 1, 0, 2]], 4, depth=1)) == [3, 0, 1, 2]


def test_an_item_is_not_before_itself() -> None:
    assert count_votes([[1, 2, 0], [1, 0, 2]], 3, depth=1) == [[0, 0, 0], [2, 0, 2], [0, 0, 0]]


def test_nobody_and_one() -> None:
    assert kemeny_order([]) == []
    assert kemeny_order(count_votes([[0]], 1)) == [0]


@given(st.integers(3, 9).flatmap(lambda n: st.tuples(st.just(n), ballots(n))))
def test_large_components_are_locally_optimal_and_keep_majorities_between_components(
    case: tuple[int, list[list[int]]],
) -> None:
    n, orders = case
    votes = count_votes(orders, n)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rerank.strategies.self_consistency.MAX_EXACT_SIZE", 1)
        found = kemeny_order(votes)
    assert sorted(found) == list(range(n))
    for a, b in zip(found, found[1:], strict=False):
        assert votes[a][b] >= votes[b][a]
    for winner in range(n):  # Condorcet's: whoever beats everybody is first
        if all(votes[winner][other] > votes[other][winner] for other in range(n) if other != winner):
            assert found[0] == winner


def test_one_voter_is_followed() -> None:
    order = list(reversed(range(200)))
    assert kemeny_order(count_votes([order], 200)) == order


@pytest.mark.parametrize(
    ("items", "seed", "exact", "local", "expected"), [(12, 35, 121, 123, 121), (13, 39, 153, 157, 157)]
)
def test_components_of_at_most_twelve_are_solved_exactly(
    items: int, seed: int, exact: int, local: int, expected: int
) -> None:
    """The majorities of these five orders form a single component."""
    rng = random.Random(seed)
    votes = count_votes([rng.sample(range(items), items) for _ in range(5)], items)
    assert count_disagreements(votes, kemeny_order(votes)) == expected
    for size, disagreements in ((13, exact), (1, local)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("rerank.strategies.self_consistency.MAX_EXACT_SIZE", size)
            assert count_disagreements(votes, kemeny_order(votes)) == disagreements


def test_an_item_that_ties_with_all_others_is_not_in_their_component() -> None:
    """The component of twelve items is solved exactly; with a thirteenth it would be ordered by local search."""
    rng = random.Random(35)
    votes = count_votes([rng.sample(range(12), 12) for _ in range(5)], 12)
    votes = [*([*row, 0] for row in votes), [0] * 13]
    assert count_disagreements(votes, kemeny_order(votes)) == 121

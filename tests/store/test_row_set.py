"""A set of row numbers: exact, and small."""

from __future__ import annotations

import random

from rerank.store.call_log import RowSet


def test_it_agrees_with_a_set() -> None:
    rng, seen, rows = random.Random(0), set[int](), RowSet()
    for _ in range(5000):
        number = rng.choice((rng.randrange(3000), 2**63 - 1 - rng.randrange(5)))
        assert rows.add(number) == (number not in seen)
        seen.add(number)
        assert number in rows
    assert all((number in rows) == (number in seen) for number in range(3000))


def test_dense_numbers_take_less_than_a_byte() -> None:
    rows = RowSet()
    assert all(rows.add(number) for number in range(1, 100_001))
    assert sum(block.__sizeof__() for block in rows._blocks.values()) < 100_000 / 4

"""The memo against a dictionary that forgets nothing, and its size."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from hypothesis import given
from hypothesis import strategies as st

from rerank.prompts.bounded_memo import BoundedMemo


def memo_of(limit: int) -> BoundedMemo[int, int]:
    return BoundedMemo(limit, lambda key, _: 1 + key % 3)


@given(limit=st.integers(0, 40), keys=st.lists(st.integers(0, 30), max_size=200))
def test_what_it_returns_is_what_was_stored_and_it_stays_small(limit: int, keys: list[int]) -> None:
    memo = memo_of(limit)
    for key in keys:
        assert memo.get_all([key])[0] in (None, -key - 1)
        memo.put_all([(key, -key - 1)])
        assert len(memo) <= limit
    assert all(value in (None, -key - 1) for key, value in zip(keys, memo.get_all(keys), strict=True))


def test_what_is_used_survives_and_what_is_not_is_dropped() -> None:
    memo: BoundedMemo[int, str] = BoundedMemo(20, lambda *_: 1)
    memo.put_all([(0, "used"), (1, "unused")])
    for key in range(2, 50):
        memo.put_all([(key, "other")])
        assert memo.get_all([0, key]) == ["used", "other"]
    assert memo.get_all([1])[0] is None


def test_an_entry_too_large_for_the_limit_is_not_stored() -> None:
    memo: BoundedMemo[str, str] = BoundedMemo(10, lambda key, value: len(key + value))
    memo.put_all([("a", "b"), ("long", "value")])
    assert memo.get_all(["a", "long"]) == ["b", None]


def test_threads_share_a_memo() -> None:
    memo: BoundedMemo[int, int] = BoundedMemo(64, lambda *_: 1)

    def work(seed: int) -> bool:
        for step in range(2000):
            key = (seed * 31 + step * 7) % 100
            if memo.get_all([key])[0] not in (None, key + 1):
                return False
            memo.put_all([(key, key + 1)])
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))
    assert 0 < len(memo) <= 64

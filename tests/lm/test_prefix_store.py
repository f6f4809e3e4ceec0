"""The store of prefixes: bounded in bytes, the least recently used go first."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch

from rerank.lm.prefix_cache import PrefixSegment, PrefixStore


def segment(tokens: int) -> PrefixSegment:
    """Two layers of one key-value head of size 4 in float32: 64 bytes per token."""
    layers = tuple(torch.zeros(1, 1, tokens, 4) for _ in range(2))
    return PrefixSegment(layers, layers)


def test_the_least_recently_used_segments_are_dropped() -> None:
    store = PrefixStore(640)
    for name in (b"a", b"b"):
        store.put(name, segment(5))
    assert store.size == 640
    assert store.get(b"a") is not None
    store.put(b"c", segment(1))
    assert (store.get(b"b"), store.size) == (None, 384)
    assert store.get(b"a") is not None
    assert store.get(b"c") is not None


def test_what_is_larger_than_the_limit_drops_nothing() -> None:
    store = PrefixStore(640)
    store.put(b"a", segment(5))
    store.put(b"b", segment(11))
    assert store.get(b"b") is None
    assert store.get(b"a") is not None


def test_a_segment_is_counted_once() -> None:
    store = PrefixStore(640)
    store.put(b"a", segment(5))
    store.put(b"a", segment(5))
    assert (len(store), store.size) == (1, 320)
    store.clear()
    assert (len(store), store.size, store.get(b"a")) == (0, 0, None)


def test_a_limit_of_zero_keeps_nothing() -> None:
    store = PrefixStore(0)
    store.put(b"a", segment(1))
    assert (len(store), store.size) == (0, 0)

"""Rerankers that are pickled for another process."""

from __future__ import annotations

import copy
import pickle
import threading
from pathlib import Path

import pytest

from rerank import Reranker
from rerank.backends.fake import Fake
from rerank.errors import UsageError
from rerank.methods import method_names
from tests.raising import raises

TEXTS = ["a cat", "a dog", "the weather in spring", "a cat and a dog"]


#: Methods that need a list of attention heads or pictures.
_NEEDY = {"core", "qrhead", "fullrank-images", "pointwise-images"}


@pytest.mark.parametrize("method", sorted({*method_names()} - _NEEDY))
def test_every_method_ranks_equally_after_pickling(method: str) -> None:
    reranker = Reranker.from_pretrained("fake:stutter,seed=3", method=method)
    hits = reranker.rank("cat", TEXTS)
    same = pickle.loads(pickle.dumps(reranker))
    again = same.rank("cat", TEXTS)
    assert (again, again.report.windows) == (hits, hits.report.windows)
    assert (same.name, same.strategy) == (reranker.name, reranker.strategy)


def test_the_cache_and_the_cap_travel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    reranker = Reranker.from_pretrained("fake:reversed").with_log(max_total_tokens=1000)
    used = reranker.rank("cat", TEXTS).usage
    with pickle.loads(pickle.dumps(reranker)) as same:
        assert same.backend.usage == used
        assert same.backend.backend is same.judge.backend
        assert same.rank("cat", TEXTS).usage.reused_calls == 1
        assert same.backend.max_total_tokens == 1000
    reranker.close()


def test_closing_closes_the_cache_and_a_later_ranking_opens_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    reranker = Reranker.from_pretrained("fake-server:reversed").with_log()
    for _ in range(2):
        reranker.rank("cat", TEXTS)
        assert list(tmp_path.rglob("calls.sqlite-wal"))
        reranker.close()
        assert not list(tmp_path.rglob("calls.sqlite-wal"))


def test_a_backend_that_cannot_be_pickled_is_named() -> None:
    backend = Fake("reversed")
    backend.delay = threading.Lock()  # type: ignore[assignment]
    reranker = Reranker.from_backend(backend)
    with raises(UsageError, "Fake"):
        pickle.dumps(reranker)


def test_a_copy_has_its_own_thread_and_shares_the_backend() -> None:
    reranker = Reranker.from_pretrained("fake:reversed")
    reranker.rank("cat", TEXTS)
    same = copy.copy(reranker)
    assert same.backend is reranker.backend
    assert same.rank("cat", TEXTS) == reranker.rank("cat", TEXTS)
    same.close()
    reranker.close()

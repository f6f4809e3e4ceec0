from __future__ import annotations

from pathlib import Path

import pytest

from rerank.io.paths import cache_dir


def test_below_the_users_cache_and_not_created(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "listrank"
    assert cache_dir("indexes", "abc") == tmp_path / "listrank" / "indexes" / "abc"
    assert list(tmp_path.iterdir()) == []

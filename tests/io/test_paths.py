from __future__ import annotations

from pathlib import Path

import pytest

from rerank.errors import MissingResourceError
from rerank.io.paths import cache_dir, named_path_errors
from tests.raising import raises


def test_an_error_about_a_path_does_not_say_whether_it_was_read_or_written(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 300)
    for mode in ("r", "w"):
        with raises(MissingResourceError, "used", "too long") as caught, named_path_errors():
            path.open(mode)
        assert "read" not in str(caught.value)


def test_below_the_users_cache_and_not_created(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "listrank"
    assert cache_dir("indexes", "abc") == tmp_path / "listrank" / "indexes" / "abc"
    assert list(tmp_path.iterdir()) == []

"""Where the keys of clients come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from rerank.errors import DataError
from rerank.serving.settings import KEYS_VARIABLE, ServerKeys
from tests.raising import raises


@pytest.mark.parametrize(("given", "count"), [("a", 1), ("a, b c", 3)])
def test_keys_of_the_environment(monkeypatch: pytest.MonkeyPatch, given: str, count: int) -> None:
    monkeypatch.setenv(KEYS_VARIABLE, given)
    assert len(ServerKeys.load().digests) == count


def test_a_source_without_a_key_does_not_open_the_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("\n")
    monkeypatch.setenv(KEYS_VARIABLE, " , ")
    for file in (None, tmp_path / "keys"):
        with raises(DataError, file or KEYS_VARIABLE):
            ServerKeys.load(file)

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
    for value, file in (("", None), (" , ", None), ("key", tmp_path / "keys")):
        monkeypatch.setenv(KEYS_VARIABLE, value)
        with raises(DataError, file or KEYS_VARIABLE):
            ServerKeys.load(file)


@pytest.mark.parametrize("key", ["plain-key", "schlüssel", "鍵"])
def test_keys_in_any_alphabet_match(key: str) -> None:
    keys = ServerKeys.from_keys(["other", key])
    sent = {key.encode("utf-8").decode("latin-1")}  # the bytes of a header, as servers decode them
    if key.isascii() or key == "schlüssel":
        sent.add(key)  # from clients that encode headers as Latin-1
    names = {keys.client(f"Bearer {header}", "address") for header in sent}
    assert len(names) == 1
    assert names != {None}
    assert keys.client(f"Bearer {key}x", "address") is None

"""Lone surrogates are replaced; other texts stay as they are."""

from __future__ import annotations

import pytest

from rerank.io.text_files import replace_lone_surrogates


@pytest.mark.parametrize(
    ("text", "replaced"),
    [
        ("", ""),
        ("plain", "plain"),
        ("é \U0001f600", "é \U0001f600"),
        ("\ud83d half", "\ufffd half"),
        ("\udc00\ud800", "\ufffd\ufffd"),
    ],
)
def test_lone_surrogates(text: str, replaced: str) -> None:
    assert replace_lone_surrogates(text) == replaced
    replaced.encode()

from __future__ import annotations

from pathlib import Path

import pytest

from rerank.errors import DataError
from rerank.prices import cost, price_file


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    price_file().parent.mkdir(parents=True)
    return price_file()


def test_no_table_no_price(table: Path) -> None:
    assert cost("m", 1, 1) is None


def test_dollars_per_million_tokens(table: Path) -> None:
    table.write_text('["org/m:1"]\ninput = 0.15\noutput = 0.60\n[local]\ninput = 0\noutput = 0\n')
    assert cost("org/m:1", 2_000_000, 500_000) == pytest.approx(0.6)
    assert cost("local", 10, 10) == 0
    assert cost("other", 10, 10) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[m", "The price table .* expected TOML"),
        (b"\xff", "The price table .* expected TOML"),
        (b"[m]\ninput = 1", "The price of 'm' .* expected two numbers"),
        (b"[m]\ninput = 'much'\noutput = 1", "expected two numbers"),
        (b"m = 3", "expected two numbers"),
        (b"m = [1, 2]", "expected two numbers"),
    ],
)
def test_a_table_that_is_wrong(table: Path, content: bytes, message: str) -> None:
    table.write_bytes(content)
    with pytest.raises(DataError, match=message):
        cost("m", 1, 1)

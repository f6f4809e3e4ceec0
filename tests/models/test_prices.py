from __future__ import annotations

from pathlib import Path

import pytest

from rerank.errors import DataError
from rerank.models.prices import compute_cost_by_model_name, model_price_file
from tests.raising import raises


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    model_price_file().parent.mkdir(parents=True)
    return model_price_file()


def test_no_table_no_price(table: Path) -> None:
    assert compute_cost_by_model_name("m", 1, 1) is None


def test_dollars_per_million_tokens(table: Path) -> None:
    table.write_text('["org/m:1"]\ninput = 0.15\noutput = 0.60\n[local]\ninput = 0\noutput = 0\n')
    assert compute_cost_by_model_name("org/m:1", 2_000_000, 500_000) == pytest.approx(0.6)
    assert compute_cost_by_model_name("local", 10, 10) == 0
    assert compute_cost_by_model_name("other", 10, 10) is None


def test_names_with_and_without_the_backend(table: Path) -> None:
    table.write_text(
        '["m:free"]\ninput = 1\noutput = 0\n["openai:n"]\ninput = 2\noutput = 0\n[n]\ninput = 3\noutput = 0\n'
    )
    assert compute_cost_by_model_name("openai:m:free", 1_000_000, 0) == 1
    assert compute_cost_by_model_name("openai:n", 1_000_000, 0) == 2
    assert compute_cost_by_model_name("vllm:n", 1_000_000, 0) == 3
    assert compute_cost_by_model_name("openai:other", 1, 1) is None
    assert compute_cost_by_model_name("fake:", 1, 1) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[m", "TOML"),
        (b"\xff", "TOML"),
        (b"[m]\ninput = 1", "'m'"),
        (b"[m]\ninput = 'much'\noutput = 1", "input and output"),
        (b"m = 3", "input and output"),
        (b"m = [1, 2]", "input and output"),
        (b"[m]\ninput = -1\noutput = 1", "input and output"),
        (b"[m]\ninput = nan\noutput = 1", "input and output"),
        (b"[m]\ninput = 1\noutput = inf", "input and output"),
    ],
)
def test_a_table_that_is_wrong(table: Path, content: bytes, message: str) -> None:
    table.write_bytes(content)
    with raises(DataError, message):
        compute_cost_by_model_name("m", 1, 1)

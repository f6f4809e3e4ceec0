from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rerank.errors import DataError
from rerank.models.prices import compute_cost, estimate_search_units, find_model_prices, model_price_file
from rerank.tasks.requests import Usage
from tests.raising import raises


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    model_price_file().parent.mkdir(parents=True)
    return model_price_file()


def test_no_table_no_price(table: Path) -> None:
    assert compute_cost("m", Usage(tokens_in=1, tokens_out=1)) is None


def test_dollars_per_million_tokens(table: Path) -> None:
    table.write_text('["org/m:1"]\ninput = 0.15\noutput = 0.60\n[local]\ninput = 0\noutput = 0\n')
    assert compute_cost("org/m:1", Usage(tokens_in=2_000_000, tokens_out=500_000)) == pytest.approx(0.6)
    assert compute_cost("local", Usage(tokens_in=10, tokens_out=10)) == 0
    assert compute_cost("other", Usage(tokens_in=10, tokens_out=10)) is None


def test_names_with_and_without_the_backend(table: Path) -> None:
    table.write_text(
        '["m:free"]\ninput = 1\noutput = 0\n["openai:n"]\ninput = 2\noutput = 0\n[n]\ninput = 3\noutput = 0\n'
    )
    assert compute_cost("openai:m:free", Usage(tokens_in=1_000_000, tokens_out=0)) == 1
    assert compute_cost("openai:n", Usage(tokens_in=1_000_000, tokens_out=0)) == 2
    assert compute_cost("vllm:n", Usage(tokens_in=1_000_000, tokens_out=0)) == 3
    assert compute_cost("openai:other", Usage(tokens_in=1, tokens_out=1)) is None
    assert compute_cost("fake:", Usage(tokens_in=1, tokens_out=1)) is None


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
        (b"[m]\ninput = 1\noutput = 1\ncached = 'half'", "cached"),
        (b"[m]\ninput = 1\noutput = 1\nbatch = -0.5", "batch"),
        (b"[m]\ninput = 1\noutput = 1\ncashed = 0.5", "cashed"),
    ],
)
def test_a_table_that_is_wrong(table: Path, content: bytes, message: str) -> None:
    table.write_bytes(content)
    with raises(DataError, message):
        compute_cost("m", Usage(tokens_in=1, tokens_out=1))


def test_cached_tokens_and_batches_have_their_own_prices(table: Path) -> None:
    table.write_text('[m]\ninput = 1\ncached = 0.25\noutput = 4\nbatch = 0.5\ndate = 2026-11-27\nsource = "a page"\n')
    live = Usage(tokens_in=2_000_000, tokens_cached=1_000_000, tokens_out=1_000_000)
    assert compute_cost("m", live) == pytest.approx(1 + 0.25 + 4)
    part = {"calls": 1, "tokens_in": 2_000_000, "tokens_cached": 1_000_000, "tokens_out": 1_000_000}
    assert compute_cost("m", replace(live, batched=part)) == pytest.approx((1 + 0.25 + 4) / 2)
    both = Usage(tokens_in=4_000_000, tokens_cached=2_000_000, tokens_out=2_000_000, batched=part)
    assert compute_cost("m", both) == pytest.approx(1.5 * (1 + 0.25 + 4))
    prices = find_model_prices("m")
    assert prices is not None
    assert (prices.date, prices.source) == ("2026-11-27", "a page")


def test_search_units_have_a_price(table: Path) -> None:
    table.write_text('["cohere/m"]\nsearch = 2.5\n[both]\ninput = 1\noutput = 0\nsearch = 1\n')
    assert compute_cost("api:cohere/m", Usage(tokens_in=9_000_000, search_units=40)) == pytest.approx(0.1)
    assert compute_cost("cohere/m", Usage()) == 0
    assert compute_cost("cohere/m", Usage(tokens_in=9)) is None  # the API stated no search units
    assert compute_cost("both", Usage(tokens_in=1_000_000, search_units=1000)) == pytest.approx(2)
    table.write_text("[m]\nsearch = -1\n")
    with raises(DataError, "search"):
        compute_cost("m", Usage())


def test_estimated_search_units() -> None:
    assert [estimate_search_units([10, *[100] * count]) for count in (1, 100, 101, 200)] == [1, 1, 2, 2]
    assert estimate_search_units([10, *[500] * 100]) == 2


def test_a_discount_that_is_not_stated_is_not_assumed(table: Path) -> None:
    table.write_text("[m]\ninput = 1\noutput = 0\n")
    usage = Usage(tokens_in=1_000_000, tokens_cached=9_000_000, batched={"calls": 1, "tokens_in": 1_000_000})
    assert compute_cost("m", usage) == 1

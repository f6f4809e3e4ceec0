"""What tokens cost, from a table that the user edits. An unknown price is unknown, not zero.

The table is ``prices.toml`` in the user's configuration folder:

    ["gpt-4o-mini"]
    input = 0.15        # US dollars per million prompt tokens
    output = 0.60       # US dollars per million generated tokens, thoughts included

A row is named as after ``--model``; one without the backend (``gpt-4o-mini`` for ``openai:gpt-4o-mini``) counts where
there is none with it. No prices are shipped: they age faster than releases. Knows the table, not who calls.
"""

from __future__ import annotations

import math
import tomllib
from pathlib import Path
from typing import Any

import platformdirs

from rerank.errors import DataError


def price_file() -> Path:
    """Where the table is looked for."""
    return Path(platformdirs.user_config_dir("listrank")) / "prices.toml"


def cost(model: str, tokens_in: int, tokens_out: int) -> float | None:
    """US dollars for so many tokens of a model; None where no price is known.

    Args:
        model: As after ``--model``.
        tokens_in: Tokens of prompts.
        tokens_out: Tokens generated.

    Raises:
        DataError: The table is not TOML, or a price is no number of dollars.
    """
    path = price_file()
    if not path.is_file():
        return None
    try:
        table: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"The price table {str(path)!r}: {error}", expected="TOML") from error
    row = table.get(model, table.get(model.partition(":")[2]))
    if row is None:
        return None
    try:
        prices = float(row["input"]), float(row["output"])
    except (KeyError, TypeError, ValueError) as error:
        raise _wrong(model, path, row) from error
    if not all(math.isfinite(price) and price >= 0 for price in prices):
        raise _wrong(model, path, row)
    return (tokens_in * prices[0] + tokens_out * prices[1]) / 1e6


def _wrong(model: str, path: Path, row: Any) -> DataError:
    return DataError(
        f"The price of {model!r} in {str(path)!r} is {row!r}",
        expected="two numbers, input and output, in US dollars per million tokens",
    )

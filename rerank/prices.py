"""What tokens cost, from a table that the user edits. An unknown price is unknown, not zero.

The table is ``prices.toml`` in the user's configuration folder:

    ["gpt-4o-mini"]
    input = 0.15        # US dollars per million prompt tokens
    output = 0.60       # US dollars per million generated tokens

No prices are shipped: they age faster than releases. Knows the table, not who calls.
"""

from __future__ import annotations

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

    Raises:
        DataError: The table is not TOML, or a price is no number.
    """
    path = price_file()
    if not path.is_file():
        return None
    try:
        row: dict[str, Any] | None = tomllib.loads(path.read_text(encoding="utf-8")).get(model)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"The price table {str(path)!r}: {error}", expected="TOML") from error
    if row is None:
        return None
    try:
        return (tokens_in * float(row["input"]) + tokens_out * float(row["output"])) / 1e6
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"The price of {model!r} in {str(path)!r} is {row!r}", expected="two numbers, input and output"
        ) from error

"""Token prices from a table that the user edits. The cost of a model without a price is unknown, not zero.

The table is ``prices.toml`` in the user's configuration folder:

    ["gpt-4o-mini"]
    input = 0.15        # US dollars per million prompt tokens
    output = 0.60       # US dollars per million completion tokens, including thoughts

A row is named like the value of ``--model``. If there is no row ``openai:gpt-4o-mini``, row ``gpt-4o-mini`` is used.
No prices are shipped, because they change more often than releases are made.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import platformdirs

from rerank.errors import DataError
from rerank.io.settings_files import read_toml_file


def model_price_file() -> Path:
    """Return the path of the price table."""
    return Path(platformdirs.user_config_dir("listrank")) / "prices.toml"


def compute_cost_by_model_name(model: str, tokens_in: int, tokens_out: int) -> float | None:
    """Compute the cost of tokens in US dollars.

    Args:
        model: The model, in the form of ``--model``.
        tokens_in: Number of prompt tokens.
        tokens_out: Number of completion tokens.

    Returns:
        The cost; None if the price table has no row for the model.

    Raises:
        DataError: The price table is not TOML, or a price is not a number of at least 0.
    """
    path = model_price_file()
    if not path.is_file():
        return None
    table = read_toml_file(path, "price table")
    row = table.get(model, table.get(model.partition(":")[2]))
    if row is None:
        return None
    try:
        prices = float(row["input"]), float(row["output"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise _wrong_model_price_error(model, path, row) from error
    if not all(math.isfinite(price) and price >= 0 for price in prices):
        raise _wrong_model_price_error(model, path, row)
    return (tokens_in * prices[0] + tokens_out * prices[1]) / 1e6


def _wrong_model_price_error(model: str, path: Path, row: Any) -> DataError:
    return DataError(
        f"The price of {model!r} in {str(path)!r} is {row!r}",
        expected="two numbers, input and output, in US dollars per million tokens",
    )

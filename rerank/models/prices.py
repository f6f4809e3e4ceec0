"""Token prices from a table that the user edits. The cost of a model without a price is unknown, not zero.

The table is ``prices.toml`` in the user's configuration folder:

    ["gpt-4o-mini"]
    input = 0.15        # US dollars per million prompt tokens
    cached = 0.075      # per million prompt tokens that came from the provider's prompt cache; if omitted, as input
    output = 0.60       # per million completion tokens, including thoughts
    batch = 0.5         # factor of the prices for calls through the provider's batch interface; if omitted, 1
    date = 2026-11-27   # the day on which the prices were read
    source = "https://openai.com/api/pricing"

APIs that bill searches instead of tokens have a price per search unit; ``input`` and ``output`` are then 0 if omitted:

    ["cohere/rerank-v3.5"]
    search = 2.0        # per thousand search units

A row is named like the value of ``--model``. If there is no row ``openai:gpt-4o-mini``, row ``gpt-4o-mini`` is used.
A discount that the row does not state is not assumed, so the cost is then an upper bound. No prices are shipped,
because they change more often than releases are made.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from rerank.errors import DataError
from rerank.io.settings_files import read_toml_file
from rerank.tasks.requests import Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPrices:
    """The prices of one model, in US dollars per million tokens or per thousand search units."""

    input: float  # price of prompt tokens
    cached: float  # price of prompt tokens that came from the provider's prompt cache
    output: float  # price of completion tokens
    batch: float  # factor of all prices for calls through the provider's batch interface
    search: float = 0.0  # price of a thousand search units
    date: str = ""  # the day on which the prices were read, as the user wrote it; empty if not stated
    source: str = ""  # address at which the prices were read; empty if not stated

    def cost(self, usage: Usage) -> float | None:
        """Compute the cost in US dollars; None if search units have a price, but the API did not report their number.

        Cached tokens are a part of the prompt tokens, as with OpenAI.
        """
        if self.search and usage.tokens_in and not usage.search_units:
            return None
        whole = self._price(usage.tokens_in, usage.tokens_cached, usage.tokens_out)
        part = self._price(*(usage.batched.get(name, 0) for name in ("tokens_in", "tokens_cached", "tokens_out")))
        return (whole - (1 - self.batch) * part) / 1e6 + usage.search_units * self.search / 1e3

    def _price(self, tokens_in: int, tokens_cached: int, tokens_out: int) -> float:
        cached = min(tokens_cached, tokens_in)
        return (tokens_in - cached) * self.input + cached * self.cached + tokens_out * self.output


#: Cohere's rules: maximum number of documents in a search unit, and maximum number of tokens of a query and a document
#: together; a longer document counts as several documents.
SEARCH_DOCUMENTS, SEARCH_TOKENS = 100, 500


def estimate_search_units(lengths: Sequence[int]) -> int:
    """Estimate how many search units an API bills for a request, given the tokens of its query and then each document.

    >>> estimate_search_units([10, *[200] * 100]), estimate_search_units([10, *[600] * 100])
    (1, 2)
    """
    query, *documents = lengths
    return math.ceil(sum(math.ceil((query + length) / SEARCH_TOKENS) for length in documents) / SEARCH_DOCUMENTS)


def model_price_file() -> Path:
    """Return the path of the price table."""
    return Path(platformdirs.user_config_dir("listrank")) / "prices.toml"


def find_model_prices(model: str) -> TokenPrices | None:
    """Return the prices of a model, in the form of ``--model``; None if the price table has no row for it."""
    path = model_price_file()
    if not path.is_file():
        return None
    table = read_toml_file(path, "price table")
    row = table.get(model, table.get(model.partition(":")[2]))
    if row is None:
        return None
    shown = dict(row) if isinstance(row, Mapping) else row
    wrong = DataError(
        f"The price of {model!r} in {str(path)!r} is {shown!r}",
        expected="numbers of at least 0: input and output, and optionally cached, in US dollars per million tokens; "
        "or search, per thousand search units; optionally batch, a factor; and no other keys except date and source",
    )
    try:
        known = {"input": 0, "output": 0, "search": 0, **row} if "search" in row else {"search": 0, **row}
        prices = {name: float(known[name]) for name in ("input", "output", "search")}
        prices |= {name: float(row.get(name, other)) for name, other in (("cached", prices["input"]), ("batch", 1.0))}
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise wrong from error
    # Without this check, a misspelt key would be ignored, and the cost would be wrong.
    is_misspelt = bool(row.keys() - prices.keys() - {"date", "source"})
    if is_misspelt or not all(math.isfinite(price) and price >= 0 for price in prices.values()):
        raise wrong
    return TokenPrices(**prices, date=str(row.get("date", "")), source=str(row.get("source", "")))


def compute_cost(model: str, usage: Usage) -> float | None:
    """Compute the cost of calls in US dollars; None without a row in the price table, and as in `TokenPrices.cost`."""
    prices = find_model_prices(model)
    return None if prices is None else prices.cost(usage)

"""The card of a run: what a file of ranks cannot say of itself. What a card leaves out stays unknown, never zero.

Knows the keys and their values, not the run beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rerank.errors import DataError, UnknownNameError, in_words
from rerank.io.text_files import read_toml


class Card(BaseModel):
    """What is declared of one run. Tokens, seconds and cost are those of all its queries together."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    name: str = ""
    """What the board calls it; the run file's name if left out."""
    run: str = ""
    """Its run file, seen from the card; the file of the card's own name if left out."""
    group: str = ""
    """Runs that belong together, such as "official" or "LLM reranker"."""
    first_stage: str = ""
    """Who found the candidates, in words or as a selector."""
    before: str = ""
    """The run of the board whose lists it reranked, by name."""
    depth: int | None = Field(default=None, ge=1)
    """Candidates a query."""
    model: str = ""
    """The model that put them in order."""
    method: str = ""
    """How it was asked."""
    tokens: int | None = Field(default=None, ge=0)
    """Tokens that language models read and wrote."""
    seconds: float | None = Field(default=None, ge=0)
    """Seconds that it took."""
    cost: float | None = Field(default=None, ge=0)
    """US dollars that it cost."""
    queries: int | None = Field(default=None, ge=1)
    """Over how many queries these three were counted; those of the run file if left out."""
    reference: str = ""
    """Where to read about it: an address or a paper."""
    note: str = ""
    """What a reader should know."""
    sha256: str = Field(default="", pattern="^([0-9a-f]{64})?$")
    """Hex SHA-256 of the run file as it stands on the disk."""

    def over(self, other: Card) -> Self:
        """This card, with what it leaves out taken from another."""
        given = {key: getattr(other, key) for key in other.model_fields_set - self.model_fields_set}
        return self.model_copy(update=given)

    def named(self, name: str) -> Self:
        """This card under a name, if it has none."""
        return self if self.name else self.model_copy(update={"name": name})


def read_card(path: str | Path) -> Card:
    """Read a card.

    Raises:
        MissingResourceError: It is not there.
        DataError: It is no TOML, or a key or value is wrong; names every fault.
    """
    card, problems = checked_card(read_toml(path, "card"))
    if problems:
        raise DataError(f"The card {str(path)!r}: {'; '.join(problems)}", remedy="See `rerank leaderboard check`")
    return card


def checked_card(values: Mapping[str, Any]) -> tuple[Card, list[str]]:
    """The card that the right keys make, and everything that is wrong with the others."""
    problems = [str(UnknownNameError("key", key, Card.model_fields)) for key in values if key not in Card.model_fields]
    known = {key: value for key, value in values.items() if key in Card.model_fields}
    try:
        return Card(**known), problems
    except ValidationError as error:
        for fault in error.errors():
            name = str(fault["loc"][0])
            problems.append(f"{name} = {fault['input']!r:.60}: {_wanted(fault, name)}")
            known.pop(name, None)
    return Card(**known), problems


def _wanted(fault: Any, name: str) -> str:
    if name == "sha256":
        return "should be 64 hexadecimal digits in small letters"
    return in_words(fault)

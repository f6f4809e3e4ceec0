"""The card of a run: what a file of ranks cannot say of itself. What a card leaves out stays unknown, never zero.

Knows the keys and their values, not the run beside it.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rerank.errors import DataError, UnknownNameError, describe_fault
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
    card, problems = parse_card(read_toml(path, "card"))
    if problems:
        raise DataError(f"The card {str(path)!r}: {'; '.join(problems)}", remedy="See `rerank leaderboard check`")
    return card


def parse_card(values: Mapping[str, Any]) -> tuple[Card, list[str]]:
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
    return describe_fault(fault)


_ENDS = (".trec", ".run", ".txt", ".jsonl", ".json", ".tsv")


def run_stem(path: Path) -> str:
    """A run file's name without its endings."""
    name = path.name.removesuffix(".gz")
    return next((name.removesuffix(end) for end in _ENDS if name.endswith(end)), name)


class CardIndex:
    """The cards that may be meant, read once.

    Args:
        folder: A folder of cards for runs that lie elsewhere; None if there is none.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """Remember the folder."""
        self._folder = folder
        self._named = cache(_named)

    def of(self, run: Path) -> Card:
        """The card of a run file; an empty one where none is.

        In the folder of cards, ``run`` may be the file's name alone, since its place is not seen from there.

        Raises:
            DataError: Two cards name the file, or its card is wrong or names a file that is not there.
        """
        for folder in (self._folder, run.parent):
            if folder is None or not folder.is_dir():
                continue
            claims = self._named(folder)
            apart = folder.resolve() != run.parent.resolve()
            found = [card for card, said in claims.items() if _means(card, said, run, by_name=apart)]
            if len(found) > 1:
                raise DataError(
                    f"{len(found)} cards name the run file {str(run)!r}: {_listed(found)}",
                    expected="one card a run",
                    remedy="Remove the others, or correct their run",
                )
            own = folder / f"{run_stem(run)}.toml"
            if not found and own.is_file():
                if own not in claims:
                    found = [own]
                elif not apart and not (folder / claims[own]).is_file():
                    raise DataError(
                        f"The card {str(own)!r} names the run file {claims[own]!r}, which is not there",
                        expected=f"{run.name}, which lies beside it under its name, or no run",
                    )
            if found:
                return read_card(found[0])
        return Card()


def _named(folder: Path) -> dict[Path, str]:
    """The cards in a folder that name their run; other TOML files may lie there too."""
    said = {}
    for path in sorted(path for path in folder.glob("*.toml") if path.is_file()):
        try:
            said[path] = read_toml(path, "file").get("run")
        except DataError as error:  # whose card it is nobody can tell; a run of its name will not take it silently
            warnings.warn(f"{error.found}, so it is taken for no card", stacklevel=2)
    return {path: run for path, run in said.items() if isinstance(run, str) and run}


def _means(card: Path, said: str, run: Path, *, by_name: bool) -> bool:
    return (card.parent / said).resolve() == run.resolve() or (by_name and said == run.name)


def _listed(paths: Sequence[Path]) -> str:
    return ", ".join(repr(str(path)) for path in paths)

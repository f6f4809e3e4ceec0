"""Cards: TOML files with metadata of a run that a run file cannot contain. An omitted value is unknown, not zero."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rerank.errors import DataError, UnknownNameError, describe_pydantic_error
from rerank.io.settings_files import read_toml_file


class Card(BaseModel):
    """Metadata of a run. Tokens, seconds and cost are totals over all queries."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = ""  #: Name of the run on the leaderboard; the stem of the run file if omitted.
    #: Path of the run file, relative to the card; if omitted, the run file with the same stem as the card.
    run: str = ""
    group: str = ""  #: Category of the run, such as "official" or "LLM reranker".
    first_stage: str = ""  #: Description or selector of the first stage that retrieved the candidates.
    before: str = ""  #: Name, on the leaderboard, of the run that was reranked.
    depth: int | None = Field(default=None, ge=1)  #: Number of candidates per query.
    model: str = ""  #: The reranking model.
    method: str = ""  #: The reranking method.
    parameters: float | None = Field(default=None, gt=0)  #: Number of parameters of the model.
    #: Whether the weights of the model can be downloaded: "open" or "closed".
    weights: Literal["", "open", "closed"] = ""
    year: int | None = Field(default=None, ge=1950, le=2100)  #: Year in which the model or the run was published.
    tokens: int | None = Field(default=None, ge=0)  #: Total number of prompt and completion tokens.
    seconds: float | None = Field(default=None, ge=0)  #: Total time in seconds.
    cost: float | None = Field(default=None, ge=0)  #: Total cost in US dollars.
    #: Number of queries over which tokens, seconds and cost are summed; if omitted, all queries of the run file.
    queries: int | None = Field(default=None, ge=1)
    reference: str = ""  #: Reference: a URL or a paper.
    source: str = ""  #: Where the run file comes from: a URL or a description.
    #: Licence of the run file, as its source states it. If omitted, the board says "licence not stated".
    licence: str = ""
    note: str = ""  #: Note for readers.
    sha256: str = Field(default="", pattern="^([0-9a-f]{64})?$")  #: Hex SHA-256 of the bytes of the run file.

    def with_defaults(self, other: Card) -> Self:
        """Return a copy of this card in which omitted values are taken from ``other``."""
        values = {key: getattr(other, key) for key in other.model_fields_set - self.model_fields_set}
        return self.model_copy(update=values)

    def with_name(self, name: str) -> Self:
        return self if self.name else self.model_copy(update={"name": name})


def read_card(path: str | Path) -> Card:
    """Read a card from a TOML file."""
    card, problems = parse_card(read_toml_file(path, "card"))
    if problems:
        raise DataError(
            f"The card {str(path)!r} is invalid: {'; '.join(problems)}",
            remedy="Correct the card and check it with `rerank leaderboard check`",
        )
    return card


def parse_card(values: Mapping[str, Any]) -> tuple[Card, list[str]]:
    """Return a card with the valid values, and one message per invalid key or value."""
    problems = [str(UnknownNameError("key", key, Card.model_fields)) for key in values if key not in Card.model_fields]
    known = {key: value for key, value in values.items() if key in Card.model_fields}
    try:
        return Card(**known), problems
    except ValidationError as error:
        for fault in error.errors():
            name = str(fault["loc"][0])
            expected = describe_pydantic_error(fault)
            if name == "sha256":
                expected = "should be 64 lowercase hexadecimal digits"
            problems.append(f"{name} = {fault['input']!r:.60}: {expected}")
            known.pop(name, None)
    return Card(**known), problems


_ENDS = (".trec", ".run", ".txt", ".jsonl", ".json", ".tsv")


def stem_of_run(path: Path) -> str:
    """Return the name of a run file without its suffixes."""
    name = path.name.removesuffix(".gz")
    return next((name.removesuffix(end) for end in _ENDS if name.endswith(end)), name)


class CardIndex:
    """Index of cards by run file, by ``run`` key or stem, beside the runs and in a separate ``folder`` of cards."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._named = cache(_named_runs)

    def find(self, run: Path) -> Card:
        """Return the card of a run file, or an empty card.

        In the separate folder of cards, the ``run`` key may be the name of the run file without its folder.
        """
        for folder in (self._folder, run.parent):
            if folder is None or not folder.is_dir():
                continue
            claims = self._named(folder)
            is_separate = folder.resolve() != run.parent.resolve()
            cards = [
                card
                for card, name in claims.items()
                if (card.parent / name).resolve() == run.resolve() or (is_separate and name == run.name)
            ]
            if len(cards) > 1:
                listed = ", ".join(repr(str(card)) for card in cards)
                raise DataError(
                    f"{len(cards)} cards name the run file {str(run)!r}: {listed}",
                    expected="one card per run",
                    remedy="Keep one of these cards, and remove the others or correct their run key",
                )
            own = folder / f"{stem_of_run(run)}.toml"
            if not cards and own.is_file():
                if own not in claims:
                    cards = [own]
                elif not is_separate and not (folder / claims[own]).is_file():
                    raise DataError(
                        f"The card {str(own)!r} names the run file {claims[own]!r}, which does not exist",
                        expected=f"no run key, or {run.name}, the run file with the same stem and folder",
                    )
            if cards:
                return read_card(cards[0])
        return Card()


def _named_runs(folder: Path) -> dict[Path, str]:
    """Return a mapping from card path to ``run`` key, for the cards in a folder that have this key."""
    names = {}
    for path in sorted(path for path in folder.glob("*.toml") if path.is_file()):
        try:
            names[path] = read_toml_file(path, "file").get("run")
        except DataError as error:  # the error is raised again if a run file has the same stem
            warnings.warn(f"{error.found}, so the file is not used as a card", stacklevel=2)
    return {path: run for path, run in names.items() if isinstance(run, str) and run}

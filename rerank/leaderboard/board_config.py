"""Cards of runs and configurations of boards (TOML files or command-line options).

A card has metadata of a run that a run file cannot contain. An omitted value is unknown, not zero. A configuration has
the collection of a board, its measures, significance test and runs:

    title = "TREC Deep Learning 2019, passages"
    qrels = "qrels/qrels.dl19-passage.txt"
    measures = ["nDCG@10"]
    cards = "cards"

    [[runs]]
    files = "runs/official/*.gz"
    group = "official"

Paths are relative to the data folder; the folder of cards is relative to the TOML file.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rerank.errors import DataError, MissingResourceError, UnknownNameError, describe_pydantic_error, error_repr
from rerank.evaluation import ComparisonOptions
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


class RunSelection(Card):
    """A selection of run files, with metadata that apply to all of them. Cards override these metadata."""

    files: str  #: Glob pattern, such as ``runs/*.gz``; ``**`` matches folders at any depth.

    def paths(self, data: Path) -> list[Path]:
        try:
            paths = sorted(path for path in data.glob(self.files) if not path.name.startswith("."))
        except (ValueError, NotImplementedError) as error:
            raise DataError(
                f"files = {error_repr(self.files)} is not a valid pattern: {error}",
                expected="a relative glob pattern, as in runs/*.gz",
            ) from error
        if not paths:
            raise MissingResourceError(
                f"No run matches {self.files!r} in {str(data)!r}", remedy="Pass the data folder with --data"
            )
        return paths

    @property
    def defaults(self) -> Card:
        return Card(**self.model_dump(exclude={"files"}, exclude_unset=True))


class PublishedTable(BaseModel):
    """Published scores of other rerankers. They were not measured here, so they are shown in a separate table."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    #: Source of the figures: a table of a paper, or a file of a repository and its version.
    table: str = Field(min_length=1)
    measured_by: str = Field(min_length=1)  #: Authors who measured the figures.
    measure: str = Field(min_length=1)  #: Name of the measure in the source.
    #: First stage of the candidates; "not stated" if the source does not name it.
    first_stage: str = Field(min_length=1)
    #: Number of candidates per query; if omitted, the source does not state it.
    depth: int | None = Field(default=None, ge=1)
    url: str = ""  #: Address of the source.
    figures: dict[str, float] = Field(min_length=1)  #: Mapping from the name of each reranker to its figure.


class BoardConfig(BaseModel):
    """Configuration of a leaderboard: its collection, judgments, measures, significance test and runs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str  #: Title of the collection on the page.
    collection: str = ""  #: Id of the collection, such as ``msmarco-passage/trec-dl-2019``.
    category: str = ""  #: Type of search, such as "web search". Boards can be filtered by it on the page.
    language: str = ""  #: One or several ISO 639 codes. Boards can be filtered by language on the page.
    #: Relevance judgments: a file or the selector of a collection. Optional for a board of recorded scores only.
    qrels: str = ""
    scores: str = ""  #: File of recorded scores of runs (`rerank.leaderboard.entries`), relative to the board file.
    queries: str = ""  #: Query texts: a topic file or the selector of a collection.
    #: Selector of the collection whose document texts are shown; if omitted, only document ids are shown.
    texts: str = ""
    #: Measures. Each measure has its own table; the table of the first measure is shown first.
    measures: tuple[str, ...] = Field(default=("nDCG@10",), min_length=1)
    #: Lowest grade that binary measures count as relevant; if omitted, the collection's lowest relevant grade, or 1.
    relevant: int | None = Field(default=None, ge=1)
    test: str = "t"  #: Selector of the significance test.
    correction: str = "auto"  #: Correction for multiple comparisons over all pairs.
    alpha: float = Field(default=0.05, gt=0, lt=1)  #: Significance level after the correction.
    #: Name of a run with which all other runs are compared, with the same test and correction; empty for none.
    baseline: str = ""
    cards: str = ""  #: Folder of cards. A card has the same file stem as its run file.
    runs: tuple[RunSelection, ...] = ()  #: Selections of the run files and run folders on the board.
    published: tuple[PublishedTable, ...] = ()  #: Tables of figures that others published, which are shown separately.

    @model_validator(mode="after")
    def _has_judgments_or_scores(self) -> Self:
        if not self.qrels and not self.scores:
            raise ValueError("neither qrels nor recorded scores are given")
        return self

    @property
    def comparison_options(self) -> ComparisonOptions:
        return ComparisonOptions(test=self.test, correction=self.correction, alpha=self.alpha)


def read_board_config(path: str | Path) -> BoardConfig:
    """Read a board's TOML file."""
    values = read_toml_file(path, "board")
    problems = [
        str(UnknownNameError("key", key, BoardConfig.model_fields))
        for key in values
        if key not in BoardConfig.model_fields
    ]
    for name, model in (("runs", RunSelection), ("published", PublishedTable)):
        rows = values.get(name, ())
        problems += [
            f"[[{name}]] {UnknownNameError('key', key, model.model_fields)}"
            for row in (rows if isinstance(rows, list) else ())
            if isinstance(row, dict)
            for key in row
            if key not in model.model_fields
        ]
    try:
        plan = BoardConfig(**{key: value for key, value in values.items() if key in BoardConfig.model_fields})
    except ValidationError as error:
        problems += [
            f"{'.'.join(map(str, fault['loc'])) or 'its keys'}: {describe_pydantic_error(fault)}"
            for fault in error.errors()
            if fault["type"] != "extra_forbidden"
        ]
    if problems:
        raise DataError(
            f"The board {str(path)!r} is invalid: {'; '.join(problems)}", expected="the keys in docs/leaderboard.md"
        )
    return plan

"""Configuration of a board (TOML file or command-line options): collection, measures, significance test and runs.

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

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rerank.errors import DataError, MissingResourceError, UnknownNameError, describe_pydantic_error, error_repr
from rerank.evaluation import ComparisonOptions
from rerank.io.settings_files import read_toml_file
from rerank.leaderboard.card import Card


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

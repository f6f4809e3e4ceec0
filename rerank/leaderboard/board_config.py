"""What a board is made of, as a TOML file or as flags say it: a collection, measures, a test, and which runs.

    title = "TREC Deep Learning 2019, passages"
    qrels = "qrels/qrels.dl19-passage.txt"
    measures = ["nDCG@10"]
    cards = "cards"

    [[runs]]
    files = "runs/official/*.gz"
    group = "official"

Paths are seen from the folder of the data; that of the cards from the file. Reads no run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rerank.errors import DataError, MissingResourceError, UnknownNameError, describe_fault
from rerank.io.text_files import read_toml
from rerank.leaderboard.card import Card


class RunSelection(Card):
    """Run files and what holds for all of them where no card says otherwise."""

    files: str
    """A pattern, such as ``runs/*.gz``; ``**`` stands for folders however deep."""

    def paths(self, data: Path) -> list[Path]:
        """The files and run folders.

        Raises:
            MissingResourceError: There is none.
        """
        found = sorted(path for path in data.glob(self.files) if not path.name.startswith("."))
        if not found:
            raise MissingResourceError(
                f"No run matches {self.files!r} in {str(data)!r}", remedy="Name the folder of the data with --data"
            )
        return found

    @property
    def defaults(self) -> Card:
        """Its card alone."""
        return Card(**self.model_dump(exclude={"files"}, exclude_unset=True))


class BoardConfig(BaseModel):
    """A board before its runs are read."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    title: str
    """What the collection is called on the page."""
    collection: str = ""
    """Its id, such as ``msmarco-passage/trec-dl-2019``."""
    category: str = ""
    """What kind of search, such as "web search"; boards are filtered by it."""
    language: str = ""
    """ISO 639 code, or several; boards are filtered by it."""
    qrels: str
    """Judgments: a file, or a collection's selector."""
    queries: str = ""
    """Texts of the queries: a file of topics, or a collection's selector."""
    texts: str = ""
    """Selector of the collection whose documents are shown; only ids if left out."""
    measures: tuple[str, ...] = Field(default=("nDCG@10",), min_length=1)
    """Each gets a table of its own; the first is shown first."""
    relevant: int | None = Field(default=None, ge=1)
    """Lowest grade that binary measures count as relevant; the collection's own, or 1, if left out."""
    test: str = "t"
    """Selector of the test of significance."""
    correction: str = "auto"
    """Its correction over all pairs."""
    alpha: float = Field(default=0.05, gt=0, lt=1)
    """The level, after the correction."""
    cards: str = ""
    """Folder of cards that are named as the run files."""
    runs: tuple[RunSelection, ...] = ()
    """Which runs."""


def read_board_config(path: str | Path) -> BoardConfig:
    """Read a board's TOML file.

    Raises:
        MissingResourceError: It is not there.
        DataError: It is no TOML, or a key or value is wrong; names every fault.
    """
    values = read_toml(path, "board")
    problems = list(_unknown(values))
    try:
        plan = BoardConfig(**{key: value for key, value in values.items() if key in BoardConfig.model_fields})
    except ValidationError as error:
        problems += [
            f"{'.'.join(map(str, fault['loc']))}: {describe_fault(fault)}"
            for fault in error.errors()
            if fault["type"] != "extra_forbidden"
        ]
    if problems:
        raise DataError(f"The board {str(path)!r}: {'; '.join(problems)}", expected="the keys in docs/leaderboard.md")
    return plan


def _unknown(values: dict[str, Any]) -> list[str]:
    found = [
        str(UnknownNameError("key", key, BoardConfig.model_fields))
        for key in values
        if key not in BoardConfig.model_fields
    ]
    rows = values.get("runs", ())
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, dict):
            found += [
                f"[[runs]] {UnknownNameError('key', key, RunSelection.model_fields)}"
                for key in row
                if key not in RunSelection.model_fields
            ]
    return found

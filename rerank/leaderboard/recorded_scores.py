"""Recorded scores of a board: cards and per-topic scores in one JSON file, without document ids, texts or lists.

A board is published from such a file if its runs cannot be redistributed. `table_exports.board_as_recorded_scores`
writes the file, and a board built from it has the same tables as the board of the runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from rerank.errors import DataError, MissingResourceError, describe_pydantic_error
from rerank.leaderboard.card import Card
from rerank.types import Qrels, Run

FORMAT = "listrank board scores 1"


class RecordedRun(BaseModel):
    """The card and the scores of one run whose ranked lists are not published."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    card: Card
    """Metadata of the run, with the number of queries to which tokens, seconds and cost refer."""
    lists: str
    """Digest of the lists (`digest_ranked_lists`), by which runs with identical lists are recognised."""
    missing: tuple[str, ...] = ()
    """Judged topics for which the run has no list; they score 0."""
    judged: dict[str, float]
    """Mapping from measure to the mean fraction of judged documents within the cutoff of the measure."""
    scores: dict[str, tuple[float, ...]]
    """Mapping from measure to one score per topic, in the order of the topics of the file."""


class RecordedScores(BaseModel):
    """The recorded scores of a board: the content of its JSON file, with one `RecordedRun` per run."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    format: Literal["listrank board scores 1"]
    """Name and version of the format."""
    topics: tuple[str, ...]
    """Ids of the judged topics."""
    relevant: int
    """Lowest grade that binary measures count as relevant."""
    qrels: str
    """Digest of the judgments (`digest_judgments`); runs added to the board need judgments with this digest."""
    notes: tuple[str, ...] = ()
    """Notes on the ranked lists, which cannot be checked without these lists."""
    runs: tuple[RecordedRun, ...]
    """The cards and scores of the runs."""

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        measures = self.runs[0].scores.keys() if self.runs else set()
        for run in self.runs:
            if run.scores.keys() != measures:
                raise ValueError(f"run {run.card.name!r} has other measures than the first run")
            if any(len(row) != len(self.topics) for row in run.scores.values()):
                raise ValueError(f"run {run.card.name!r} should have {len(self.topics)} scores per measure")
        return self


def read_recorded_scores(path: Path) -> RecordedScores:
    """Read a file of recorded scores."""
    remedy = "Create the file again with eval/leaderboard/record_scores.py"
    try:
        return RecordedScores.model_validate_json(path.read_bytes())
    except OSError as error:
        raise MissingResourceError(f"The file of scores {str(path)!r} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        problem = f"{where}: {describe_pydantic_error(fault)}" if where else describe_pydantic_error(fault)
        raise DataError(
            f"The file of scores {str(path)!r} is invalid: {problem}", expected=FORMAT, remedy=remedy
        ) from error


def digest_ranked_lists(run: Run) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of the ordered document ids of all queries."""
    return _digest({query: ranking.doc_ids for query, ranking in run.items() if len(ranking)})


def digest_judgments(qrels: Qrels) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of all judgments."""
    return _digest({query: sorted(grades.items()) for query, grades in qrels.items()})


def _digest(content: Mapping[str, object]) -> str:
    return hashlib.sha256(repr(sorted(content.items())).encode("utf-8", "surrogatepass")).hexdigest()[:16]

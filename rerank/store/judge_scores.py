"""The file ``judge_scores.jsonl`` of a run folder: the judge's scores of the documents, one line per query.

    {"query": "q1", "kind": "log-odds", "scores": {"d1": -0.25, "d2": null}}

The kind is the name of the type of scores. If the judge returned no scores for a query, the kind and the scores are
empty. A score is null if the judge returned no score for the document, for example because its window failed. Older run
folders do not contain the file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rerank.errors import DataError, error_repr
from rerank.io.json_records import parse_json
from rerank.io.text_files import open_text_file, replace_text_file

_LINE = '{"query": ID, "kind": TEXT, "scores": {DOCUMENT: NUMBER or null}}'


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeScores:
    """The scores of a judge for one query.

    Attributes:
        query: Id of the query.
        kind: Type of the scores, such as ``log-odds``; empty if there are no scores.
        scores: Mapping from document id to score, or to None for a document without a score. Larger scores mean more
            relevant.
    """

    query: str
    kind: str = ""
    scores: Mapping[str, float | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the kind and the scores."""
        if self.scores and not self.kind:
            raise DataError(f"The judge scores of query {self.query!r} have no kind", expected="a name like log-odds")
        for doc, score in self.scores.items():
            if score is not None and not math.isfinite(score):
                raise DataError(
                    f"The judge score of document {doc!r} in query {self.query!r} is {score}",
                    expected="a finite number, or null for no score",
                )


def write_run_folder_judge_scores(path: str | Path, rows: Iterable[JudgeScores]) -> None:
    """Write the scores of all queries; the file is replaced atomically.

    Args:
        path: The file, ``judge_scores.jsonl`` in a run folder.
        rows: The scores of each query.
    """
    with open_run_folder_judge_scores(path) as write:
        for row in rows:
            write(row)


@contextmanager
def open_run_folder_judge_scores(path: str | Path) -> Generator[Callable[[JudgeScores], None]]:
    """Open the file for writing scores one query at a time; it is replaced if the block ends without an error.

    Yields:
        A function that writes the scores of one query.
    """
    with replace_text_file(path) as file:

        def write(row: JudgeScores) -> None:
            content = {"query": row.query, "kind": row.kind, "scores": dict(row.scores)}
            file.write(json.dumps(content, ensure_ascii=False) + "\n")

        yield write


def read_judge_scores(path: str | Path) -> dict[str, JudgeScores]:
    """Read the scores of all queries.

    Args:
        path: The file, ``judge_scores.jsonl`` in a run folder.

    Returns:
        A mapping from query id to scores; empty if the file does not exist, as in older run folders.
    """
    if not Path(path).is_file():
        return {}
    table: dict[str, JudgeScores] = {}
    with open_text_file(Path(path)) as file:
        for number, line in enumerate(file, 1):
            where = f"{path}:{number}"
            row = _parse_run_folder_score_line(line, where)
            if row.query in table:
                raise DataError(f"{where}: duplicate query {row.query!r}", expected="each query once")
            table[row.query] = row
    return table


def _parse_run_folder_score_line(line: str, where: str) -> JudgeScores:
    row = parse_json(line, where)
    if not isinstance(row, dict):
        raise DataError(f"{where}: the line contains {error_repr(row)}", expected=_LINE)
    query, kind, scores = row.get("query"), row.get("kind", ""), row.get("scores", {})
    if not isinstance(query, str) or not isinstance(kind, str) or not isinstance(scores, dict):
        raise DataError(f"{where}: the line contains {error_repr(row)}", expected=_LINE)
    for doc, score in scores.items():
        if score is not None and (isinstance(score, bool) or not isinstance(score, (int, float))):
            raise DataError(f"{where}: the score of {doc!r} is {error_repr(score)}", expected="a number or null")
    try:
        return JudgeScores(query=query, kind=kind, scores=scores)
    except DataError as error:
        raise DataError(f"{where}: {error.found}", expected=error.expected) from error

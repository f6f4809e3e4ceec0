"""Check of a submission (a card and a run file), line by line, since the normal reader stops at the first problem."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rerank.errors import DataError, MissingResourceError, RerankError, error_repr
from rerank.io.file_hashes import file_hash
from rerank.io.run_files import split_columns
from rerank.io.settings_files import read_toml_file
from rerank.io.text_files import open_text_file
from rerank.leaderboard.board_config import Card, parse_card, stem_of_run
from rerank.types import Qrels, ranking_score_to_float32

SHOWN = 5  #: Maximum number of problems of one type that are listed. Further problems are only counted.


@dataclass(kw_only=True)
class SubmissionReport:
    """The result of checking a submission."""

    card: Path
    run: Path | None = None  #: Path of the run file; None if it was not found.
    sha256: str = ""  #: SHA-256 of the run file; empty if the file was not found.
    queries: int = 0  #: Number of queries in the run.
    problems: list[str] = field(default_factory=list)  #: Problems that must be corrected.
    notes: list[str] = field(default_factory=list)  #: Notes on values that may be mistakes.

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object that ``rerank leaderboard check --format json`` prints."""
        return {
            "card": str(self.card),
            "run": None if self.run is None else str(self.run),
            "ok": not self.problems,
            "sha256": self.sha256,
            "queries": self.queries,
            "problems": self.problems,
            "notes": self.notes,
        }


def check_submission(card: Path, qrels: Qrels) -> SubmissionReport:
    """Check a card and its run file: the file named in the card, or the file next to the card with the same stem."""
    report = SubmissionReport(card=card)
    values = read_toml_file(card, "card")
    read, report.problems = parse_card(values)
    required = {
        "name": "name on the leaderboard",
        "first_stage": "first stage that retrieved the candidates",
        "depth": "number of candidates per query",
        "sha256": "hash of the run file",
    }
    absent = [key for key in required if values.get(key) in (None, "")]
    report.problems += [f"The card has no {key}: {required[key]}." for key in absent]
    report.run = _run_file(card, values.get("run"), report.problems)
    if report.run is not None:
        try:
            _check_run(report, report.run, read, qrels)
        except (DataError, MissingResourceError) as error:
            report.problems.append(str(error))
    return report


def _run_file(card: Path, named: object, problems: list[str]) -> Path | None:
    if isinstance(named, str) and named:
        path = card.parent / named
        if path.is_file():
            return path
        problems.append(f"The card names the run file {named!r}, but {str(path)!r} does not exist.")
        return None
    beside = [p for p in sorted(card.parent.iterdir()) if p.is_file() and p != card and stem_of_run(p) == card.stem]
    if len(beside) == 1:
        return beside[0]
    problems.append(
        f"Several files could be the run file ({', '.join(p.name for p in beside)}): set run to one of them."
        if beside
        else f"There is no run file {card.stem}.trec or {card.stem}.run.gz next to the card: set run to its path."
    )
    return None


def _check_run(report: SubmissionReport, run: Path, card: Card, qrels: Qrels) -> None:
    report.sha256 = file_hash(run)
    if card.sha256 and card.sha256 != report.sha256:
        report.problems.append(f"The run file's SHA-256 is {report.sha256}, but the card contains another hash.")
    elif not card.sha256:
        report.notes.append(f'For the card: sha256 = "{report.sha256}"')
    lists = _Lists()
    with open_text_file(run) as text:
        for number, line in enumerate(text, 1):
            lists.add(number, split_columns(line))
    report.queries = len(lists.scores)
    for faults in lists.faults.values():
        report.problems += _first_problems(faults)
    if not lists.scores:
        report.problems.append("The run file has no valid lines.")
        return
    unknown = [
        f"Query {query!r} is not among the topics of {qrels.name}." for query in lists.scores if query not in qrels
    ]
    deep = [
        f"Query {query!r} has {len(docs)} documents, but the card declares depth {card.depth}."
        for query, docs in lists.scores.items()
        if card.depth is not None and len(docs) > card.depth
    ]
    report.problems += [*_first_problems(unknown), *_first_problems(deep)]
    if missing := [query for query in qrels if query not in lists.scores]:
        report.notes.append(
            f"{len(missing)} of {len(qrels)} judged queries have no list and score 0, such as {missing[0]!r}."
        )
    if disordered := list(lists.disordered()):
        report.notes.append(
            f"For {len(disordered)} queries, such as {disordered[0]!r}, the rank column contradicts the scores "
            "(with ties by descending document id). The scores determine the order."
        )
    deepest = max(map(len, lists.scores.values()))
    if card.depth is not None and deepest < card.depth:
        report.notes.append(f"The longest list has {deepest} documents, but the card declares depth {card.depth}.")
    if len(lists.tags) > 1:
        report.notes.append(
            f"The lines have {len(lists.tags)} different tags: {', '.join(map(repr, list(lists.tags)[:SHOWN]))}."
        )


@dataclass
class _Lists:
    """A submitted run that is parsed line by line: scores per query and document, and the problems found in it."""

    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    ranks: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    faults: dict[str, list[str]] = field(default_factory=dict)
    tags: Counter[str] = field(default_factory=Counter)

    def add(self, number: int, columns: list[str]) -> None:
        if not columns:
            return
        if len(columns) != 6:
            self._fault("columns", f"line {number}: {len(columns)} columns, not 6 (query Q0 document rank score tag)")
            return
        query, _, doc, rank, text, tag = columns
        self.tags[tag] += 1
        try:
            score = float(text) if "_" not in text else math.nan
        except ValueError:
            score = math.nan
        if not math.isfinite(score):
            self._fault("scores", f"line {number}: score {error_repr(text)} of document {doc!r} is not a finite number")
            score = -math.inf
        known = self.scores.setdefault(query, {})
        if doc in known:
            self._fault("twice", f"line {number}: document {doc!r} occurs twice for query {query!r}")
            return
        known[doc] = ranking_score_to_float32(score)
        self.ranks.setdefault(query, []).append((rank, doc))

    def disordered(self) -> Iterator[str]:
        """Yield the ids of queries for which the order of the rank column differs from the order of the scores."""
        for query, ranked in self.ranks.items():
            if all(rank.isdecimal() for rank, _ in ranked):
                by_rank = [doc for _, doc in sorted(ranked, key=lambda pair: int(pair[0]))]
                scores = self.scores[query]
                if by_rank != sorted(scores, key=lambda doc: (scores[doc], doc), reverse=True):
                    yield query

    def _fault(self, kind: str, text: str) -> None:
        self.faults.setdefault(kind, []).append(text)


def _first_problems(faults: list[str]) -> list[str]:
    more = len(faults) - SHOWN
    return [*faults[:SHOWN], *([f"... and {more} more of this type."] if more > 0 else [])]


def submission_error(report: SubmissionReport) -> RerankError:
    """Return the error with the number of problems of a submission; the report lists them."""
    many = len(report.problems)
    return DataError(
        f"The card {str(report.card)!r} cannot be accepted: {many} problem{'s' * (many != 1)}",
        remedy="Correct the listed problems and check the card again",
    )

"""Whether a submission can go on a board: its card and its run file, with everything that is wrong said at once.

Reads TREC's form line by line, since a reader that stops at the first fault would hide the others. Ranks nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rerank.errors import DataError, MissingResourceError, RerankError, shorten
from rerank.io.file_hashes import file_hash
from rerank.io.text_files import open_text, read_toml
from rerank.leaderboard.card import Card, parse_card, run_stem
from rerank.types import Qrels, to_float32

#: Faults of one kind that are told one by one; the rest is counted.
SHOWN = 5


@dataclass(kw_only=True)
class SubmissionReport:
    """What a check found.

    Attributes:
        card: The card's file.
        run: The run file; None if there is none.
        sha256: Of the run file; empty if there is none.
        queries: How many queries it answers.
        problems: What must be put right.
        notes: What is allowed and may not be meant.
    """

    card: Path
    run: Path | None = None
    sha256: str = ""
    queries: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """What ``rerank leaderboard check --format json`` prints."""
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
    """Check a card and the run file that it names, or that stands beside it under its name.

    Raises:
        MissingResourceError: The card is not there.
        DataError: The card is no TOML at all.
    """
    found = SubmissionReport(card=card)
    values = read_toml(card, "card")
    read, found.problems = parse_card(values)
    found.problems += _left_out(values)
    found.run = _run_file(card, values.get("run"), found.problems)
    if found.run is not None:
        try:
            _check_run(found, read, qrels)
        except (DataError, MissingResourceError) as error:
            found.problems.append(str(error))
    return found


def _left_out(values: dict[str, Any]) -> list[str]:
    wanted = {
        "name": "what the board calls the run",
        "first_stage": "who found the candidates",
        "depth": "how many candidates a query had",
        "sha256": "the hash of the run file",
    }
    return [f"The card has no {key}: {meaning}." for key, meaning in wanted.items() if values.get(key) in (None, "")]


def _run_file(card: Path, named: object, problems: list[str]) -> Path | None:
    if isinstance(named, str) and named:
        path = card.parent / named
        if path.is_file():
            return path
        problems.append(f"The card names the run file {named!r}, and {str(path)!r} is not there.")
        return None
    beside = [p for p in sorted(card.parent.iterdir()) if p.is_file() and p != card and run_stem(p) == card.stem]
    if len(beside) == 1:
        return beside[0]
    problems.append(
        f"Beside the card there are {', '.join(p.name for p in beside)}: say which in run."
        if beside
        else f"There is no run file {card.stem}.trec or {card.stem}.run.gz beside the card: name it in run."
    )
    return None


def _check_run(found: SubmissionReport, card: Card, qrels: Qrels) -> None:
    assert found.run is not None  # only asked where there is one
    found.sha256 = file_hash(found.run)
    if card.sha256 and card.sha256 != found.sha256:
        found.problems.append(f"The run file's SHA-256 is {found.sha256}, not that of the card.")
    elif not card.sha256:
        found.notes.append(f'For the card: sha256 = "{found.sha256}"')
    lists = _Lists()
    with open_text(found.run) as text:
        for number, line in enumerate(text, 1):
            lists.add(number, line.split())
    found.queries = len(lists.scores)
    found.problems += lists.problems()
    if not lists.scores:
        found.problems.append("The run file has no line that could be read.")
        return
    found.problems += _against(lists, card, qrels)
    found.notes += _remarks(lists, card, qrels)


@dataclass
class _Lists:
    """A run as it is read line by line: query -> document -> score, and what was wrong on the way."""

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
            self._fault("scores", f"line {number}: score {shorten(text)} of document {doc!r} is no finite number")
            score = -math.inf
        known = self.scores.setdefault(query, {})
        if doc in known:
            self._fault("twice", f"line {number}: document {doc!r} stands twice in query {query!r}")
            return
        known[doc] = to_float32(score)
        self.ranks.setdefault(query, []).append((rank, doc))

    def problems(self) -> list[str]:
        return [line for faults in self.faults.values() for line in _first(faults)]

    def disordered(self) -> Iterator[str]:
        """Queries whose rank column and scores give two orders."""
        for query, ranked in self.ranks.items():
            if all(rank.isdecimal() for rank, _ in ranked):
                by_rank = [doc for _, doc in sorted(ranked, key=lambda pair: int(pair[0]))]
                found = self.scores[query]
                if by_rank != sorted(found, key=lambda doc: (found[doc], doc), reverse=True):
                    yield query

    def _fault(self, kind: str, text: str) -> None:
        self.faults.setdefault(kind, []).append(text)


def _against(lists: _Lists, card: Card, qrels: Qrels) -> list[str]:
    """What does not go with the judgments and the card."""
    strange = [
        f"Query {query!r} is not among the topics of {qrels.name}." for query in lists.scores if query not in qrels
    ]
    deep = [
        f"Query {query!r} has {len(docs)} documents, and the card says depth {card.depth}."
        for query, docs in lists.scores.items()
        if card.depth is not None and len(docs) > card.depth
    ]
    return [*_first(strange), *_first(deep)]


def _remarks(lists: _Lists, card: Card, qrels: Qrels) -> list[str]:
    notes = []
    missing = [query for query in qrels if query not in lists.scores]
    if missing:
        notes.append(
            f"{len(missing)} of {len(qrels)} judged queries have no list and will count as 0, first {missing[0]!r}."
        )
    disordered = list(lists.disordered())
    if disordered:
        notes.append(
            f"In {len(disordered)} queries, first {disordered[0]!r}, the rank column has another order than the "
            "scores (ties by document id, descending). The scores count."
        )
    deepest = max(map(len, lists.scores.values()))
    if card.depth is not None and deepest < card.depth:
        notes.append(f"The longest list has {deepest} documents, and the card says depth {card.depth}.")
    if len(lists.tags) > 1:
        notes.append(f"The lines have {len(lists.tags)} tags: {', '.join(map(repr, list(lists.tags)[:SHOWN]))}.")
    return notes


def _first(faults: list[str]) -> list[str]:
    more = len(faults) - SHOWN
    return [*faults[:SHOWN], *([f"... and {more} more like this."] if more > 0 else [])]


def submission_error(found: SubmissionReport) -> RerankError:
    """The error that a check ends with where something is wrong."""
    many = len(found.problems)
    return DataError(
        f"{str(found.card)!r} cannot go on a board: {many} problem{'s' * (many != 1)}",
        remedy="Put them right and check again",
    )

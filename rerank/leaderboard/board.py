"""Leaderboards: the runs on one collection are evaluated, ranked and tested for significance."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rerank.collections import Collection, collections, open_collection, open_collection_qrels
from rerank.collections.trec import Trec
from rerank.errors import DataError
from rerank.evaluation import Scores, evaluate_runs, parse_measures
from rerank.evaluation.grade_notes import measure_grade_note
from rerank.evaluation.measures import check_measure_has_query_values
from rerank.leaderboard.board_config import BoardConfig
from rerank.leaderboard.collection_filter import BoardCollection, select_entries_of_board
from rerank.leaderboard.entries import Entry, find_board_entries
from rerank.leaderboard.first_stage_labels import label_board_first_stages
from rerank.leaderboard.first_stage_links import declared_board_first_stages, link_first_stages
from rerank.leaderboard.standings import Standings, rank_board_runs
from rerank.selector import Selector
from rerank.types import Document, Qrels, Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """The evaluated runs on one collection.

    Attributes:
        key: Name of the board in URLs and file names: lowercase letters, digits and dashes.
        plan: Configuration of the board.
        qrels: The relevance judgments.
        relevant: The lowest grade that binary measures count as relevant.
        queries: Query id -> text, for queries whose text is known.
        docs: Document id -> document; empty unless the configuration names a collection with texts.
        entries: The runs.
        before: Index of the run that each run reranked; None if it is not on the board.
        scores: The scores of every run.
        tables: One table per measure.
        notes: Notes for readers that apply to all measures.
    """

    key: str
    plan: BoardConfig
    qrels: Qrels
    relevant: int
    queries: Mapping[str, str]
    docs: Mapping[str, Document]
    entries: tuple[Entry, ...]
    before: tuple[int | None, ...]
    scores: tuple[Scores, ...]
    tables: tuple[Standings, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object that ``rerank leaderboard build --format json`` prints for this board."""
        return {
            "board": self.key,
            "title": self.plan.title,
            "queries": len(self.qrels),
            "runs": len(self.entries),
            "tables": [
                {
                    "measure": table.measure,
                    "pairs": table.pairs,
                    "significant": table.significant,
                    "tied": [self.entries[index].name for index in table.order if table.runs[index].tied],
                    "baseline": self.plan.baseline or None,
                    "marks": {self.entries[i].name: table.runs[i].mark for i in table.order if table.runs[i].mark},
                    "means": {self.entries[index].name: round(table.runs[index].mean, 6) for index in table.order},
                }
                for table in self.tables
            ],
            "notes": list(self.notes),
        }


def make_board(plan: BoardConfig, *, home: Path, data: Path | None = None, runs: Sequence[Path] = ()) -> Board:
    """Read, evaluate and test the runs of a board.

    Args:
        plan: Configuration of the board.
        home: Folder that contains the folder of cards.
        data: Folder to which all other paths are relative; ``home`` if omitted.
        runs: Paths of additional runs.

    Raises:
        UsageError: A measure has no per-query values.
        DataError: There are no runs, or a file, card or value is invalid.
        MissingResourceError: A file does not exist.
    """
    for measure in (names := [str(m) for m in parse_measures(plan.measures, relevant=plan.relevant or 1)]):
        check_measure_has_query_values(measure)
    base = data or home
    entries, notes = _read_board_entries(plan, home, base, runs)
    qrels, lowest = open_collection_qrels(_resolve_board_path(plan.qrels, base))
    opened = _open_board_queries(plan, base)
    texts = {query.id: query.text for query in opened.queries()} if opened else {}
    entries, others = select_entries_of_board(entries, _board_collection(plan, base, qrels, texts, entries))
    entries, split = label_board_first_stages(entries)
    notes = [*others, *split, *notes]
    if not entries:
        raise DataError(
            " ".join(notes) or f"The board {plan.title!r} has no runs", expected="at least one finished run"
        )
    ranked = link_first_stages(entries)
    named = [Run(entry.run.values(), name=entry.name) for entry in ranked.entries]
    relevant = plan.relevant or lowest
    scores = tuple(evaluate_runs(qrels, named, plan.measures, relevant=relevant))
    names = [str(m) for m in parse_measures(plan.measures, relevant=relevant)]
    note = measure_grade_note(qrels, names)
    return Board(
        key=_board_entry_key(plan.title),
        plan=plan,
        qrels=qrels,
        relevant=relevant,
        queries={query: text for entry in ranked.entries for query, text in entry.queries.items()} | texts,
        docs=_board_documents(plan, base, ranked.entries, qrels),
        entries=ranked.entries,
        before=ranked.before,
        scores=scores,
        tables=tuple(
            rank_board_runs(scores, name, options=plan.comparison_options, baseline=plan.baseline) for name in names
        ),
        notes=(*_first_stage_note_of_board(ranked.entries), *ranked.notes, *notes, *([note] if note else [])),
    )


def _read_board_entries(
    plan: BoardConfig, home: Path, base: Path, runs: Sequence[Path]
) -> tuple[list[Entry], list[str]]:
    cards = home / plan.cards if plan.cards else None
    entries: list[Entry] = []
    notes: list[str] = []
    for selection in plan.runs:
        new, new_notes = find_board_entries(selection.paths(base), defaults=selection.defaults, cards=cards)
        entries, notes = entries + new, notes + new_notes
    new, new_notes = find_board_entries(runs, cards=cards) if runs else ([], [])
    entries, notes = entries + new, notes + new_notes
    seen: dict[str, Entry] = {}
    for entry in entries:
        if entry.name in seen:
            raise DataError(
                f"Two runs have the name {entry.name!r}: {seen[entry.name].source} and {entry.source}",
                remedy="Set different names in their cards",
            )
        seen[entry.name] = entry
    return entries, notes


def _first_stage_note_of_board(entries: Sequence[Entry]) -> list[str]:
    stages = declared_board_first_stages(entries)
    if len(stages) < 2:
        return []
    unknown = sum(not entry.card.first_stage for entry in entries)
    more = f" (unknown for {unknown} runs)" if unknown else ""
    return [
        f"The runs use {len(stages)} different first stages{more}. Differences between runs with different first "
        "stages are differences between whole systems; filter by first stage to compare rerankers."
    ]


def _resolve_board_path(text: str, base: Path) -> str:
    """Return ``base / text`` if this path exists; otherwise return the text unchanged, because it is a selector."""
    return str(base / text) if (base / text).exists() else text


def _names_board_collection(text: str) -> bool:
    return not Path(text).exists() and Selector.parse(text).name in collections.names()


def _open_board_queries(plan: BoardConfig, base: Path) -> Collection | None:
    """Open the collection that contains the query texts: the configured one, or the collection of the judgments."""
    source = _resolve_board_path(plan.queries or plan.qrels, base)
    if _names_board_collection(source):
        return open_collection(source)
    return Trec(topics=source) if plan.queries else None


def _board_collection(
    plan: BoardConfig, base: Path, qrels: Qrels, texts: Mapping[str, str], entries: Sequence[Entry]
) -> BoardCollection:
    """Return the collection of the board, which is used to recognise runs on other collections."""
    named = _resolve_board_path(plan.qrels, base)
    claims = [entry.origin for entry in entries if entry.origin and entry.origin.fingerprint]
    needed = any(
        named not in (origin.collection, origin.qrels) for origin in claims
    )  # computing the fingerprint may require reading all documents
    fingerprint = open_collection(named).fingerprint if needed and _names_board_collection(named) else ""
    return BoardCollection(named=named, qrels=qrels, fingerprint=fingerprint, queries=texts)


def _board_documents(plan: BoardConfig, base: Path, entries: Sequence[Entry], qrels: Qrels) -> dict[str, Document]:
    """Return the documents, from the configured collection, that any run ranks for a judged query."""
    if not plan.texts:
        return {}
    collection: Collection = open_collection(_resolve_board_selector(plan.texts, base))
    doc_ids = {doc for entry in entries for query, r in entry.run.items() if query in qrels for doc in r.doc_ids}
    lookup = getattr(collection, "lookup", None)
    if lookup is not None:
        return dict(lookup(doc_ids))
    return {doc.id: doc for doc in collection.docs() if doc.id in doc_ids}


def _resolve_board_selector(selector: str, base: Path) -> str:
    """Return the selector. If its argument is a path relative to the data folder, resolve the path."""
    name, colon, argument = selector.partition(":")
    return f"{name}{colon}{base / argument}" if argument and (base / argument).exists() else selector


def _board_entry_key(title: str) -> str:
    plain = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:40].strip("-")
    return plain or f"board-{hashlib.sha256(title.encode('utf-8', 'replace')).hexdigest()[:8]}"

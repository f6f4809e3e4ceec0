"""Leaderboards, which evaluate and rank the runs on one collection, and test their differences."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rerank.collections import Collection, collections, open_collection, open_collection_qrels
from rerank.collections.trec import Trec
from rerank.errors import DataError, UsageError
from rerank.evaluation import Scores, cover_runs_by_judgments, evaluate_runs, parse_measures
from rerank.evaluation.measures import check_measure_has_query_values, measure_grade_note
from rerank.leaderboard.board_config import BoardConfig
from rerank.leaderboard.collection_filter import BoardCollection, select_entries_of_board
from rerank.leaderboard.entries import Entry, entries_of_recorded_scores, find_board_entries
from rerank.leaderboard.first_stage_labels import label_board_first_stages
from rerank.leaderboard.first_stage_links import declared_board_first_stages, identical_board_lists, link_first_stages
from rerank.leaderboard.recorded_scores import RecordedScores, digest_judgments, read_recorded_scores
from rerank.leaderboard.standings import Standings, rank_board_runs
from rerank.selector import Selector
from rerank.types import Document, Qrels, Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """A leaderboard of the evaluated runs on one collection.

    Attributes:
        key: Name of the board in URLs and file names: lowercase letters, digits and dashes.
        plan: Configuration of the board.
        topics: Ids of the judged queries.
        qrels: The relevance judgments; empty if the board consists of recorded scores only.
        qrels_digest: Digest of the relevance judgments (`digest_judgments`).
        relevant: The lowest grade that binary measures count as relevant.
        queries: Mapping from query id to text, for queries whose text is known.
        docs: Mapping from document id to document; empty unless the configuration names a collection with texts.
        entries: The runs.
        before: For each run, the index of the run that it reranked; None if that run is not on the board.
        identical: For each run, the indexes of the other runs with the same ranked lists.
        scores: The scores of each run.
        judged: For each run, a mapping from measure to the mean fraction of judged documents within its cutoff.
        tables: One table per measure.
        notes: Notes for readers that apply to all measures.
        list_notes: The notes about ranked lists or their sources, which cannot be derived from scores.
    """

    key: str
    plan: BoardConfig
    topics: tuple[str, ...]
    qrels: Qrels
    qrels_digest: str
    relevant: int
    queries: Mapping[str, str]
    docs: Mapping[str, Document]
    entries: tuple[Entry, ...]
    before: tuple[int | None, ...]
    identical: tuple[tuple[int, ...], ...]
    scores: tuple[Scores, ...]
    judged: tuple[Mapping[str, float], ...]
    tables: tuple[Standings, ...]
    notes: tuple[str, ...]
    list_notes: tuple[str, ...]

    @property
    def has_lists(self) -> bool:
        """True if the ranked lists of at least one run are known."""
        return any(entry.recorded is None for entry in self.entries)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object that ``rerank leaderboard build --format json`` prints for this board."""
        return {
            "board": self.key,
            "title": self.plan.title,
            "queries": len(self.topics),
            "runs": len(self.entries),
            "tables": [
                {
                    "measure": table.measure,
                    "pairs": table.pairs,
                    "significant": table.significant,
                    "tied": [self.entries[index].name for index in table.order if table.runs[index].tied],
                    "baseline": self.plan.baseline or None,
                    "marks": {self.entries[i].name: table.runs[i].mark for i in table.order if table.runs[i].mark},
                    "gains": {
                        self.entries[i].name: {"difference": round(gain.difference, 6), "significant": gain.significant}
                        for i in table.order
                        if (gain := table.runs[i].gain)
                    },
                    "judged": {
                        self.entries[i].name: round(self.judged[i][table.measure], 6)
                        for i in table.order
                        if table.measure in self.judged[i]
                    },
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
        home: Folder that contains the folder of cards and the recorded scores.
        data: Folder to which all other paths are relative; ``home`` if omitted.
        runs: Paths of additional runs.
    """
    for measure in (str(m) for m in parse_measures(plan.measures, relevant=plan.relevant or 1)):
        check_measure_has_query_values(measure)
    source = _read_board_source(plan, home, data or home, runs)
    record, qrels = source.record, source.qrels
    ranked = link_first_stages(source.entries)
    relevant = plan.relevant or source.relevant
    names = [str(m) for m in parse_measures(plan.measures, relevant=relevant)]
    scores, judged = _score_board_entries(ranked.entries, qrels, names, record)
    note = measure_grade_note(qrels, names) if qrels else ""
    known = record.notes if record else ()
    list_notes = tuple(dict.fromkeys(filter(None, [*known, *ranked.notes, *source.notes, note])))
    options = plan.comparison_options
    return Board(
        key=_board_entry_key(plan.title),
        plan=plan,
        topics=record.topics if record else tuple(qrels),
        qrels=qrels,
        qrels_digest=record.qrels if record else digest_judgments(qrels),
        relevant=relevant,
        queries={query: text for entry in ranked.entries for query, text in entry.queries.items()} | source.texts,
        docs=_board_documents(plan, data or home, ranked.entries, qrels),
        entries=ranked.entries,
        before=ranked.before,
        identical=identical_board_lists(ranked.entries),
        scores=scores,
        judged=judged,
        tables=tuple(
            rank_board_runs(scores, name, options=options, baseline=plan.baseline, before=ranked.before)
            for name in names
        ),
        notes=(*_first_stage_note_of_board(ranked.entries), *list_notes),
        list_notes=list_notes,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _BoardSource:
    """What a board is built from, as read from files: runs on its collection, judgments, query texts and notes."""

    record: RecordedScores | None
    entries: list[Entry]
    qrels: Qrels
    relevant: int
    texts: dict[str, str]
    notes: list[str]


def _read_board_source(plan: BoardConfig, home: Path, base: Path, runs: Sequence[Path]) -> _BoardSource:
    record = read_recorded_scores(home / plan.scores) if plan.scores else None
    entries, notes = _read_board_entries(plan, home, base, runs)
    qrels, lowest = _open_board_judgments(plan, base, record, entries)
    opened = _open_board_queries(plan, base)
    texts = {query.id: query.text for query in opened.queries()} if opened else {}
    entries, others = select_entries_of_board(entries, _board_collection(plan, base, qrels, texts, entries))
    entries, split = label_board_first_stages(entries)
    if record:
        entries = _unique_board_entries([*entries_of_recorded_scores(record, home / plan.scores), *entries])
    notes = [*others, *split, *notes]
    if not entries:
        raise DataError(
            " ".join(notes) or f"The board {plan.title!r} has no runs", expected="at least one finished run"
        )
    return _BoardSource(record=record, entries=entries, qrels=qrels, relevant=lowest, texts=texts, notes=notes)


def _open_board_judgments(
    plan: BoardConfig, base: Path, record: RecordedScores | None, entries: Sequence[Entry]
) -> tuple[Qrels, int]:
    """Return judgments and lowest relevant grade. With recorded scores alone, judgments are not needed and empty."""
    if record and not entries:
        return Qrels({}), record.relevant
    if not plan.qrels:
        raise UsageError(
            f"Run {entries[0].name!r} cannot be scored: the board has recorded scores but no judgments",
            expected="the judgments with which the scores were computed",
            remedy="Pass --qrels",
        )
    qrels, lowest = open_collection_qrels(_resolve_board_path(plan.qrels, base))
    if record and digest_judgments(qrels) != record.qrels:
        raise DataError(
            f"The judgments {plan.qrels!r} differ from those of the recorded scores {plan.scores!r}",
            expected=f"judgments of {len(record.topics)} topics with the digest {record.qrels}",
        )
    return qrels, record.relevant if record else lowest


def _score_board_entries(
    entries: Sequence[Entry], qrels: Qrels, names: Sequence[str], record: RecordedScores | None
) -> tuple[tuple[Scores, ...], tuple[Mapping[str, float], ...]]:
    """Return the evaluated or recorded scores of each run, and its fraction of judged documents per measure."""
    runs = [Run(entry.run.values(), name=entry.name) for entry in entries if not entry.recorded]
    evaluated = iter(evaluate_runs(qrels, runs, names) if runs else ())
    covered = iter(cover_runs_by_judgments(qrels, runs, names, bounds=False)[0] if runs else ())
    scores, judged = [], []
    for entry in entries:
        if entry.recorded is None or record is None:
            scores.append(next(evaluated))
            judged.append(next(covered).judged)
            continue
        if absent := [name for name in names if name not in entry.recorded.scores]:
            raise UsageError(
                f"No scores of {absent[0]} are recorded", expected=f"one of {', '.join(entry.recorded.scores)}"
            )
        rows = {name: dict(zip(record.topics, entry.recorded.scores[name], strict=True)) for name in names}
        scores.append(Scores(run=entry.name, values=rows, queries=record.topics, missing=entry.recorded.missing))
        judged.append(entry.recorded.judged)
    return tuple(scores), tuple(judged)


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
    return _unique_board_entries(entries + new), notes + new_notes


def _unique_board_entries(entries: list[Entry]) -> list[Entry]:
    """Return the runs unchanged, after checking that their names differ."""
    seen: dict[str, Entry] = {}
    for entry in entries:
        if entry.name in seen:
            raise DataError(
                f"Two runs have the name {entry.name!r}: {seen[entry.name].source} and {entry.source}",
                remedy="Set different names in their cards",
            )
        seen[entry.name] = entry
    return entries


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
    """Return ``base / text`` if this path exists; otherwise ``text``, which is then a selector or another path."""
    return str(base / text) if text and (base / text).exists() else text


def _names_board_collection(text: str) -> bool:
    return not Path(text).exists() and Selector.parse(text).name in collections.names()


def _open_board_queries(plan: BoardConfig, base: Path) -> Collection | None:
    """Open the collection that contains the query texts; by default, the collection that contains the judgments."""
    source = _resolve_board_path(plan.queries or plan.qrels, base)
    if source and _names_board_collection(source):
        return open_collection(source)
    return Trec(topics=source) if plan.queries else None


def _board_collection(
    plan: BoardConfig, base: Path, qrels: Qrels, texts: Mapping[str, str], entries: Sequence[Entry]
) -> BoardCollection:
    """Return the properties of the board's collection by which runs on other collections are recognised."""
    named = _resolve_board_path(plan.qrels, base)
    claims = [entry.origin for entry in entries if entry.origin and entry.origin.fingerprint]
    needed = any(
        named not in (origin.collection, origin.qrels) for origin in claims
    )  # computing the fingerprint may require reading all documents
    fingerprint = open_collection(named).fingerprint if needed and _names_board_collection(named) else ""
    return BoardCollection(named=named, qrels=qrels, fingerprint=fingerprint, queries=texts)


def _board_documents(plan: BoardConfig, base: Path, entries: Sequence[Entry], qrels: Qrels) -> dict[str, Document]:
    """Return the documents whose texts the site shows: those that any run ranks for a judged query."""
    if not plan.texts:
        return {}
    collection: Collection = open_collection(_resolve_board_selector(plan.texts, base))
    doc_ids = {doc for entry in entries for query, r in entry.run.items() if query in qrels for doc in r.doc_ids}
    lookup = getattr(collection, "lookup", None)
    if lookup is not None:
        return dict(lookup(doc_ids))
    return {doc.id: doc for doc in collection.docs() if doc.id in doc_ids}


def _resolve_board_selector(selector: str, base: Path) -> str:
    """Return the selector, with a path after the colon resolved relative to the data folder if it exists there."""
    name, colon, argument = selector.partition(":")
    return f"{name}{colon}{base / argument}" if argument and (base / argument).exists() else selector


def _board_entry_key(title: str) -> str:
    plain = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:40].strip("-")
    return plain or f"board-{hashlib.sha256(title.encode('utf-8', 'replace')).hexdigest()[:8]}"

"""Leaderboards, which evaluate and rank the runs on one collection, and test their differences."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rerank.collections import Collection, collections, open_collection, open_collection_qrels
from rerank.collections.trec import Trec
from rerank.errors import DataError, UsageError
from rerank.evaluation import Scores, cover_runs_by_judgments, evaluate_runs, parse_measures
from rerank.evaluation.measures import check_measure_has_query_values, measure_grade_note
from rerank.leaderboard.board_config import BoardConfig
from rerank.leaderboard.entries import (
    Entry,
    RecordedScores,
    RunOrigin,
    digest_judgments,
    find_runs,
    read_recorded_scores,
    runs_of_record,
)
from rerank.leaderboard.first_stages import (
    declared_selectors,
    first_names,
    identical_lists,
    label_candidates,
    link_first_stages,
)
from rerank.leaderboard.standings import Standings, rank_runs
from rerank.selector import Selector
from rerank.types import Document, Qrels, Run

#: Smallest fraction of judged documents that two sets of qrels for the same collection share. Different collections can
#: share ids by coincidence if ids are plain numbers (Cranfield and Vaswani share less than 1 % of the qrels).
_MIN_OVERLAP = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """A leaderboard of the evaluated runs on one collection."""

    key: str  #: Name of the board in URLs and file names: lowercase letters, digits and dashes.
    plan: BoardConfig
    topics: tuple[str, ...]  #: Ids of the judged queries.
    qrels: Qrels  #: The relevance judgments; empty if the board consists of recorded scores only.
    qrels_digest: str  #: Digest of the relevance judgments (`digest_judgments`).
    relevant: int  #: The lowest grade that binary measures count as relevant.
    queries: Mapping[str, str]  #: Text by query id, for queries whose text is known.
    docs: Mapping[str, Document]  #: Document by id; empty unless the configuration names a collection with texts.
    entries: tuple[Entry, ...]  #: The runs.
    before: tuple[int | None, ...]  #: For each run, the index of the run that it reranked; None if not on the board.
    identical: tuple[tuple[int, ...], ...]  #: For each run, the indexes of the other runs with the same ranked lists.
    scores: tuple[Scores, ...]
    judged: tuple[Mapping[str, float], ...]  #: For each run, the mean judged fraction within the cutoff, by measure.
    tables: tuple[Standings, ...]  #: One table per measure.
    notes: tuple[str, ...]  #: Notes for readers that apply to all measures.
    list_notes: tuple[str, ...]  #: The notes about ranked lists or their sources, which cannot be derived from scores.

    @property
    def has_lists(self) -> bool:
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
    """Read, evaluate and test the runs of a board, whose paths are relative to ``data`` or else to ``home``."""
    for measure in (str(m) for m in parse_measures(plan.measures, relevant=plan.relevant or 1)):
        check_measure_has_query_values(measure)
    base = data or home
    record = read_recorded_scores(home / plan.scores) if plan.scores else None
    cards = home / plan.cards if plan.cards else None
    found = [find_runs(some.paths(base), defaults=some.defaults, cards=cards) for some in plan.runs]
    found += [find_runs(runs, cards=cards)] if runs else []
    entries = _check_names([entry for own, _ in found for entry in own])
    notes = [note for _, own_notes in found for note in own_notes]
    qrels, lowest = _open_judgments(plan, base, record, entries)
    # the collection that contains the query texts; by default, the collection that contains the judgments
    source = _resolve_path(plan.queries or plan.qrels, base)
    if source and _names_collection(source):
        topics: Collection | None = open_collection(source)
    else:
        topics = Trec(topics=source) if plan.queries else None
    texts = {query.id: query.text for query in topics.queries()} if topics else {}
    named = _resolve_path(plan.qrels, base)
    claims = [entry.origin for entry in entries if entry.origin and entry.origin.fingerprint]
    # computing the fingerprint may require reading all documents
    needed = any(named not in (origin.collection, origin.qrels) for origin in claims)
    fingerprint = open_collection(named).fingerprint if needed and _names_collection(named) else ""
    own = BoardCollection(named=named, qrels=qrels, fingerprint=fingerprint, queries=texts)
    entries, others = select_entries(entries, own)
    entries, split = label_candidates(entries)
    if record:
        entries = _check_names([*runs_of_record(record, home / plan.scores), *entries])
    notes = [*others, *split, *notes]
    if not entries:
        raise DataError(
            " ".join(notes) or f"The board {plan.title!r} has no runs", expected="at least one finished run"
        )
    ranked = link_first_stages(entries)
    relevant = plan.relevant or lowest
    names = [str(m) for m in parse_measures(plan.measures, relevant=relevant)]
    scores, judged = _score_entries(ranked.entries, qrels, names, record)
    note = measure_grade_note(qrels, names) if qrels else ""
    known = record.notes if record else ()
    list_notes = tuple(dict.fromkeys(filter(None, [*known, *ranked.notes, *notes, note])))
    title_key = re.sub(r"[^a-z0-9]+", "-", plan.title.lower()).strip("-")[:40].strip("-")
    return Board(
        key=title_key or f"board-{hashlib.sha256(plan.title.encode('utf-8', 'replace')).hexdigest()[:8]}",
        plan=plan,
        topics=record.topics if record else tuple(qrels),
        qrels=qrels,
        qrels_digest=record.qrels if record else digest_judgments(qrels),
        relevant=relevant,
        queries={query: text for entry in ranked.entries for query, text in entry.queries.items()} | texts,
        docs=_ranked_documents(plan, base, ranked.entries, qrels),
        entries=ranked.entries,
        before=ranked.before,
        identical=identical_lists(ranked.entries),
        scores=scores,
        judged=judged,
        tables=tuple(
            rank_runs(scores, name, options=plan.comparison_options, baseline=plan.baseline, before=ranked.before)
            for name in names
        ),
        notes=(*_note_on_first_stages(ranked.entries), *list_notes),
        list_notes=list_notes,
    )


def _open_judgments(
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
    qrels, lowest = open_collection_qrels(_resolve_path(plan.qrels, base))
    if record and digest_judgments(qrels) != record.qrels:
        raise DataError(
            f"The judgments {plan.qrels!r} differ from those of the recorded scores {plan.scores!r}",
            expected=f"judgments of {len(record.topics)} topics with the digest {record.qrels}",
        )
    return qrels, record.relevant if record else lowest


def _score_entries(
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
            known = ", ".join(entry.recorded.scores)
            raise UsageError(f"No scores of {absent[0]} are recorded", expected=f"one of {known}")
        rows = {name: dict(zip(record.topics, entry.recorded.scores[name], strict=True)) for name in names}
        scores.append(Scores(run=entry.name, values=rows, queries=record.topics, missing=entry.recorded.missing))
        judged.append(entry.recorded.judged)
    return tuple(scores), tuple(judged)


def _check_names(entries: list[Entry]) -> list[Entry]:
    seen: dict[str, Entry] = {}
    for entry in entries:
        if entry.name in seen:
            raise DataError(
                f"Two runs have the name {entry.name!r}: {seen[entry.name].source} and {entry.source}",
                remedy="Set different names in their cards",
            )
        seen[entry.name] = entry
    return entries


def _note_on_first_stages(entries: Sequence[Entry]) -> list[str]:
    stages = declared_selectors(entries)
    if len(stages) < 2:
        return []
    unknown = sum(not entry.card.first_stage for entry in entries)
    more = f" (unknown for {unknown} runs)" if unknown else ""
    return [
        f"The runs use {len(stages)} different first stages{more}. Differences between runs with different first "
        "stages are differences between whole systems; filter by first stage to compare rerankers."
    ]


def _resolve_path(text: str, base: Path) -> str:
    """Return ``base / text`` if this path exists; otherwise ``text``, which is then a selector or another path."""
    return str(base / text) if text and (base / text).exists() else text


def _names_collection(text: str) -> bool:
    return not Path(text).exists() and Selector.parse(text).name in collections.names()


def _ranked_documents(plan: BoardConfig, base: Path, entries: Sequence[Entry], qrels: Qrels) -> dict[str, Document]:
    """Return the documents whose texts the site shows: those that any run ranks for a judged query."""
    if not plan.texts:
        return {}
    # a path after the colon is relative to the data folder if it exists there
    name, colon, argument = plan.texts.partition(":")
    is_relative = argument and (base / argument).exists()
    collection: Collection = open_collection(f"{name}{colon}{base / argument}" if is_relative else plan.texts)
    doc_ids = {doc for entry in entries for query, r in entry.run.items() if query in qrels for doc in r.doc_ids}
    if (lookup := getattr(collection, "lookup", None)) is not None:
        return dict(lookup(doc_ids))
    return {doc.id: doc for doc in collection.docs() if doc.id in doc_ids}


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardCollection:
    """Properties of the collection of a board, by which runs on the same collection are recognised."""

    named: str  #: The configured source of the relevance judgments: a file or a selector.
    qrels: Qrels
    #: Fingerprint of the collection; empty if the judgments come from a file, or if it is not needed.
    fingerprint: str = ""
    queries: Mapping[str, str] = field(default_factory=dict)  #: Text by query id; empty without a source of texts.


def select_entries(entries: Sequence[Entry], collection: BoardCollection) -> tuple[list[Entry], list[str]]:
    """Return the runs on the collection of the board, and a note on the other runs, which would score near zero.

    Run folders record their collection. Run files do not record it, so they are always included.
    """
    selected = [entry for entry in entries if is_on_collection(entry, collection)]
    selected_ids = {id(entry) for entry in selected}
    others: dict[str, list[str]] = {}
    for entry in entries:
        if id(entry) not in selected_ids:
            others.setdefault(entry.origin.collection if entry.origin else "", []).append(entry.name)
    if not others:
        return selected, []
    count = len(entries) - len(selected)
    listed = "; ".join(f"{first_names(names)} (collection {name or 'unknown'!r})" for name, names in others.items())
    one, more = "1 run folder of another collection was", f"{count} run folders of other collections were"
    return selected, [f"{one if count == 1 else more} excluded: {listed}."]


def is_on_collection(entry: Entry, collection: BoardCollection) -> bool:
    """Return True if a run belongs to the collection of the board. Plain run files are assumed to belong to it."""
    origin = entry.origin
    if origin is None:
        return True
    if collection.named in (origin.collection, origin.qrels):
        return True
    if collection.fingerprint and collection.fingerprint == origin.fingerprint:
        return _shares_queries(entry, collection)  # splits with the same documents have the same fingerprint
    if origin.judged and _same_judgments(origin, collection.qrels):  # the same collection under two names
        return True
    if collection.fingerprint and origin.fingerprint:
        return not origin.judged and _shares_queries(entry, collection)  # two different fingerprints
    return _shares_queries(entry, collection) and _shares_documents(entry, origin, collection.qrels)


def _same_judgments(origin: RunOrigin, qrels: Qrels) -> bool:
    judged = origin.judged
    there = judged.keys() <= qrels.keys() if origin.partly else judged.keys() == qrels.keys()
    return there and all(dict(judged[query]) == dict(qrels[query]) for query in judged)


def _shares_queries(entry: Entry, collection: BoardCollection) -> bool:
    """Return True if run and board share query ids, of which at most half are known to have different texts."""
    shared = [query for query in entry.run if query in collection.qrels]
    known = [query for query in shared if entry.queries.get(query) and collection.queries.get(query)]
    texts = ((entry.queries[query], collection.queries[query]) for query in known)
    other = sum(mine.casefold().split() != theirs.casefold().split() for mine, theirs in texts)
    return bool(shared) and 2 * other <= len(shared)


def _shares_documents(entry: Entry, origin: RunOrigin, qrels: Qrels) -> bool:
    """Return True if a run's document ids match the qrels: the ids judged in its folder, or else its ranked ids."""
    if not origin.judged:
        return any(doc in qrels[query] for query, r in entry.run.items() if query in qrels for doc in r.doc_ids)
    shared = [query for query in origin.judged if query in qrels]
    common = sum(len(origin.judged[query].keys() & qrels[query].keys()) for query in shared)
    fewer = min(sum(len(judged[query]) for query in shared) for judged in (origin.judged, qrels))
    return common > _MIN_OVERLAP * fewer

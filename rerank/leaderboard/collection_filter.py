"""Filter that keeps only the runs on a board's collection, because runs on others would score near zero.

Run folders record their collection. Run files do not record it, so run files are always included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rerank.leaderboard.entries import Entry, RunOrigin
from rerank.types import Qrels

#: Smallest fraction of judged documents that two sets of qrels for the same collection share. Different collections can
#: share ids by coincidence if ids are plain numbers (Cranfield and Vaswani share less than 1 % of the qrels).
_MIN_OVERLAP = 0.1
_NAMED = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardCollection:
    """Properties of the collection of a board, by which runs on the same collection are recognised.

    Attributes:
        named: The configured source of the relevance judgments: a file or a selector.
        qrels: The relevance judgments.
        fingerprint: Fingerprint of the collection; empty if the judgments come from a file, or if it is not needed.
        queries: Mapping from query id to text; empty if no source of query texts is configured.
    """

    named: str
    qrels: Qrels
    fingerprint: str = ""
    queries: Mapping[str, str] = field(default_factory=dict)


def select_entries_of_board(entries: Sequence[Entry], collection: BoardCollection) -> tuple[list[Entry], list[str]]:
    """Return the runs on the collection of the board, and a note with the number and names of the other runs."""
    selected = [entry for entry in entries if is_entry_on_board_collection(entry, collection)]
    selected_ids = {id(entry) for entry in selected}
    others: dict[str, list[str]] = {}
    for entry in entries:
        if id(entry) not in selected_ids:
            others.setdefault(entry.origin.collection if entry.origin else "", []).append(entry.name)
    if not others:
        return selected, []
    count = sum(map(len, others.values()))
    listed = "; ".join(
        f"{_list_excluded_entries(names)} (collection {name or 'unknown'!r})" for name, names in others.items()
    )
    subject = (
        "1 run folder of another collection was" if count == 1 else f"{count} run folders of other collections were"
    )
    return selected, [f"{subject} excluded: {listed}."]


def is_entry_on_board_collection(entry: Entry, collection: BoardCollection) -> bool:
    """Return True if a run belongs to the collection of the board. Plain run files are assumed to belong to it."""
    origin = entry.origin
    if origin is None:
        return True
    if collection.named in (origin.collection, origin.qrels):
        return True
    if collection.fingerprint and collection.fingerprint == origin.fingerprint:
        return _shares_queries_with_board(entry, collection)  # splits with the same documents have the same fingerprint
    if origin.judged and _same_board_collection(origin, collection.qrels):  # the same collection under two names
        return True
    if collection.fingerprint and origin.fingerprint:
        return not origin.judged and _shares_queries_with_board(entry, collection)  # two different fingerprints
    return _shares_queries_with_board(entry, collection) and _shares_documents_with_board(
        entry, origin, collection.qrels
    )


def _same_board_collection(origin: RunOrigin, qrels: Qrels) -> bool:
    judged = origin.judged
    there = judged.keys() <= qrels.keys() if origin.partly else judged.keys() == qrels.keys()
    return there and all(dict(judged[query]) == dict(qrels[query]) for query in judged)


def _shares_queries_with_board(entry: Entry, collection: BoardCollection) -> bool:
    """Return True if run and board share query ids, of which at most half are known to have different texts."""
    shared = [query for query in entry.run if query in collection.qrels]
    known = [query for query in shared if entry.queries.get(query) and collection.queries.get(query)]
    other = sum(
        _normalise_board_collection_name(entry.queries[query])
        != _normalise_board_collection_name(collection.queries[query])
        for query in known
    )
    return bool(shared) and 2 * other <= len(shared)


def _normalise_board_collection_name(text: str) -> str:
    return " ".join(text.casefold().split())


def _shares_documents_with_board(entry: Entry, origin: RunOrigin, qrels: Qrels) -> bool:
    """Return True if a run's document ids match the qrels: the ids judged in its folder, or else its ranked ids."""
    if not origin.judged:
        return any(doc in qrels[query] for query, r in entry.run.items() if query in qrels for doc in r.doc_ids)
    shared = [query for query in origin.judged if query in qrels]
    common = sum(len(origin.judged[query].keys() & qrels[query].keys()) for query in shared)
    fewer = min(sum(len(judged[query]) for query in shared) for judged in (origin.judged, qrels))
    return common > _MIN_OVERLAP * fewer


def _list_excluded_entries(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(map(repr, names[:_NAMED])) + (f" and {more} more" if more > 0 else "")

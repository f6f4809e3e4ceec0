"""Which runs of a folder are of a board's collection: those of others would count as failures of theirs.

A run folder says what it was made from. A run file says nothing of the kind, so whoever names it answers for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rerank.leaderboard.entries import Entry, RunOrigin
from rerank.types import Qrels

#: Ids of two collections, often plain numbers, meet by chance: of Cranfield's and Vaswani's judgments, in less than 1%.
_CHANCE = 0.1
_NAMED = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardCollection:
    """What a board knows of its collection.

    Attributes:
        named: How its judgments were named: a file or a selector.
        qrels: The judgments.
        fingerprint: Of the collection that a selector named; empty for judgments from a file.
        queries: Texts of its queries; empty where nothing names them.
    """

    named: str
    qrels: Qrels
    fingerprint: str = ""
    queries: Mapping[str, str] = field(default_factory=dict)


def select_entries(entries: Sequence[Entry], ground: BoardCollection) -> tuple[list[Entry], list[str]]:
    """The runs of the board's collection, and a sentence that counts and names those of others."""
    kept = [entry for entry in entries if is_from_collection(entry, ground)]
    here = {id(entry) for entry in kept}
    others: dict[str, list[str]] = {}
    for entry in entries:
        if id(entry) not in here:
            others.setdefault(entry.origin.collection if entry.origin else "", []).append(entry.name)
    if not others:
        return kept, []
    count = sum(map(len, others.values()))
    listed = "; ".join(f"of {collection or 'an unnamed one'!r} {_list(names)}" for collection, names in others.items())
    subject = "1 run folder of another collection is" if count == 1 else f"{count} run folders of other collections are"
    return kept, [f"{subject} left out: {listed}."]


def is_from_collection(entry: Entry, ground: BoardCollection) -> bool:
    """Whether a run is of the board's collection, as far as its folder says; a plain run file is."""
    origin = entry.origin
    if origin is None:
        return True
    if ground.named in (origin.collection, origin.qrels):
        return True
    if ground.fingerprint and ground.fingerprint == origin.fingerprint:
        return _alike(
            entry, ground
        )  # some collections' splits have one fingerprint, since they have the same documents
    if origin.judged and _same(origin, ground.qrels):  # one collection by two names
        return True
    if ground.fingerprint and origin.fingerprint:
        return not origin.judged and _alike(entry, ground)  # two collections that both say who they are
    return _alike(entry, ground) and _meets(entry, origin, ground.qrels)


def _same(origin: RunOrigin, qrels: Qrels) -> bool:
    judged = origin.judged
    there = judged.keys() <= qrels.keys() if origin.partly else judged.keys() == qrels.keys()
    return there and all(dict(judged[query]) == dict(qrels[query]) for query in judged)


def _alike(entry: Entry, ground: BoardCollection) -> bool:
    """Whether there are common queries, and not most of them are known to have other texts."""
    shared = [query for query in entry.run if query in ground.qrels]
    known = [query for query in shared if entry.queries.get(query) and ground.queries.get(query)]
    other = sum(_plain(entry.queries[query]) != _plain(ground.queries[query]) for query in known)
    return bool(shared) and 2 * other <= len(shared)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _meets(entry: Entry, origin: RunOrigin, qrels: Qrels) -> bool:
    """Whether the documents are the judged ones: by the judgments the run was scored with, else by its lists."""
    if not origin.judged:
        return any(doc in qrels[query] for query, r in entry.run.items() if query in qrels for doc in r.doc_ids)
    shared = [query for query in origin.judged if query in qrels]
    common = sum(len(origin.judged[query].keys() & qrels[query].keys()) for query in shared)
    fewer = min(sum(len(judged[query]) for query in shared) for judged in (origin.judged, qrels))
    return common > _CHANCE * fewer


def _list(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(map(repr, names[:_NAMED])) + (f" and {more} more" if more > 0 else "")

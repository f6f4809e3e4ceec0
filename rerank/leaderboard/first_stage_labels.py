"""Unique labels for first stages, because runs with the same first-stage selector can have different candidates.

For example, the selectors ``candidates`` and ``bm25`` refer to the collection of a run, so they do not identify the
candidates.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rerank.leaderboard.card import stem_of_submitted_run
from rerank.leaderboard.entries import Entry
from rerank.leaderboard.first_stage_links import FIRST
from rerank.selector import Selector


def label_board_first_stages(entries: Sequence[Entry]) -> tuple[list[Entry], list[str]]:
    """Give runs with different candidates different first-stage labels. Return the runs and a note per changed label.

    Two candidate lists count as equal if one is a prefix of the other, because the depth only truncates a list. If the
    candidates equal a first-stage run on the board that declares its first stage, that label is used. Labels set on
    cards are kept.
    """
    sources = [entry for entry in entries if entry.origin is None and entry.card.group == FIRST]
    entries = [_entry_with_label(entry, _declared_stage_of_entry(entry, sources)) for entry in entries]
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        if _is_board_label_from_specification(entry):
            groups.setdefault(entry.card.first_stage, []).append(entry)
    labels: dict[int, str] = {}
    notes = []
    for label, group in groups.items():
        kinds = _group_entries_by_candidates(group)
        if len(kinds) < 2:
            continue
        names = [f"{label} of {name}" for name in _distinguish_first_stage_groups(kinds)]
        labels |= {id(entry): name for kind, name in zip(kinds, names, strict=True) for entry in kind}
        notes.append(
            f"{len(group)} runs have the first stage {label!r}, but {len(kinds)} different sets of candidates; "
            f"they are labelled {', '.join(map(repr, names))}."
        )
    return [_entry_with_label(entry, labels.get(id(entry))) for entry in entries], notes


def _is_board_label_from_specification(entry: Entry) -> bool:
    """Return True if the first-stage label of a run comes from its run folder and not from a card."""
    return bool(entry.origin and entry.first is not None and entry.card.first_stage == entry.origin.first_stage)


def _declared_stage_of_entry(entry: Entry, sources: Sequence[Entry]) -> str | None:
    """Return the first stage that a board's run declares whose lists start with the entry's candidates, or None."""
    if not _is_board_label_from_specification(entry):
        return None
    mine = _candidate_lists_of_entry(entry)
    for source in sources:
        if (
            source.card.first_stage
            and mine
            and all(
                query in source.run and source.run[query].doc_ids[: len(docs)] == docs for query, docs in mine.items()
            )
        ):
            return source.card.first_stage
    return None


def _entry_with_label(entry: Entry, label: str | None) -> Entry:
    return entry if label is None else replace(entry, card=entry.card.model_copy(update={"first_stage": label}))


def _group_entries_by_candidates(group: Sequence[Entry]) -> list[list[Entry]]:
    """Divide runs into groups whose candidate lists agree (`_candidate_lists_agree`)."""
    kinds: list[list[Entry]] = []
    for entry in group:
        same = next((kind for kind in kinds if all(_candidate_lists_agree(entry, other) for other in kind)), None)
        if same is None:
            kinds.append([entry])
        else:
            same.append(entry)
    return kinds


def _candidate_lists_agree(entry: Entry, other: Entry) -> bool:
    """Return True if two runs reranked the same candidates: for every common query, one list is a prefix of the other.

    Without common queries, return True if the collections are the same.
    """
    mine, theirs = _candidate_lists_of_entry(entry), _candidate_lists_of_entry(other)
    common = mine.keys() & theirs.keys()
    if not common:
        return _collection_of_entry(entry) == _collection_of_entry(other)
    return all(a == b for query in common for a, b in zip(mine[query], theirs[query], strict=False))


def _candidate_lists_of_entry(entry: Entry) -> dict[str, tuple[str, ...]]:
    return {} if entry.first is None else {query: r.doc_ids for query, r in entry.first.items() if len(r)}


def _collection_of_entry(entry: Entry) -> str:
    return entry.origin.collection if entry.origin else ""


def _distinguish_first_stage_groups(kinds: Sequence[Sequence[Entry]]) -> list[str]:
    """Return a label per group of runs: its collection, with a digest if several groups share a collection."""
    selectors = [_collection_of_entry(kind[0]) for kind in kinds]
    short = _short_collection_labels(selectors)
    return [
        short[index]
        if selectors.count(selector) == 1
        else f"{short[index] or 'lists'} #{_digest_of_entry_candidates(kinds[index][0])}"
        for index, selector in enumerate(selectors)
    ]


def _short_collection_labels(selectors: Sequence[str]) -> list[str]:
    """Return short names of collections: the shortest path suffixes that differ, or else the whole selectors."""
    paths = [Path(Selector.parse(text).argument if text else "") for text in selectors]
    parts = [(*path.parts[:-1], stem_of_submitted_run(path)) if path.parts else () for path in paths]
    count_distinct = len(set(selectors))
    for count in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(part[-count:]) for part in parts]
        if "" not in names and len(set(names)) == count_distinct:
            return names
    return list(selectors)


def _digest_of_entry_candidates(entry: Entry) -> str:
    return hashlib.sha256(
        repr(sorted(_candidate_lists_of_entry(entry).items())).encode("utf-8", "surrogatepass")
    ).hexdigest()[:6]

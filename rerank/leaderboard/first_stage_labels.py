"""Labels of first stages that tell different candidates apart, for runs whose specifications call them the same.

``candidates`` is whatever a collection brings, and ``bm25`` searches whatever it is given: of two collections neither
says which lists a run started from. Knows lists and selectors, no files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rerank.leaderboard.card import run_stem
from rerank.leaderboard.entries import Entry
from rerank.leaderboard.first_stage_links import FIRST
from rerank.selector import Selector


def label_first_stages(entries: Sequence[Entry]) -> tuple[list[Entry], list[str]]:
    """The runs, those from different lists under different labels, and a sentence for each label that was split.

    Lists are the same where one is the other's beginning, since a depth only cuts. Where they are those of a run on the
    board that declares its first stage, that is the label. One that a card gives stays.
    """
    sources = [entry for entry in entries if entry.origin is None and entry.card.group == FIRST]
    entries = [_with(entry, _declared(entry, sources)) for entry in entries]
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        if _by_itself(entry):
            groups.setdefault(entry.card.first_stage, []).append(entry)
    labels: dict[int, str] = {}
    notes = []
    for label, group in groups.items():
        kinds = _kinds(group)
        if len(kinds) < 2:
            continue
        names = [f"{label} of {name}" for name in _told_apart(kinds)]
        labels |= {id(entry): name for kind, name in zip(kinds, names, strict=True) for entry in kind}
        notes.append(
            f"{len(group)} runs call their first stage {label!r} and start from {len(kinds)} different sets of lists; "
            f"they are told apart as {', '.join(map(repr, names))}."
        )
    return [_with(entry, labels.get(id(entry))) for entry in entries], notes


def _by_itself(entry: Entry) -> bool:
    """Whether a run's label is the one that its specification has."""
    return bool(entry.origin and entry.first is not None and entry.card.first_stage == entry.origin.first_stage)


def _declared(entry: Entry, sources: Sequence[Entry]) -> str | None:
    """The first stage that a run with the lists of this one's candidates declares; None where there is none."""
    if not _by_itself(entry):
        return None
    mine = _lists(entry)
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


def _with(entry: Entry, label: str | None) -> Entry:
    return entry if label is None else replace(entry, card=entry.card.model_copy(update={"first_stage": label}))


def _kinds(group: Sequence[Entry]) -> list[list[Entry]]:
    """The runs that start from the same lists, together."""
    kinds: list[list[Entry]] = []
    for entry in group:
        same = next((kind for kind in kinds if all(_agree(entry, other) for other in kind)), None)
        if same is None:
            kinds.append([entry])
        else:
            same.append(entry)
    return kinds


def _agree(one: Entry, other: Entry) -> bool:
    """Whether the lists are the same as far as both go; with no query in common, whether the collection is."""
    mine, theirs = _lists(one), _lists(other)
    common = mine.keys() & theirs.keys()
    if not common:
        return _collection(one) == _collection(other)
    return all(a == b for query in common for a, b in zip(mine[query], theirs[query], strict=False))


def _lists(entry: Entry) -> dict[str, tuple[str, ...]]:
    return {} if entry.first is None else {query: r.doc_ids for query, r in entry.first.items() if len(r)}


def _collection(entry: Entry) -> str:
    return entry.origin.collection if entry.origin else ""


def _told_apart(kinds: Sequence[Sequence[Entry]]) -> list[str]:
    """A short name for each: of its collection, and of its lists where one collection brought several."""
    selectors = [_collection(kind[0]) for kind in kinds]
    short = _short(selectors)
    return [
        short[at] if selectors.count(selector) == 1 else f"{short[at] or 'lists'} #{_digest(kinds[at][0])}"
        for at, selector in enumerate(selectors)
    ]


def _short(selectors: Sequence[str]) -> list[str]:
    """As many last parts of each selector's path as tell them apart; the whole selector where no number does."""
    paths = [Path(Selector.parse(text).argument if text else "") for text in selectors]
    parts = [(*path.parts[:-1], run_stem(path)) if path.parts else () for path in paths]
    wanted = len(set(selectors))
    for count in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(one[-count:]) for one in parts]
        if "" not in names and len(set(names)) == wanted:
            return names
    return list(selectors)


def _digest(entry: Entry) -> str:
    return hashlib.sha256(repr(sorted(_lists(entry).items())).encode("utf-8", "surrogatepass")).hexdigest()[:6]

"""Which run of a board reranked which, and whether they rank the documents that they say they rank.

A reranker is only as good as the list it is given, so no comparison is fair that hides it. Knows lists, no measures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rerank.errors import UnknownNameError, UsageError
from rerank.leaderboard.card import Card
from rerank.leaderboard.entries import Entry
from rerank.types import Run

#: The group of lists that run folders bring along.
FIRST = "first stage"
_NAMED = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkedRuns:
    """All runs of a board, with what came before each.

    Attributes:
        entries: The runs; the first stages of run folders come last, each once.
        before: For every run the number of the one that it reranked; None where that is not known.
        notes: Where runs rank other documents than they say.
    """

    entries: tuple[Entry, ...]
    before: tuple[int | None, ...]
    notes: tuple[str, ...]


def link_first_stages(entries: Sequence[Entry]) -> LinkedRuns:
    """Add the first stages of run folders to the runs, and find what each run reranked.

    Raises:
        UnknownNameError: A card's ``before`` names no run of the board.
        UsageError: It names the card's own run.
    """
    everything = list(entries)
    # A reranker that changed nothing has its candidates' lists and is still not where they come from.
    sources = [(_lists(entry.run), at) for at, entry in enumerate(entries) if not _reranks(entry)]
    before: list[int | None] = []
    for entry in entries:
        if entry.card.before:
            before.append(_named(entry, entries))
        elif entry.first is not None:
            wanted = _lists(entry.first)
            at = next((at for lists, at in sources if lists == wanted), None)
            if at is None:
                at = len(everything)
                everything.append(_first_stage(entry, [other.name for other in everything]))
                sources.append((wanted, at))
            before.append(at)
        else:
            before.append(None)
    before += [None] * (len(everything) - len(entries))
    notes = [note for at, b in enumerate(before) if b is not None for note in _strays(everything[at], everything[b])]
    loose = [entry for entry, b in zip(everything, before, strict=True) if b is None and entry.card.first_stage]
    return LinkedRuns(entries=tuple(everything), before=tuple(before), notes=(*notes, *_unlike(loose)))


def first_stages(entries: Iterable[Entry]) -> list[str]:
    """What runs declare as their first stage, each once, unknown ones left out."""
    return list(dict.fromkeys(entry.card.first_stage for entry in entries if entry.card.first_stage))


def _reranks(entry: Entry) -> bool:
    """Whether a run is known to have put another's lists in order."""
    return entry.first is not None or bool(entry.card.before or entry.card.method)


def _lists(run: Run) -> dict[str, tuple[str, ...]]:
    return {query: ranking.doc_ids for query, ranking in run.items() if len(ranking)}


def _named(entry: Entry, entries: Sequence[Entry]) -> int:
    names = [other.name for other in entries]
    if entry.card.before not in names:
        raise UnknownNameError(f"run before {entry.name!r}:", entry.card.before, names)
    if entry.card.before == entry.name:
        raise UsageError(f"The card of {entry.name!r} says that it reranked itself", expected="another run's name")
    return names.index(entry.card.before)


def _first_stage(entry: Entry, taken: Sequence[str]) -> Entry:
    assert entry.first is not None  # only asked of run folders
    depth = entry.card.depth
    plain = f"{entry.card.first_stage}, first {depth}" if depth else entry.card.first_stage
    name = next(n for n in (plain, *(f"{plain} ({k})" for k in range(2, len(taken) + 3))) if n not in taken)
    card = Card(name=name, group=FIRST, first_stage=entry.card.first_stage, depth=depth)
    return Entry(card=card, run=entry.first, source=entry.source, queries=entry.queries)


def _strays(entry: Entry, first: Entry) -> list[str]:
    """What a run has that its first stage has not, and the other way round."""
    foreign = lacking = 0
    for query, ranking in entry.run.items():
        given = first.run[query].doc_ids if query in first.run else ()
        ranked = set(ranking.doc_ids)
        foreign += bool(ranked - set(given))
        lacking += len(ranked & set(given)) < min(entry.card.depth or len(given), len(given))
    found = []
    if foreign:
        found.append(
            f"{entry.name!r} is said to rerank {first.name!r} and has documents that are not in its lists, "
            f"in {_many(foreign, 'query', 'queries')}."
        )
    if lacking:
        found.append(
            f"{entry.name!r} lacks documents of {first.name!r}, which it is said to rerank, "
            f"in {_many(lacking, 'query', 'queries')}."
        )
    return found


def _unlike(entries: Sequence[Entry]) -> list[str]:
    """Runs that declare one first stage and depth and still rank different documents."""
    groups: dict[tuple[str, int | None], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.card.first_stage, entry.card.depth), []).append(entry)
    return [note for (stage, depth), group in groups.items() for note in _odd(stage, depth, group)]


def _odd(stage: str, depth: int | None, group: Sequence[Entry]) -> list[str]:
    sets = [{query: frozenset(docs) for query, docs in _lists(entry.run).items()} for entry in group]
    usual = Counter(frozenset(found.items()) for found in sets).most_common(1)[0][0]
    common = dict(usual)
    apart = {
        entry.name: sum(found.get(query) != common.get(query) for query in {*found, *common})
        for entry, found in zip(group, sets, strict=True)
        if found != common
    }
    if not apart:
        return []
    shown = ", ".join(map(repr, list(apart)[:_NAMED])) + (f" and {len(apart) - _NAMED} more" * (len(apart) > _NAMED))
    at = f" at depth {depth}" if depth else ""
    return [
        f"Of {len(group)} runs that declare the first stage {stage!r}{at}, {_many(len(apart), 'ranks', 'rank')} "
        f"other documents than the rest, in up to {_many(max(apart.values()), 'query', 'queries')}: {shown}."
    ]


def _many(count: int, one: str, more: str) -> str:
    return f"{count} {one if count == 1 else more}"

"""Links from each run of a board to the run that it reranked, and checks that both contain the same documents.

The effectiveness of a reranker depends on its candidates, so a board shows both runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rerank.errors import UnknownNameError, UsageError
from rerank.leaderboard.card import Card
from rerank.leaderboard.entries import Entry
from rerank.leaderboard.recorded_scores import digest_ranked_lists
from rerank.types import Run

#: Group of the first-stage runs that are read from run folders.
FIRST = "first stage"
_NAMED = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkedRuns:
    """All runs of a board, linked to the runs that they reranked.

    Attributes:
        entries: The runs, followed by the distinct first-stage runs of run folders.
        before: For each run, the index of the run that it reranked; None if it is unknown.
        notes: Notes on runs whose documents differ from the documents of their declared first stage.
    """

    entries: tuple[Entry, ...]
    before: tuple[int | None, ...]
    notes: tuple[str, ...]


def link_first_stages(entries: Sequence[Entry]) -> LinkedRuns:
    """Add the first-stage runs stored in run folders to the runs, and find the run that each run reranked."""
    everything = list(entries)
    # a reranker that changed nothing equals its candidates but is not their source
    sources = {entry.digest: index for index, entry in reversed([*enumerate(entries)]) if not _entry_reranks(entry)}
    before: list[int | None] = [None] * len(entries)
    for index, entry in enumerate(entries):
        if entry.first is not None and not entry.card.before:
            candidates = digest_ranked_lists(entry.first)
            if candidates not in sources:
                sources[candidates] = len(everything)
                everything.append(_make_first_stage_entry(entry, [other.name for other in everything]))
            before[index] = sources[candidates]
    for index, entry in enumerate(entries):  # a card may name a first stage that a run folder has added
        if entry.card.before:
            before[index] = _index_of_entry_before(entry, everything)
    before += [None] * (len(everything) - len(entries))
    notes = [
        note
        for index, b in enumerate(before)
        if b is not None and not everything[index].recorded and not everything[b].recorded
        for note in _compare_entry_with_first_stage(everything[index], everything[b])
    ]
    loose = [
        entry
        for entry, b in zip(everything, before, strict=True)
        if b is None and entry.card.first_stage and not entry.recorded
    ]
    return LinkedRuns(
        entries=tuple(everything), before=tuple(before), notes=(*notes, *_compare_first_stage_groups(loose))
    )


def declared_board_first_stages(entries: Iterable[Entry]) -> list[str]:
    """Return the distinct first stages that the cards of the runs declare."""
    return list(dict.fromkeys(entry.card.first_stage for entry in entries if entry.card.first_stage))


def _entry_reranks(entry: Entry) -> bool:
    """Return True if a run is known to be the output of a reranker, from its candidates or its card."""
    return entry.first is not None or bool(entry.card.before or entry.card.method)


def _ranked_lists_of_entry(run: Run) -> dict[str, tuple[str, ...]]:
    return {query: ranking.doc_ids for query, ranking in run.items() if len(ranking)}


def _index_of_entry_before(entry: Entry, entries: Sequence[Entry]) -> int:
    names = [other.name for other in entries]
    if entry.card.before not in names:
        raise UnknownNameError(f"run in the key 'before' of {entry.name!r}:", entry.card.before, names)
    if entry.card.before == entry.name:
        raise UsageError(f"The key 'before' of run {entry.name!r} is its own name", expected="the name of another run")
    return names.index(entry.card.before)


def _make_first_stage_entry(entry: Entry, taken: Sequence[str]) -> Entry:
    assert entry.first is not None  # the caller checks this
    depth = entry.card.depth
    plain = f"{entry.card.first_stage}, first {depth}" if depth else entry.card.first_stage
    name = next(n for n in (plain, *(f"{plain} ({k})" for k in range(2, len(taken) + 3))) if n not in taken)
    card = Card(name=name, group=FIRST, first_stage=entry.card.first_stage, depth=depth)
    return Entry(card=card, run=entry.first, source=entry.source, queries=entry.queries)


def _compare_entry_with_first_stage(entry: Entry, first: Entry) -> list[str]:
    """Return notes if a run contains documents that its first stage lacks, or lacks documents of its first stage."""
    extra = lacking = 0
    for query, ranking in entry.run.items():
        candidates = first.run[query].doc_ids if query in first.run else ()
        ranked = set(ranking.doc_ids)
        extra += bool(ranked - set(candidates))
        lacking += len(ranked & set(candidates)) < min(entry.card.depth or len(candidates), len(candidates))
    notes = []
    if extra:
        notes.append(
            f"{entry.name!r} is declared as a reranking of {first.name!r}, but contains documents that are not in it, "
            f"in {_format_board_deviation(extra, 'query', 'queries')}."
        )
    if lacking:
        notes.append(
            f"{entry.name!r} lacks documents of {first.name!r}, which it is declared to rerank, "
            f"in {_format_board_deviation(lacking, 'query', 'queries')}."
        )
    return notes


def _compare_first_stage_groups(entries: Sequence[Entry]) -> list[str]:
    """Return notes on runs that declare the same first stage and depth but contain different documents."""
    groups: dict[tuple[str, int | None], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.card.first_stage, entry.card.depth), []).append(entry)
    return [note for (stage, depth), group in groups.items() for note in _first_stage_deviations(stage, depth, group)]


def _first_stage_deviations(stage: str, depth: int | None, group: Sequence[Entry]) -> list[str]:
    sets = [{query: frozenset(docs) for query, docs in _ranked_lists_of_entry(entry.run).items()} for entry in group]
    usual = Counter(frozenset(documents.items()) for documents in sets).most_common(1)[0][0]
    common = dict(usual)
    apart = {
        entry.name: sum(documents.get(query) != common.get(query) for query in {*documents, *common})
        for entry, documents in zip(group, sets, strict=True)
        if documents != common
    }
    if not apart:
        return []
    shown = ", ".join(map(repr, list(apart)[:_NAMED])) + (f" and {len(apart) - _NAMED} more" * (len(apart) > _NAMED))
    suffix = f" at depth {depth}" if depth else ""
    return [
        f"Of {len(group)} runs that declare the first stage {stage!r}{suffix}, "
        f"{_format_board_deviation(len(apart), 'ranks', 'rank')} different documents from the others, "
        f"in up to {_format_board_deviation(max(apart.values()), 'query', 'queries')}: {shown}."
    ]


def _format_board_deviation(count: int, one: str, more: str) -> str:
    return f"{count} {one if count == 1 else more}"


def identical_board_lists(entries: Sequence[Entry]) -> tuple[tuple[int, ...], ...]:
    """Return, for each run, the indexes of the other runs with the same documents in the same order for all queries."""
    groups: dict[str, list[int]] = {}
    for index, entry in enumerate(entries):
        groups.setdefault(entry.digest, []).append(index)
    return tuple(
        tuple(other for other in groups[entry.digest] if other != index) for index, entry in enumerate(entries)
    )

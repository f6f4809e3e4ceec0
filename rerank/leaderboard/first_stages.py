"""First stages of the runs of a board: links to the runs that were reranked, unique labels, and gains over them.

The effectiveness of a reranker depends on its candidates, so a board shows both runs, and checks that they contain the
same documents. Runs with the same first-stage selector can have different candidates: the selectors ``candidates`` and
``bm25``, for example, refer to the collection of a run.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rerank.errors import UnknownNameError, UsageError
from rerank.evaluation.pairwise_decisions import PairwiseDecisions
from rerank.evaluation.significance import TITLES, correct_p_values, student_t_interval
from rerank.evaluation.significance.base import Floats
from rerank.leaderboard.board_config import Card, stem_of_run
from rerank.leaderboard.entries import Entry, digest_ranked_lists
from rerank.selector import Selector
from rerank.types import Run

FIRST = "first stage"  #: Group of the first-stage runs that are read from run folders.
_NAMED = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkedRuns:
    """All runs of a board, linked to the runs that they reranked."""

    entries: tuple[Entry, ...]  #: The runs, followed by the distinct first-stage runs of run folders.
    before: tuple[int | None, ...]  #: For each run, the index of the run that it reranked; None if it is unknown.
    notes: tuple[str, ...]  #: Notes on runs whose documents differ from those of their declared first stage.


def link_first_stages(entries: Sequence[Entry]) -> LinkedRuns:
    """Add the first-stage runs stored in run folders to the runs, and find the run that each run reranked."""
    everything = list(entries)
    # a reranker that changed nothing equals its candidates but is not their source
    sources = {
        entry.digest: index
        for index, entry in reversed([*enumerate(entries)])
        if entry.first is None and not (entry.card.before or entry.card.method)
    }
    before: list[int | None] = [None] * len(entries)
    for index, entry in enumerate(entries):
        if entry.first is not None and not entry.card.before:
            candidates = digest_ranked_lists(entry.first)
            if candidates not in sources:
                sources[candidates] = len(everything)
                taken = [other.name for other in everything]
                depth, stage = entry.card.depth, entry.card.first_stage
                plain = f"{stage}, first {depth}" if depth else stage
                name = next(n for n in (plain, *(f"{plain} ({k})" for k in range(2, len(taken) + 3))) if n not in taken)
                card = Card(name=name, group=FIRST, first_stage=stage, depth=depth)
                everything.append(Entry(card=card, run=entry.first, source=entry.source, queries=entry.queries))
            before[index] = sources[candidates]
    names = [other.name for other in everything]
    for index, entry in enumerate(entries):  # a card may name a first stage that a run folder has added
        if not entry.card.before:
            continue
        if entry.card.before not in names:
            raise UnknownNameError(f"run in the key 'before' of {entry.name!r}:", entry.card.before, names)
        if entry.card.before == entry.name:
            raise UsageError(
                f"The key 'before' of run {entry.name!r} is its own name", expected="the name of another run"
            )
        before[index] = names.index(entry.card.before)
    before += [None] * (len(everything) - len(entries))
    notes: list[str] = []
    groups: dict[tuple[str, int | None], list[Entry]] = {}
    for entry, b in zip(everything, before, strict=True):
        if b is not None and not entry.recorded and not everything[b].recorded:
            notes += _compare_with_first_stage(entry, everything[b])
        elif b is None and entry.card.first_stage and not entry.recorded:
            groups.setdefault((entry.card.first_stage, entry.card.depth), []).append(entry)
    notes += [note for (stage, depth), group in groups.items() for note in _deviations(stage, depth, group)]
    return LinkedRuns(entries=tuple(everything), before=tuple(before), notes=tuple(notes))


def declared_selectors(entries: Iterable[Entry]) -> list[str]:
    """Return the distinct first stages that the cards of the runs declare."""
    return list(dict.fromkeys(entry.card.first_stage for entry in entries if entry.card.first_stage))


def _lists(run: Run | None) -> dict[str, tuple[str, ...]]:
    return {} if run is None else {query: ranking.doc_ids for query, ranking in run.items() if len(ranking)}


def _compare_with_first_stage(entry: Entry, first: Entry) -> list[str]:
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
            f"in {_count(extra, 'query', 'queries')}."
        )
    if lacking:
        notes.append(
            f"{entry.name!r} lacks documents of {first.name!r}, which it is declared to rerank, "
            f"in {_count(lacking, 'query', 'queries')}."
        )
    return notes


def _deviations(stage: str, depth: int | None, group: Sequence[Entry]) -> list[str]:
    """Return a note on runs that declare the same first stage and depth but contain different documents."""
    sets = [{query: frozenset(docs) for query, docs in _lists(entry.run).items()} for entry in group]
    usual = Counter(frozenset(documents.items()) for documents in sets).most_common(1)[0][0]
    common = dict(usual)
    apart = {
        entry.name: sum(documents.get(query) != common.get(query) for query in {*documents, *common})
        for entry, documents in zip(group, sets, strict=True)
        if documents != common
    }
    if not apart:
        return []
    suffix = f" at depth {depth}" if depth else ""
    return [
        f"Of {len(group)} runs that declare the first stage {stage!r}{suffix}, "
        f"{_count(len(apart), 'ranks', 'rank')} different documents from the others, "
        f"in up to {_count(max(apart.values()), 'query', 'queries')}: {first_names(list(apart))}."
    ]


def first_names(names: Sequence[str]) -> str:
    """Return the first names, separated by commas, and the number of the others."""
    more = len(names) - _NAMED
    return ", ".join(map(repr, names[:_NAMED])) + (f" and {more} more" if more > 0 else "")


def _count(count: int, one: str, more: str) -> str:
    return f"{count} {one if count == 1 else more}"


def identical_lists(entries: Sequence[Entry]) -> tuple[tuple[int, ...], ...]:
    """Return, for each run, the indexes of the other runs with the same documents in the same order for all queries."""
    groups: dict[str, list[int]] = {}
    for index, entry in enumerate(entries):
        groups.setdefault(entry.digest, []).append(index)
    same = (groups[entry.digest] for entry in entries)
    return tuple(tuple(other for other in group if other != index) for index, group in enumerate(same))


def label_candidates(entries: Sequence[Entry]) -> tuple[list[Entry], list[str]]:
    """Give runs with different candidates different first-stage labels. Return the runs and a note per changed label.

    Two candidate lists count as equal if one is a prefix of the other, because the depth only truncates a list. A run
    gets the label of the first-stage run on the board with its candidates, if any. Labels set on cards are kept.
    """
    sources = [entry for entry in entries if entry.origin is None and entry.card.group == FIRST]
    entries = [_with_label(entry, _declared_selector(entry, sources)) for entry in entries]
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        if _has_recorded_label(entry):
            groups.setdefault(entry.card.first_stage, []).append(entry)
    labels: dict[int, str] = {}
    notes = []
    for label, group in groups.items():
        kinds: list[list[Entry]] = []  # the runs of each kind have the same candidates
        for entry in group:
            same = next((kind for kind in kinds if all(_candidate_lists_agree(entry, other) for other in kind)), None)
            if same is None:
                kinds.append([entry])
            else:
                same.append(entry)
        if len(kinds) < 2:
            continue
        names = [f"{label} of {name}" for name in _distinguish(kinds)]
        labels |= {id(entry): name for kind, name in zip(kinds, names, strict=True) for entry in kind}
        notes.append(
            f"{len(group)} runs have the first stage {label!r}, but {len(kinds)} different sets of candidates; "
            f"they are labelled {', '.join(map(repr, names))}."
        )
    return [_with_label(entry, labels.get(id(entry))) for entry in entries], notes


def _has_recorded_label(entry: Entry) -> bool:
    """Return True if the first-stage label of a run comes from its run folder and not from a card."""
    return bool(entry.origin and entry.first is not None and entry.card.first_stage == entry.origin.first_stage)


def _declared_selector(entry: Entry, sources: Sequence[Entry]) -> str | None:
    """Return the first stage that a board's run declares whose lists start with the entry's candidates, or None."""
    mine = _lists(entry.first) if _has_recorded_label(entry) else {}
    for source in sources:
        starts = (q in source.run and source.run[q].doc_ids[: len(docs)] == docs for q, docs in mine.items())
        if source.card.first_stage and mine and all(starts):
            return source.card.first_stage
    return None


def _with_label(entry: Entry, label: str | None) -> Entry:
    return entry if label is None else replace(entry, card=entry.card.model_copy(update={"first_stage": label}))


def _candidate_lists_agree(entry: Entry, other: Entry) -> bool:
    """Return whether one of both lists of every common query is a prefix, or else whether the collections are equal."""
    mine, theirs = _lists(entry.first), _lists(other.first)
    common = mine.keys() & theirs.keys()
    if not common:
        return _collection(entry) == _collection(other)
    return all(a == b for query in common for a, b in zip(mine[query], theirs[query], strict=False))


def _collection(entry: Entry) -> str:
    return entry.origin.collection if entry.origin else ""


def _distinguish(kinds: Sequence[Sequence[Entry]]) -> list[str]:
    """Return a label per group of runs: its collection, with a digest if several groups share a collection."""
    selectors = [_collection(kind[0]) for kind in kinds]
    labels = []
    for kind, selector, short in zip(kinds, selectors, _short_names(selectors), strict=True):
        text = repr(sorted(_lists(kind[0].first).items()))
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:6]
        labels.append(short if selectors.count(selector) == 1 else f"{short or 'lists'} #{digest}")
    return labels


def _short_names(selectors: Sequence[str]) -> list[str]:
    """Return short names of collections: the shortest path suffixes that differ, or else the whole selectors."""
    paths = [Path(Selector.parse(text).argument if text else "") for text in selectors]
    parts = [(*path.parts[:-1], stem_of_run(path)) if path.parts else () for path in paths]
    count_distinct = len(set(selectors))
    for count in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(part[-count:]) for part in parts]
        if "" not in names and len(set(names)) == count_distinct:
            return names
    return list(selectors)


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstStageGain:
    """Difference in effectiveness between a run and the run that it reranked."""

    before: int  #: Index of the first-stage run on the board.
    difference: float  #: Mean of the run minus mean of its first stage.
    #: Lower bound of the 95 % confidence interval of the difference (Student's t over queries), not corrected.
    low: float
    high: float
    p: float  #: P-value after the correction over all gains.
    significant: bool  #: Whether ``p`` is at most the significance level.


def compare_with_first_stages(
    decisions: PairwiseDecisions, before: Sequence[int | None]
) -> tuple[tuple[FirstStageGain | None, ...], str]:
    """Return the gain of each run over its first stage, or None, and a description of the test ("" without gains).

    The correction covers all gains. P-values that already control the family-wise error are not corrected again.
    """
    values = decisions.matrix.values
    pairs = [(run, first) for run, first in enumerate(before) if first is not None]
    if not pairs:
        return (None,) * len(before), ""
    p = correct_p_values(pair_p_values(decisions, pairs), decisions.correction)
    gains: dict[int, FirstStageGain] = {}
    for (run, first), value in zip(pairs, p, strict=True):
        differences = values[:, run] - values[:, first]
        low, high = student_t_interval(differences.tolist())
        mean = float(differences.mean())
        significant = bool(value <= decisions.alpha)
        gains[run] = FirstStageGain(
            before=first, difference=mean, low=low, high=high, p=float(value), significant=significant
        )
    how = (
        "with the p-values over all pairs"
        if decisions.family_wise
        else "not corrected"
        if decisions.correction == "none"
        else f"after {TITLES[decisions.correction]}'s correction over {len(pairs)} gain{'s' * (len(pairs) != 1)}"
    )
    rule = f"* a gain over the run's own first stage that is significant ({decisions.title}, {how})"
    return tuple(gains.get(run) for run in range(len(before))), rule


def pair_p_values(decisions: PairwiseDecisions, pairs: Sequence[tuple[int, int]]) -> Floats:
    """Return the uncorrected p-values of the given pairs of runs; a pair contains the indexes of two runs."""
    count = len(decisions.matrix.systems)
    of_pair = np.zeros((count, count))
    of_pair[np.triu_indices(count, 1)] = decisions.p_values()[0]
    return np.array([of_pair[min(pair), max(pair)] for pair in pairs])

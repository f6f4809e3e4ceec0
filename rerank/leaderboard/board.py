"""A board: one collection's runs, measured, ranked and tested. Everything a page shows is computed here or below.

Knows files through the plan; knows no page.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rerank.collections import Collection, collections, judgments, open_collection
from rerank.collections.trec import Trec
from rerank.errors import DataError
from rerank.evaluation import Scores, evaluate_all, parse_measures
from rerank.evaluation.grade_notes import grade_note
from rerank.evaluation.measures import check_has_query_values
from rerank.leaderboard.board_config import BoardConfig
from rerank.leaderboard.collection_filter import BoardCollection, select_entries
from rerank.leaderboard.entries import Entry, find_entries
from rerank.leaderboard.first_stage_labels import label_first_stages
from rerank.leaderboard.first_stage_links import first_stages, link_first_stages
from rerank.leaderboard.standings import Standings, rank_runs
from rerank.selector import Selector
from rerank.types import Document, Qrels, Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """One collection of a site.

    Attributes:
        key: Its name in addresses and files: small letters, digits and dashes.
        plan: What it was made from.
        qrels: The judgments.
        relevant: The lowest grade that binary measures count as relevant.
        queries: Texts of queries, as far as they are known.
        docs: Texts of documents, where a collection was named to show them.
        entries: The runs.
        before: For every run the number of the one that it reranked, if that is on the board.
        scores: The values of every run.
        tables: One for each measure.
        notes: What a reader must know, whatever the measure.
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
        """What ``rerank leaderboard build --format json`` prints of it."""
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
                    "tied": [self.entries[at].name for at in table.order if table.runs[at].tied],
                    "means": {self.entries[at].name: round(table.runs[at].mean, 6) for at in table.order},
                }
                for table in self.tables
            ],
            "notes": list(self.notes),
        }


def make_board(plan: BoardConfig, *, home: Path, data: Path | None = None, runs: Sequence[Path] = ()) -> Board:
    """Read, measure and test the runs of a board.

    Args:
        plan: What it is made of.
        home: Where its folder of cards is looked for.
        data: Where its other paths are looked for; ``home`` if left out.
        runs: More runs, by path.

    Raises:
        UsageError: A measure without values query by query.
        DataError: No run, or a file, card or value that is wrong.
        MissingResourceError: A file is not there.
    """
    for measure in (names := [str(m) for m in parse_measures(plan.measures, relevant=plan.relevant or 1)]):
        check_has_query_values(measure)
    base = data or home
    entries, notes = _entries(plan, home, base, runs)
    qrels, lowest = judgments(_place(plan.qrels, base))
    opened = _opened(plan, base)
    texts = {query.id: query.text for query in opened.queries()} if opened else {}
    entries, others = select_entries(entries, _ground(plan, base, qrels, texts, entries))
    entries, split = label_first_stages(entries)
    notes = [*others, *split, *notes]
    if not entries:
        raise DataError(
            " ".join(notes) or f"The board {plan.title!r} has no runs", expected="at least one finished run"
        )
    ranked = link_first_stages(entries)
    named = [Run(entry.run.values(), name=entry.name) for entry in ranked.entries]
    relevant = plan.relevant or lowest
    scores = tuple(evaluate_all(qrels, named, plan.measures, relevant=relevant))
    names = [str(m) for m in parse_measures(plan.measures, relevant=relevant)]
    told = grade_note(qrels, names)
    return Board(
        key=_key(plan.title),
        plan=plan,
        qrels=qrels,
        relevant=relevant,
        queries={query: text for entry in ranked.entries for query, text in entry.queries.items()} | texts,
        docs=_documents(plan, base, ranked.entries, qrels),
        entries=ranked.entries,
        before=ranked.before,
        scores=scores,
        tables=tuple(
            rank_runs(scores, name, test=plan.test, correction=plan.correction, alpha=plan.alpha) for name in names
        ),
        notes=(*_mixture(ranked.entries), *ranked.notes, *notes, *([told] if told else [])),
    )


def _entries(plan: BoardConfig, home: Path, base: Path, runs: Sequence[Path]) -> tuple[list[Entry], list[str]]:
    cards = home / plan.cards if plan.cards else None
    entries: list[Entry] = []
    notes: list[str] = []
    for chosen in plan.runs:
        found, told = find_entries(chosen.paths(base), defaults=chosen.defaults, cards=cards)
        entries, notes = entries + found, notes + told
    found, told = find_entries(runs, cards=cards) if runs else ([], [])
    entries, notes = entries + found, notes + told
    seen: dict[str, Entry] = {}
    for entry in entries:
        if entry.name in seen:
            raise DataError(
                f"Two runs are called {entry.name!r}: {seen[entry.name].source} and {entry.source}",
                remedy="Give each another name in its card",
            )
        seen[entry.name] = entry
    return entries, notes


def _mixture(entries: Sequence[Entry]) -> list[str]:
    stages = first_stages(entries)
    if len(stages) < 2:
        return []
    unknown = sum(not entry.card.first_stage for entry in entries)
    more = f", and of {unknown} runs it is not known" if unknown else ""
    return [
        f"The runs start from {len(stages)} first stages{more}. Where these differ, a difference is one of whole "
        "systems, not of rerankers: filter by first stage to compare rerankers alone."
    ]


def _place(text: str, base: Path) -> str:
    """A path seen from the data, if it is one; else the selector that it is."""
    return str(base / text) if (base / text).exists() else text


def _is_selector(text: str) -> bool:
    return not Path(text).exists() and Selector.parse(text).name in collections.names()


def _opened(plan: BoardConfig, base: Path) -> Collection | None:
    """Where the texts of the queries are looked up: what was named for it, else the collection of the judgments."""
    source = _place(plan.queries or plan.qrels, base)
    if _is_selector(source):
        return open_collection(source)
    return Trec(topics=source) if plan.queries else None


def _ground(
    plan: BoardConfig, base: Path, qrels: Qrels, texts: Mapping[str, str], entries: Sequence[Entry]
) -> BoardCollection:
    """What the board knows of its collection, to tell runs of others by."""
    named = _place(plan.qrels, base)
    claims = [entry.origin for entry in entries if entry.origin and entry.origin.fingerprint]
    asked = any(named not in (origin.collection, origin.qrels) for origin in claims)  # it may read all documents
    fingerprint = open_collection(named).fingerprint if asked and _is_selector(named) else ""
    return BoardCollection(named=named, qrels=qrels, fingerprint=fingerprint, queries=texts)


def _documents(plan: BoardConfig, base: Path, entries: Sequence[Entry], qrels: Qrels) -> dict[str, Document]:
    """Texts of the ranked documents that the named collection has; of judged queries only."""
    if not plan.texts:
        return {}
    collection: Collection = open_collection(_with_place(plan.texts, base))
    wanted = {doc for entry in entries for query, r in entry.run.items() if query in qrels for doc in r.doc_ids}
    lookup = getattr(collection, "lookup", None)
    if lookup is not None:
        return dict(lookup(wanted))
    return {doc.id: doc for doc in collection.docs() if doc.id in wanted}


def _with_place(selector: str, base: Path) -> str:
    """A selector whose argument, if it is a path seen from the data, is that path."""
    name, colon, argument = selector.partition(":")
    return f"{name}{colon}{base / argument}" if argument and (base / argument).exists() else selector


def _key(title: str) -> str:
    plain = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:40].strip("-")
    return plain or f"board-{hashlib.sha256(title.encode('utf-8', 'replace')).hexdigest()[:8]}"

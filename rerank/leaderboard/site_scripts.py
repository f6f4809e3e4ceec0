"""What a page's script is given: numbers of a board, and the lists of one query.

They are written as calls, since a page that is opened as a file may run scripts beside it and may not fetch anything.
Knows boards; knows no HTML.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rerank.leaderboard.board import Board

#: Documents that are kept of a list.
KEPT = 100
#: Letters that are kept of a document.
_LETTERS = 1500


def board_script(board: Board, folder: str) -> str:
    """The numbers of a board: every run's value for every query.

    Args:
        board: The board.
        folder: Where its lists lie, seen from the page.
    """
    queries = list(board.qrels)
    return _call(
        "listrankBoard",
        {
            "key": board.key,
            "folder": folder,
            "kept": KEPT,
            "relevant": board.relevant,
            "queries": [{"id": query, "text": board.queries.get(query, "")} for query in queries],
            "runs": [
                {"name": entry.name, "before": before, "depth": entry.card.depth, "note": entry.card.note}
                for entry, before in zip(board.entries, board.before, strict=True)
            ],
            "measures": [table.measure for table in board.tables],
            "values": [
                [[round(row[query], 5) for query in queries] for row in (s.by_measure(t.measure) for s in board.scores)]
                for t in board.tables
            ],
        },
    )


def lists_script(board: Board, number: int) -> str:
    """The lists of one query, each as places in the query's documents.

    Args:
        board: The board.
        number: The query's, from 0, in the order of the judgments.
    """
    query = list(board.qrels)[number]
    judged = board.qrels[query]
    places: dict[str, int] = {}
    lists: list[list[int] | None] = []
    lengths = []
    for entry in board.entries:
        ids = entry.run[query].doc_ids if query in entry.run else ()
        lengths.append(len(ids))
        lists.append([places.setdefault(doc, len(places)) for doc in ids[:KEPT]] or None)
    content: dict[str, Any] = {
        "query": query,
        "docs": list(places),
        "grades": [judged.get(doc) for doc in places],
        "lists": lists,
        "lengths": lengths,
        "judged": sorted(judged.values(), reverse=True)[:KEPT],
    }
    if texts := {place: _text(board, doc) for doc, place in places.items() if doc in board.docs}:
        content["texts"] = texts
    return _call("listrankLists", {"key": board.key, "number": number, **content})


def _text(board: Board, doc: str) -> str:
    text = board.docs[doc].full_text
    return text if len(text) <= _LETTERS else text[: _LETTERS - 1] + "…"


def _call(name: str, content: Mapping[str, Any]) -> str:
    """A call with one JSON argument, in letters that no reader of scripts takes for anything else."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    text = text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return f"{name}({text});\n"

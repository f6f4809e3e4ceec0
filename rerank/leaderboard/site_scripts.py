"""Data files that the script of the site loads: the scores of a board, and the ranked lists of one query.

The files contain JavaScript calls instead of JSON, because a page opened from the file system may load scripts but may
not fetch other files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rerank.evaluation.baseline_tests import is_baseline_test
from rerank.evaluation.significance import TITLES
from rerank.leaderboard.board import Board
from rerank.leaderboard.board_costs import COSTS, board_cost_of_run
from rerank.leaderboard.standings import Standings
from rerank.selector import Selector

#: Decimals of the scores. The page only adds them up for bootstrap samples; tests use the p-values of the build.
_DIGITS = 10
#: Maximum number of documents per ranked list.
KEPT = 100
#: Maximum number of characters per document.
_LETTERS = 1500


def site_script_of_board(board: Board, folder: str) -> str:
    """Return the script with the scores of a board: one value per run and query.

    Args:
        board: The board.
        folder: Folder of the board's data files, relative to the page.
    """
    queries = board.topics
    return _site_script_call(
        "listrankBoard",
        {
            "key": board.key,
            "folder": folder,
            "kept": KEPT,
            "relevant": board.relevant,
            "costs": {kind: [board_cost_of_run(entry, kind) for entry in board.entries] for kind, *_ in COSTS},
            "queries": [{"id": query, "text": board.queries.get(query, "")} for query in queries],
            "runs": [
                {
                    "name": entry.name,
                    "before": before,
                    "depth": entry.card.depth,
                    "note": entry.card.note,
                    "lists": entry.recorded is None,
                }
                for entry, before in zip(board.entries, board.before, strict=True)
            ],
            "measures": [table.measure for table in board.tables],
            "tables": [_site_tests_of_table(board, table) for table in board.tables],
            "values": [
                [
                    [round(row[query], _DIGITS) for query in queries]
                    for row in (s.by_measure(t.measure) for s in board.scores)
                ]
                for t in board.tables
            ],
        },
    )


def _site_tests_of_table(board: Board, table: Standings) -> dict[str, Any]:
    """Return the data with which site_numbers.js repeats the tests of a table for a selection of the runs."""
    decisions, test = table.decisions, Selector.parse(board.plan.test).name
    names = [entry.name for entry in board.entries]
    # The p-values of Dunnett's test and of max-t depend on all runs, so they cannot be used for a selection.
    repeats = bool(board.plan.baseline and decisions and not decisions.family_wise and not is_baseline_test(test))
    return {
        "p": decisions.p_values()[0].tolist() if decisions else None,
        "correction": decisions.correction if decisions else "none",
        "title": TITLES[decisions.correction] if decisions else "",
        "alpha": board.plan.alpha,
        "familyWise": bool(decisions and decisions.family_wise),
        "baseline": names.index(board.plan.baseline) if repeats else None,
        "means": [run.mean for run in table.runs],
        "places": [run.place for run in table.runs],
    }


def site_script_of_lists(board: Board, number: int) -> str:
    """Return the script with the ranked lists of one query. Lists contain indexes into the query's documents.

    Args:
        board: The board.
        number: Index of the query in the order of the judgments, from 0.
    """
    query = board.topics[number]
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
    if texts := {place: _site_script_text(board, doc) for doc, place in places.items() if doc in board.docs}:
        content["texts"] = texts
    return _site_script_call("listrankLists", {"key": board.key, "number": number, **content})


def _site_script_text(board: Board, doc: str) -> str:
    text = board.docs[doc].full_text
    return text if len(text) <= _LETTERS else text[: _LETTERS - 1] + "…"


def _site_script_call(name: str, content: Mapping[str, Any]) -> str:
    """Return a JavaScript call with one JSON argument, which is escaped to be safe inside scripts."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    text = text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return f"{name}({text});\n"

"""A board's tables as files for spreadsheets and papers: CSV and LaTeX. Computes nothing."""

from __future__ import annotations

import csv
import io

from rerank.io.table_formats import Cell, Grid, render
from rerank.leaderboard.board import Board
from rerank.leaderboard.standings import Standings, format_ranges

_HEADS = (
    *("place", "run", "group", "first_stage", "depth", "model", "method", "measure", "mean", "ci_low", "ci_high"),
    *("ties_with_best", "beats", "beaten_by", "missing_queries", "tokens_per_query", "seconds_per_query"),
    *("dollars_per_query", "reference"),
)


def as_csv(board: Board, table: Standings) -> str:
    """One row a run, the best first; a cell is empty where its value is not known.

    ``beats`` holds the places of the runs that are significantly below, as in ``4 7-9``.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_HEADS)
    for at in table.order:
        entry, standing = board.entries[at], table.runs[at]
        card = entry.card
        costs = [entry.per_query(total) for total in (card.tokens, card.seconds, card.cost)]
        writer.writerow(
            [
                *(
                    standing.place,
                    entry.name,
                    card.group,
                    card.first_stage,
                    _known(card.depth),
                    card.model,
                    card.method,
                ),
                *(table.measure, *(f"{value:.6f}" for value in (standing.mean, standing.low, standing.high))),
                *(
                    int(standing.tied),
                    format_ranges(standing.beats).replace(",", "").replace("–", "-"),
                    standing.beaten_by,
                ),
                *(standing.missing, *map(_known, costs), card.reference),
            ]
        )
    return stream.getvalue()


def as_latex(board: Board, table: Standings) -> str:
    """A tabular of the best first; raised numbers are the places of the runs that a mean is significantly above.

    It needs the packages booktabs and inputenc in UTF-8 (the default).
    """
    rows: list[list[str | Cell]] = []
    for at in table.order:
        entry, standing = board.entries[at], table.runs[at]
        mark = "†" if standing.tied else ""
        mean = Cell(f"{standing.mean:.4f}", format_ranges(standing.beats).replace("–", r"\mbox{--}"))
        interval = f"{standing.low:.4f}–{standing.high:.4f}"
        depth = "–" if entry.card.depth is None else str(entry.card.depth)
        stage = entry.card.first_stage or "–"
        rows.append([str(standing.place), entry.name + mark, stage, depth, entry.card.model or "–", mean, interval])
    heads = ["", "run", "first stage", "depth", "model", table.measure, "95% interval"]
    lines = [
        f"Raised numbers: the runs that a mean is significantly above ({table.rule or 'nothing was tested'}). "
        "†: the best is not significantly above it."
    ]
    text = render([Grid(heads, rows, left=5)], lines, "latex")
    return text.replace("†", r"\textdagger{}").replace("–", "--") + "\n"


def _known(value: float | None) -> str:
    return "" if value is None else f"{value:.10g}"

"""Export of the tables of a board as CSV and LaTeX."""

from __future__ import annotations

from rerank.io.csv_tables import format_csv_table
from rerank.io.table_formats import Cell, Grid, convert_tables_to_format
from rerank.leaderboard.board import Board
from rerank.leaderboard.standings import Standings, format_rank_ranges

_HEADS = (
    *("place", "run", "group", "first_stage", "depth", "model", "method", "measure", "mean", "ci_low", "ci_high"),
    *("ties_with_best", "beats", "beaten_by", "missing_queries", "tokens_per_query", "seconds_per_query"),
    *("dollars_per_query", "reference"),
)


def board_as_csv(board: Board, table: Standings) -> str:
    """Return a table as CSV with one row per run, best run first. Unknown values are empty.

    The column ``beats`` contains the ranks of the runs that the run significantly outperforms, such as ``4 7-9``.
    """
    rows: list[list[object]] = []
    for index in table.order:
        entry, standing = board.entries[index], table.runs[index]
        card = entry.card
        costs = [entry.per_query(total) for total in (card.tokens, card.seconds, card.cost)]
        rows.append(
            [
                *(
                    standing.place,
                    entry.name,
                    card.group,
                    card.first_stage,
                    _format_board_value(card.depth),
                    card.model,
                    card.method,
                ),
                *(table.measure, *(f"{value:.6f}" for value in (standing.mean, standing.low, standing.high))),
                *(
                    int(standing.tied),
                    format_rank_ranges(standing.beats).replace(",", "").replace("–", "-"),
                    standing.beaten_by,
                ),
                *(standing.missing, *map(_format_board_value, costs), card.reference),
            ]
        )
    return format_csv_table(_HEADS, rows)


def board_as_latex(board: Board, table: Standings) -> str:
    """Return a table as LaTeX, best run first.

    Superscripts at a mean are the ranks of the runs that the run significantly outperforms. The table requires the
    package booktabs, and inputenc with UTF-8 (the default).
    """
    rows: list[list[str | Cell]] = []
    for index in table.order:
        entry, standing = board.entries[index], table.runs[index]
        mark = "†" if standing.tied else ""
        mean = Cell(f"{standing.mean:.4f}", format_rank_ranges(standing.beats).replace("–", r"\mbox{--}"))
        interval = f"{standing.low:.4f}–{standing.high:.4f}"
        depth = "–" if entry.card.depth is None else str(entry.card.depth)
        stage = entry.card.first_stage or "–"
        rows.append([str(standing.place), entry.name + mark, stage, depth, entry.card.model or "–", mean, interval])
    heads = ["", "run", "first stage", "depth", "model", table.measure, "95% interval"]
    lines = [
        f"Superscripts: runs that it significantly outperforms ({table.rule or 'no test was run'}). "
        "†: not significantly worse than the best run."
    ]
    text = convert_tables_to_format([Grid(heads, rows, left=5)], lines, "latex")
    return text.replace("†", r"\textdagger{}").replace("–", "--") + "\n"


def _format_board_value(value: float | None) -> str:
    return "" if value is None else f"{value:.10g}"

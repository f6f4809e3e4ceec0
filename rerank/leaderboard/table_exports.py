"""Export of the tables of a board as CSV, LaTeX, Markdown and HTML."""

from __future__ import annotations

from typing import Any

from rerank.io.csv_tables import convert_rows_to_csv
from rerank.io.table_formats import Cell, Form, Grid, convert_tables_with_legend
from rerank.leaderboard.board import Board
from rerank.leaderboard.standings import Standings, format_rank_ranges

#: Mark of a standing -> value of the column ``versus_baseline``.
_VERSUS = {"": "", "↑": "above", "↓": "below"}


def board_as_csv(board: Board, table: Standings) -> str:
    """Return a table as CSV with one row per run, best run first. Unknown values are empty."""
    return convert_rows_to_csv(board_records(board, table))


def board_records(board: Board, table: Standings) -> list[dict[str, Any]]:
    """Return one flat row per run, best run first.

    The column ``beats`` contains the ranks of the runs that the run significantly outperforms, such as ``4 7-9``.
    """
    rows = []
    for index in table.order:
        entry, standing = board.entries[index], table.runs[index]
        card = entry.card
        rows.append(
            {
                "place": standing.place,
                "run": entry.name,
                "group": card.group,
                "first_stage": card.first_stage,
                "depth": _format_board_value(card.depth),
                "model": card.model,
                "method": card.method,
                "measure": table.measure,
                "mean": f"{standing.mean:.6f}",
                "ci_low": f"{standing.low:.6f}",
                "ci_high": f"{standing.high:.6f}",
                "ties_with_best": int(standing.tied),
                "beats": format_rank_ranges(standing.beats).replace(",", "").replace("–", "-"),
                "beaten_by": standing.beaten_by,
                "missing_queries": standing.missing,
                "tokens_per_query": _format_board_value(entry.per_query(card.tokens)),
                "seconds_per_query": _format_board_value(entry.per_query(card.seconds)),
                "dollars_per_query": _format_board_value(entry.per_query(card.cost)),
                "reference": card.reference,
                "versus_baseline": _VERSUS[standing.mark],
            }
        )
    return rows


def board_as_latex(board: Board, table: Standings) -> str:
    """Return a table as LaTeX, which requires booktabs, and inputenc with UTF-8 (the default)."""
    return board_table(board, table, "latex").replace("–", "--") + "\n"


def board_table(board: Board, table: Standings, form: Form) -> str:
    """Return a table of a board in an output format, best run first.

    Superscripts at a mean are the ranks of the runs that the run significantly outperforms, and an arrow if the run
    differs significantly from the baseline.
    """
    dash = r"\mbox{--}" if form == "latex" else "–"
    best = table.runs[table.order[0]].mean
    rows: list[list[str | Cell]] = []
    for index in table.order:
        entry, standing = board.entries[index], table.runs[index]
        mark = "†" if standing.tied else ""
        above = format_rank_ranges(standing.beats).replace("–", dash) + standing.mark
        mean = Cell(f"{standing.mean:.4f}", above, standing.mean == best)
        interval = f"{standing.low:.4f}–{standing.high:.4f}"
        depth = "–" if entry.card.depth is None else str(entry.card.depth)
        stage = entry.card.first_stage or "–"
        rows.append([str(standing.place), entry.name + mark, stage, depth, entry.card.model or "–", mean, interval])
    heads = ["", "run", "first stage", "depth", "model", table.measure, "95% interval"]
    legend = [
        f"{board.plan.title}, {len(board.qrels)} queries. Superscripts: runs that it significantly outperforms "
        f"({table.rule or 'no test was run'}). †: not significantly worse than the best run.",
        *([table.baseline_rule] if table.baseline_rule else []),
    ]
    return convert_tables_with_legend([Grid(heads, rows, left=5)], legend, [], form)


def _format_board_value(value: float | None) -> str:
    return "" if value is None else f"{value:.10g}"

"""Export of a board: tables as CSV, LaTeX, Markdown and HTML, and recorded scores."""

from __future__ import annotations

import json
from typing import Any

from rerank.io.reports import Cell, Grid, TableReport, convert_rows_to_csv
from rerank.leaderboard.board import Board
from rerank.leaderboard.first_stage_gains import FirstStageGain
from rerank.leaderboard.recorded_scores import FORMAT, RecordedRun
from rerank.leaderboard.standings import Standings, format_rank_ranges

#: Mark of a standing -> value of the column ``versus_baseline``.
_VERSUS = {"": "", "↑": "above", "↓": "below"}


def board_as_csv(board: Board, table: Standings) -> str:
    """Return a table as CSV with one row per run, best run first. Unknown values are empty."""
    return convert_rows_to_csv(board_records(board, table))


def board_records(board: Board, table: Standings) -> list[dict[str, Any]]:
    """Return the table of one measure as flat rows for CSV, one per run, best run first.

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
                **_gain_columns(board, standing.gain),
                "judged": _format_board_value(board.judged[index].get(table.measure)),
                "same_lists_as": "; ".join(board.entries[other].name for other in board.identical[index]),
                "parameters": _format_board_value(card.parameters),
                "weights": card.weights,
                "year": _format_board_value(card.year),
                "source": card.source,
                "licence": card.licence or "licence not stated",
            }
        )
    return rows


def _gain_columns(board: Board, gain: FirstStageGain | None) -> dict[str, Any]:
    names = ("gain_over", "gain", "gain_low", "gain_high", "gain_p", "gain_significant")
    if gain is None:
        return dict.fromkeys(names, "")
    numbers = (f"{value:.6f}" for value in (gain.difference, gain.low, gain.high))
    return dict(
        zip(names, (board.entries[gain.before].name, *numbers, f"{gain.p:.4g}", int(gain.significant)), strict=True)
    )


def board_as_recorded_scores(board: Board) -> str:
    """Return the content of a file of recorded scores, from which the same tables can be built without the runs.

    Each run is one line. Seconds are omitted, because they depend on the machine and on its load.
    """
    names = [entry.name for entry in board.entries]
    runs = []
    for index, (entry, scores, before) in enumerate(zip(board.entries, board.scores, board.before, strict=True)):
        queries = entry.card.queries or len(entry.run) or None
        known = {"run": "", "seconds": None, "queries": queries, "before": "" if before is None else names[before]}
        run = RecordedRun(
            card=entry.card.model_copy(update=known),
            lists=entry.digest,
            missing=scores.missing,
            judged=dict(board.judged[index]),
            scores={name: tuple(row[topic] for topic in board.topics) for name, row in scores.values.items()},
        )
        runs.append(json.dumps(run.model_dump(exclude_defaults=True), ensure_ascii=False))
    head = {"format": FORMAT, "topics": board.topics, "relevant": board.relevant, "qrels": board.qrels_digest}
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in {**head, "notes": board.list_notes}.items()]
    return "{\n" + ",\n".join(lines) + ',\n"runs": [\n' + ",\n".join(runs) + "\n]}\n"


def board_as_latex(board: Board, table: Standings) -> str:
    """Return a table as LaTeX, which requires booktabs, and inputenc with UTF-8 (the default)."""
    return board_table(board, table).format("latex").replace("–", "--") + "\n"


def board_table(board: Board, table: Standings) -> TableReport:
    """Return a table of a board, best run first.

    Superscripts at a mean are the ranks of the runs that the run significantly outperforms, and an arrow if the run
    differs significantly from the baseline.
    """
    best = table.runs[table.order[0]].mean
    rows: list[list[str | Cell]] = []
    for index in table.order:
        entry, standing = board.entries[index], table.runs[index]
        mark = "†" if standing.tied else ""
        above = format_rank_ranges(standing.beats) + standing.mark
        mean = Cell(f"{standing.mean:.4f}", above, standing.mean == best)
        interval = f"{standing.low:.4f}–{standing.high:.4f}"
        depth = "–" if entry.card.depth is None else str(entry.card.depth)
        stage = entry.card.first_stage or "–"
        gain = standing.gain
        change = f"{gain.difference:+.4f}{'*' * gain.significant}" if gain else "–"
        others = [f"{other.runs[index].mean:.4f}" for other in board.tables if other is not table]
        row = [str(standing.place), entry.name + mark, stage, depth, entry.card.model or "–"]
        rows.append([*row, mean, interval, change, *others])
    others = [other.measure for other in board.tables if other is not table]
    heads = ["", "run", "first stage", "depth", "model", table.measure, "95% interval", "gain", *others]
    legend = [
        f"{board.plan.title}, {len(board.qrels)} queries. Superscripts: runs that the run significantly outperforms "
        f"({table.rule or 'no test was run'}). †: not significantly worse than the best run.",
        *(f"{rule}." for rule in (table.gain_rule,) if rule),
        *([table.baseline_rule] if table.baseline_rule else []),
    ]
    return TableReport([Grid(heads, rows, left=5)], legend)


def _format_board_value(value: float | None) -> str:
    return "" if value is None else f"{value:.10g}"

"""Exports: tables of a board as CSV, LaTeX, Markdown and HTML, recorded scores, and runs as TIREx submissions.

A TIREx submission is a folder with run.txt and ir-metadata.yml. The metadata follow ir-metadata (ir-metadata.org) with
the fields that tira's format ``run-with-metadata`` requires.
"""

import json
import re
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rerank.errors import DataError, ensure
from rerank.io.paths import portable_name
from rerank.io.reports import Cell, Grid, TableReport, convert_rows_to_csv
from rerank.io.run_files import write_run
from rerank.io.text_files import replace_text_file
from rerank.leaderboard.board import Board
from rerank.leaderboard.entries import FORMAT, Entry, RecordedRun
from rerank.leaderboard.standings import Standings, format_rank_ranges
from rerank.types import Run

#: Mark of a standing -> value of the column ``versus_baseline``.
_VERSUS = {"": "", "↑": "above", "↓": "below"}


def board_as_csv(board: Board, table: Standings) -> str:
    """Return a table as CSV with one row per run, best run first. Unknown values are empty."""
    return convert_rows_to_csv(board_records(board, table))


def board_records(board: Board, table: Standings) -> list[dict[str, Any]]:
    """Return a table as flat rows, best run first; ``beats`` has the ranks of outperformed runs, such as ``4 7-9``."""
    rows = []
    for index in table.order:
        entry, standing = board.entries[index], table.runs[index]
        card, gain = entry.card, standing.gain
        rows.append(
            {
                "place": standing.place,
                "run": entry.name,
                "group": card.group,
                "first_stage": card.first_stage,
                "depth": _number(card.depth),
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
                "tokens_per_query": _number(entry.per_query(card.tokens)),
                "seconds_per_query": _number(entry.per_query(card.seconds)),
                "dollars_per_query": _number(entry.per_query(card.cost)),
                "reference": card.reference,
                "versus_baseline": _VERSUS[standing.mark],
                "gain_over": board.entries[gain.before].name if gain else "",
                "gain": f"{gain.difference:.6f}" if gain else "",
                "gain_low": f"{gain.low:.6f}" if gain else "",
                "gain_high": f"{gain.high:.6f}" if gain else "",
                "gain_p": f"{gain.p:.4g}" if gain else "",
                "gain_significant": int(gain.significant) if gain else "",
                "judged": _number(board.judged[index].get(table.measure)),
                "same_lists_as": "; ".join(board.entries[other].name for other in board.identical[index]),
                "parameters": _number(card.parameters),
                "weights": card.weights,
                "year": _number(card.year),
                "source": card.source,
                "licence": card.licence or "licence not stated",
            }
        )
    return rows


def board_as_recorded_scores(board: Board) -> str:
    """Return a file of recorded scores, which give the same tables without the runs; seconds depend on the machine."""
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
    """Return a table, best run first; superscripts: ranks of outperformed runs, and an arrow for the baseline."""
    best = table.runs[table.order[0]].mean
    rows: list[list[str | Cell]] = []
    for index in table.order:
        entry, standing = board.entries[index], table.runs[index]
        mark = "†" if standing.tied else ""
        mean = Cell(f"{standing.mean:.4f}", format_rank_ranges(standing.beats) + standing.mark, standing.mean == best)
        depth = "–" if entry.card.depth is None else str(entry.card.depth)
        gain = standing.gain
        change = f"{gain.difference:+.4f}{'*' * gain.significant}" if gain else "–"
        others = [f"{other.runs[index].mean:.4f}" for other in board.tables if other is not table]
        row = [str(standing.place), entry.name + mark, entry.card.first_stage or "–", depth, entry.card.model or "–"]
        rows.append([*row, mean, f"{standing.low:.4f}–{standing.high:.4f}", change, *others])
    others = [other.measure for other in board.tables if other is not table]
    heads = ["", "run", "first stage", "depth", "model", table.measure, "95% interval", "gain", *others]
    legend = [
        f"{board.plan.title}, {len(board.qrels)} queries. Superscripts: runs that the run significantly outperforms "
        f"({table.rule or 'no test was run'}). †: not significantly worse than the best run.",
        *(f"{rule}." for rule in (table.gain_rule,) if rule),
        *([table.baseline_rule] if table.baseline_rule else []),
    ]
    return TableReport([Grid(heads, rows, left=5)], legend)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.10g}"


def write_tirex(entry: Entry, out: Path, *, team: str, collection: str, repository: str) -> Path:
    """Write a run and its metadata as a TIREx submission, and return its folder."""
    ensure(not entry.recorded, f"The run {entry.name!r} has only recorded scores", expected="a run with ranked lists")
    for option, value in (("--team", team), ("--collection", collection), ("--repository", repository)):
        ensure(value.strip(), f"{option} is empty", expected="a value, because tira requires it")
    folder = out / folder_of_run(entry.name)
    folder.mkdir(parents=True, exist_ok=True)
    write_run(Run(entry.run.values(), name=entry.name), folder / "run.txt")
    card = entry.card
    first: dict[str, Any] = {"name": card.first_stage, "method": card.first_stage}
    reranker = {"name": card.name, "method": card.method or card.name, "model": card.model, "k": card.depth}
    stages = [first, {**reranker, "reranks": card.first_stage}] if card.first_stage else [reranker]
    described = ", ".join(filter(None, [card.method, card.model, card.first_stage and f"over {card.first_stage}"]))
    metadata = {
        "tag": card.name,
        "actor": {"team": team},
        "platform": {"software": {"libraries": [f"listrank {version('listrank')}"]}},
        "implementation": {"source": {"repository": repository}},
        "data": {"test collection": {"name": collection}},
        "method": {
            "name": card.name,
            "description": card.note or described or card.name,
            "automatic": True,
            "retrieval": [{key: value for key, value in stage.items() if value} for stage in stages],
        },
    }
    import yaml

    with replace_text_file(folder / "ir-metadata.yml") as stream:
        yaml.safe_dump(metadata, stream, sort_keys=False, allow_unicode=True)
    return folder


def check_folders(names: Iterable[str]) -> None:
    """Check that every run gets its own folder, so that no run overwrites another run."""
    seen: dict[str, str] = {}
    for name in names:
        if (other := seen.setdefault(folder_of_run(name), name)) != name:
            raise DataError(
                f"The runs {other!r} and {name!r} would both be written to {folder_of_run(name)!r}",
                expected="names that differ in letters or digits",
                remedy="Change the name in one of the cards",
            )


def folder_of_run(name: str) -> str:
    """Return the folder name for a run name: characters except letters, digits, ``_``, ``.`` and ``-`` are replaced."""
    return portable_name(re.sub(r"[^\w.-]+", "-", name).strip("-.") or "run")

"""Write the page of results: `python docs/results.py`.

The figures come from committed files: docs/results.jsonl, whose rows repeat entries of the log, and the scores per
topic in eval/leaderboard, from which gains are computed again. A test compares the page and the rows with both.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rerank.leaderboard.board import Board, make_board
from rerank.leaderboard.board_config import read_board_config

DOCS = Path(__file__).parent
BOARDS = DOCS.parent / "eval/leaderboard"
SIGNIFICANCE_LEVEL = 0.05
_HEAD = """---
hide: [toc]
---

# Results

<!-- Written by docs/results.py from docs/results.jsonl and eval/leaderboard. -->

nDCG@10 of reranked lists, and the difference to the first stage that made these lists. Everything that we ran used two
CPU cores and no GPU; SmolLM2-135M is a [4-bit copy](decisions/0023-where-the-embedded-model-comes-from.md). Rows of
different tables cannot be compared. Below the tables is [how to read them](#how-to-read-the-tables); [Which
method](which-method.md) says what follows from them.
"""
_READING = """
## How to read the tables

- The interval is the 95 % interval of the mean difference over queries (Student's t), without a correction. *p* is that
  of a two-sided paired t-test; *corrected* is *p* after the correction, with the family that the correction covers.
- Differences that are significant at .05 are bold, after the correction if there was one.
- A dash means that the log has no such figure. A result with neither *p* nor *corrected* was not tested.
- The date links to the entry of the log with the machine and the versions. [`results.jsonl`](results.jsonl) has the
  same rows with their commands.

Each table has one set of queries and one set of candidates. `pydoc` is for trying things out: do not quote its numbers
([why](footguns.md#the-demos-collection)).
"""
_COLUMNS = ("model", "method", "nDCG@10", "difference [95 %]", "p", "corrected", "log")
_GAIN_COLUMNS = ("group", "model", "method", "nDCG@10", "difference [95 %]", "corrected")
_COLLECTIONS = {
    "DL19": "TREC Deep Learning 2019, passages",
    "DL21": "TREC Deep Learning 2021, passages",
    "Cranfield": "Cranfield",
    "Vaswani": "Vaswani",
    "pydoc": "pydoc: questions about Python's library",
}
_BOARDS = """
## Gains on the boards

These runs come with scores per topic, so the test is repeated when this page is written: paired t-tests, and one
correction (Benjamini-Hochberg) over all gains of a board; the tables above use Holm's. Runs marked *listrank* were made
here, the others by their authors. The full boards are in the [gallery](gallery.md).
"""
_MISSING = """
## Not measured here

- No model with more than 135 million parameters: runs of larger models on the boards were made by others.
- No gain on BEIR, BRIGHT, T2Ranking, INQUIRE or MMTEB. The pages under *Reproduce* have the commands, from
  [full ranking](reproduce/fullrank.md) on.
- One seed, unless a row says otherwise. Greedy decoding and scoring are deterministic; training is not.
"""


def read_result_rows() -> list[dict[str, Any]]:
    """Return the rows of results.jsonl, in their order."""
    return [json.loads(line) for line in (DOCS / "results.jsonl").read_text("utf-8").splitlines()]


def render_results_page() -> str:
    """Return the Markdown text of the page of results."""
    rows = read_result_rows()
    parts = [_HEAD]
    for name, title in _COLLECTIONS.items():
        tables: dict[str, list[tuple[str, ...]]] = {}
        for row in (row for row in rows if row["collection"] == name):
            stage = row.get("first_stage_name", "BM25")
            lists = f"{row['queries']} queries, the first {row['depth']} of {stage} ({row['first_stage']}):"
            tables.setdefault(lists, []).append(_log_cells(row))
        parts.append(f"\n## {title}")
        parts += [f"\n{lists}\n\n{_format_markdown_table(_COLUMNS, cells)}" for lists, cells in tables.items()]
    parts.append(_BOARDS)
    for name in ("dl19", "dl21"):
        board = make_board(read_board_config(BOARDS / f"{name}.toml"), home=BOARDS)
        table = board.tables[0]
        before = sorted({gain.before for run in table.runs if (gain := run.gain)})
        stages = ", ".join(f"{board.entries[at].name} ({_decimal(table.runs[at].mean)})" for at in before)
        parts.append(f"\n### {board.plan.title}\n\n{len(board.topics)} queries, the first 100 of {stages}:\n")
        parts.append(_format_markdown_table(_GAIN_COLUMNS, _gain_cells(board)))
    return "\n".join([*parts, _READING, _MISSING])


def _log_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    decisive = row["corrected"] or row["p"]
    significant = bool(decisive) and not decisive.startswith(">") and float(decisive.strip("< ")) <= SIGNIFICANCE_LEVEL
    interval = f"&nbsp;[{row['low']},&nbsp;{row['high']}]" if row["low"] else ""
    return (
        row["model"],
        row["method"],
        row["ndcg10"],
        _bold(f"{row['difference']}{interval}", when=significant),
        row["p"] or "–",
        f"{row['corrected']} ({row['family']})" if row["corrected"] else "–",
        f"[{row['date']}](log.md#{row['entry']})",
    )


def _gain_cells(board: Board) -> Iterator[tuple[str, ...]]:
    table = board.tables[0]
    gains = [(at, gain) for at in table.order if (gain := table.runs[at].gain)]
    for at, gain in sorted(gains, key=lambda pair: -pair[1].difference):
        card = board.entries[at].card
        interval = f"{_signed(gain.difference)}&nbsp;[{_decimal(gain.low)},&nbsp;{_decimal(gain.high)}]"
        yield (
            card.group,
            card.model or "–",
            card.method or "–",
            _decimal(table.runs[at].mean),
            _bold(interval, when=gain.significant),
            "< .0001" if gain.p < 1e-4 else _decimal(gain.p),
        )


def _decimal(value: float) -> str:
    """Format a number with four digits and without the zero before the point."""
    return f"{value:.4f}".replace("0.", ".", 1)


def _signed(value: float) -> str:
    return f"{'+' if value >= 0 else ''}{_decimal(value)}"


def _bold(text: str, *, when: bool) -> str:
    return f"**{text}**" if when else text


def _format_markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    (DOCS / "results.md").write_text(render_results_page(), encoding="utf-8")

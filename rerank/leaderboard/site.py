"""The leaderboard site: a folder of static files that needs no server and no network.

index.html             tables and plots of all boards; readable without JavaScript
site.css               style of the page
site_numbers.js        tests and Pareto fronts of the runs that a filter selects
site.js                sorting, filtering, and the view of single queries
tables/                every table as CSV and LaTeX
data/BOARD-HASH/       data for site.js: the scores of the board, and the ranked lists, if known, in one file per query
site.json              names of these files; a later build uses it to remove outdated files
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rerank.errors import DataError, StorageError, UsageError
from rerank.evaluation.judgment_coverage import judged_cutoff
from rerank.io.atomic_folder import fill_folder
from rerank.io.page_style import read_page_style
from rerank.io.text_files import replace_text_file
from rerank.leaderboard.board import Board
from rerank.leaderboard.board_costs import COSTS, board_cost_of_run
from rerank.leaderboard.cost_plot import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    ScatterPlot,
    layout_cost_plot,
    round_plot_axis,
)
from rerank.leaderboard.first_stage_links import declared_board_first_stages
from rerank.leaderboard.site_scripts import site_script_of_board, site_script_of_lists
from rerank.leaderboard.standings import Standings, format_rank_ranges
from rerank.leaderboard.table_exports import board_as_csv, board_as_latex

_LIST = "site.json"
#: Valid names of files of the site. Other names in a manipulated list could refer to files outside the folder.
_OURS = re.compile(r"(?:[\w-][\w.-]*/){0,2}[\w-][\w.-]*")
#: Scripts of this package that are part of every site.
_SHIPPED = ("site_numbers.js", "site.js")
#: Metadata whose columns are omitted if no run has them, and the keys of the types of cost.
_COLUMNS, _COSTS = ("weights", "year"), tuple(kind for kind, *_ in COSTS)
#: Minimum number of runs in a plot.
_MIN_RUNS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class CostPlot:
    """A plot of effectiveness against one type of cost, as the page template receives it."""

    kind: str
    axis: str
    plot: ScatterPlot


def write_site(boards: Sequence[Board], out: str | Path, *, title: str = "Leaderboard") -> Path:
    """Write the leaderboard site, and remove outdated files of an earlier build.

    Args:
        boards: Boards with unique keys.
        out: Folder of the site. It must be new or empty, or contain a site from an earlier build.
        title: Title of the page.

    Returns:
        Path of index.html.
    """
    keys = [board.key for board in boards]
    if twice := [key for key in keys if keys.count(key) > 1]:
        raise DataError(f"Two boards have the name {twice[0]!r}", remedy="Change the title of one of the boards")
    out = Path(out)
    before = check_site(out)
    content = render_site(boards, title)
    try:
        out.mkdir(parents=True, exist_ok=True)
        # Write the list of files first, so that a later build can remove the files of an interrupted build.
        _write_site_file(out / _LIST, _format_site_file_list([*before, *content]))
        with fill_folder(out, last="index.html") as draft:  # the old page stays until the new page is complete
            for name, text in content.items():
                (draft / name).parent.mkdir(parents=True, exist_ok=True)
                _write_site_file(draft / name, text)
    except OSError as error:
        raise StorageError(f"The folder {str(out)!r} cannot be written: {error.strerror}") from error
    for name in before:
        if name not in content:
            (out / name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # the folder is not empty
                (out / name).parent.rmdir()
    _write_site_file(out / _LIST, _format_site_file_list(content))
    return out / "index.html"


def check_site(out: Path) -> list[str]:
    """Return the names of the files of an existing site, or an empty list if there is no site."""
    list_path = out / _LIST
    if list_path.is_file():
        try:
            names = json.loads(list_path.read_text(encoding="utf-8"))["files"]
            if all(isinstance(name, str) and _OURS.fullmatch(name) for name in names):
                return list(names)
        except (ValueError, KeyError, TypeError, RecursionError):
            pass  # the error is raised below, as for an invalid name
        raise UsageError(
            f"{str(list_path)!r} is not a file list of a leaderboard site", remedy="Pass another folder with --out"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(
            f"{str(out)!r} exists and does not contain a leaderboard site",
            expected="a new or empty folder, or the folder of an earlier build",
            remedy="Pass another folder with --out",
        )
    return []


def render_site(boards: Sequence[Board], title: str) -> dict[str, str]:
    """Return a mapping from file name to text for all files of the site, with index.html last."""
    package = files("rerank.leaderboard")
    content = {"site.css": read_page_style("rerank.leaderboard", "site.css")}
    content |= {name: (package / name).read_text(encoding="utf-8") for name in _SHIPPED}
    views = []
    for board in boards:
        lists = [site_script_of_lists(board, number) for number in range(len(board.topics) if board.has_lists else 0)]
        digest = hashlib.sha256(
            "".join([*lists, site_script_of_board(board, "")]).encode("utf-8", "replace")
        ).hexdigest()
        folder = f"data/{board.key}-{digest[:10]}"
        content |= {f"{folder}/{number}.js": text for number, text in enumerate(lists)}
        content[f"{folder}/board.js"] = site_script_of_board(board, folder)
        for table in board.tables:
            content[f"tables/{site_table_name(board, table)}.csv"] = board_as_csv(board, table)
            content[f"tables/{site_table_name(board, table)}.tex"] = board_as_latex(board, table)
        views.append(_site_view_of_board(board, folder))
    content["index.html"] = _render_site_page(views, title)
    return content


def site_table_name(board: Board, table: Standings) -> str:
    """Return the file name of an exported table, without suffix."""
    measure = re.sub(r"[^a-z0-9]+", "-", table.measure.lower()).strip("-")
    return f"{board.key}-{measure}"


def _render_site_page(views: Sequence[Mapping[str, Any]], title: str) -> str:
    from jinja2 import Environment

    package = files("rerank.leaderboard")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "ranges": format_rank_ranges,
        "amount": _format_site_amount,
        "figure": lambda value: f"{value:.3f}" if round(value, 3) == value else f"{value:g}",
        "address": _is_site_link,
        "path": lambda url: urlsplit(url).path.strip("/") or url,
    }
    template = environment.from_string((package / "site.html.j2").read_text(encoding="utf-8"))
    return template.render(
        title=title,
        views=views,
        costs=COSTS,
        version=version("listrank"),
        frame={"width": WIDTH, "left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM},
        facets={name: _site_facet(views, name) for name in ("category", "language")},
    )


def _site_facet(views: Sequence[Mapping[str, Any]], name: str) -> list[str]:
    return sorted({value for view in views if (value := getattr(view["board"].plan, name))})


def _site_view_of_board(board: Board, folder: str) -> dict[str, Any]:
    cards = [entry.card for entry in board.entries]
    return {
        "board": board,
        "folder": folder,
        "groups": sorted({card.group for card in cards if card.group}),
        "stages": sorted(declared_board_first_stages(board.entries)),
        "weights": sorted({card.weights for card in cards if card.weights}),
        "costs": [{kind: board_cost_of_run(entry, kind) for kind, *_ in COSTS} for entry in board.entries],
        "known": {key: any(getattr(card, key) not in (None, "") for card in cards) for key in (*_COLUMNS, *_COSTS)},
        "tables": [
            {
                "number": number,
                "table": table,
                "files": site_table_name(board, table),
                "pictures": _site_cost_plots(board, table),
                "bars": _site_interval_bars(table),
                "judged": judged_cutoff(table.measure),
            }
            for number, table in enumerate(board.tables)
        ],
    }


def _site_interval_bars(table: Standings) -> dict[str, Any]:
    """Return the positions of axis labels, means and interval bounds, in percent of the width of a table's column."""
    low, high, step = round_plot_axis(min(run.low for run in table.runs), max(run.high for run in table.runs))
    ticks = [low + step * n for n in range(round((high - low) / step) + 1)]

    def percent(value: float) -> float:
        return round(100 * (value - low) / (high - low), 2) if high > low else 50.0

    return {
        "ticks": [(percent(tick), f"{tick:.1f}") for tick in ticks],
        "runs": [{name: percent(getattr(run, name)) for name in ("low", "mean", "high")} for run in table.runs],
    }


def _site_cost_plots(board: Board, table: Standings) -> list[CostPlot]:
    values = [list(scores.by_measure(table.measure).values()) for scores in board.scores]
    names = [entry.name for entry in board.entries]
    plots = []
    for kind, axis, _, _ in COSTS:
        costs = [board_cost_of_run(entry, kind) for entry in board.entries]
        drawn = layout_cost_plot(costs, values, names) if sum(cost is not None for cost in costs) >= _MIN_RUNS else None
        if drawn is not None:
            plots.append(CostPlot(kind=kind, axis=axis, plot=drawn))
    return plots


def _format_site_amount(value: float | None) -> str:
    """Format a number for a table of the page; None, for an unknown value, becomes a dash."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 or value == 0 else f"{value:.3g}"


def _is_site_link(text: str) -> bool:
    """Return True if the text is a URL that is safe to use as a link."""
    return re.fullmatch(r"https?://[^\s\"'<>]+", text) is not None


def _format_site_file_list(names: Sequence[str] | Mapping[str, str]) -> str:
    return json.dumps({"made_by": "rerank leaderboard build", "files": sorted(set(names))}, indent=1) + "\n"


def _write_site_file(path: Path, text: str) -> None:
    with replace_text_file(path) as stream:
        stream.write(text.encode("utf-8", "backslashreplace").decode("utf-8"))

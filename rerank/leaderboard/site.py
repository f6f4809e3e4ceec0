"""The site: one folder that opens from the file system, without a server and without a network.

    index.html             every board's tables and pictures; readable without scripts
    site.css, site.js      how it looks; sorting, filtering, looking into queries
    tables/                every table as CSV and LaTeX
    data/BOARD-HASH/       numbers and lists for the script, a file a query
    site.json              the names of these files, so that a later build removes what it replaces

Knows boards and files; computes no measure.
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

from rerank.errors import DataError, StorageError, UsageError
from rerank.io.atomic_folder import fill_folder
from rerank.io.text_files import replace_text
from rerank.leaderboard.board import Board
from rerank.leaderboard.cost_plot import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, ScatterPlot, layout_plot
from rerank.leaderboard.first_stage_links import first_stages
from rerank.leaderboard.site_scripts import board_script, lists_script
from rerank.leaderboard.standings import Standings, format_ranges
from rerank.leaderboard.table_exports import as_csv, as_latex

_LIST = "site.json"
#: What a run may cost: key, what the picture's axis says, what the table's column says, by what it is multiplied.
COSTS = (
    ("cost", "US dollars per 1,000 queries", "$ / 1,000 q.", 1000.0),
    ("tokens", "tokens a query", "tokens / q.", 1.0),
    ("seconds", "seconds a query", "s / q.", 1.0),
)
#: The names of our files: in the folder or below it, whatever else a damaged list may say.
_OURS = re.compile(r"(?:[\w-][\w.-]*/){0,2}[\w-][\w.-]*")
#: A picture of fewer runs shows nothing.
_DRAWN = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class CostPlot:
    """A picture of effectiveness against one kind of cost."""

    kind: str
    axis: str
    plot: ScatterPlot


def write_site(boards: Sequence[Board], out: str | Path, *, title: str = "Leaderboard") -> Path:
    """Write the site; files of an earlier build that are not needed any more are removed.

    Args:
        boards: One a collection, with different keys.
        out: The folder; must be empty, missing, or hold a site.
        title: Of the page.

    Returns:
        The page to open.

    Raises:
        UsageError: The folder holds something else.
        DataError: Two boards of one name.
        StorageError: A file cannot be written.
    """
    keys = [board.key for board in boards]
    if twice := [key for key in keys if keys.count(key) > 1]:
        raise DataError(f"Two boards have the name {twice[0]!r}", remedy="Give each another title")
    out = Path(out)
    before = check_site(out)
    content = render_site(boards, title)
    try:
        out.mkdir(parents=True, exist_ok=True)
        # the list of files first, so that files of a killed build are recognized as ours
        _write(out / _LIST, _names([*before, *content]))
        with fill_folder(out, last="index.html") as draft:  # until the page is moved, the old one has all its files
            for name, text in content.items():
                (draft / name).parent.mkdir(parents=True, exist_ok=True)
                _write(draft / name, text)
    except OSError as error:
        raise StorageError(f"The folder {str(out)!r} cannot be written: {error.strerror}") from error
    for name in before:
        if name not in content:
            (out / name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # not empty
                (out / name).parent.rmdir()
    _write(out / _LIST, _names(content))
    return out / "index.html"


def check_site(out: Path) -> list[str]:
    """The files of the site that is there; none where there is nothing.

    Raises:
        UsageError: It holds something that is no site, which must not be touched.
    """
    place = out / _LIST
    if place.is_file():
        try:
            names = json.loads(place.read_text(encoding="utf-8"))["files"]
            if all(isinstance(name, str) and _OURS.fullmatch(name) for name in names):
                return list(names)
        except (ValueError, KeyError, TypeError):
            pass  # says the same as a wrong name
        raise UsageError(f"{str(place)!r} is not what a build wrote", remedy="Name another --out")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(
            f"{str(out)!r} is there and holds no leaderboard",
            expected="an empty folder, a new one, or one that an earlier build filled",
            remedy="Name another --out",
        )
    return []


def render_site(boards: Sequence[Board], title: str) -> dict[str, str]:
    """File names -> texts; the page is the last."""
    room = files("rerank.leaderboard")
    content = {name: (room / name).read_text(encoding="utf-8") for name in ("site.css", "site.js")}
    views = []
    for board in boards:
        lists = [lists_script(board, number) for number in range(len(board.qrels))]
        digest = hashlib.sha256("".join([*lists, board_script(board, "")]).encode("utf-8", "replace")).hexdigest()
        folder = f"data/{board.key}-{digest[:10]}"
        content |= {f"{folder}/{number}.js": text for number, text in enumerate(lists)}
        content[f"{folder}/board.js"] = board_script(board, folder)
        for table in board.tables:
            content[f"tables/{table_name(board, table)}.csv"] = as_csv(board, table)
            content[f"tables/{table_name(board, table)}.tex"] = as_latex(board, table)
        views.append(_view(board, folder))
    content["index.html"] = _page(views, title)
    return content


def table_name(board: Board, table: Standings) -> str:
    """What a table's files are called, less the ending."""
    measure = re.sub(r"[^a-z0-9]+", "-", table.measure.lower()).strip("-")
    return f"{board.key}-{measure}"


def _page(views: Sequence[Mapping[str, Any]], title: str) -> str:
    from jinja2 import Environment

    room = files("rerank.leaderboard")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"ranges": format_ranges, "amount": _amount, "address": _address}
    template = environment.from_string((room / "site.html.j2").read_text(encoding="utf-8"))
    return template.render(
        title=title,
        views=views,
        costs=COSTS,
        version=version("listrank"),
        frame={"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM},
        facets={name: _facet(views, name) for name in ("category", "language")},
    )


def _facet(views: Sequence[Mapping[str, Any]], name: str) -> list[str]:
    return sorted({value for view in views if (value := getattr(view["board"].plan, name))})


def _view(board: Board, folder: str) -> dict[str, Any]:
    cards = [entry.card for entry in board.entries]
    return {
        "board": board,
        "folder": folder,
        "groups": sorted({card.group for card in cards if card.group}),
        "stages": sorted(first_stages(board.entries)),
        "costs": [_costs_of(board, at) for at in range(len(board.entries))],
        "known": {kind: any(getattr(card, kind) is not None for card in cards) for kind, *_ in COSTS},
        "tables": [
            {
                "table": table,
                "files": table_name(board, table),
                "pictures": _pictures(board, table),
                "bars": _bars(table),
            }
            for table in board.tables
        ],
    }


def _bars(table: Standings) -> list[dict[str, int]]:
    """Where the intervals of the means begin and end and where the means are, in per cent of the column's width.

    The scale leaves out the lowest twentieth of the runs, so that one bad run does not press the others together; what
    is below it is cut off at 0.
    """
    order = table.order
    kept = [table.runs[at] for at in order[: max(1, len(order) - len(order) // 20)]]
    low, high = min(run.low for run in kept), max(run.high for run in table.runs)
    times = 100 / (high - low) if high > low else 0.0
    return [
        {name: max(0, round((getattr(run, name) - low) * times)) for name in ("low", "mean", "high")}
        for run in table.runs
    ]


def _costs_of(board: Board, at: int) -> dict[str, float | None]:
    entry = board.entries[at]
    found = {kind: entry.per_query(getattr(entry.card, kind)) for kind, *_ in COSTS}
    return {kind: None if found[kind] is None else found[kind] * times for kind, _, _, times in COSTS}  # type: ignore[operator]


def _pictures(board: Board, table: Standings) -> list[CostPlot]:
    means = [standing.mean for standing in table.runs]
    found = []
    for kind, axis, _, _ in COSTS:
        costs = [_costs_of(board, at)[kind] for at in range(len(board.entries))]
        drawn = layout_plot(costs, means) if sum(cost is not None for cost in costs) >= _DRAWN else None
        if drawn is not None:
            found.append(CostPlot(kind=kind, axis=axis, plot=drawn))
    return found


def _amount(value: float | None) -> str:
    """A number as the table shows it; a dash where it is not known."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 or value == 0 else f"{value:.3g}"


def _address(text: str) -> bool:
    """Whether a reference is an address that a link may lead to."""
    return re.fullmatch(r"https?://[^\s\"'<>]+", text) is not None


def _names(names: Sequence[str] | Mapping[str, str]) -> str:
    return json.dumps({"made_by": "rerank leaderboard build", "files": sorted(set(names))}, indent=1) + "\n"


def _write(path: Path, text: str) -> None:
    with replace_text(path) as stream:
        stream.write(text.encode("utf-8", "backslashreplace").decode("utf-8"))

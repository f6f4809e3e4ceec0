"""The leaderboard site: a folder of static files that needs no server and no network.

index.html             tables and plots of all boards; readable without JavaScript
site.css               style of the page
site_numbers.js        tests and Pareto fronts of the runs that a filter selects
site.js                sorting, filtering, and the view of single queries
tables/                every table as CSV and LaTeX
data/BOARD-HASH/       data for site.js: the scores of the board, and the ranked lists, if known, in one file per query
site.json              names of these files; a later build uses it to remove outdated files

Data files contain JavaScript calls instead of JSON, because a page opened from the file system may load scripts but may
not fetch other files.
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rerank.errors import DataError, StorageError, UsageError
from rerank.evaluation.baseline_tests import is_baseline_test
from rerank.evaluation.judgment_coverage import judged_cutoff
from rerank.evaluation.significance import TITLES
from rerank.io.atomic_folder import fill_folder
from rerank.io.file_systems import check_only_files
from rerank.io.reports import read_page_style
from rerank.io.text_files import replace_text_file
from rerank.leaderboard.board import Board
from rerank.leaderboard.cost_plot import BOTTOM, LEFT, RIGHT, TOP, WIDTH, layout_cost_plot, round_axis
from rerank.leaderboard.entries import COSTS
from rerank.leaderboard.exports import board_as_csv, board_as_latex
from rerank.leaderboard.first_stages import declared_selectors
from rerank.leaderboard.standings import Standings, format_rank_ranges
from rerank.selector import Selector

_LIST = "site.json"
#: Valid names of files of the site. Other names in a manipulated list could refer to files outside the folder.
_OURS = re.compile(r"(?:[\w-][\w.-]*/){0,2}[\w-][\w.-]*")
_SHIPPED = ("site_numbers.js", "site.js")  #: Scripts of this package that are part of every site.
#: Metadata whose columns are omitted if no run has them, and the keys of the types of cost.
_COLUMNS, _COSTS = ("weights", "year"), tuple(kind for kind, *_ in COSTS)
_MIN_RUNS = 2  #: Minimum number of runs in a plot.
#: Decimals of the scores. The page only adds them up for bootstrap samples; tests use the p-values of the build.
_DIGITS = 10
KEPT = 100  #: Maximum number of documents per ranked list.
_LETTERS = 1500  #: Maximum number of characters per document.


def write_site(boards: Sequence[Board], out: str | Path, *, title: str = "Leaderboard") -> Path:
    """Write the site into a new or empty folder, or replace that of an earlier build. Return the path of index.html."""
    keys = [board.key for board in boards]
    if twice := [key for key in keys if keys.count(key) > 1]:
        raise DataError(f"Two boards have the name {twice[0]!r}", remedy="Change the title of one of the boards")
    out = Path(out)
    before = check_site(out)
    content = render_site(boards, title)
    try:
        out.mkdir(parents=True, exist_ok=True)
        check_only_files(out, links=True)
        # Write the list of files first, so that a later build can remove the files of an interrupted build.
        _write_file(out / _LIST, _file_list([*before, *content]))
        with fill_folder(out, last="index.html") as draft:  # the old page stays until the new page is complete
            for name, text in content.items():
                (draft / name).parent.mkdir(parents=True, exist_ok=True)
                _write_file(draft / name, text)
    except OSError as error:
        raise StorageError(f"The folder {str(out)!r} cannot be written: {error.strerror}") from error
    for name in before:
        if name not in content:
            (out / name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # the folder is not empty
                (out / name).parent.rmdir()
    _write_file(out / _LIST, _file_list(content))
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
        lists = [script_of_lists(board, number) for number in range(len(board.topics) if board.has_lists else 0)]
        digest = hashlib.sha256("".join([*lists, script_of_board(board, "")]).encode("utf-8", "replace")).hexdigest()
        folder = f"data/{board.key}-{digest[:10]}"
        content |= {f"{folder}/{number}.js": text for number, text in enumerate(lists)}
        content[f"{folder}/board.js"] = script_of_board(board, folder)
        for table in board.tables:
            content[f"tables/{table_name(board, table)}.csv"] = board_as_csv(board, table)
            content[f"tables/{table_name(board, table)}.tex"] = board_as_latex(board, table)
        views.append(_view_of_board(board, folder))
    from jinja2 import Environment

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "ranges": format_rank_ranges,
        # None, for an unknown value, becomes a dash
        "amount": lambda v: "–" if v is None else f"{v:,.0f}" if v >= 100 or v == 0 else f"{v:.3g}",
        "figure": lambda value: f"{value:.3f}" if round(value, 3) == value else f"{value:g}",
        # only URLs that are safe to use as a link
        "address": lambda text: re.fullmatch(r"https?://[^\s\"'<>]+", text) is not None,
        "path": lambda url: urlsplit(url).path.strip("/") or url,
    }
    content["index.html"] = environment.from_string((package / "site.html.j2").read_text(encoding="utf-8")).render(
        title=title,
        views=views,
        costs=COSTS,
        version=version("listrank"),
        frame={"width": WIDTH, "left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM},
        facets={
            name: sorted({value for view in views if (value := getattr(view["board"].plan, name))})
            for name in ("category", "language")
        },
    )
    return content


def table_name(board: Board, table: Standings) -> str:
    """Return the file name of an exported table, without suffix."""
    measure = re.sub(r"[^a-z0-9]+", "-", table.measure.lower()).strip("-")
    return f"{board.key}-{measure}"


def _view_of_board(board: Board, folder: str) -> dict[str, Any]:
    cards = [entry.card for entry in board.entries]
    return {
        "board": board,
        "folder": folder,
        "groups": sorted({card.group for card in cards if card.group}),
        "stages": sorted(declared_selectors(board.entries)),
        "weights": sorted({card.weights for card in cards if card.weights}),
        "costs": [{kind: entry.cost(kind) for kind, *_ in COSTS} for entry in board.entries],
        "known": {key: any(getattr(card, key) not in (None, "") for card in cards) for key in (*_COLUMNS, *_COSTS)},
        "tables": [
            {
                "number": number,
                "table": table,
                "files": table_name(board, table),
                "pictures": _cost_plots(board, table),
                "bars": _interval_bars(table),
                "judged": judged_cutoff(table.measure),
            }
            for number, table in enumerate(board.tables)
        ],
    }


def _interval_bars(table: Standings) -> dict[str, Any]:
    """Return the positions of axis labels, means and interval bounds, in percent of the width of a table's column."""
    low, high, step = round_axis(min(run.low for run in table.runs), max(run.high for run in table.runs))
    ticks = [low + step * n for n in range(round((high - low) / step) + 1)]

    def percent(value: float) -> float:
        return round(100 * (value - low) / (high - low), 2) if high > low else 50.0

    return {
        "ticks": [(percent(tick), f"{tick:.1f}") for tick in ticks],
        "runs": [{name: percent(getattr(run, name)) for name in ("low", "mean", "high")} for run in table.runs],
    }


def _cost_plots(board: Board, table: Standings) -> list[dict[str, Any]]:
    values = [list(scores.by_measure(table.measure).values()) for scores in board.scores]
    names = [entry.name for entry in board.entries]
    plots = []
    for kind, axis, _, _ in COSTS:
        costs = [entry.cost(kind) for entry in board.entries]
        drawn = layout_cost_plot(costs, values, names) if sum(cost is not None for cost in costs) >= _MIN_RUNS else None
        if drawn is not None:
            plots.append({"kind": kind, "axis": axis, "plot": drawn})
    return plots


def _file_list(names: Sequence[str] | Mapping[str, str]) -> str:
    return json.dumps({"made_by": "rerank leaderboard build", "files": sorted(set(names))}, indent=1) + "\n"


def _write_file(path: Path, text: str) -> None:
    with replace_text_file(path) as stream:
        stream.write(text.encode("utf-8", "backslashreplace").decode("utf-8"))


def script_of_board(board: Board, folder: str) -> str:
    """Return the script with the scores per run and query; ``folder`` contains the data files of the board."""
    queries = board.topics
    return _script_call(
        "listrankBoard",
        {
            "key": board.key,
            "folder": folder,
            "kept": KEPT,
            "relevant": board.relevant,
            "costs": {kind: [entry.cost(kind) for entry in board.entries] for kind, *_ in COSTS},
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
            "tables": [_tests_of_table(board, table) for table in board.tables],
            "values": [
                [
                    [round(row[query], _DIGITS) for query in queries]
                    for row in (s.by_measure(t.measure) for s in board.scores)
                ]
                for t in board.tables
            ],
        },
    )


def _tests_of_table(board: Board, table: Standings) -> dict[str, Any]:
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


def script_of_lists(board: Board, number: int) -> str:
    """Return the script with the ranked lists of the query with this index, as indexes into the query's documents."""
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
    texts = {place: board.docs[doc].full_text for doc, place in places.items() if doc in board.docs}
    if texts:
        content["texts"] = {p: t if len(t) <= _LETTERS else t[: _LETTERS - 1] + "…" for p, t in texts.items()}
    return _script_call("listrankLists", {"key": board.key, "number": number, **content})


def _script_call(name: str, content: Mapping[str, Any]) -> str:
    """Return a JavaScript call with one JSON argument, which is escaped to be safe inside scripts."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    text = text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return f"{name}({text});\n"

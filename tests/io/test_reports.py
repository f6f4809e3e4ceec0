"""Reports: their defaults, plain results, cells of values, and CSV that is safe to open in a spreadsheet program."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from rerank.io.reports import (
    Cell,
    Grid,
    Line,
    Part,
    PlainReport,
    Report,
    TableReport,
    format_csv_table,
    format_tables,
    make_grid,
    read_page_style,
    value_with_interval,
)

GRID = Grid(["run", "mean"], [["a|b", Cell("0.5", "†", best=True)], ["c", "10.25"]])


@dataclass(frozen=True, slots=True)
class Counts(Report):
    rows_key = "rows"
    rows: tuple[dict[str, Any], ...]

    def to_dict(self) -> dict[str, Any]:
        return {"rows": list(self.rows)}

    def parts(self) -> Iterator[Grid | TableReport | str]:
        yield make_grid(self.rows[0], [row.values() for row in self.rows])
        yield TableReport([GRID], ["a legend"], ["a note"])
        yield "the end"


@dataclass(frozen=True, slots=True)
class Means(Report):
    def to_dict(self) -> list[dict[str, Any]]:
        return [{"run": "c"}]

    def tables(self, digits: int = 4) -> TableReport:
        return TableReport([GRID], ["a legend"])


def test_tables_and_parts_default_to_each_other() -> None:
    counts = Counts(({"n": 1, "share": 0.25},))
    tables = counts.tables()
    assert [grid.heads for grid in tables.grids] == [["n", "share"], ["run", "mean"]]
    assert (tables.legend, tables.notes) == (["a legend"], ["a note", "the end"])
    assert list(Means().parts()) == [Means().tables()]


def test_records_are_the_rows_or_the_whole_result() -> None:
    assert list(Counts(({"n": 1},)).records()) == [{"n": 1}]
    assert list(Means().records()) == [{"run": "c"}]
    assert list(PlainReport(content={"a": 1}).records()) == [{"a": 1}]
    assert list(PlainReport(content={"a": [{"b": 1}]}, key="a").records()) == [{"b": 1}]
    assert list(PlainReport(content={"a": 1}, rows=[{"c": 2}]).records()) == [{"c": 2}]


def test_a_notebook_shows_html_and_print_shows_text() -> None:
    assert str(Means()).splitlines() == ["run   mean", "a|b    0.5†", "c    10.25", "", "a legend"]
    assert Means()._repr_html_() == Means().to_table("html")
    assert "<b>0.5</b><sup>†</sup>" in Means()._repr_html_()


def test_a_plain_report_has_its_own_tables_for_papers() -> None:
    shown: list[Part] = [Line("printed"), GRID]
    assert "10.25" in str(PlainReport(content={}, shown=shown))
    paper = TableReport([make_grid(["only here"], [[1]])])
    assert PlainReport(content={}, shown=shown, papers=[paper, paper]).to_table("markdown").count("only here") == 2
    made = PlainReport(content={}, table=lambda digits: TableReport([make_grid(["a"], [[0.5]], digits=digits)]))
    assert made.to_table("text", 2).split() == ["a", "0.50"]
    assert [part.main.rows for part in made.parts() if isinstance(part, TableReport)] == [[["0.5000"]]]
    assert PlainReport(content={}, shown=["only a note"]).to_table("latex") == "only a note"


def test_cells_of_values() -> None:
    grid = make_grid(["a", "b"], [[None, 0.12345], [True, "x"]], digits=2, minor=["b"])
    assert (grid.rows, grid.minor) == ([["-", "0.12"], ["True", "x"]], [1])
    assert grid.without_minor_columns().heads == ["a"]
    assert value_with_interval(0.5, [0.25, 0.75]) == "0.500 [0.250, 0.750]"
    assert value_with_interval(0.5, None) == "0.500"
    assert value_with_interval(None, None) == "-"


def test_each_format_escapes_texts_and_marks_cells() -> None:
    assert format_tables([GRID], ["x*"], "markdown").splitlines() == [
        "| run | mean |",
        "| --- | ---: |",
        r"| a\|b | **0.5**<sup>†</sup> |",
        "| c | 10.25 |",
        "",
        r"x\*",
    ]
    assert r"a\textbar{}b & \textbf{0.5}$^{\dagger{}}$ \\" in format_tables([GRID], [], "latex")
    assert format_tables([GRID._replace(caption="50 %")], [], "latex").splitlines()[2] == r"\caption{50 \%}"
    linked = Grid(["run"], [["[x](javascript:y)"], ["[x][y]\n[y]: javascript:y"], ["0.5 [0.4, 0.6]"], ["<a:b>"]])
    assert format_tables([linked], [], "markdown").splitlines()[2:] == [
        r"| [x\](javascript:y) |",
        r"| [x\][y] [y\]: javascript:y |",
        "| 0.5 [0.4, 0.6] |",
        "| &lt;a:b&gt; |",
    ]
    assert format_tables([GRID], ["<p>"], "html").endswith("<p>&lt;p&gt;</p>")


def test_a_table_is_read_back_as_it_was() -> None:
    text = format_csv_table(["name", "value"], [['a, "b"', 0.5], ["line\nbreak", None], ["-1.5", -2]])
    assert text.startswith("name,value\n")
    rows = list(csv.reader(io.StringIO(text)))
    assert rows == [["name", "value"], ['a, "b"', "0.5"], ["line\nbreak", ""], ["-1.5", "-2"]]


@pytest.mark.parametrize("text", ["=1+1", "+a", "-a", "@a", " =1", "\t=1"])
def test_a_formula_becomes_a_text(text: str) -> None:
    assert list(csv.reader(io.StringIO(format_csv_table([text], [])))) == [[f"'{text}"]]


def test_a_carriage_return_does_not_end_a_row() -> None:
    assert format_csv_table(["a"], [["x\r=1\r\ny"]]) == 'a\n"x\n=1\ny"\n'


PAGES = {
    "rerank.leaderboard": "site.css",
    "rerank.adjudication": "report.css",
    "rerank.experiment": "demo_page.css",
    "rerank.serving": "playground/playground.css",
}


@pytest.mark.parametrize("package", PAGES)
def test_a_page_uses_the_shared_colours_and_loads_nothing(package: str) -> None:
    shared = read_page_style("rerank.io", "page.css")
    style = read_page_style(package, PAGES[package])
    assert style.startswith(shared[: len(shared) // 2])
    assert set(re.findall(r"var\((--\w+)\)", style)) <= set(re.findall(r"(--\w+):", style))
    own = style[len(shared) // 2 :].replace("@media print", "")
    assert not re.search(r"--(?:ink|soft|page|link): light-dark", own)
    assert not re.search(r"url\(|@import", style)

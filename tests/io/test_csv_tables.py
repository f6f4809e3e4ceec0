"""CSV tables that are safe to open in a spreadsheet program."""

from __future__ import annotations

import csv
import io

import pytest

from rerank.io.csv_tables import format_csv_table


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

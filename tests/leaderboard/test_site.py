"""The site's files: complete, escaped, kept apart from others' files, and the same for the same input."""

from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from rerank.errors import DataError, UsageError
from rerank.leaderboard.exports import board_as_csv, board_as_latex
from rerank.leaderboard.site import check_site, render_site, script_of_lists, write_site
from tests.leaderboard.made import HOSTILE, TOPICS, board, files
from tests.raising import raises


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return files(tmp_path / "input")


class Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def parsed(text: str) -> Elements:
    elements = Elements()
    elements.feed(text)
    return elements


def called(script: str) -> dict[str, Any]:
    form = re.fullmatch(r"listrank\w+\((.*)\);\n", script, re.S)
    assert form is not None
    content: dict[str, Any] = json.loads(form[1])
    return content


def test_all_files_are_there(folder: Path, tmp_path: Path) -> None:
    page = write_site([board(folder, measures=("nDCG@10", "P@5"))], tmp_path / "site", title="Mine")
    assert page == tmp_path / "site" / "index.html"
    names = {
        path.relative_to(tmp_path / "site").as_posix() for path in (tmp_path / "site").rglob("*") if path.is_file()
    }
    assert {"index.html", "site.css", "site.js", "site.json"} <= names
    assert {f"tables/made-up-{m}.{end}" for m in ("ndcg-10", "p-5") for end in ("csv", "tex")} <= names
    assert sum(name.startswith("data/made-up-") for name in names) == TOPICS + 1
    assert set(json.loads((tmp_path / "site" / "site.json").read_text())["files"]) == names - {"site.json"}


def test_the_page_asks_for_nothing_from_elsewhere(folder: Path) -> None:
    content = render_site([board(folder)], "Mine")
    for tag, attributes in parsed(content["index.html"]).found:
        for key in ("src", "href"):
            target = attributes.get(key)
            if target and tag != "a" and not target.startswith("data:"):
                assert target in content, target
    assert "http" not in content["site.js"].replace("http://www.w3.org", "")
    assert "url(" not in content["site.css"]
    assert "@import" not in content["site.css"]


def test_names_are_text_and_never_markup(folder: Path) -> None:
    content = render_site([board(folder)], HOSTILE)
    assert HOSTILE not in "".join(content.values()).replace(content["tables/made-up-ndcg-10.csv"], "")
    elements = parsed(content["index.html"])
    assert all("alert" not in str(attributes.get("src")) for tag, attributes in elements.found if tag == "script")
    assert sum(tag == "script" for tag, _ in elements.found) == 3
    assert HOSTILE in elements.text
    data = called(next(text for name, text in content.items() if name.endswith("board.js")))
    assert data["queries"][3]["text"] == HOSTILE


def test_only_addresses_become_links(folder: Path) -> None:
    text = (folder / "runs" / "carded.toml").read_text().replace("https://example.org", "javascript:alert(1)//")
    links = [a["href"] for tag, a in parsed(render_site([board(folder)], "")["index.html"]).found if tag == "a"]
    assert "https://example.org/paper?a=1&b=2" in links
    (folder / "runs" / "carded.toml").write_text(text)
    assert "javascript" not in render_site([board(folder)], "")["index.html"]


def test_the_lists_of_a_query(folder: Path) -> None:
    made = board(folder)
    content = called(script_of_lists(made, 4))
    at = [entry.name for entry in made.entries].index("good")
    docs = [content["docs"][place] for place in content["lists"][at]]
    assert tuple(docs) == made.entries[at].run["q4"].doc_ids
    assert [content["grades"][place] for place in content["lists"][at]] == [made.qrels["q4"][doc] for doc in docs]
    assert "texts" not in content
    short = [entry.name for entry in made.entries].index("short")
    assert content["lengths"][short] == 10


def test_texts_are_shown_where_a_collection_has_them(folder: Path) -> None:
    (folder / "docs.jsonl").write_text(json.dumps({"_id": "d4-0", "text": HOSTILE}))
    made = board(folder, texts=f"jsonl:docs={folder / 'docs.jsonl'}")
    content = called(script_of_lists(made, 4))
    assert content["texts"] == {str(content["docs"].index("d4-0")): HOSTILE}
    assert HOSTILE not in script_of_lists(made, 4)


def test_csv(folder: Path) -> None:
    made = board(folder)
    rows = list(csv.DictReader(io.StringIO(board_as_csv(made, made.tables[0]))))
    assert [int(row["place"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    good = next(row for row in rows if row["run"] == "good")
    assert (good["tokens_per_query"], good["seconds_per_query"], good["dollars_per_query"]) == ("330", "2", "0.001")
    plain = next(row for row in rows if row["run"] == "plain")
    assert (plain["tokens_per_query"], plain["first_stage"], plain["depth"]) == ("", "", "")
    carded = next(row for row in rows if "<b>" in row["run"])
    assert carded["tokens_per_query"] == "0"
    assert float(rows[0]["mean"]) >= float(rows[1]["mean"])


def test_latex(folder: Path) -> None:
    made = board(folder)
    text = board_as_latex(made, made.tables[0])
    assert r"m \& n" in text
    assert r"\textless{}script\textgreater{}" in text
    assert r"\textdagger{}" in text
    assert text.count(r"\\") == 7
    assert not re.search(r"[^\x00-\x7f]", text)


def test_a_second_build_removes_what_the_first_left(folder: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    write_site([board(folder, measures=("P@5",))], site)
    write_site([board(folder, measures=("nDCG@10",))], site)
    names = [path.name for path in site.rglob("*") if path.is_file()]
    assert "made-up-p-5.csv" not in names
    assert len(list((site / "data").iterdir())) == 1
    before = {path: path.read_bytes() for path in site.rglob("*") if path.is_file()}
    write_site([board(folder, measures=("nDCG@10",))], site)
    assert {path: path.read_bytes() for path in site.rglob("*") if path.is_file()} == before


def test_what_is_not_a_site_is_left_alone(folder: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "thesis.txt").write_text("mine")
    with raises(UsageError, site, "--out"):
        write_site([board(folder)], site)
    (site / "site.json").write_text(json.dumps({"files": ["../input/qrels.txt", "thesis.txt"]}))
    with raises(UsageError, "site.json", "--out"):
        check_site(site)
    assert (site / "thesis.txt").read_text() == "mine"
    assert (folder / "qrels.txt").exists()


def test_files_of_others_in_a_site_stay(folder: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    write_site([board(folder)], site)
    (site / "tables" / "mine.txt").write_text("mine")
    write_site([board(folder)], site)
    assert (site / "tables" / "mine.txt").exists()


def test_several_collections(folder: Path, tmp_path: Path) -> None:
    boards = [board(folder), board(folder, title="Another", language="zh")]
    text = render_site(boards, "Mine")["index.html"]
    sections = [a for tag, a in parsed(text).found if tag == "section"]
    assert [(a["id"], a["data-language"]) for a in sections] == [("made-up", "en"), ("another", "zh")]
    with raises(DataError, boards[0].key):
        write_site([boards[0], boards[0]], tmp_path / "site")


def test_identical_lists_are_flagged(folder: Path) -> None:
    (folder / "runs" / "copy.trec").write_bytes((folder / "runs" / "plain.trec").read_bytes())
    made = board(folder)
    names = [entry.name for entry in made.entries]
    assert [names[other] for other in made.identical[names.index("copy")]] == ["plain"]
    assert made.identical[names.index("good")] == ()
    text = parsed(render_site([made], "Mine")["index.html"]).text
    assert text.count("same lists as plain") == text.count("same lists as copy") == 1
    rows = {row["run"]: row["same_lists_as"] for row in csv.DictReader(io.StringIO(board_as_csv(made, made.tables[0])))}
    assert (rows["copy"], rows["plain"], rows["good"]) == ("plain", "copy", "")


def test_published_figures_stand_apart(folder: Path) -> None:
    source = {"table": "Table 2", "measured_by": HOSTILE, "measure": "nDCG@10", "first_stage": "not stated"}
    made = board(folder, published=({**source, "figures": {"R": 0.71, "S": 70.25}},))
    text = render_site([made], "Mine")["index.html"]
    before, _, after = text.partition('<table class="published">')
    assert all(figure in after and figure not in before for figure in ("0.710", "70.25"))
    assert after.count("not stated</td>") >= 4  # first stage and depth of both
    assert HOSTILE not in text
    assert "70.25" not in board_as_csv(made, made.tables[0])


def test_licences_that_are_not_stated(folder: Path) -> None:
    card = folder / "runs" / "carded.toml"
    card.write_text(
        card.read_text() + 'licence = "CC BY 4.0"\nsource = "https://example.org/runs/x"\nparameters = 7e9\n'
    )
    elements = parsed(render_site([board(folder)], "Mine")["index.html"])
    assert elements.text.count("licence not stated") == 5
    assert "CC BY 4.0" in elements.text
    assert ("a", {"href": "https://example.org/runs/x", "rel": "noreferrer"}) in elements.found


def test_unknown_costs_are_named_and_not_drawn(folder: Path) -> None:
    text = render_site([board(folder)], "Mine")["index.html"]
    elements = parsed(text)
    drawn = [a for tag, a in elements.found if tag == "figure"]
    assert [a["data-cost"] for a in drawn] == ["tokens", "seconds"]  # one run alone knows its cost in dollars
    assert "unknown: 3 of 6 runs" in elements.text
    assert "plain, short, bm25, first 25" in elements.text

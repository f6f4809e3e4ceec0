"""Runs found in files, run folders and folders of both."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from rerank.errors import DataError, MissingResourceError
from rerank.io.file_hashes import file_hash
from rerank.io.run_files import write_run
from rerank.leaderboard.board_config import Card, CardIndex, parse_card, read_card, stem_of_run
from rerank.leaderboard.entries import find_runs
from tests.leaderboard.made import HOSTILE, TOPICS, card, files, judged, noisy, run_folder
from tests.raising import raises


def test_a_folder_of_everything(tmp_path: Path) -> None:
    runs = files(tmp_path) / "runs"
    (runs / "before-and-after.html").write_text("the page of rerank demo", encoding="utf-8")
    entries, notes = find_runs([runs])
    assert notes == []
    found = {entry.name: entry for entry in entries}
    assert set(found) == {"good", "better", "plain", f"<b>{HOSTILE}</b>", "short"}
    good = found["good"].card
    assert (good.first_stage, good.depth, good.model, good.method) == ("bm25", 25, "openai:some-model", "sliding")
    assert (good.tokens, good.seconds, good.cost, good.queries) == (9900, 60.0, 0.03, TOPICS)
    assert found["better"].card.cost is None
    assert found["good"].first is not None
    assert found["good"].queries["q3"] == HOSTILE
    assert found["plain"].card == Card(name="plain")
    assert found["good"].per_query(9900) == 330
    assert found["good"].per_query(None) is None


def test_an_unfinished_run_is_left_out_and_named(tmp_path: Path) -> None:
    first = noisy(judged(), 1, 1)
    run_folder(tmp_path / "done", first, first)
    run_folder(tmp_path / "half", first, first, summary={"complete": False})
    entries, notes = find_runs([tmp_path])
    assert [entry.name for entry in entries] == ["done"]
    assert notes == ["The run folder 'half' is unfinished and was skipped."]


def test_a_run_folder_may_have_a_card(tmp_path: Path) -> None:
    first = noisy(judged(), 1, 1)
    card(run_folder(tmp_path / "done", first, first) / "card.toml", name="mine", group="ours")
    ((entry,), _) = find_runs([tmp_path])
    assert (entry.name, entry.card.group, entry.card.method) == ("mine", "ours", "sliding")


def test_a_file_of_requests_is_a_run(tmp_path: Path) -> None:
    rows = [{"query": "what", "hits": [{"content": "text", "qid": 7, "docid": d, "score": 1.0}]} for d in ("a",)]
    (tmp_path / "list.json").write_bytes(gzip.compress(json.dumps(rows).encode()))
    (tmp_path / "lines.jsonl").write_text(json.dumps(rows[0]) + "\n")
    (tmp_path / "table.json").write_text('{"7": {"b": 1.0}}')
    entries, _ = find_runs([tmp_path, tmp_path / "lines.jsonl"])  # in folders, such files are tables of benchmarks
    assert {entry.name: entry.run["7"].doc_ids for entry in entries} == {
        "list": ("a",),
        "lines": ("a",),
        "table": ("b",),
    }
    assert next(e for e in entries if e.name == "list").queries == {"7": "what"}


def test_equal_names_get_their_folders(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_run(noisy(judged(), 1, 1), tmp_path / folder / "same.trec")
    entries, _ = find_runs([tmp_path / "a" / "same.trec", tmp_path, tmp_path / "b"])
    assert [entry.name for entry in entries] == ["a/same", "b/same"]


def test_defaults_and_a_folder_of_cards(tmp_path: Path) -> None:
    write_run(noisy(judged(), 1, 1), tmp_path / "x.run.gz")
    (tmp_path / "cards").mkdir()
    card(tmp_path / "cards" / "x.toml", model="m")
    ((entry,), _) = find_runs(
        [tmp_path / "x.run.gz"], defaults=Card(model="other", group="g"), cards=tmp_path / "cards"
    )
    assert (entry.name, entry.card.model, entry.card.group) == ("x", "m", "g")


def test_the_hash_of_a_card_is_held_against_the_file(tmp_path: Path) -> None:
    write_run(noisy(judged(), 1, 1), tmp_path / "x.trec")
    card(tmp_path / "x.toml", sha256=file_hash(tmp_path / "x.trec"))
    find_runs([tmp_path / "x.trec"])
    card(tmp_path / "x.toml", sha256="0" * 64)
    with raises(DataError, "0" * 64):
        find_runs([tmp_path / "x.trec"])


def test_a_card_names_its_run(tmp_path: Path) -> None:
    write_run(noisy(judged(), 1, 1), tmp_path / "x.trec")
    card(tmp_path / "about.toml", run="x.trec", model="m", sha256=file_hash(tmp_path / "x.trec"))
    (tmp_path / "board.toml").write_text('title = "no card"\n')
    ((entry,), _) = find_runs([tmp_path])
    assert (entry.name, entry.card.model) == ("x", "m")
    card(tmp_path / "about.toml", run="x.trec", sha256="0" * 64)
    with raises(DataError, "0" * 64):
        find_runs([tmp_path])
    card(tmp_path / "about.toml", run="x.trec")
    card(tmp_path / "again.toml", run="x.trec")
    with raises(DataError, "about.toml", "again.toml", "x.trec"):
        find_runs([tmp_path])


def test_a_card_that_names_another_run_is_not_the_one_of_its_name(tmp_path: Path) -> None:
    for name in ("x", "y"):
        write_run(noisy(judged(), 1, 1), tmp_path / f"{name}.trec")
    card(tmp_path / "x.toml", run="y.trec", model="m")
    entries, _ = find_runs([tmp_path])
    assert {entry.name: entry.card.model for entry in entries} == {"x": "", "y": "m"}
    card(tmp_path / "x.toml", run="nowhere.trec", model="m")
    with raises(DataError, "'nowhere.trec'", "x.toml"):
        find_runs([tmp_path])


def test_a_card_in_a_folder_of_cards_names_its_run(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "cards").mkdir()
    write_run(noisy(judged(), 1, 1), tmp_path / "runs" / "x.trec")
    for said in ("x.trec", "../runs/x.trec"):
        card(tmp_path / "cards" / "about.toml", run=said, model="m")
        ((entry,), _) = find_runs([tmp_path / "runs"], cards=tmp_path / "cards")
        assert entry.card.model == "m"


def test_the_card_of_a_run_folder_is_held_against_its_run(tmp_path: Path) -> None:
    first = noisy(judged(), 1, 1)
    folder = run_folder(tmp_path / "done", first, first)
    card(folder / "card.toml", run="run.trec", sha256=file_hash(folder / "run.trec"))
    find_runs([tmp_path])
    card(folder / "card.toml", sha256="0" * 64)
    with raises(DataError, "0" * 64):
        find_runs([tmp_path])
    card(folder / "card.toml", run="first_stage.trec")
    with raises(DataError, "'first_stage.trec'"):
        find_runs([tmp_path])


def test_nothing_there(tmp_path: Path) -> None:
    with raises(MissingResourceError, "missing.trec"):
        find_runs([tmp_path / "missing.trec"])
    with raises(DataError, tmp_path):
        find_runs([tmp_path])
    (tmp_path / "notes.txt").write_text("this is no run\n")
    with raises(DataError, "notes.txt"):
        find_runs([tmp_path])


def test_names_without_endings() -> None:
    assert [stem_of_run(Path(name)) for name in ("a.run.gz", "b.trec", "c.v2.txt", "d")] == ["a", "b", "c.v2", "d"]


def test_a_broken_file_of_another_name_is_taken_for_no_card(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text("name = [")
    (tmp_path / "a.trec").write_text("q1 Q0 d1 1 2.0 a\n")
    with pytest.warns(UserWarning, match=r"recipe\.toml"):
        assert CardIndex().find(tmp_path / "a.trec") == Card()
    (tmp_path / "a.toml").write_text("name = [")
    with pytest.warns(UserWarning, match=r"(a|recipe)\.toml"), raises(DataError, "a.toml"):
        CardIndex().find(tmp_path / "a.trec")


def test_what_a_card_leaves_out_is_unknown() -> None:
    card = Card(name="a")
    assert (card.tokens, card.seconds, card.cost, card.depth) == (None, None, None, None)
    assert card.group == ""


def test_a_card_goes_over_another() -> None:
    card = Card(name="a", tokens=0).with_defaults(Card(name="b", tokens=5, group="official"))
    assert (card.name, card.tokens, card.group) == ("a", 0, "official")
    assert card.with_name("c").name == "a"
    assert Card().with_name("c").name == "c"


def test_a_card_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('name = "a"\ndepth = 100\nseconds = 1.5\n')
    assert read_card(tmp_path / "a.toml") == Card(name="a", depth=100, seconds=1.5)
    with pytest.raises(MissingResourceError):
        read_card(tmp_path / "b.toml")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("name = ", "TOML"),
        ("nmae = 'a'", "'name'"),
        ("depth = 0", "depth = 0"),
        ("tokens = -1", "tokens = -1"),
        ("seconds = nan", "seconds"),
        ("cost = inf", "cost"),
        ("sha256 = 'abc'", "sha256 = 'abc'"),
        ("tokens = 'many'", "tokens = 'many'"),
    ],
)
def test_a_wrong_card(text: str, fault: str, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(text)
    with raises(DataError, "a.toml", fault):
        read_card(tmp_path / "a.toml")


def test_every_fault_is_told() -> None:
    card, problems = parse_card({"nmae": "a", "depth": -1, "tokens": "many", "model": "m"})
    assert card == Card(model="m")
    assert len(problems) == 3

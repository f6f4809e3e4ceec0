"""The check of a submission: everything wrong is said at once, and what is right passes."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from rerank.errors import DataError, MissingResourceError
from rerank.io.file_hashes import file_hash
from rerank.io.run_files import write_run
from rerank.leaderboard.submission import SHOWN, check_submission
from tests.leaderboard.made import TOPICS, card, judged, noisy
from tests.raising import raises

TOLD = {"name": "mine", "first_stage": "bm25", "depth": 25}


@pytest.fixture
def good(tmp_path: Path) -> Path:
    write_run(noisy(judged(), 1, 1), tmp_path / "mine.run.gz")
    card(tmp_path / "mine.toml", **TOLD, sha256=file_hash(tmp_path / "mine.run.gz"))
    return tmp_path / "mine.toml"


def written(folder: Path, lines: list[str], **told: object) -> Path:
    (folder / "mine.trec").write_text("\n".join(lines))
    card(folder / "mine.toml", **{**TOLD, "sha256": file_hash(folder / "mine.trec"), **told})
    return folder / "mine.toml"


def test_what_is_right_passes(good: Path) -> None:
    found = check_submission(good, judged())
    assert (found.problems, found.notes, found.queries) == ([], [], TOPICS)
    assert found.to_dict()["ok"] is True


def test_everything_is_said_at_once(tmp_path: Path) -> None:
    lines = [
        "q0 Q0 d0-0 1 2.5 tag",
        "q0 Q0 d0-0 2 2.0 tag",
        "q0 Q0 d0-1 3 nan tag",
        "q0 Q0 d0-2 4 high tag",
        "q1 Q0 d1-1 1 5 tag",
        "q1 Q0 d1-2 2 4 tag",
        "q1 Q0 d1-3 3 3 tag",
        "stranger Q0 d1 1 1 tag",
        "too few columns",
    ]
    told = check_submission(written(tmp_path, lines, depth=2, modle="x", sha256="0" * 64, cost=-1), judged())
    text = "\n".join(told.problems)
    for fault in (
        "'model'",
        "cost = -1",
        "SHA-256 is",
        "line 9: 3 columns",
        "line 3: score 'nan'",
        "line 4: score 'high'",
        "line 2: document 'd0-0' occurs twice",
        "Query 'stranger' is not among the topics",
    ):
        assert fault in text
    told = check_submission(written(tmp_path, lines, depth=2), judged())
    assert "Query 'q1' has 3 documents, but the card declares depth 2." in told.problems
    assert any("28 of 30 judged queries have no list" in note for note in told.notes)


def test_many_faults_of_one_kind_are_counted(tmp_path: Path) -> None:
    told = check_submission(written(tmp_path, [f"x{n} Q0 d 1 1 tag" for n in range(20)]), judged())
    assert len(told.problems) == SHOWN + 1
    assert told.problems[-1] == "... and 15 more of this type."


def test_ranks_that_contradict_the_scores_are_remarked(tmp_path: Path) -> None:
    told = check_submission(written(tmp_path, ["q0 Q0 a 1 1.0 t", "q0 Q0 b 2 2.0 u"]), judged())
    assert told.problems == []
    assert any("rank column" in note for note in told.notes)
    assert any("2 different tags" in note for note in told.notes)
    assert any("longest list has 2" in note for note in told.notes)


def test_what_a_card_must_say(tmp_path: Path) -> None:
    write_run(noisy(judged(), 1, 1), tmp_path / "mine.trec")
    card(tmp_path / "mine.toml", model="m")
    told = check_submission(tmp_path / "mine.toml", judged())
    assert [line.partition(":")[0] for line in told.problems] == [
        f"The card has no {key}" for key in ("name", "first_stage", "depth", "sha256")
    ]
    assert told.notes == [f'For the card: sha256 = "{file_hash(tmp_path / "mine.trec")}"']


def test_the_run_file_is_missing_or_unclear(tmp_path: Path) -> None:
    card(tmp_path / "mine.toml", **TOLD, sha256="0" * 64)
    assert "There is no run file" in check_submission(tmp_path / "mine.toml", judged()).problems[-1]
    for name in ("mine.trec", "mine.run"):
        write_run(noisy(judged(), 1, 1), tmp_path / name)
    assert "mine.run, mine.trec" in check_submission(tmp_path / "mine.toml", judged()).problems[-1]
    card(tmp_path / "mine.toml", **TOLD, sha256=file_hash(tmp_path / "mine.run"), run="mine.run")
    assert check_submission(tmp_path / "mine.toml", judged()).problems == []
    card(tmp_path / "mine.toml", **TOLD, sha256="0" * 64, run="nowhere.run")
    assert "nowhere.run" in check_submission(tmp_path / "mine.toml", judged()).problems[-1]


def test_damaged_and_empty_files(tmp_path: Path) -> None:
    (tmp_path / "mine.run.gz").write_bytes(gzip.compress(b"q0 Q0 a 1 1 t\n" * 100)[:-12])
    card(tmp_path / "mine.toml", **TOLD, sha256=file_hash(tmp_path / "mine.run.gz"))
    assert "truncated gzip" in check_submission(tmp_path / "mine.toml", judged()).problems[-1]
    (tmp_path / "mine.run.gz").write_bytes(b"")
    card(tmp_path / "mine.toml", **TOLD, sha256=file_hash(tmp_path / "mine.run.gz"))
    assert check_submission(tmp_path / "mine.toml", judged()).problems == ["The run file has no valid lines."]


def test_no_card_at_all(tmp_path: Path) -> None:
    with pytest.raises(MissingResourceError):
        check_submission(tmp_path / "none.toml", judged())
    (tmp_path / "bad.toml").write_text("name")
    with raises(DataError, "bad.toml"):
        check_submission(tmp_path / "bad.toml", judged())

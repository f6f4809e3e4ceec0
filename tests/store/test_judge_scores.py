from __future__ import annotations

import math
from pathlib import Path

import pytest

from rerank.errors import DataError
from rerank.store.run_folder import JudgeScores, open_judge_scores, read_judge_scores
from tests.raising import raises

ROWS = [JudgeScores(query="q1", kind="log-odds", scores={"d1": -0.1234567890123, "d é": None}), JudgeScores(query="q2")]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "judge_scores.jsonl"
    with open_judge_scores(path) as write:
        for row in ROWS:
            write(row)
    assert read_judge_scores(path) == {row.query: row for row in ROWS}
    first = path.read_text("utf-8").splitlines()[0]
    assert first == '{"query": "q1", "kind": "log-odds", "scores": {"d1": -0.1234567890123, "d é": null}}'


def test_older_folders_have_no_file(tmp_path: Path) -> None:
    assert read_judge_scores(tmp_path / "judge_scores.jsonl") == {}


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("{", "invalid JSON"),
        ("[]", "[]"),
        ('{"kind": "k", "scores": {}}', "query"),
        ('{"query": 1, "kind": "k", "scores": {}}', "query"),
        ('{"query": "q", "kind": null, "scores": {}}', "kind"),
        ('{"query": "q", "kind": "k", "scores": [1]}', "scores"),
        ('{"query": "q", "kind": "k", "scores": {"d": "1"}}', "'d'"),
        ('{"query": "q", "kind": "k", "scores": {"d": true}}', "'d'"),
        ('{"query": "q", "kind": "k", "scores": {"d": NaN}}', "nan"),
        ('{"query": "q", "kind": "k", "scores": {"d": Infinity}}', "inf"),
        ('{"query": "q", "kind": "", "scores": {"d": 1}}', "no kind"),
        ('{"query": "first", "kind": "k", "scores": {"d": 1}}', "duplicate query 'first'"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: str, named: str) -> None:
    path = tmp_path / "judge_scores.jsonl"
    path.write_text(f'{{"query": "first", "kind": "k", "scores": {{}}}}\n{line}\n', "utf-8")
    with raises(DataError, f"{path}:2", named):
        read_judge_scores(path)


def test_invalid_scores_are_not_written() -> None:
    with raises(DataError, "nan", "'d'"):
        JudgeScores(query="q", kind="k", scores={"d": math.nan})

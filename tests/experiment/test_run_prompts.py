"""Prompts of a run: from its log, or rendered again."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rerank.backends.fake import Fake
from rerank.errors import DataError
from rerank.experiment import run_experiment, verify_run_folder
from rerank.experiment.replay import read_run_prompts
from rerank.experiment.spec import Execution, RunSpec
from rerank.store import RunFolder, repair_call_log
from rerank.tasks import Reply, Request
from tests.raising import raises

LISTS = """{"query": {"text": "drums", "qid": "q1"}, "candidates": [
{"docid": "a", "doc": "Turn the rods."}, {"docid": "b", "doc": "A plain text."}, {"docid": "c", "doc": "Wood."}]}"""


def run(folder: Path, method: str, **execution: Any) -> RunFolder:
    (folder / "lists.jsonl").write_text(LISTS.replace("\n", " ") + "\n")
    values = {"collection": f"requests:{folder}/lists.jsonl", "first_stage": "candidates", "model": "fake:stutter"}
    run_experiment(RunSpec.make({**values, "method": method}), Execution(out=folder / "out", **execution))
    return RunFolder.existing(folder / "out")


@pytest.mark.parametrize("method", ["fullrank", "setwise", "pairwise", "sliding"])
def test_rendered_prompts_are_those_that_were_sent(tmp_path: Path, method: str) -> None:
    found = {}
    for storage in ("full", "once", "none"):
        (tmp_path / storage).mkdir()
        folder = run(tmp_path / storage, method, log_prompts=storage)
        assert verify_run_folder(folder) == []
        found[storage] = {prompt.digest: prompt.to_json() for prompt in read_run_prompts(folder)}
    assert found["full"] == found["once"] == found["none"]
    assert len(found["none"]) >= 1


def test_another_text_has_another_digest(tmp_path: Path) -> None:
    folder = run(tmp_path, "fullrank", log_prompts="none")
    (tmp_path / "lists.jsonl").write_text((tmp_path / "lists.jsonl").read_text().replace("rods", "keys"))
    with raises(DataError, "digest", "query 'q1'"):
        list(read_run_prompts(folder))
    assert verify_run_folder(folder) == []


@pytest.mark.parametrize("method", ["fullrank", "pairwise"])
def test_verify_finds_damaged_prompts(tmp_path: Path, method: str) -> None:
    folder = run(tmp_path, method)
    with closing(sqlite3.connect(folder.path / "calls.sqlite")) as database, database:
        damaged = database.execute("UPDATE prompts SET packed = x'00'").rowcount
    (row,) = verify_run_folder(folder)
    assert (row["file"], row["what"]) == ("calls.sqlite", "prompts")
    assert row["computed"].startswith(f"{damaged} are damaged, the first in row 1")
    assert repair_call_log(folder).prompts_lost == damaged
    run(tmp_path, method, resume=True)
    assert verify_run_folder(folder) == []
    assert len(list(read_run_prompts(folder))) == damaged


def test_calls_without_a_reply_have_no_prompt(tmp_path: Path) -> None:
    folder = run(tmp_path, "pairwise", log_prompts="none", max_total_tokens=1)
    assert list(read_run_prompts(folder)) == []


def test_verify_finds_scores_that_are_not_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = Fake.generate

    def without_numbers(fake: Fake, requests: Sequence[Request]) -> list[Reply]:
        return [replace(reply, scores=(math.nan,) * len(reply.scores)) for reply in answer(fake, requests)]

    monkeypatch.setattr(Fake, "generate", without_numbers)
    (row,) = verify_run_folder(run(tmp_path, "pointwise"))
    assert (row["file"], row["what"], row["computed"][:7]) == ("calls.sqlite", "scores", "3 calls")

"""A folder of pictures from the first stage to the scores, as a user would run it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Cli

pytest.importorskip("faiss")
pytest.importorskip("transformers")
pytest.importorskip("PIL")

from rerank.io.run_files import read_run
from tests.backends.seeing import draw, make_clip, make_llava


@pytest.fixture
def flags(tmp_path: Path) -> list[Any]:
    paths = draw(tmp_path / "photos")
    (tmp_path / "q.jsonl").write_text('{"id": "1", "text": "a red bird"}\n{"id": "2", "text": "snow"}\n')
    (tmp_path / "qrels.txt").write_text("".join(f"{q} 0 {Path(paths[q]).name} 1\n" for q in (1, 2)))
    clip = make_clip(tmp_path / "clip")
    return [
        *("--collection", f"pictures:{tmp_path / 'photos'},queries={tmp_path / 'q.jsonl'}"),
        *("--first-stage", f"images:{clip},device=cpu", "--qrels", tmp_path / "qrels.txt", "--depth", 6),
        *("-m", "nDCG@10", "--format", "json"),
    ]


@pytest.mark.parametrize(("method", "calls"), [("fullrank-images", 2), ("pointwise-images", 12)])
def test_a_whole_run_and_its_resume(cli: Cli, flags: list[Any], tmp_path: Path, method: str, calls: int) -> None:
    llava = make_llava(tmp_path / "llava")
    command = ("run", *flags, "--method", method, "--model", llava, "--device", "cpu", "--out", "out")
    done = cli(*command)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["queries"], summary["calls"], summary["windows"]["ok"]) == (2, calls, 2)
    first, last = (read_run(Path("out") / name) for name in ("first_stage.trec", "run.trec"))
    assert {q: set(r.doc_ids) for q, r in first.items()} == {q: set(r.doc_ids) for q, r in last.items()}
    assert json.loads(cli(*command).stdout)["reused_calls"] == calls
    draw(tmp_path / "photos", width=50)  # other pictures under the same names: nothing of the old run is theirs
    again = cli("run", *flags, "--method", method, "--model", llava, "--device", "cpu", "--out", "other")
    assert json.loads(again.stdout)["reused_calls"] == 0


def test_fakes_see_pictures_and_methods_for_texts_refuse_them(cli: Cli, flags: list[Any]) -> None:
    perfect = cli("run", *flags, "--depth", 8, "--method", "fullrank-images", "--model", "fake:perfect")
    assert json.loads(perfect.stdout)["scores"] == {"nDCG@10": 1.0}
    texts = cli("run", *flags, "--method", "fullrank", "--model", "fake:perfect")
    assert texts.returncode == 5
    assert "is a picture without text" in texts.stderr + texts.stdout

"""Damaged call logs and indexes: damage is noticed, what is whole is kept, and a resumed run is the undamaged one."""

from __future__ import annotations

import random
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest

from rerank.errors import RerankError
from rerank.experiment import run_experiment, verify_run_folder
from rerank.experiment.replay import read_run_prompts
from rerank.experiment.spec import Execution, RunSpec
from rerank.store import CallLog, RunFolder, repair_call_log
from tests.attacks.scale import scaled_count

INPUTS = Path(__file__).parents[1] / "fixtures" / "v2d4cd24" / "inputs"


def finished_run(out: Path) -> dict[str, Any]:
    spec = RunSpec.make(
        {
            "collection": f"jsonl:{INPUTS / 'collection'}",
            "model": "fake:stutter,p=0.3",
            "method": "full:score",
            "first_stage": f"run:{INPUTS / 'first.trec'}",
        }
    )
    return run_experiment(spec, Execution(out=out, resume=True))


def stored_calls(folder: Path) -> dict[str, tuple[Any, ...]]:
    with CallLog(folder / "calls.sqlite", readonly=True) as log:
        return {row[0]: row for row in log.whole_rows()[0]}


@pytest.mark.parametrize(("cut_off", "share"), [(False, 0.7), (True, 0.1)])
def test_damage_of_a_call_log_is_noticed_and_what_is_whole_is_kept(
    tmp_path: Path, *, cut_off: bool, share: float
) -> None:
    finished_run(tmp_path / "whole")
    prompts = {call.digest: call.prompt for call in read_run_prompts(RunFolder(tmp_path / "whole"))}
    calls, run = stored_calls(tmp_path / "whole"), (tmp_path / "whole" / "run.trec").read_bytes()
    data = (tmp_path / "whole" / "calls.sqlite").read_bytes()
    kept_counts = []
    for number in range(scaled_count(200)):
        rng = random.Random(number)
        folder = tmp_path / "damaged"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "whole", folder)
        start, length = rng.randrange(100, len(data)), rng.choice((1, 1, 16, 1000, 5000))
        damaged = bytearray(data)
        for position in range(start, min(start + length, len(data))):
            damaged[position] = rng.randrange(256)
        (folder / "calls.sqlite").write_bytes(data[:start] if cut_off else damaged)
        try:
            verify_run_folder(RunFolder(folder))
            repair = repair_call_log(RunFolder(folder))
        except RerankError:
            try:
                repair = repair_call_log(RunFolder(folder))
            except RerankError:  # SQLite's own description of the tables is damaged
                continue
        kept = stored_calls(folder)
        kept_counts.append(len(kept))
        # A prompt that cannot be read is left out and counted, and is rendered again by what reads prompts.
        lost = [digest for digest, row in kept.items() if not row[3]]
        assert all(calls[digest] == row for digest, row in kept.items() if digest not in lost), number
        assert all(calls[d][:3] + calls[d][4:] == kept[d][:3] + kept[d][4:] for d in lost), number
        assert repair.prompts_lost == len(lost), number
        finished_run(folder)
        assert (folder / "run.trec").read_bytes() == run, number
        assert repair.original is None or stored_calls(folder).keys() == calls.keys()
        assert {call.digest: call.prompt for call in read_run_prompts(RunFolder(folder))} == prompts, number
    assert len(kept_counts) >= 0.8 * scaled_count(200)
    assert sum(kept_counts) >= share * len(kept_counts) * len(calls)


def test_every_changed_byte_of_an_index_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rerank.collections import open_collection
    from rerank.retrieval import open_first_stage

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    corpus = open_collection(f"jsonl:{INPUTS / 'collection'}")

    def search() -> object:
        return open_first_stage("bm25", corpus).search(corpus.queries(), 5)

    before = search()
    for number in range(scaled_count(100)):
        rng = random.Random(number)
        files = [path for path in sorted(tmp_path.rglob("bm25-*/*")) if path.is_file() and path.stat().st_size]
        path = rng.choice(files)
        content = bytearray(path.read_bytes())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert search() == before
        assert path.name == "marker.json" or any("damaged" in str(warning.message) for warning in caught)

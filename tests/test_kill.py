"""Runs that are killed (SIGKILL) at random moments and resumed: the same bytes at the end, no committed call twice."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from rerank.experiment import run_experiment, verify_run_folder
from rerank.experiment.spec import Execution, RunSpec
from rerank.store import RunFolder

#: Seconds after which a process that should have ended or come to its moment counts as stuck.
PATIENCE = 600.0


def write_lists(folder: Path, *, queries: int, depth: int) -> tuple[str, ...]:
    """A requests file with judgments; return the flags that rerank it."""
    rows, grades = [], []
    for q in range(queries):
        docs = [{"docid": f"d{q}-{n}", "doc": f"Fact {n} about plant {q}."} for n in range(depth)]
        rows.append(json.dumps({"query": {"qid": f"q{q}", "text": f"what is plant {q}"}, "candidates": docs}))
        grades += [f"q{q} 0 d{q}-{n} {n % 3}" for n in range(depth)]
    (folder / "lists.jsonl").write_text("\n".join(rows), encoding="utf-8")
    (folder / "qrels.txt").write_text("\n".join(grades), encoding="utf-8")
    collection = ("--collection", f"requests:{folder / 'lists.jsonl'}", "--first-stage", "candidates")
    return (*collection, "--qrels", str(folder / "qrels.txt"))


@dataclass(kw_only=True)
class Victim:
    """A run folder and the processes that work on it and are killed.

    Attributes:
        flags: Of `rerank run`, without --out and --resume.
        out: The run folder.
        log: File in which the fake model notes the digests that it serves; may be absent.
        kills: For every kill: how many lines the log had, and the digests that were committed.
        summary: What the process that was not killed printed.
    """

    flags: Sequence[str]
    out: Path
    log: Path
    kills: list[tuple[int, frozenset[str]]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)

    def served(self) -> list[str]:
        return self.log.read_text(encoding="utf-8").splitlines() if self.log.exists() else []

    def committed(self) -> frozenset[str]:
        """Digests in the call log, read from a copy: reading must not repair what a resume has to."""
        with tempfile.TemporaryDirectory() as room:
            for path in self.out.glob("calls.sqlite*"):
                with suppress(FileNotFoundError):  # the process has just ended and removed what SQLite kept beside it
                    shutil.copy(path, room)
            if not (Path(room) / "calls.sqlite").exists():
                return frozenset()
            db = sqlite3.connect(Path(room) / "calls.sqlite")
            try:
                return frozenset(digest for (digest,) in db.execute("SELECT digest FROM calls"))
            except sqlite3.OperationalError:  # killed before the table was made
                return frozenset()
            finally:
                db.close()

    def attempt(self, moment: Iterator[bool]) -> bool:
        """Start or resume the run and kill it when ``moment`` says so; return whether it came to its end first."""
        # --resume is right for the first start too: an empty folder has nothing to go on with.
        command = [sys.executable, "-m", "rerank", "run", *self.flags, "--out", str(self.out), "--resume"]
        env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}
        process = subprocess.Popen(
            [*command, "--format", "json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
        )
        deadline = time.monotonic() + PATIENCE
        try:
            while process.poll() is None and not next(moment):
                assert time.monotonic() < deadline, "the moment to kill never came"
                time.sleep(0.002)
        finally:
            process.kill()
            stdout, stderr = process.communicate()
        if process.returncode == 0:
            self.summary = json.loads(stdout)
            return True
        assert process.returncode == -9, stderr
        self.kills.append((len(self.served()), self.committed()))
        return False


def after(seconds: float) -> Iterator[bool]:
    """So long after now."""
    end = time.monotonic() + seconds
    while True:
        yield time.monotonic() >= end


def after_growth(count: Callable[[], int], more: int, seconds: float) -> Iterator[bool]:
    """Yield True when something has grown by a given amount, and a moment later."""
    before = count()
    while count() < before + more:
        yield False
    yield from after(seconds)


def never() -> Iterator[bool]:
    while True:
        yield False


def check(victim: Victim, whole: dict[str, Any]) -> None:
    """Compare what was killed and resumed with the summary of a run that was left alone."""
    for name in ("run.trec", "judge_scores.jsonl"):  # scores are equal to the last bit
        assert (victim.out / name).read_bytes() == (Path(whole["folder"]) / name).read_bytes()
    for key in ("scores", "first_stage_scores", "windows", "calls", "tokens_in", "tokens_out"):
        assert victim.summary[key] == whole[key], key
    assert verify_run_folder(RunFolder.existing(victim.out)) == []
    for (_, earlier), (_, later) in pairwise(victim.kills):
        assert earlier <= later, "a committed call was lost"
    # What the last process did not find committed, it asked; what it found, it did not ask.
    assert victim.summary["reused_calls"] == len(victim.kills[-1][1])


def spec_of(flags: Sequence[str], model: str, **more: Any) -> RunSpec:
    names = [flag.removeprefix("--").replace("-", "_") for flag in flags[::2]]
    return RunSpec.make(dict(zip(names, flags[1::2], strict=True)) | {"model": model} | more)


@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.full)])
def test_kills_change_nothing_and_cost_nothing_twice(tmp_path: Path, kills: int) -> None:
    window = ("--method", "sliding", "--window-size", "4", "--stride", "2")
    flags = (*write_lists(tmp_path, queries=12, depth=20), *window)
    whole = run_experiment(spec_of(flags, "fake:stutter,batch_size=3"), Execution(out=tmp_path / "whole"))
    assert whole["calls"] == 12 * 9

    log = tmp_path / "served.txt"
    model = f"fake:stutter,batch_size=3,delay=0.02,log={log}"
    victim = Victim(flags=(*flags, "--model", model), out=tmp_path / "killed", log=log)
    chance = random.Random(20)
    while len(victim.kills) < kills:
        if chance.random() < 0.25:  # while it imports, reads or takes its folder
            moment = after(chance.uniform(0.02, 0.6))
        else:  # between the first call of a batch and the commit of a later one
            moment = after_growth(lambda: len(victim.served()), chance.randint(1, 7), chance.uniform(0, 0.03))
        assert not victim.attempt(moment), f"it ended before it was killed {kills} times: make the run longer"
    assert victim.attempt(never())

    check(victim, whole)
    served = victim.served()
    for lines, committed in victim.kills:
        assert committed.isdisjoint(served[lines:])
    assert set(served) >= victim.committed()
    assert len(served) <= whole["calls"] + kills * 3  # a kill costs its batch at most
    if kills == 20:
        assert whole["calls"] < len(served), "no kill cost anything"  # of a few kills, none may


COMBINATIONS = [(dtype, reuse) for dtype in ("float32", "bfloat16") for reuse in ("--reuse", "--no-reuse")]


@pytest.mark.parametrize(
    ("dtype", "reuse", "kills"),
    [
        pytest.param("bfloat16", "--reuse", 2, marks=pytest.mark.model),
        *(pytest.param(*combination, 20, marks=pytest.mark.slow) for combination in COMBINATIONS),
    ],
)
def test_a_real_model_is_killed_too(tmp_path: Path, dtype: str, reuse: str, kills: int) -> None:
    """Pairs share prefixes, so a resumed run starts with a cold cache where an undisturbed one had a warm one."""
    options = ("--dtype", dtype, "--batch-size", "3", "--method", "heapsort:pick,by=likelihood", "--top-k", "3", reuse)
    kill_a_model(tmp_path, "smollm2-135m", *options, startup=6.0, kills=kills)


@pytest.mark.full
def test_the_harness_for_the_real_model(tmp_path: Path) -> None:
    options = ("--method", "sliding", "--window-size", "4", "--stride", "2", "--batch-size", "2")
    kill_a_model(tmp_path, "fake:stutter,delay=0.05", *options, startup=0.6, kills=5)


def kill_a_model(folder: Path, model: str, *options: str, startup: float, kills: int) -> None:
    """Kill a run several times, let it finish, and compare it with an undisturbed run.

    Batches of two differ in length, so the padding matters: a resumed run must form the same batches.

    Args:
        folder: Where everything goes.
        model: The model.
        options: Further flags.
        startup: About how many seconds pass before the first call.
        kills: How often.
    """
    flags = (*write_lists(folder, queries=max(10, kills), depth=6), "--model", model, *options)
    victim = Victim(flags=flags, out=folder / "killed", log=folder / "none")
    chance = random.Random(5)
    while len(victim.kills) < kills:
        if len(victim.kills) % 2:
            moment = after(chance.uniform(0.1, startup))
        else:  # polled seldom, since every look is a copy of the file
            moment = after_growth(paced(lambda: len(victim.committed())), 1, chance.uniform(0, startup / 8))
        assert not victim.attempt(moment), f"it ended before it was killed {kills} times: make the run longer"
    assert victim.attempt(never())
    whole = Victim(flags=flags, out=folder / "whole", log=folder / "none")
    assert whole.attempt(never())
    check(victim, whole.summary)


def paced(count: Callable[[], int], seconds: float = 0.05) -> Callable[[], int]:
    """Ask ``count`` only so often; between that, the last answer."""
    last: list[Any] = [0.0, 0]

    def paced_count() -> int:
        if time.monotonic() >= last[0] + seconds:
            last[:] = time.monotonic(), count()
        return int(last[1])

    return paced_count

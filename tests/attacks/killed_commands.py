"""Commands that get a signal at a random moment, and what they leave in their folder."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Seconds after which a command counts as stuck.
PATIENCE = 300.0
_SCRIPT = Path(__file__).parent / "ended_command.py"
_CHECKOUT = Path(__file__).resolve().parents[2]
#: Keys of JSON files and columns of call logs whose values depend on the time or on how often a command was started.
_VOLATILE = {"seconds", "started", "created", "environment", "cost", "reused_calls", "checksum"}
#: Keys in files of a training that describe its last process only, or a temporary path.
_VOLATILE |= {"tokens", "train_loss", "train_runtime", "train_samples_per_second", "train_steps_per_second"}
_VOLATILE |= {"best_model_checkpoint"}


@dataclass(frozen=True, kw_only=True)
class Moment:
    """When a signal is sent: some seconds after the start, or ``delay`` seconds after a change of a file begins."""

    seconds: float = PATIENCE
    change: int = 0
    delay: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a process ended, how long it took, and how many changes of files it began (0 if it was killed)."""

    code: int
    out: str
    err: str
    seconds: float
    changes: int


def start_command(
    words: Sequence[str],
    folder: Path,
    moment: Moment,
    number: int = signal.SIGKILL,
    *,
    hub: Callable[[Path], Mapping[str, str]] = lambda home: {},
) -> Ended:
    """Start a command in a folder, which also holds its caches, and send it a signal at a moment.

    ``hub`` returns the variables for a hub, given the folder of its cache.
    """
    folder.mkdir(exist_ok=True)
    counts = folder.with_name(f"{folder.name}.changes")
    counts.unlink(missing_ok=True)
    script = [sys.executable, str(_SCRIPT), str(int(number)), str(moment.change), str(moment.delay), str(counts)]
    own = {"XDG_CACHE_HOME": "cache", "XDG_CONFIG_HOME": "config", "TMPDIR": "."}
    env = os.environ | {name: str(folder / value) for name, value in own.items()}
    env |= {"PYTHONPATH": str(_CHECKOUT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **hub(folder / "home")}
    began = time.monotonic()
    with subprocess.Popen(
        ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *script, "--", *words],
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=moment.seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
            try:
                out, err = process.communicate(timeout=PATIENCE)
            finally:
                process.kill()
    # A command that is killed while it writes the count leaves an empty file.
    changes = int(counts.read_text(encoding="ascii") or 0) if counts.exists() else 0
    return Ended(code=process.returncode, out=out, err=err, seconds=time.monotonic() - began, changes=changes)


def random_moment(whole: Ended, chance: random.Random) -> Moment:
    """Return a moment in the life of a command that takes as long as ``whole``; half of them are changes of files."""
    if chance.random() < 0.5:
        return Moment(seconds=chance.uniform(0.05, whole.seconds))
    return Moment(change=chance.randint(1, whole.changes), delay=chance.choice([0.0, chance.uniform(0, 0.01)]))


def read_results(folder: Path, differ: Sequence[str] = ()) -> dict[str, Any]:
    """Return the files below a folder as relative path -> content, without dates, seconds and costs.

    Args:
        folder: The folder.
        differ: Patterns of the files to omit.
    """
    ends = [path for path in folder.rglob("*") if not path.is_dir() or not any(path.iterdir())]
    return {
        str(path.relative_to(folder)): _content(path)
        for path in ends
        if not any(path.match(pattern) for pattern in differ)
    }


def _content(path: Path) -> Any:
    if path.is_dir():
        return "an empty folder"
    if path.suffix == ".sqlite":
        return read_calls(path)
    if path.suffix == ".json":
        return _lasting(json.loads(path.read_text(encoding="utf-8")))
    if path.suffix == ".jsonl":
        return [_lasting(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    return path.read_bytes()


def read_calls(path: Path) -> dict[str, Any]:
    """Return the committed calls as digest -> columns; empty if there is no call log yet.

    A copy is read, because reading would repair what the command that is typed again must repair.
    """
    if not path.is_file():
        return {}
    with tempfile.TemporaryDirectory() as copies:
        for part in path.parent.glob(f"{path.name}*"):
            shutil.copy(part, copies)
        return _read_calls_of_copy(Path(copies) / path.name)


def _read_calls_of_copy(path: Path) -> dict[str, Any]:
    with closing(sqlite3.connect(path)) as database:
        database.row_factory = sqlite3.Row
        try:
            return {row["digest"]: _lasting(dict(row)) for row in database.execute("SELECT * FROM calls")}
        except sqlite3.OperationalError:  # killed before the table was created
            return {}


def _lasting(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _lasting(item) for key, item in value.items() if key not in _VOLATILE}
    return [_lasting(item) for item in value] if isinstance(value, list) else value

"""Folders that commands write, from somebody else or damaged.

Links, pipes, sockets and folders in place of files neither reach other files nor hang. After damage, a command that is
typed again leaves what an undisturbed one leaves, or refuses; nothing is silently different.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import random
import shutil
import signal
import stat
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

import pytest

from rerank.cli import main
from tests.attacks.killed_commands import read_results
from tests.attacks.scale import scaled_count
from tests.leaderboard import made

INPUTS = Path(__file__).parents[1] / "fixtures" / "v2d4cd24" / "inputs"
#: Seconds after which a command counts as stuck.
_PATIENCE = 30
_RUN = "--collection jsonl:{inputs}/collection --first-stage run:{inputs}/first.trec --model fake:stutter,p=0.3 "
_RUN += "--method full:score --out out"
_JUDGE = "qrels judge {inputs}/first.trec --collection jsonl:{inputs}/collection --method depth --budget 3 --judge llm "
_JUDGE += "--model fake:perfect --out out/judged.jsonl --qrels-out out/qrels.txt"
_RECIPE = """
model = "{model}"
seed = 3
data = {{lists = ["{docs}/labels.jsonl"], collection = "jsonl:{docs}", documents = 4}}
method = {{method = "fullrank", prompt = "listwise", max_passage_tokens = 40, min_passage_tokens = 1}}
losses = [{{name = "importance"}}]
adapter = {{name = "lora", r = 2}}
training = {{steps = 2, save_every = 1, keep = 2, log_every = 1, dtype = "float32"}}
validation = {{collection = "jsonl:{docs}", depth = 3, max_queries = 2, every = 1}}
"""


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A folder that commands write.

    Attributes:
        make: The command that writes the folder, typed in the folder above it.
        again: Commands of a user who got the folder from somebody else.
        extra: Names of files that the folder may contain in addition to those that the command leaves.
        removed: Files that are removed first, so that there is something to do.
        verify: A command that finds damage in the results of a finished folder.
        differ: Patterns of files that may differ, see `test_kills`.
        unused: Patterns of files that are not compared: they are compared with their checksums before they are used.
        damages: How often a file is damaged in the whole attack.
    """

    make: str
    again: Sequence[str]
    extra: Sequence[str] = ()
    removed: Sequence[str] = ()
    verify: str = ""
    differ: Sequence[str] = ()
    unused: Sequence[str] = ()
    damages: int = 20


_LOG = ("calls.sqlite-wal", "calls.sqlite-shm", "calls.sqlite-journal", ".calls.sqlite.tmp", "calls.sqlite.damaged1")
_OF_RUN = ("verify out", "verify out --repair", "replay out", "calibrate out --out c.json", "eval out/run.trec")
FOLDERS = {
    "run": Folder(
        make=f"run {_RUN}",
        again=(f"run {_RUN} --resume", f"run {_RUN} --overwrite", *_OF_RUN),
        extra=(*_LOG, ".run.trec.tmp", ".spec.json.tmp", "splits.jsonl", "batches.json", "relevance.jsonl"),
        removed=("summary.json",),
        verify="verify out",
        damages=100,
    ),
    "rerank": Folder(
        make=f"rerank {_RUN}",
        again=(f"rerank {_RUN} --resume",),
        removed=("summary.json", "run.trec"),
        verify="verify out",
    ),
    "calibration": Folder(
        make="calibrate {scored} --out out/c.json",
        again=("calibrate {scored} --out out/c.json",),
        extra=(".c.json.tmp",),
    ),
    "label make": Folder(
        make=f"label make {_RUN} --output out/labels.jsonl".replace("--out out ", "--out out/run "),
        again=(f"label make {_RUN} --output out/labels.jsonl --resume".replace("--out out ", "--out out/run "),),
        verify="verify out/run",
        removed=("run/summary.json",),
    ),
    "training": Folder(
        make="train {recipe.toml} --out out --device cpu",
        again=("train {recipe.toml} --out out --device cpu --resume",),
        extra=(".unfinished", ".metrics.jsonl.tmp", "best/model.safetensors.new", "tensorboard"),
        removed=("result.json", "rerank.json"),
        differ=("events.out.tfevents.*", ".lock"),
        unused=("checkpoints/*/*", "checksums.json"),
    ),
    "suite": Folder(
        make="bench {suite.toml} --out out",
        again=("bench {suite.toml} --out out",),
        extra=(".results.csv.tmp",),
        removed=("*/summary.json",),
        differ=("results.csv",),
    ),
    "site": Folder(
        make="leaderboard build {board/runs} --qrels {board/qrels.txt} --out out",
        again=("leaderboard build {board/runs} --qrels {board/qrels.txt} --out out",),
        extra=(".unfinished", ".site.json.tmp"),
    ),
    "labels": Folder(
        make="label convert {docs}/labels.jsonl --collection jsonl:{docs} --output out",
        again=("label convert {docs}/labels.jsonl --collection jsonl:{docs} --output out",),
        extra=(".unfinished",),
    ),
    "judgments": Folder(make=_JUDGE, again=(_JUDGE,), extra=("judged.jsonl.calls.sqlite",), unused=("judged.jsonl",)),
}


#: What stands in place of a file, given its path and the folder of the victim.
SHAPES: dict[str, Callable[[Path, Path], object]] = {
    "link": lambda path, home: path.symlink_to(home / "profile"),
    "dangling link": lambda path, home: path.symlink_to(home / "new"),
    "link to a folder": lambda path, home: path.symlink_to(home),
    "link to itself": lambda path, _: path.symlink_to(path.name),
    "link to a device": lambda path, _: path.symlink_to("/dev/zero"),
    "link to a pipe": lambda path, home: path.symlink_to(home / "pipe"),
    "pipe": lambda path, _: os.mkfifo(path),
    "folder": lambda path, _: path.mkdir(),
    "socket": lambda path, _: os.mknod(path, stat.S_IFSOCK | 0o600),
}


class _StuckError(BaseException):
    """A command did not end."""


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise _StuckError


_PROCESS, _EXIT = os.getpid(), os._exit


def _exit_unless_forked(code: int) -> None:
    if os.getpid() == _PROCESS:
        sys.exit(code)
    _EXIT(code)


def type_command(words: Sequence[str]) -> tuple[int, str]:
    """Execute a command in this process; return its exit code and what it wrote to stderr."""
    before = signal.signal(signal.SIGALRM, _stop)
    signal.alarm(_PATIENCE)
    err = io.StringIO()
    try:
        with (
            mock.patch.object(sys, "argv", ["rerank", *words]),
            mock.patch.object(os, "_exit", _exit_unless_forked),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(err),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("default")
            try:
                main()
            except SystemExit as end:
                return int(end.code or 0), err.getvalue()
        return 0, err.getvalue()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def contents(folder: Path) -> dict[str, bytes | str]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else str(path.lstat().st_mode)
        for path in folder.rglob("*")
    }


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[str]]:
    folder = tmp_path_factory.mktemp("inputs")
    made.files(folder / "board")
    suite = 'name = "suite"\nfirst_stages = ["candidates"]\nmodels = ["fake:perfect"]\n'
    (folder / "suite.toml").write_text(
        f'{suite}[[collections]]\ncollection = "jsonl:{INPUTS / "collection"}"\n'.replace(
            '["candidates"]', f'["run:{INPUTS / "first.trec"}"]'
        )
    )
    lists = f"--collection {made.write_lists(folder, queries=6)} --first-stage candidates --model fake:perfect"
    assert type_command([*["run", "--method", "fullrank"], *lists.split(), "--out", str(folder / "scored")])[0] == 0
    with contextlib.suppress(ImportError):
        from tests.finetune.small import collection_folder, model_folder

        paths = {"model": model_folder(folder / "model", layers=1), "docs": collection_folder(folder / "docs")}
        (folder / "recipe.toml").write_text(_RECIPE.format(**paths))

    def words(text: str) -> list[str]:
        return text.replace("{inputs}", str(INPUTS)).replace("{", f"{folder}/").replace("}", "").split()

    return words


def attacks(folder: Path, name: str) -> list[tuple[str, str, str]]:
    """Return all (file, shape, command) in random order."""
    kind = FOLDERS[name]
    files = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file()]
    files += [*kind.extra, *{f".{file}.tmp" for file in files if "/" not in file and not file.startswith(".")}]
    table = list(itertools.product(sorted(set(files)), SHAPES, kind.again))
    random.Random(name).shuffle(table)
    return table


@pytest.fixture
def whole(
    inputs: Callable[[str], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Path:
    """The folder above a folder that an undisturbed command wrote; commands are typed again once, to import all."""
    name = request.node.callspec.params["name"]
    if name in ("training", "labels"):
        pytest.importorskip("peft")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "whole" / "out").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "whole")
    code, err = type_command(inputs(FOLDERS[name].make))
    assert code == 0, err
    return tmp_path / "whole"


def copy_folder(whole: Path, monkeypatch: pytest.MonkeyPatch, removed: Sequence[str] = ()) -> Path:
    """Copy the folder, remove files by patterns, and go to the folder above it; return the path of the copy."""
    place = whole.with_name("typed")
    monkeypatch.chdir(whole)
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(whole, place)
    for pattern in removed:
        for path in (place / "out").glob(pattern):
            path.unlink()
    monkeypatch.chdir(place)
    return place / "out"


def type_and_judge(words: Sequence[str], *, finds: bool = False) -> tuple[int, str]:
    """Execute a command; return its exit code, and what is wrong with how it ended. ``finds``: it may list damage."""
    try:
        code, err = type_command(words)
    except _StuckError:
        return -1, "stuck"
    except BaseException as error:  # noqa: BLE001, since anything else is a failure
        return -1, f"raised {error!r} at {traceback.extract_tb(error.__traceback__)[-1]}"
    errors = [line for line in err.splitlines() if line.startswith("error")]
    is_right = code == 0 or (code in range(1, 8) and (len(errors) == 1 or finds))
    return code, "" if is_right else f"code {code}, stderr {err!r}"


@pytest.mark.parametrize("name", FOLDERS)
def test_folders_of_somebody_else(
    inputs: Callable[[str], list[str]], whole: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    kind, problems = FOLDERS[name], []
    table = attacks(whole / "out", name)
    for number, (file, shape, command) in enumerate(table[: scaled_count(min(len(table), 150))]):
        path = copy_folder(whole, monkeypatch, kind.removed) / file
        home = whole.with_name(f"home{number}")
        home.mkdir()
        (home / "profile").write_text("somebody's")
        os.mkfifo(home / "pipe")
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        SHAPES[shape](path, home)
        before = contents(home)
        _, found = type_and_judge(inputs(command), finds=command.startswith("verify"))
        if contents(home) != before:
            found += " wrote to the victim"
        if found:
            problems.append((file, shape, command.split(" --")[0], found))
    assert not problems, (len(problems), "\n".join(map(str, problems)))


def damage(path: Path, rng: random.Random) -> None:
    """Overwrite one or some bytes of a file, or cut it off."""
    data = bytearray(path.read_bytes())
    start, length = rng.randrange(len(data)), rng.choice((1, 1, 16, 1000))
    for position in range(start, min(start + length, len(data))):
        data[position] = rng.choice([value for value in range(256) if value != data[position]])
    path.write_bytes(data[:start] if rng.random() < 0.25 else data)


def try_to_read_results(folder: Path, kind: Folder) -> dict[str, Any]:
    try:
        return read_results(folder, (*kind.differ, *kind.unused))
    except ValueError as error:  # not JSON, not UTF-8
        return {f"{error!r}": None}


@pytest.mark.parametrize("name", FOLDERS)
def test_damaged_folders(
    inputs: Callable[[str], list[str]], whole: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    kind, problems = FOLDERS[name], []
    copy_folder(whole, monkeypatch)
    assert type_command(inputs(kind.again[0]))[0] == 0
    expected = try_to_read_results(whole.with_name("typed") / "out", kind)
    for number in range(scaled_count(kind.damages)):
        rng = random.Random(f"{name} {number}")
        folder = copy_folder(whole, monkeypatch, kind.removed if rng.random() < 0.5 else ())
        files = [file for file in sorted(folder.rglob("*")) if file.is_file() and file.stat().st_size]
        files = [file for file in files if not any(file.match(pattern) for pattern in kind.differ)]
        path = rng.choice(files)
        damage(path, rng)
        code, found = type_and_judge(inputs(kind.again[0]))
        if not code and kind.verify:
            code, found = type_and_judge(inputs(kind.verify), finds=True)
        if not code and not found:
            results = try_to_read_results(folder, kind)
            found = " ".join(key for key in {**expected, **results} if expected.get(key) != results.get(key))
        if found:
            problems.append((number, str(path.relative_to(folder)), found))
    assert not problems, (len(problems), "\n".join(map(str, problems)))

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rerank.errors import StorageError
from rerank.io.sealed_folders import open_sealed_folder
from tests.raising import raises

MADE = {"format": "1"}


def write(folder: Path) -> None:
    (folder / "a.txt").write_text("whole")


def read(folder: Path) -> str:
    return (folder / "a.txt").read_text()


def never(folder: Path) -> None:
    raise AssertionError(f"{folder} was built again")


def leftovers(parent: Path) -> list[str]:
    return [path.name for path in parent.iterdir() if path.name.startswith(".building-")]


def test_built_once_and_then_opened(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "index"
    assert open_sealed_folder(folder, MADE, write, read) == "whole"
    assert open_sealed_folder(folder, MADE, never, read) == "whole"
    assert leftovers(folder.parent) == []


def test_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        write(folder)
        raise KeyError("from the collection")

    with pytest.raises(KeyError):
        open_sealed_folder(tmp_path / "index", MADE, fail, read)
    assert list(tmp_path.iterdir()) == []


def test_the_first_of_two_builders_stays(tmp_path: Path) -> None:
    folder = tmp_path / "index"

    def slow(aside: Path) -> None:
        (aside / "a.txt").write_text("second")
        open_sealed_folder(folder, MADE, write, read)

    assert open_sealed_folder(folder, MADE, slow, read) == "whole"
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "a.txt").write_text("who"),
        lambda folder: (folder / "a.txt").write_text("whale"),
        lambda folder: (folder / "a.txt").unlink(),
        lambda folder: (folder / "marker.json").write_text("{"),
        lambda folder: (folder / "marker.json").write_text("[]"),
        lambda folder: (folder / "marker.json").unlink(),
        lambda folder: (folder / "marker.json").write_text(json.dumps({"made_from": {"format": "0"}, "sizes": {}})),
    ],
)
def test_damaged_folder_is_made_anew(tmp_path: Path, damage: object) -> None:
    folder = tmp_path / "index"
    open_sealed_folder(folder, MADE, write, read)
    assert callable(damage)
    damage(folder)
    with pytest.warns(UserWarning, match="index is damaged .* built again"):
        assert open_sealed_folder(folder, MADE, write, read) == "whole"
    assert open_sealed_folder(folder, MADE, never, read) == "whole"
    assert leftovers(tmp_path) == []


def test_a_file_that_cannot_be_read_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "index"
    open_sealed_folder(folder, MADE, write, read)
    opened, failures = Path.open, [OSError(errno.EIO, "Input/output error")]

    def unreadable(path: Path, *args: Any, **options: Any) -> Any:
        if path == folder / "a.txt" and failures:
            raise failures.pop()
        return opened(path, *args, **options)

    monkeypatch.setattr(Path, "open", unreadable)
    with pytest.warns(UserWarning, match="index is damaged .* built again"):
        assert open_sealed_folder(folder, MADE, write, read) == "whole"


def test_damage_that_building_does_not_mend_is_an_error(tmp_path: Path) -> None:
    def broken(folder: Path) -> str:
        raise ValueError("bad bytes")

    with pytest.warns(UserWarning, match="built again"), pytest.raises(StorageError):
        open_sealed_folder(tmp_path / "index", MADE, write, broken)


def test_folder_thrown_away_by_another_process_meanwhile(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    open_sealed_folder(folder, MADE, write, read)
    calls: list[Path] = []

    def vanishing(path: Path) -> str:
        calls.append(path)
        if len(calls) == 1:
            path.rename(tmp_path / "taken")
        return read(path)

    with pytest.warns(UserWarning, match="built again"):
        assert open_sealed_folder(folder, MADE, write, vanishing) == "whole"


def test_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with raises(StorageError, "XDG_CACHE_HOME"):
        open_sealed_folder(tmp_path / "file" / "index", MADE, write, read)


_BUILD = """
import os, signal, sys
from pathlib import Path
from rerank.io.sealed_folders import open_sealed_folder

def killed(folder):
    (folder / "half").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)

open_sealed_folder(Path(sys.argv[1]), {}, killed, killed)
"""


def test_leftovers_of_killed_builds_are_removed_when_any_folder_is_opened(tmp_path: Path) -> None:
    killed = tmp_path / "one collection" / "index"
    assert subprocess.run([sys.executable, "-c", _BUILD, str(killed)], check=False).returncode == -signal.SIGKILL
    assert len(leftovers(killed.parent)) == 2  # the folder and its lock
    open_sealed_folder(tmp_path / "another collection" / "index", MADE, write, read)
    assert leftovers(killed.parent) == []


def test_folders_in_use_stay(tmp_path: Path) -> None:
    def slow(aside: Path) -> None:
        write(aside)
        open_sealed_folder(tmp_path / "another collection" / "index", MADE, write, read)
        assert read(aside) == "whole"

    assert open_sealed_folder(tmp_path / "one collection" / "index", MADE, slow, read) == "whole"


def test_path_in_the_way_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "index").write_text("a file")
    with pytest.raises(StorageError):
        open_sealed_folder(tmp_path / "index", MADE, write, read)

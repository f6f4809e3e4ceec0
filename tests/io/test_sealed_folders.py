from __future__ import annotations

import json
import os
import time
from pathlib import Path

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


def test_damage_that_building_does_not_mend_is_an_error(tmp_path: Path) -> None:
    def broken(folder: Path) -> str:
        raise ValueError("bad bytes")

    with (
        pytest.warns(UserWarning, match="built again"),
        pytest.raises(StorageError),
    ):
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


def test_old_leftovers_are_swept_and_young_ones_stay(tmp_path: Path) -> None:
    old, young = tmp_path / ".building-old", tmp_path / ".building-young"
    old.mkdir()
    young.mkdir()
    two_days_ago = time.time() - 2 * 86400
    os.utime(old, (two_days_ago, two_days_ago))
    open_sealed_folder(tmp_path / "index", MADE, write, read)
    assert leftovers(tmp_path) == [".building-young"]


def test_leftovers_of_another_collection_are_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    old = tmp_path / "listrank" / "indexes" / "0123" / ".building-old"
    old.mkdir(parents=True)
    os.utime(old, (0, 0))
    open_sealed_folder(tmp_path / "listrank" / "indexes" / "4567" / "bm25", MADE, write, read)
    assert not old.exists()


def test_path_in_the_way_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "index").write_text("a file")
    with pytest.raises(StorageError):
        open_sealed_folder(tmp_path / "index", MADE, write, read)

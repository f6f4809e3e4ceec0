from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from rerank.io import atomic_folder
from rerank.io.atomic_folder import (
    UNFINISHED,
    discard_folder,
    draft_folder,
    fill_folder,
    move_folder,
    new_folder,
    remove_leftover_folders,
    sync_files,
    temporary_file,
    temporary_folder,
)
from rerank.io.file_systems import lock_file


def test_new_folder_appears_complete(tmp_path: Path) -> None:
    with new_folder(tmp_path / "out") as draft:
        (draft / "file").write_text("new")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out/file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError), new_folder(tmp_path / "out") as draft:
        (draft / "file").write_text("half")
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_empty_folder_is_replaced_and_a_full_one_is_not(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with new_folder(tmp_path / "out") as draft:
        (draft / "file").write_text("first")
    with pytest.raises(OSError, match="out"), new_folder(tmp_path / "out") as draft:
        (draft / "file").write_text("second")
    assert (tmp_path / "out/file").read_text() == "first"


@pytest.mark.parametrize(("keep", "expected"), [(True, "first"), (False, "second")])
def test_existing_folder_is_kept_or_replaced(tmp_path: Path, keep: bool, expected: str) -> None:
    with new_folder(tmp_path / "out") as draft:
        (draft / "file").write_text("first")
    with draft_folder(tmp_path / "out") as draft:
        (draft / "file").write_text("second")
        move_folder(draft, tmp_path / "out", keep=lambda _: keep)
    assert (tmp_path / "out/file").read_text() == expected
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_file_at_the_path_is_an_error_and_stays(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with draft_folder(tmp_path / "out") as draft, pytest.raises(OSError, match="out"):
        move_folder(draft, tmp_path / "out", keep=lambda _: True)
    assert (tmp_path / "out").read_text() == "a file"


def test_mode(tmp_path: Path) -> None:
    with draft_folder(tmp_path / "out", mode=0o700) as draft:
        assert stat.S_IMODE(draft.stat().st_mode) == 0o700


def test_discard_folder_accepts_a_missing_one(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/file").write_text("x")
    discard_folder(tmp_path / "out")
    discard_folder(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_fill_folder_keeps_other_files_and_removes_old_drafts(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("kept")
    (tmp_path / "a").write_text("old")
    (tmp_path / UNFINISHED).mkdir()
    (tmp_path / UNFINISHED / "stale").write_text("x")
    with fill_folder(tmp_path, last="a") as draft:
        (draft / "a").write_text("new")
        (draft / "inner").mkdir()
        (draft / "inner/b").write_text("new")
        assert (tmp_path / "a").read_text() == "old"
    assert {str(p.relative_to(tmp_path)): p.read_text() for p in tmp_path.rglob("*") if p.is_file()} == {
        "log": "kept",
        "a": "new",
        "inner/b": "new",
    }
    with pytest.raises(KeyError), fill_folder(tmp_path, last="a") as draft:
        (draft / "a").write_text("half")
        raise KeyError
    assert (tmp_path / "a").read_text() == "new"
    assert not (tmp_path / UNFINISHED).exists()


def test_fill_folder_moves_the_last_file_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[str] = []
    replace = os.replace

    def record(source: Path, target: Path) -> None:
        moved.append(target.name)
        replace(source, target)

    monkeypatch.setattr(os, "replace", record)
    with fill_folder(tmp_path, last="b") as draft:
        for name in ("a", "b", "c"):
            (draft / name).write_text(name)
    assert moved == ["a", "c", "b"]


def test_sync_files_returns_sizes(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"12")
    (tmp_path / "a").write_bytes(b"")
    assert sync_files(tmp_path) == {"a": 0, "b": 2}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_and_its_lock_are_removed_at_the_end(tmp_path: Path) -> None:
    with temporary_folder(tmp_path, ".a[b]-") as folder:
        (folder / "file").write_text("x")
        assert len(names(tmp_path)) == 2
    with pytest.raises(KeyError), temporary_folder(tmp_path, ".a[b]-"):
        raise KeyError
    assert names(tmp_path) == []


def test_leftovers_are_removed_and_folders_in_use_and_others_stay(tmp_path: Path) -> None:
    (tmp_path / "x-0123abcd").mkdir()
    (tmp_path / "x-0123abcd" / "file").write_text("half")
    for name in ("x-0123abcd.rerank-lock", "x-ffffffff.rerank-lock", "y-0123abcd.rerank-lock", "x-mine.rerank-lock"):
        (tmp_path / name).touch()
    (tmp_path / "x-mine").mkdir()
    with temporary_folder(tmp_path, "x-") as used:
        remove_leftover_folders(tmp_path, "x-")
        assert used.is_dir()
    assert names(tmp_path) == ["x-mine", "x-mine.rerank-lock", "y-0123abcd.rerank-lock"]


def test_a_file_replaces_its_target_only_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(KeyError), temporary_file(target) as path:
        path.write_text("half")
        raise KeyError
    assert (target.read_text(), names(tmp_path)) == ("old", ["file"])
    (tmp_path / ".file.tmp").write_text("left by a process that was killed")
    with temporary_file(target) as path:
        assert path.name == ".file.tmp"
        path.write_text("new")
        assert target.read_text() == "old"
    assert (target.read_text(), names(tmp_path)) == ("new", ["file"])


def test_concurrent_writers_have_files_of_their_own(tmp_path: Path) -> None:
    target = tmp_path / "file"
    with temporary_file(target) as first:
        first.write_text("first")
        with temporary_file(target) as second:
            assert second != first
            second.write_text("second")
        assert target.read_text() == "second"
    assert (target.read_text(), names(tmp_path)) == ("first", ["file"])


def test_without_file_locks_paths_are_removed_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    (tmp_path / "x-0123abcd.rerank-lock").touch()
    with temporary_folder(tmp_path, "x-") as folder:
        assert folder.is_dir()
    assert names(tmp_path) == ["x-0123abcd.rerank-lock"]
    with temporary_file(tmp_path / "file") as path:
        path.write_text("new")
    assert (tmp_path / "file").read_text() == "new"
    assert names(tmp_path) == ["file", "x-0123abcd.rerank-lock"]


@pytest.mark.parametrize("holds", [True, False])
def test_the_lock_of_an_earlier_version_is_respected(tmp_path: Path, holds: bool) -> None:
    """Earlier versions call ``flock``, here in a process of its own."""
    code = "import fcntl, sys; f = open(sys.argv[1], 'ab'); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); input()"
    path = tmp_path / ("x-0123abcd.rerank-lock" if holds else "other")
    (tmp_path / "x-0123abcd.rerank-lock").touch()
    (tmp_path / "x-0123abcd").mkdir()
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdin=-1, stdout=-1) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        with path.open("ab") as file:
            assert not lock_file(file)
        remove_leftover_folders(tmp_path, "x-")
        assert (tmp_path / "x-0123abcd").is_dir() is holds
        process.stdin.close()
    remove_leftover_folders(tmp_path, "x-")
    assert not (tmp_path / "x-0123abcd").exists()


def test_where_an_open_file_is_not_renamed_a_temporary_file_has_a_random_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic_folder, "RENAMES_OPEN_FILES", False)
    with temporary_file(tmp_path / "file") as path:
        assert path.name != ".file.tmp"
        path.write_text("new")
    assert names(tmp_path) == ["file"]


def test_a_link_in_the_way_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("kept")
    (tmp_path / ".file.tmp").symlink_to("other")
    with temporary_file(tmp_path / "file") as path:
        path.write_text("new")
    assert ((tmp_path / "file").read_text(), (tmp_path / "other").read_text()) == ("new", "kept")

from __future__ import annotations

import errno
import fcntl
from pathlib import Path

import pytest

from rerank.io.atomic_folder import remove_leftover_folders, temporary_file, temporary_folder


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


def test_a_link_in_the_way_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("kept")
    (tmp_path / ".file.tmp").symlink_to("other")
    with temporary_file(tmp_path / "file") as path:
        path.write_text("new")
    assert ((tmp_path / "file").read_text(), (tmp_path / "other").read_text()) == ("new", "kept")

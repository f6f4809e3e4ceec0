"""Locks, links, ranges and folders, also where the system lacks them."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rerank.io.file_systems import (
    link_or_copy,
    lock_file,
    lock_file_if_possible,
    open_for_ranges,
    read_range,
    restrict_to_owner,
    sync_folder,
)


def refuse(*_: object, **__: object) -> Any:
    raise OSError(errno.ENOSYS, "Function not implemented")


def test_a_lock_is_exclusive_and_ends_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with path.open("ab") as first:
        assert lock_file(first)
        with path.open("ab") as second:
            assert not lock_file(second)
    with path.open("ab") as second:
        assert lock_file(second, wait=True)


@pytest.mark.skipif(sys.platform == "win32", reason="needs fcntl")
def test_an_earlier_version_respects_our_lock(tmp_path: Path) -> None:
    code = "import fcntl, sys; fcntl.flock(open(sys.argv[1], 'ab'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    command = [sys.executable, "-c", code, str(tmp_path / "lock")]
    with (tmp_path / "lock").open("ab") as file:
        assert lock_file(file)
        assert b"BlockingIOError" in subprocess.run(command, capture_output=True, check=False).stderr
    assert subprocess.run(command, check=False).returncode == 0


def test_without_locks_the_work_continues_with_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("filelock.lock_descriptor", refuse)
    with (tmp_path / "lock").open("ab") as file:
        with pytest.warns(UserWarning, match="lock cannot be locked .Function not implemented"):
            assert lock_file_if_possible(file)
        with pytest.raises(OSError, match="not implemented"):
            lock_file(file)


@pytest.mark.parametrize("has_pread", [True, False])
def test_ranges_of_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_pread: bool) -> None:
    if not has_pread:
        monkeypatch.delattr(os, "pread", raising=False)
    (tmp_path / "file").write_bytes(b"0\r\n\x1a456")
    descriptor = open_for_ranges(tmp_path / "file")
    try:
        assert [read_range(descriptor, start, 3) for start in (2, 0, 5, 9)] == [b"\n\x1a4", b"0\r\n", b"56", b""]
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("has_links", [True, False])
def test_a_link_or_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool) -> None:
    if not has_links:
        monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "a").write_bytes(b"x")
    link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"x"
    assert (tmp_path / "a").samefile(tmp_path / "b") is has_links


def test_a_link_does_not_replace(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_text(name, encoding="utf-8")
    with pytest.raises(FileExistsError):
        link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text(encoding="utf-8") == "b"


def test_a_folder_that_cannot_be_opened_is_not_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync_folder(tmp_path)

    def open_file(path: Path, flags: int) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", open_file)
    sync_folder(tmp_path)


@pytest.mark.parametrize("has_users", [True, False])
def test_only_the_owner_reads_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_users: bool) -> None:
    if not has_users:
        monkeypatch.delattr(os, "getuid", raising=False)
    (tmp_path / "file").touch()
    restrict_to_owner(tmp_path / "file")
    restrict_to_owner(tmp_path / "missing")
    assert sys.platform == "win32" or (tmp_path / "file").stat().st_mode & 0o777 == 0o600

"""Reading with typed errors, writing all or nothing."""

from __future__ import annotations

import contextlib
import errno
import gzip
import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from rerank.errors import DataError, MissingResourceError, StorageError
from rerank.io.file_systems import check_only_files, open_without_links
from rerank.io.paths import cache_dir, named_path_errors
from rerank.io.text_files import check_file_writable, open_text_file, replace_lone_surrogates, replace_text_file
from tests.raising import raises


def read(path: Path) -> str:
    with open_text_file(path) as text:
        return text.read()


def write(path: Path, *parts: str) -> None:
    with replace_text_file(path) as text:
        for part in parts:
            if part == "fail":
                raise KeyError
            text.write(part)


def test_utf8_bom_and_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbf" + "héé 中文\r\nb\r".encode())
    assert read(path) == "héé 中文\nb\n"


@pytest.mark.parametrize("name", ["a.gz", "a.txt"])
def test_gzip_is_known_by_content(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(b"one\n") + gzip.compress(b"two\n"))
    assert read(path) == "one\ntwo\n"


def test_plain_text_named_gz(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    path.write_text("plain")
    assert read(path) == "plain"


@pytest.mark.parametrize("size", [0, 1])
def test_tiny_files(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * size)
    assert read(path) == "x" * size


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(MissingResourceError):
        read(tmp_path / "absent")
    with pytest.raises(MissingResourceError):
        read(tmp_path)


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(MissingResourceError):
        read(tmp_path / "a")


@pytest.mark.parametrize("place", [0, 300_000])
def test_binary_is_found_wherever_it_is(tmp_path: Path, place: int) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"line\n" * (place // 5) + b"\x00\x01")
    with raises(DataError, "a.bin"):
        read(path)


@pytest.mark.parametrize("place", [0, 300_000])
def test_bad_utf8_is_found_wherever_it_is(tmp_path: Path, place: int) -> None:
    path = tmp_path / "latin1.txt"
    path.write_bytes(b"line\n" * (place // 5) + b"caf\xe9\n")
    with raises(DataError, "latin1.txt", "8"):
        read(path)


@pytest.mark.parametrize("damage", ["cut", "bytes", "head"])
def test_damaged_gzip(tmp_path: Path, damage: str) -> None:
    whole = gzip.compress(os.urandom(50_000).hex().encode())
    broken = {"cut": whole[:-2000], "bytes": whole[:500] + b"\xff" * 400 + whole[900:], "head": b"\x1f\x8b\x08"}[damage]
    path = tmp_path / "a.gz"
    path.write_bytes(broken)
    with raises(DataError, "a.gz"):
        read(path)


def test_errors_of_the_reader_pass_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("x")
    with pytest.raises(KeyError), open_text_file(path):
        raise KeyError("mine")


def test_replace_writes_and_leaves_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replace_text_file(path) as text:
        text.write("new 中\n")
        assert path.read_text() == "old"
    assert path.read_text(encoding="utf-8") == "new 中\n"
    assert list(tmp_path.iterdir()) == [path]


def test_replace_keeps_the_old_text_when_the_writer_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyError):
        write(path, "half", "fail")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_replace_gzip_is_repeatable(tmp_path: Path) -> None:
    for name in ("a.gz", "b.gz"):
        with replace_text_file(tmp_path / name) as text:
            text.write("same\n")
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
    assert gzip.decompress((tmp_path / "a.gz").read_bytes()) == b"same\n"


def test_replace_replaces_links_and_writes_to_streams(tmp_path: Path) -> None:
    for name in ("file", "missing", "folder", "link"):  # the last is a link to itself
        link = tmp_path / "link"
        link.symlink_to(tmp_path / name)
        if name == "folder":
            (tmp_path / name).mkdir()
        elif name == "file":
            (tmp_path / name).write_text("old")
        write(link, "new")
        assert not link.is_symlink()
        assert link.read_text() == "new"
        link.unlink()
    assert (tmp_path / "file").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
    with replace_text_file("/dev/null") as text:
        text.write("gone")
    assert not Path("/dev/null").is_file()


@contextlib.contextmanager
def small_files(limit: int) -> Iterator[None]:
    """Let no file grow beyond a size, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("name", ["a.txt", "a.gz"])
def test_full_disk(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("old")
    with pytest.raises(StorageError), small_files(10_000):
        write(path, *(os.urandom(1000).hex() for _ in range(50)))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_full_disk_at_the_last_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError), replace_text_file(tmp_path / "a") as text:
        text.write("x")
    assert not list(tmp_path.iterdir())


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    message = f"no/a cannot be written: there is no folder {tmp_path}/no. Create it, or check the path"
    with pytest.raises(MissingResourceError, match=message), replace_text_file(tmp_path / "no" / "a") as text:
        text.write("x")


def test_seeing_whether_a_file_can_be_written_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("old")
    (tmp_path / "link").symlink_to("no/target")
    for name in ("new", "old", "new.gz", "link"):  # a link is replaced
        check_file_writable(tmp_path / name)
    check_file_writable("/dev/null")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "old"]
    assert (tmp_path / "old").read_text() == "old"
    with pytest.raises(MissingResourceError):  # a file is no folder
        check_file_writable(tmp_path / "old/below")


@pytest.mark.parametrize("kind", ["named pipe", "socket", "device"])
def test_only_regular_files_are_read_and_written(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    if kind == "named pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    else:
        path.symlink_to("/dev/zero")
    with raises(MissingResourceError, f"is a {kind}"):
        read(path)
    if kind != "device":  # a link to a device is replaced
        with raises(StorageError, f"is a {kind}"):
            write(path, "new")
    link = tmp_path / "link"
    link.symlink_to(path)
    with pytest.raises(OSError, match="symbolic link"):
        open_without_links(str(link), os.O_WRONLY)
    with raises(StorageError, "x is a"):
        check_only_files(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [("", "is a folder; expected the name of a file"), ("a" * 999, "File name too long"), ("a\0b", "null")],
)
def test_names_that_cannot_be_written(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(StorageError, match=message):
        check_file_writable(tmp_path / name)


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(StorageError, match=f"x cannot be written: no permission for {tmp_path}. Write to another"):
        check_file_writable(tmp_path / "x")


def test_a_folder_cannot_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    with pytest.raises(StorageError), replace_text_file(tmp_path / "d") as text:
        text.write("x")
    assert [p.name for p in tmp_path.iterdir()] == ["d"]


@pytest.mark.parametrize(
    ("text", "replaced"),
    [
        ("", ""),
        ("plain", "plain"),
        ("é \U0001f600", "é \U0001f600"),
        ("\ud83d half", "\ufffd half"),
        ("\udc00\ud800", "\ufffd\ufffd"),
    ],
)
def test_lone_surrogates(text: str, replaced: str) -> None:
    assert replace_lone_surrogates(text) == replaced
    replaced.encode()


def test_an_error_about_a_path_does_not_say_whether_it_was_read_or_written(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 300)
    for mode in ("r", "w"):
        with raises(MissingResourceError, "used", "too long") as caught, named_path_errors():
            path.open(mode)
        assert "read" not in str(caught.value)


def test_below_the_users_cache_and_not_created(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "listrank"
    assert cache_dir("indexes", "abc") == tmp_path / "listrank" / "indexes" / "abc"
    assert list(tmp_path.iterdir()) == []

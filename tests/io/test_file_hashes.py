"""Hashes of files, those that are kept and those that must not be."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from rerank.errors import MissingResourceError
from rerank.io import file_hashes
from rerank.io.file_hashes import file_hash, folder_hash


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of hashes, of files of any size that are not younger than nothing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(file_hashes, "_LARGE", 0)
    monkeypatch.setattr(file_hashes, "_FRESH", 0)
    return tmp_path / "cache" / "listrank" / "hashes"


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_a_hash_is_kept_while_the_file_stays_as_it_is(tmp_path: Path, kept: Path) -> None:
    path = tmp_path / "a"
    path.write_text("one")
    assert file_hash(path) == sha("one")
    (note,) = kept.iterdir()
    note.write_text(json.dumps({**json.loads(note.read_text()), "sha256": "kept"}))
    assert file_hash(path) == "kept"
    stat = path.stat()
    path.write_text("two")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # size and time of the content are as they were
    assert file_hash(path) == sha("two")
    note.write_text("{")
    assert file_hash(path) == sha("two")


@pytest.mark.parametrize("limit", ["_LARGE", "_FRESH"])
def test_of_small_and_of_new_files_nothing_is_kept(
    tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(file_hashes, limit, 10**12)
    (tmp_path / "a").write_text("one")
    assert file_hash(tmp_path / "a") == sha("one")
    assert not kept.exists()


def test_a_cache_that_cannot_be_written_takes_nothing_away(tmp_path: Path, kept: Path) -> None:
    kept.parent.mkdir(parents=True)
    kept.write_text("a file")
    (tmp_path / "a").write_text("one")
    assert file_hash(tmp_path / "a") == sha("one")
    with pytest.raises(MissingResourceError):
        file_hash(tmp_path / "none")


def test_folders_by_names_and_contents(tmp_path: Path) -> None:
    folder, seen = tmp_path / "folder", set()
    (folder / "sub").mkdir(parents=True)
    for name, text in (("a", "1"), ("sub/a", "1"), ("sub/a", "2")):
        (folder / name).write_text(text)
        seen.add(folder_hash(folder))
    (folder / "a").rename(folder / "b")
    assert len({*seen, folder_hash(folder)}) == 4
    assert folder_hash(folder) == folder_hash(folder)

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from rerank.io.atomic_folder import (
    UNFINISHED,
    discard_folder,
    draft_folder,
    fill_folder,
    move_folder,
    new_folder,
    sync_files,
)


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

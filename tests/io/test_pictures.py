"""Picture files: what is read, how it is turned, what is refused."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from rerank.errors import DataError, MissingPrerequisiteError, MissingResourceError
from rerank.io.pictures import open_picture, picture_hash, picture_size
from tests.raising import raises

Image = pytest.importorskip("PIL.Image")


def test_a_picture_is_rgb_whatever_the_file_holds(tmp_path: Path) -> None:
    for mode, colour in (("RGB", (1, 2, 3)), ("L", 7), ("RGBA", (1, 2, 3, 255)), ("P", 0), ("1", 1)):
        path = tmp_path / f"{mode}.png"
        Image.new(mode, (3, 2), colour).save(path)
        found = open_picture(str(path))
        assert (found.mode, found.size) == ("RGB", (3, 2))


def test_a_picture_is_turned_as_its_camera_says(tmp_path: Path) -> None:
    picture = Image.new("RGB", (2, 1), "black")
    picture.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: a quarter to the right
    picture.save(tmp_path / "turned.png", exif=exif)
    found = open_picture(str(tmp_path / "turned.png"))
    assert found.size == (1, 2)
    assert found.getpixel((0, 0)) == (255, 255, 255)


def test_files_that_are_no_pictures(tmp_path: Path) -> None:
    whole = tmp_path / "whole.png"
    Image.effect_noise((64, 64), 50).save(whole)
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:500])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").write_bytes(b"")
    for name in ("cut.png", "text.png", "empty.png"):
        with pytest.raises(DataError, match=f"{name}.* is not a readable picture"):
            open_picture(str(tmp_path / name))
    for path in (str(tmp_path / "missing.png"), str(tmp_path)):
        with pytest.raises(MissingResourceError):
            open_picture(path)
    with pytest.raises(MissingResourceError):
        open_picture("")
    with pytest.raises(DataError):
        open_picture("a\0b")


def test_a_picture_of_too_many_pixels_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (100, 100)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DataError):
        open_picture(str(tmp_path / "large.png"))


def test_hash_and_size_follow_the_content(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"abc")
    two.write_bytes(b"abc")
    assert picture_hash(str(one)) == picture_hash(str(two)) != ""
    assert picture_size(str(one)) == 3
    one.write_bytes(b"abd")
    os.utime(one, ns=(1, 1))
    assert picture_hash(str(one)) != picture_hash(str(two))
    for path in (str(tmp_path / "missing"), "", "a\0b"):
        assert (picture_hash(path), picture_size(path)) == ("", -1)


def test_without_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with raises(MissingPrerequisiteError, "[images]'"):
        open_picture("any.png")

"""Picture files: opened as a person would see them, and what tells one from another. Knows no model.

Pillow is imported when a picture is opened, not when this module is.
"""

from __future__ import annotations

import hashlib
import os
import struct
import warnings
from functools import lru_cache
from typing import Any

from rerank.errors import DataError, MissingPrerequisiteError, MissingResourceError

__all__ = ["UNREADABLE", "open_picture", "picture_hash", "picture_size", "require_pillow"]

#: What `open_picture` raises about a file, as against what it raises about this machine.
UNREADABLE = (DataError, MissingResourceError)


def require_pillow() -> Any:
    """Import Pillow's ``Image`` module.

    Raises:
        MissingPrerequisiteError: It does not import.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingPrerequisiteError(
            f"Pictures need Pillow, and it does not import: {error}", remedy="Run: pip install 'listrank[images]'"
        ) from error
    return Image


def open_picture(path: str) -> Any:
    """The picture in a file, as RGB: turned as its EXIF data says, and of an animation the first frame.

    Returns:
        A ``PIL.Image.Image`` of mode RGB, all its pixels read.

    Raises:
        MissingPrerequisiteError: Pillow is not installed.
        MissingResourceError: There is no such file, or it may not be read.
        DataError: The file holds no picture, or a damaged one, or one of too many pixels to be safe.
    """
    image = require_pillow()
    from PIL import ImageOps

    if not path:
        raise MissingResourceError("A document without a picture", expected="the path of one")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # hints to those who wrote the file
            with image.open(path) as file:
                return (ImageOps.exif_transpose(file) or file).convert("RGB")
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, image.DecompressionBombError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise MissingResourceError(
                f"The picture {path!r} cannot be opened: {error.strerror}", remedy="Check its path and its permissions"
            ) from error
        raise DataError(
            f"{path!r} is no picture that can be read: {error}",
            expected="a whole JPEG, PNG, WebP or other file that Pillow reads",
            remedy="Get it again, or take it out of the collection",
        ) from error


def picture_size(path: str) -> int:
    """Bytes of a file; -1 where there is none."""
    try:
        return os.stat(path).st_size if path else -1
    except (OSError, ValueError):
        return -1


def picture_hash(path: str) -> str:
    """Hex SHA-256 of a file's bytes, wherever it lies; empty where it cannot be read."""
    try:
        stat = os.stat(path)
        return _hash(path, stat.st_mtime_ns, stat.st_size)
    except (OSError, ValueError):
        return ""


@lru_cache(maxsize=1 << 16)
def _hash(path: str, _mtime: int, _size: int) -> str:
    """Hash of one file; time and size are only there to notice a change within one process."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

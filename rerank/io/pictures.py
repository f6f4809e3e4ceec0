"""Functions that open picture files, or return their sizes and hashes; Pillow is imported when a picture is opened."""

import base64
import hashlib
import io
import os
import struct
import warnings
from contextlib import suppress
from functools import lru_cache
from typing import Any

from rerank.errors import DataError, MissingResourceError, ensure
from rerank.installation import importing

__all__ = ["UNREADABLE", "open_picture", "picture_bytes", "picture_hash", "picture_size", "require_pillow"]

#: Exceptions that `open_picture` raises because of the file, not because of the installation.
UNREADABLE = (DataError, MissingResourceError)


def require_pillow() -> Any:
    """Import and return Pillow's module ``Image``."""
    with importing("Pictures need Pillow", "images"):
        from PIL import Image
    return Image


def picture_bytes(uri: str) -> bytes:
    """Return the bytes of a picture in a ``data:`` URI with base64 (RFC 2397).

    Raises `DataError` if they cannot be decoded.
    """
    head, comma, text = uri.partition(",")
    try:
        if not comma or not head.endswith(";base64"):
            raise ValueError("it has no ;base64,")
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise DataError(
            f"The picture {_shown(uri)} cannot be decoded: {error}", expected="data:image/png;base64,DATA"
        ) from error


def _shown(path: str) -> str:
    """Return how messages name a picture: the path, or the beginning of a data URI."""
    return repr(path) if not path.startswith("data:") else f"{path[:40]}... ({len(path)} characters)"


def open_picture(path: str) -> Any:
    """Return a loaded RGB ``PIL.Image.Image``, with EXIF orientation applied, of the first frame of a picture.

    The path is that of a file, or a ``data:`` URI that contains the picture.
    """
    image = require_pillow()
    from PIL import ImageOps

    ensure(path, "The document has no picture", expected="the path of a picture", error=MissingResourceError)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings about how the file was written
            with image.open(io.BytesIO(picture_bytes(path)) if path.startswith("data:") else path) as file:
                return (ImageOps.exif_transpose(file) or file).convert("RGB")
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, image.DecompressionBombError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise MissingResourceError(
                f"The picture {path!r} cannot be opened: {error.strerror}", remedy="Check its path and its permissions"
            ) from error
        raise DataError(
            f"{_shown(path)} is not a readable picture: {error}",
            expected="a complete JPEG, PNG, WebP or other file that Pillow reads",
            remedy="Get the picture again, or leave it out",
        ) from error


def picture_size(path: str) -> int:
    """Return the size of a file in bytes, or -1 if the file does not exist or cannot be accessed."""
    try:
        return os.stat(path).st_size if path else -1
    except (OSError, ValueError):
        return -1


def picture_hash(path: str) -> str:
    """Return the hex SHA-256 of a picture's bytes, or an empty string if it cannot be read."""
    if path.startswith("data:"):
        with suppress(DataError):
            return hashlib.sha256(picture_bytes(path)).hexdigest()
        return ""
    try:
        stat = os.stat(path)
        return _cached_hash(path, stat.st_mtime_ns, stat.st_size)
    except (OSError, ValueError):
        return ""


@lru_cache(maxsize=1 << 16)
def _cached_hash(path: str, _mtime: int, _size: int) -> str:
    """Return the hash of a file. Its time and size are part of the cache key, so a changed file is hashed again."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

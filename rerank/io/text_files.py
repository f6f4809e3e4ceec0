"""Reading of UTF-8 text files, plain or gzipped, with this package's errors, and atomic writing of such files."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import re
import zlib
from collections.abc import Generator
from pathlib import Path
from typing import IO, TYPE_CHECKING, TextIO, cast

from rerank.errors import DataError, MissingResourceError, StorageError, UsageError
from rerank.io.atomic_folder import temporary_file
from rerank.io.file_systems import file_kind, is_stream_of_system

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK = 1 << 16
#: Limits that ordinary text files do not reach, and that prevent a hostile file from filling the memory: bytes per
#: line, bytes of consecutive blank lines, and, for gzip, the ratio of decompressed to compressed size, which is checked
#: once ``_GZIP_BYTES`` bytes are decompressed.
_LINE_BYTES, _BLANK_BYTES, _GZIP_BYTES, _GZIP_RATIO = 1 << 30, 1 << 22, 1 << 28, 200


class _TextBytes(io.RawIOBase):
    """A byte stream that raises an error at NUL bytes, very long lines, and decompression bombs (if compressed)."""

    def __init__(self, inner: IO[bytes], path: Path, compressed: IO[bytes] | None) -> None:
        self._inner = inner
        self._path = path
        self._compressed = compressed
        self._total = self._line = self._blank = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer)
        try:
            chunk = self._inner.read(len(view))
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(
                f"{self._path} is a damaged or truncated gzip file ({error})", remedy="Download or write it again"
            ) from error
        except OSError as error:
            raise MissingResourceError(f"{self._path} cannot be read: {error.strerror}") from error
        if b"\0" in chunk:
            raise DataError(f"{self._path} is a binary file (it contains NUL bytes)", expected="text in UTF-8")
        self._check_sizes(chunk)
        view[: len(chunk)] = chunk
        return len(chunk)

    def _check_sizes(self, chunk: bytes) -> None:
        self._total += len(chunk)
        self._line = len(chunk) - newline - 1 if (newline := chunk.rfind(b"\n")) >= 0 else self._line + len(chunk)
        self._blank = self._blank + len(chunk) if chunk.isspace() else 0
        if self._line > _LINE_BYTES:
            raise DataError(f"{self._path} has a line of more than {_LINE_BYTES >> 20} MB", remedy="Split the line")
        if self._blank > _BLANK_BYTES:
            raise DataError(
                f"{self._path} has more than {_BLANK_BYTES >> 20} MB of blank lines", remedy="Remove the blank lines"
            )
        if self._compressed is not None and self._total > max(_GZIP_BYTES, _GZIP_RATIO * self._compressed.tell()):
            raise DataError(
                f"{self._path} decompresses to more than {_GZIP_RATIO} times its size",
                expected="a gzip file of texts, not a decompression bomb",
                remedy="If the file is from a trusted source, decompress it first",
            )


def _open_maybe_gzipped(path: Path) -> IO[bytes]:
    try:
        kind = "" if is_stream_of_system(path) else file_kind(path, follow=True)
        if kind not in ("", "file", "folder"):  # opening a pipe may wait forever
            raise MissingResourceError(
                f"{path} is a {kind}", expected="a regular file", remedy="Read a stream as /dev/stdin or <(COMMAND)"
            )
        return path.open("rb")
    except FileNotFoundError as error:
        raise MissingResourceError(f"There is no file {path}", remedy="Check the path") from error
    except IsADirectoryError as error:
        raise MissingResourceError(f"{path} is a folder", expected="a file") from error
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL
        raise MissingResourceError(f"{path} cannot be read: {getattr(error, 'strerror', error)}") from error


@contextlib.contextmanager
def open_text_bytes(path: Path) -> Generator[io.BufferedReader]:
    """Open the bytes of a text file, plain or gzipped, with the errors of `open_text_file` except those of decoding."""
    with contextlib.ExitStack() as stack:
        raw = cast(io.BufferedReader, stack.enter_context(_open_maybe_gzipped(path)))
        inner, compressed = cast("IO[bytes]", raw), None
        if raw.peek(2)[:2] == _GZIP_MAGIC:
            inner, compressed = cast("IO[bytes]", stack.enter_context(gzip.GzipFile(fileobj=raw))), raw
        yield io.BufferedReader(_TextBytes(inner, path, compressed), _CHUNK)


@contextlib.contextmanager
def open_text_file(path: str | Path) -> Generator[TextIO]:
    """Open a UTF-8 text file as a stream with LF line ends; a byte order mark is skipped, and gzip is detected."""
    path = Path(path)
    with open_text_bytes(path) as stream:
        try:
            yield io.TextIOWrapper(stream, encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            where = f":{line}" if (line := _first_line_not_in_utf8(path)) else ""
            raise DataError(f"{path}{where} is not in UTF-8 ({error.reason})", expected="text in UTF-8") from error


def _first_line_not_in_utf8(path: Path) -> int:
    """Return the number of the first line that is not in UTF-8; 0 if the file, such as a pipe, cannot be read twice."""
    if not path.is_file():
        return 0
    with open_text_bytes(path) as stream:
        for number, line in enumerate(stream, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    return 0


#: How the files begin that commands write to a path of the user, by what they are called in messages.
_FORMS = {
    name: re.compile(pattern.encode())
    for name, pattern in {
        "TREC run": r"\S+ Q0 \S+ \d+ \S+ \S+\s",
        "list of rankings in JSON lines": r'\{"query": \{"text": "',
        "qrels file": r"\S+ 0 \S+ -?\d+\s",
        "label file": r'\{"qid": "',
        "file of prompts": r'\{"digest": "',
        "list of document ids": r'\{"id": "[^"]*"\}\s',
        "calibration": r'\{\s*"format": "listrank calibration"',
        "list of attention heads": r'\{\s*"heads": \[',
        "diagram": r'<svg xmlns="http://www\.w3\.org/2000/svg" viewBox="[\d ]+" width="\d+" height="\d+" font',
        "page of the demo": r"(?s)<!doctype html>.*<title>rerank demo",
        "plot": r"(?s).*[Mm]atplotlib",
        "table of differences": r"measure,query,a,b,score_a,",
        "table of a suite": r'\{"suite": "|suite,collection,',
        "study": r'\{\s*"gold": \{|method,budget,measure,|(?s:<!doctype html>.*<title>Cheaper judgments)',
    }.items()
}


def _is_of_form(path: Path, form: str) -> bool:
    with path.open("rb") as file:
        head = file.read(_CHUNK)
        if form == "plot" and file.seek(0, io.SEEK_END) > _CHUNK:  # a PDF names its program at the end
            file.seek(-_CHUNK, io.SEEK_END)
            head += file.read()
    if head.startswith(_GZIP_MAGIC):
        with contextlib.suppress(zlib.error):
            head = zlib.decompressobj(31).decompress(head, _CHUNK)
    return not head or _FORMS[form].match(head) is not None


def check_file_writable(path: str | Path, form: str = "") -> None:
    """Check that a file can be written, without creating or changing anything.

    If ``form`` (a key of `_FORMS`) is given, an existing file must be empty or of this form: no command overwrites a
    file that it could not have written.
    """
    try:
        target = Path(path)
        if is_stream_of_system(target):  # written in place
            needed, allowed = target, os.access(target, os.W_OK)
        else:
            if (kind := file_kind(target)) not in ("", "file", "symbolic link"):
                raise StorageError(f"{path} is a {kind}", expected="the name of a file to write")
            if form and kind == "file" and not _is_of_form(target, form):
                raise UsageError(
                    f"{path} exists and is not a {form}",
                    expected=f"a new file, or a {form} that is to be replaced",
                    remedy="Choose another path, or remove the file yourself",
                )
            needed = Path(os.path.abspath(target)).parent
            if not needed.is_dir():
                remedy = "Choose another path" if needed.exists() else "Create it, or check the path"
                raise MissingResourceError(f"{path} cannot be written: there is no folder {needed}", remedy=remedy)
            allowed = os.access(needed, os.W_OK | os.X_OK)
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL
        raise StorageError(
            f"{path} cannot be written: {getattr(error, 'strerror', error)}", remedy="Choose another path"
        ) from error
    if not allowed:
        raise StorageError(f"{path} cannot be written: no permission for {needed}", remedy="Write to another folder")


@contextlib.contextmanager
def replace_text_file(path: str | Path) -> Generator[TextIO]:
    """Yield a stream for the new text of a file, replaced atomically; it is gzipped if its name ends in ``.gz``."""
    with replace_binary_file(path) as raw, contextlib.ExitStack() as stack:
        inner = raw
        if Path(path).suffix == ".gz":  # without name and time, so that equal texts are written as equal bytes
            inner = cast("IO[bytes]", stack.enter_context(gzip.GzipFile("", "wb", fileobj=raw, mtime=0)))
        text = io.TextIOWrapper(inner, encoding="utf-8", newline="\n")
        try:
            yield text
        finally:
            text.detach()  # after writing what it holds, but without closing the file


@contextlib.contextmanager
def replace_binary_file(path: str | Path) -> Generator[IO[bytes]]:
    """Yield a stream for the new content of a file, which is replaced atomically when the block ends normally."""
    check_file_writable(path)
    path = Path(path)
    try:
        if is_stream_of_system(path):  # which cannot be replaced
            with path.open("wb") as direct:
                yield direct
            return
        # A link itself is replaced, not the file behind it: a folder from somebody else could link to any file.
        with temporary_file(path) as temporary, temporary.open("wb") as raw:
            yield raw
            raw.flush()
            os.fsync(raw.fileno())
    except OSError as error:
        raise StorageError(
            f"{path} could not be written: {error.strerror or error}", remedy="Free space, or write to another folder"
        ) from error


_SURROGATE = re.compile("[\ud800-\udfff]")


def replace_lone_surrogates(text: str) -> str:
    """Return the text with U+FFFD in place of each lone surrogate."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)

"""The call log: a SQLite database to which every reply of a model is committed as soon as it arrives."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rerank.errors import DataError, MissingResourceError, StorageError
from rerank.io.paths import cache_dir
from rerank.tasks import Reply, Request

_SCHEMA = """
CREATE TABLE IF NOT EXISTS calls (
    digest TEXT PRIMARY KEY, query_id TEXT NOT NULL, doc_ids TEXT NOT NULL, prompt TEXT NOT NULL,
    sampling TEXT NOT NULL, text TEXT NOT NULL, tokens_in INTEGER NOT NULL, tokens_out INTEGER NOT NULL,
    seconds REAL NOT NULL, finish TEXT NOT NULL, model TEXT NOT NULL, created TEXT NOT NULL, more TEXT)
"""
#: A table of its own, so that older versions can still write to the file. Rows that they wrote have no checksum.
_CHECKSUMS = "CREATE TABLE IF NOT EXISTS checksums (digest TEXT PRIMARY KEY, sum TEXT NOT NULL)"
_INSERT = f"INSERT INTO calls VALUES ({','.join('?' * 13)}) ON CONFLICT (digest) DO NOTHING"
#: Checksum and columns of the rows, with and without the table of the checksums.
_WITH_CHECKSUMS = "checksums.sum, calls.* FROM calls LEFT JOIN checksums USING (digest)"
_WITHOUT_CHECKSUMS = "NULL, calls.* FROM calls"
#: Column -> types of its values in a row that is whole.
_TYPES = {"text": str, "tokens_in": int, "tokens_out": int, "seconds": float, "finish": str}


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One committed call: the window that was judged, and the reply.

    Attributes:
        query_id: The query of the window.
        doc_ids: The documents of the window, in the order of the prompt.
        seed: The sampling seed of the request.
        reply: The reply.
    """

    query_id: str
    doc_ids: tuple[str, ...]
    seed: int
    reply: Reply


class CallLog:
    """The committed calls of one run folder, or of the cache that all runs share, in a SQLite file.

    Args:
        path: The SQLite file; created if it does not exist.
        readonly: Open an existing file and never write to it.

    Raises:
        MissingResourceError: ``readonly`` is set and the file does not exist.
        DataError: The file is not a call log.
        StorageError: The file cannot be written, for example because the disk is full or the folder is read-only.
    """

    def __init__(self, path: Path, *, readonly: bool = False) -> None:
        """Open or create the file."""
        self.path = path
        self._source = _WITH_CHECKSUMS
        if readonly and not path.is_file():
            raise MissingResourceError(f"The call log {str(path)!r} does not exist")
        with self._guard():
            if not readonly and not path.exists():
                os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # prompts and replies may be confidential
            # Server replies are committed by the thread of the background loop, one at a time.
            self._db = sqlite3.connect(_sqlite_uri(path, readonly=readonly), uri=True, check_same_thread=False)
            # Damaged text is found by its checksum; a decoding error would not name the row.
            self._db.text_factory = lambda data: data.decode("utf-8", "replace")
            try:
                if readonly:
                    if not self._db.execute("PRAGMA table_info(calls)").fetchall():
                        raise sqlite3.DatabaseError("it has no table of calls")
                    if not self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'checksums'").fetchone():
                        self._source = _WITHOUT_CHECKSUMS  # of an older version
                else:
                    self._db.execute("PRAGMA journal_mode=WAL")
                    self._db.execute(_SCHEMA)
                    self._db.execute(_CHECKSUMS)
                    self._add_optional_fields()
                    self._db.commit()
            except sqlite3.Error:
                self._db.close()
                raise

    def get(self, digests: Sequence[str]) -> dict[str, Reply]:
        """Return request digest -> committed reply; requests without a reply are omitted."""
        return {digest: reply for digest, (_, reply) in self.rows(digests).items()}

    def rows(self, digests: Sequence[str]) -> dict[str, tuple[int, Reply]]:
        """Return request digest -> (row number, committed reply); requests without a reply are omitted."""
        with self._guard():
            return {
                digest: (number, self._parse(number, row).reply)
                for digest in digests
                for number, row, _ in self._checked("WHERE calls.digest = ?", digest)
            }

    def put(self, rows: Sequence[tuple[str, Request, Reply]], model: str) -> list[int]:
        """Commit replies in one transaction.

        Args:
            rows: Digest, request and reply of each call.
            model: Name of the model, for listings.

        Returns:
            The row number of each call. If the log already has a reply to the request, it is that reply's row.
        """
        now = datetime.now(UTC).isoformat(timespec="seconds")
        values = [
            (*_request_columns(digest, request), *_reply_columns(reply), model, now, _optional_call_log_fields(reply))
            for digest, request, reply in rows
        ]
        with self._guard(), self._db:
            self._db.executemany(_INSERT, values)
            return [self._add_checksum(digest) for digest, _, _ in rows]

    def calls(self) -> Iterator[Call]:
        """Yield all calls in the order in which they were committed.

        Raises:
            DataError: A row is damaged.
        """
        with self._guard():
            for number, row, _ in self._checked("ORDER BY calls.rowid"):
                yield self._parse(number, row)

    def is_whole(self) -> bool:
        """Return whether the file and all its rows are undamaged."""
        try:
            with self._guard():
                problems = self._db.execute("PRAGMA integrity_check").fetchall()
            for _ in self.calls():
                pass
            return problems == [("ok",)]
        except DataError:
            return False

    def whole_rows(self) -> tuple[list[tuple[Any, ...]], int]:
        """Read row by row, past damaged pages of the file.

        Returns:
            The rows that are whole, with all columns, and the number of damaged rows that were found.
        """
        rows: list[tuple[Any, ...]] = []
        damaged = 0
        # The largest row number may be on a damaged page; a row takes more than 64 bytes.
        for number in range(1, self.path.stat().st_size // 64 + 1):
            try:
                rows += self._whole_row(number, self._source)
            except DataError:
                damaged += 1
            except sqlite3.DatabaseError:
                try:  # perhaps only the checksums cannot be read
                    rows += self._whole_row(number, _WITHOUT_CHECKSUMS)
                except (DataError, sqlite3.DatabaseError):
                    damaged += 1
        return rows, damaged

    def _whole_row(self, number: int, source: str) -> list[tuple[Any, ...]]:
        found = list(self._checked("WHERE calls.rowid = ?", number, source=source))
        for _, row, has_checksum in found:
            self._parse(number, row)
            # A row with a damaged digest has no checksum, like those of older versions, and is not in the index.
            query = "SELECT rowid FROM calls INDEXED BY sqlite_autoindex_calls_1 WHERE digest = ?"
            if not has_checksum and self._db.execute(query, (row["digest"],)).fetchone() != (number,):
                raise self._damaged(number)
        return [tuple(row.values()) for _, row, _ in found]

    def put_rows(self, rows: Sequence[Sequence[Any]]) -> None:
        """Commit rows that `whole_rows` of another log returned."""
        with self._guard(), self._db:
            for row in rows:
                self._db.execute(f"INSERT INTO calls VALUES ({','.join('?' * len(row))})", row)
                self._add_checksum(row[0])

    def by_model(self) -> list[dict[str, Any]]:
        """Return the number of calls, the tokens and the latest date for each model."""
        with self._guard():
            rows = self._db.execute(
                "SELECT model, COUNT(*), SUM(tokens_in), SUM(tokens_out), MAX(created) FROM calls GROUP BY model"
            ).fetchall()
        keys = ("model", "calls", "tokens_in", "tokens_out", "latest")
        return [dict(zip(keys, row, strict=True)) for row in rows]

    def clear(self) -> int:
        """Remove all calls and return how many there were."""
        with self._guard(), self._db:
            self._db.execute("DELETE FROM checksums")
            return self._db.execute("DELETE FROM calls").rowcount

    def __len__(self) -> int:
        """Return the number of committed calls."""
        with self._guard():
            return int(self._db.execute("SELECT COUNT(*) FROM calls").fetchone()[0])

    def close(self) -> None:
        """Close the file; SQLite merges the write-ahead log into it."""
        self._db.close()

    def __enter__(self) -> CallLog:
        """Return the log, for ``with``."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close the file."""
        self.close()

    def _has_optional_fields(self) -> bool:
        return any(row[1] == "more" for row in self._db.execute("PRAGMA table_info(calls)"))

    def _add_optional_fields(self) -> None:
        """Add the column ``more`` to a log of version 0.1, which lacks it."""
        if not self._has_optional_fields():
            self._db.execute("ALTER TABLE calls ADD COLUMN more TEXT")

    def _add_checksum(self, digest: str) -> int:
        """Store the checksum of a row as SQLite has stored the row, and return the row's number."""
        number, *row = self._db.execute("SELECT rowid, * FROM calls WHERE digest = ?", (digest,)).fetchone()
        self._db.execute("INSERT OR IGNORE INTO checksums VALUES (?, ?)", (digest, _row_checksum(row)))
        return int(number)

    def _checked(self, clause: str, *values: object, source: str = "") -> Iterator[tuple[int, dict[str, Any], bool]]:
        """Yield the rows that a clause selects: number, columns, and whether there is a checksum, which is compared."""
        cursor = self._db.execute(f"SELECT calls.rowid, {source or self._source} {clause}", values)
        names = [column[0] for column in cursor.description[2:]]
        for number, checksum, *row in cursor:
            if checksum is not None and checksum != _row_checksum(row):
                raise self._damaged(number)
            yield number, dict(zip(names, row, strict=True)), checksum is not None

    def _parse(self, number: int, row: Mapping[str, Any]) -> Call:
        try:
            return _call_from_row(row)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise self._damaged(number) from error

    def _damaged(self, number: int) -> DataError:
        return DataError(
            f"Row {number} of the call log {str(self.path)!r} is damaged",
            expected="the reply that was committed",
            remedy="Keep the rows that are whole with `rerank verify --repair FOLDER`, then repeat the others with "
            "--resume; a damaged cache can be emptied with `rerank cache clean`",
        )

    @contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.OperationalError, OSError) as error:
            raise StorageError(
                f"The call log {str(self.path)!r} cannot be read or written: {error}",
                remedy="Free disk space or check the permissions of the folder, then continue with --resume; "
                "committed calls are kept",
            ) from error
        except sqlite3.DatabaseError as error:
            raise DataError(
                f"{str(self.path)!r} is not a call log: {error}",
                expected="a SQLite file",
                remedy="If it is the log of a run folder, keep what is whole with `rerank verify --repair FOLDER`",
            ) from error


def _sqlite_uri(path: Path, *, readonly: bool) -> str:
    """Return the URI with which SQLite opens the file."""
    if not readonly:
        return path.resolve().as_uri()
    # If there is no write-ahead log, the file is complete. "immutable" then keeps SQLite from creating files beside
    # it, which would fail in a read-only folder.
    log = path.with_name(f"{path.name}-wal")
    is_complete = not log.exists() or not log.stat().st_size
    return f"{path.resolve().as_uri()}?{'immutable=1' if is_complete else 'mode=ro'}"


def _request_columns(digest: str, request: Request) -> tuple[str, str, str, str, str]:
    window = request.window
    doc_ids = json.dumps([doc.id for doc in window.docs], ensure_ascii=False)
    prompt = json.dumps([asdict(message) for message in request.prompt], ensure_ascii=False)
    return digest, window.query.id, doc_ids, prompt, json.dumps(asdict(request.sampling))


def _reply_columns(reply: Reply) -> tuple[str, int, int, float, str]:
    return reply.text, reply.tokens_in, reply.tokens_out, reply.seconds, reply.finish


def _optional_call_log_fields(reply: Reply) -> str | None:
    """Return, as JSON, the fields that only some replies have; None if all of them are empty."""
    more = {
        "scores": list(reply.scores),
        "thoughts": reply.thoughts,
        "steps": reply.steps,
        "tokens_cached": reply.tokens_cached,
    }
    present = {key: value for key, value in more.items() if value}
    return json.dumps(present, ensure_ascii=False) if present else None


def _row_checksum(row: Sequence[Any]) -> str:
    """Return the checksum of a row. Empty columns at its end do not count, so columns can be added to the table."""
    values = list(row)
    while values and values[-1] is None:
        values.pop()
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]


def _call_from_row(row: Mapping[str, Any]) -> Call:
    """Return a stored call.

    Raises:
        ValueError, TypeError, KeyError, RecursionError: The row is damaged.
    """
    extra = json.loads(row["more"]) if row.get("more") else {}
    extra["scores"] = tuple(map(float, extra.get("scores", ())))
    fields = {name: row[name] for name in _TYPES}
    if wrong := [name for name, kind in _TYPES.items() if type(fields[name]) is not kind]:
        raise TypeError(wrong[0])
    return Call(
        query_id=str(row["query_id"]),
        doc_ids=tuple(map(str, json.loads(row["doc_ids"]))),
        seed=int(json.loads(row["sampling"])["seed"]),
        reply=Reply(**fields, **extra),
    )


def open_shared_call_cache() -> CallLog:
    """Open the call log that all runs share, in the user's cache folder."""
    folder = cache_dir("calls")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StorageError(f"The folder {str(folder)!r} cannot be created: {error.strerror}") from error
    return CallLog(folder / "calls.sqlite")

"""The call log: a SQLite database to which every reply of a model is committed as soon as it arrives."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from rerank.errors import DataError, MissingResourceError, StorageError
from rerank.io.forks import watch_forks
from rerank.io.paths import cache_dir
from rerank.store.row_set import RowSet
from rerank.tasks import Reply, Request

_SCHEMA = """
CREATE TABLE IF NOT EXISTS calls (
    digest TEXT PRIMARY KEY, query_id TEXT NOT NULL, doc_ids TEXT NOT NULL, prompt TEXT NOT NULL,
    sampling TEXT NOT NULL, text TEXT NOT NULL, tokens_in INTEGER NOT NULL, tokens_out INTEGER NOT NULL,
    seconds REAL NOT NULL, finish TEXT NOT NULL, model TEXT NOT NULL, created TEXT NOT NULL, more TEXT)
"""
#: Rows of calls that the run did not use. The table exists only in a log that has had such calls.
_UNUSED_SCHEMA = "CREATE TABLE IF NOT EXISTS unused_calls (row INTEGER PRIMARY KEY)"
_INSERT = f"INSERT INTO calls VALUES ({','.join('?' * 13)}) ON CONFLICT (digest) DO NOTHING"
_REPLY = "text, tokens_in, tokens_out, seconds, finish, more"


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

    The file is open between calls, until `close` or a fork: SQLite must not use a connection of a parent process. The
    next call opens it again. Any thread may use the log.

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
        self.path, self._readonly = path, readonly
        self._columns = _REPLY
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        watch_forks(self)
        with self._guard():
            _ = self._db

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the path; another process opens the file again."""
        return partial(CallLog, self.path.absolute(), readonly=self._readonly), ()

    @property
    def _db(self) -> sqlite3.Connection:
        """The connection; used only within `_guard`."""
        if self._connection is None:
            if self._readonly and not self.path.is_file():
                raise MissingResourceError(f"The call log {str(self.path)!r} does not exist")
            uri = _sqlite_uri(self.path, readonly=self._readonly)
            self._connection = sqlite3.connect(uri, uri=True, check_same_thread=False)
            try:
                self._prepare()
            except sqlite3.Error:
                self.close()
                raise
        return self._connection

    def _prepare(self) -> None:
        if self._readonly:
            self._db.execute("SELECT COUNT(*) FROM calls")
            self._columns = _REPLY if self._has_optional_fields() else _REPLY.replace("more", "NULL")
        else:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute(_SCHEMA)
            self._add_optional_fields()
            self._db.commit()

    def get(self, digests: Sequence[str]) -> dict[str, Reply]:
        """Return request digest -> committed reply; requests without a reply are omitted."""
        return {digest: reply for digest, (_, reply) in self.rows(digests).items()}

    def rows(self, digests: Sequence[str]) -> dict[str, tuple[int, Reply]]:
        """Return request digest -> (row number, committed reply); requests without a reply are omitted."""
        found: dict[str, tuple[int, Reply]] = {}
        with self._guard():
            query = f"SELECT rowid, {self._columns} FROM calls WHERE digest = ?"
            for digest in digests:
                if row := self._db.execute(query, (digest,)).fetchone():
                    found[digest] = row[0], _reply_from_row(row[1:])
        return found

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
            query = "SELECT rowid FROM calls WHERE digest = ?"
            return [int(self._db.execute(query, (digest,)).fetchone()[0]) for digest, _, _ in rows]

    def set_aside_unused(self, used: RowSet) -> int:
        """Record which calls the run did not use, so that `calls` omits them, and return their number.

        An earlier version of the program may have sent other requests for the same windows. Their replies are kept.

        Args:
            used: The row numbers of the calls that the run used.
        """
        with self._guard(), self._db:
            unused = [row for row in self._db.execute("SELECT rowid FROM calls") if row[0] not in used]
            if unused or self._has_unused():
                self._db.execute(_UNUSED_SCHEMA)
                self._db.execute("DELETE FROM unused_calls")
                self._db.executemany("INSERT INTO unused_calls VALUES (?)", unused)
        return len(unused)

    def calls(self) -> Iterator[Call]:
        """Return the calls that the run used, in the order in which they were committed."""
        with self._guard():
            used = "WHERE rowid NOT IN (SELECT row FROM unused_calls)" if self._has_unused() else ""
            rows = self._db.execute(
                f"SELECT query_id, doc_ids, sampling, {self._columns} FROM calls {used} ORDER BY rowid"
            ).fetchall()
        for query_id, doc_ids, sampling, *reply in rows:
            seed = json.loads(sampling)["seed"]
            yield Call(query_id=query_id, doc_ids=tuple(json.loads(doc_ids)), seed=seed, reply=_reply_from_row(reply))

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
            return self._db.execute("DELETE FROM calls").rowcount

    def __len__(self) -> int:
        """Return the number of committed calls."""
        with self._guard():
            return int(self._db.execute("SELECT COUNT(*) FROM calls").fetchone()[0])

    def close(self) -> None:
        """Close the file; SQLite merges the write-ahead log into it. A later call opens it again."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def before_fork(self) -> None:
        """Close the file, and let no other thread open it until the fork has ended."""
        self._lock.acquire()
        self.close()

    def after_fork_in_parent(self) -> None:
        """Let all threads use the log again."""
        self._lock.release()

    after_fork_in_child = after_fork_in_parent

    def __enter__(self) -> CallLog:
        """Return the log, for ``with``."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close the file."""
        self.close()

    def _has_optional_fields(self) -> bool:
        return any(row[1] == "more" for row in self._db.execute("PRAGMA table_info(calls)"))

    def _has_unused(self) -> bool:
        return bool(self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'unused_calls'").fetchone())

    def _add_optional_fields(self) -> None:
        """Add the column ``more`` to a log of version 0.1, which lacks it."""
        if not self._has_optional_fields():
            self._db.execute("ALTER TABLE calls ADD COLUMN more TEXT")

    @contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            with self._lock:
                yield
        except sqlite3.OperationalError as error:
            raise StorageError(
                f"The call log {str(self.path)!r} cannot be read or written: {error}",
                remedy="Free disk space or check the permissions of the folder, then continue with --resume; "
                "committed calls are kept",
            ) from error
        except sqlite3.DatabaseError as error:
            raise DataError(f"{str(self.path)!r} is not a call log: {error}", expected="a SQLite file") from error


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
        "error": reply.error,
        "retries": reply.retries,
        "served_model": reply.served_model,
        "fingerprint": reply.fingerprint,
    }
    present = {key: value for key, value in more.items() if value}
    return json.dumps(present, ensure_ascii=False) if present else None


def _reply_from_row(row: Sequence[Any]) -> Reply:
    text, tokens_in, tokens_out, seconds, finish, more = row
    extra = json.loads(more) if more else {}
    extra["scores"] = tuple(extra.get("scores", ()))
    return Reply(text=text, tokens_in=tokens_in, tokens_out=tokens_out, seconds=seconds, finish=finish, **extra)


def open_shared_call_cache() -> CallLog:
    """Open the call log that all runs share, in the user's cache folder."""
    folder = cache_dir("calls")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"The folder {str(folder)!r} cannot be created: {error.strerror}") from error
    return CallLog(folder / "calls.sqlite")

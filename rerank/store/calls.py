"""The call log: every reply of a model, committed as soon as it is there, in SQLite with a write-ahead log.

Knows calls, not rankings, measures or how a backend is asked.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
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
_INSERT = f"INSERT INTO calls VALUES ({','.join('?' * 13)}) ON CONFLICT (digest) DO NOTHING"
_REPLY = "text, tokens_in, tokens_out, seconds, finish, more"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One committed call: which window was asked about, and what came back."""

    query_id: str
    doc_ids: tuple[str, ...]
    seed: int
    reply: Reply


class CallLog:
    """The committed calls of one run folder, or of the cache that all runs share.

    Args:
        path: The SQLite file; made if it is not there.
        readonly: Read only; the file must be there.

    Raises:
        MissingResourceError: It must be there and is not.
        DataError: The file is something else.
        StorageError: It cannot be written (a full disk, a read-only folder).
    """

    def __init__(self, path: Path, *, readonly: bool = False) -> None:
        """Open or make the file."""
        self.path = path
        self._columns = _REPLY
        if readonly and not path.is_file():
            raise MissingResourceError(f"There is no call log {str(path)!r}")
        with self._guard():
            self._db = sqlite3.connect(_uri(path, readonly=readonly), uri=True)
            try:
                if readonly:
                    self._db.execute("SELECT COUNT(*) FROM calls")
                    self._columns = _REPLY if self._is_wide() else _REPLY.replace("more", "NULL")
                else:
                    self._db.execute("PRAGMA journal_mode=WAL")
                    self._db.execute(_SCHEMA)
                    self._widen()
                    self._db.commit()
            except sqlite3.Error:
                self._db.close()
                raise

    def get(self, digests: Sequence[str]) -> dict[str, Reply]:
        """The replies that are there, by digest."""
        found: dict[str, Reply] = {}
        with self._guard():
            for digest in digests:
                row = self._db.execute(f"SELECT {self._columns} FROM calls WHERE digest = ?", (digest,)).fetchone()
                if row:
                    found[digest] = _reply(row)
        return found

    def put(self, rows: Sequence[tuple[str, Request, Reply]], model: str) -> None:
        """Commit replies in one transaction, all or none."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        values = [
            (*_question(digest, request), *_answer(reply), model, now, _more(reply)) for digest, request, reply in rows
        ]
        with self._guard(), self._db:
            self._db.executemany(_INSERT, values)

    def calls(self) -> Iterator[Call]:
        """Every call, in the order of commitment."""
        with self._guard():
            rows = self._db.execute(
                f"SELECT query_id, doc_ids, sampling, {self._columns} FROM calls ORDER BY rowid"
            ).fetchall()
        for query_id, doc_ids, sampling, *reply in rows:
            seed = json.loads(sampling)["seed"]
            yield Call(query_id=query_id, doc_ids=tuple(json.loads(doc_ids)), seed=seed, reply=_reply(reply))

    def by_model(self) -> list[dict[str, Any]]:
        """Calls, tokens and the latest date for every model."""
        with self._guard():
            rows = self._db.execute(
                "SELECT model, COUNT(*), SUM(tokens_in), SUM(tokens_out), MAX(created) FROM calls GROUP BY model"
            ).fetchall()
        keys = ("model", "calls", "tokens_in", "tokens_out", "latest")
        return [dict(zip(keys, row, strict=True)) for row in rows]

    def clear(self) -> int:
        """Remove every call; return how many there were."""
        with self._guard(), self._db:
            return self._db.execute("DELETE FROM calls").rowcount

    def __len__(self) -> int:
        """How many calls are committed."""
        with self._guard():
            return int(self._db.execute("SELECT COUNT(*) FROM calls").fetchone()[0])

    def close(self) -> None:
        """Close the file; the write-ahead log is folded into it."""
        self._db.close()

    def __enter__(self) -> CallLog:
        """For ``with``."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close."""
        self.close()

    def _is_wide(self) -> bool:
        return any(row[1] == "more" for row in self._db.execute("PRAGMA table_info(calls)"))

    def _widen(self) -> None:
        """Give a log of version 0.1 the column that it lacks."""
        if not self._is_wide():
            self._db.execute("ALTER TABLE calls ADD COLUMN more TEXT")

    @contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise StorageError(
                f"The call log {str(self.path)!r} cannot be used: {error}",
                remedy="Free disk space or check the folder's permissions, then continue with --resume; "
                "committed calls are kept",
            ) from error
        except sqlite3.DatabaseError as error:
            raise DataError(f"{str(self.path)!r} is not a call log: {error}", expected="a SQLite file") from error


def _uri(path: Path, *, readonly: bool) -> str:
    """How SQLite is to open the file."""
    if not readonly:
        return path.resolve().as_uri()
    # Without a write-ahead log the file is whole, and SQLite is told not to put files of its own beside it.
    left = path.with_name(f"{path.name}-wal")
    whole = not left.exists() or not left.stat().st_size
    return f"{path.resolve().as_uri()}?{'immutable=1' if whole else 'mode=ro'}"


def _question(digest: str, request: Request) -> tuple[str, str, str, str, str]:
    window = request.window
    doc_ids = json.dumps([doc.id for doc in window.docs], ensure_ascii=False)
    prompt = json.dumps([asdict(message) for message in request.prompt], ensure_ascii=False)
    return digest, window.query.id, doc_ids, prompt, json.dumps(asdict(request.sampling))


def _answer(reply: Reply) -> tuple[str, int, int, float, str]:
    return reply.text, reply.tokens_in, reply.tokens_out, reply.seconds, reply.finish


def _more(reply: Reply) -> str | None:
    """What only some replies have, as JSON."""
    more = {"scores": list(reply.scores), "thoughts": reply.thoughts, "steps": reply.steps}
    present = {key: value for key, value in more.items() if value}
    return json.dumps(present, ensure_ascii=False) if present else None


def _reply(row: Sequence[Any]) -> Reply:
    text, tokens_in, tokens_out, seconds, finish, more = row
    extra = json.loads(more) if more else {}
    extra["scores"] = tuple(extra.get("scores", ()))
    return Reply(text=text, tokens_in=tokens_in, tokens_out=tokens_out, seconds=seconds, finish=finish, **extra)


def shared_cache() -> CallLog:
    """The call log that all runs share, in the user's cache folder."""
    folder = cache_dir("calls")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"Cannot make the folder {str(folder)!r}: {error.strerror}") from error
    return CallLog(folder / "calls.sqlite")

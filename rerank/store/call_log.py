"""The call log: a SQLite database to which every reply of a model is committed as soon as it arrives.

Prompts are stored compressed: the dictionary of a prompt (RFC 1950, FDICT) is the end of the earlier prompts for the
same query, so repeated passages, in pairs or in overlapping windows, take up only a few bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from rerank.errors import DataError, MissingResourceError, StorageError
from rerank.io.file_systems import file_kind, restrict_to_owner
from rerank.io.forks import watch_forks
from rerank.io.paths import cache_dir
from rerank.prompts.base import Message, Prompt
from rerank.tasks import Reply, Request

CALLS_SCHEMA = """
CREATE TABLE IF NOT EXISTS calls (
    digest TEXT PRIMARY KEY, query_id TEXT NOT NULL, doc_ids TEXT NOT NULL, prompt TEXT NOT NULL,
    sampling TEXT NOT NULL, text TEXT NOT NULL, tokens_in INTEGER NOT NULL, tokens_out INTEGER NOT NULL,
    seconds REAL NOT NULL, finish TEXT NOT NULL, model TEXT NOT NULL, created TEXT NOT NULL, more TEXT)
"""
#: Row numbers of calls that match no request of the finished run. The table exists only if there have been such calls.
UNMATCHED_CALLS_SCHEMA = "CREATE TABLE IF NOT EXISTS unmatched_calls (row INTEGER PRIMARY KEY)"
#: Checksums are in a separate table, so that older versions can still write to the file; their rows have no checksum.
CHECKSUMS_SCHEMA = "CREATE TABLE IF NOT EXISTS checksums (digest TEXT PRIMARY KEY, sum TEXT NOT NULL)"
#: Fields of replies that the column ``more`` contains, as a JSON object, if they are not empty.
_OPTIONAL = (
    *("scores", "thoughts", "steps", "tokens_cached", "search_units", "error", "retries"),
    *("served_model", "fingerprint", "is_batched"),
)
#: Types of the values of these columns in an undamaged row.
_TYPES = {"text": str, "tokens_in": int, "tokens_out": int, "seconds": float, "finish": str}


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One committed call: the window that was judged, and the reply."""

    query_id: str
    doc_ids: tuple[str, ...]  # the documents of the window, in the order of the prompt
    seed: int
    reply: Reply
    digest: str = ""
    row: int = 0


def row_columns(digest: str, request: Request, reply: Reply, model: str, now: str) -> tuple[Any, ...]:
    """Return the columns of a call in the order of the table."""
    doc_ids = json.dumps([doc.id for doc in request.window.docs], ensure_ascii=False)
    prompt = json.dumps([asdict(message) for message in request.prompt], ensure_ascii=False)
    more = {name: value for name in _OPTIONAL if (value := getattr(reply, name))}
    asked = digest, request.window.query.id, doc_ids, prompt, json.dumps(asdict(request.sampling))
    answered = reply.text, reply.tokens_in, reply.tokens_out, reply.seconds, reply.finish
    return *asked, *answered, model, now, json.dumps(more, ensure_ascii=False) if more else None


def _checksum(row: Sequence[Any]) -> str:
    """Return the checksum of a row, without empty columns at the end, so that columns can be added to the table."""
    values = list(row)
    while values and values[-1] is None:
        values.pop()
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]


def _parse_row(number: int, row: Mapping[str, Any]) -> Call:
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
        digest=str(row["digest"]),
        row=number,
    )


#: How prompts are stored: ``once``: compressed, in a separate table; ``full``: as JSON text in the row of the call;
#: ``none``: not at all.
PromptStorage = Literal["once", "full", "none"]

PROMPTS_SCHEMA = "CREATE TABLE IF NOT EXISTS prompts (row INTEGER PRIMARY KEY, before INTEGER, packed BLOB NOT NULL)"
#: Maximum number of bytes of a dictionary that zlib can use.
_WINDOW = 1 << 15
#: Number of queries whose dictionaries are kept in memory. If a query that was dropped occurs again, its next prompt is
#: compressed without a dictionary.
_QUERIES = 256

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class LoggedPrompts:
    """The table of the compressed prompts of one call log.

    Each row refers to the previous row of the same query; the prompt of that row is the end of the dictionary for this
    row. Several processes may therefore write to the same log.
    """

    def __init__(self) -> None:
        self._latest: OrderedDict[str, tuple[int, bytes]] = OrderedDict()  # query id -> last row, dictionary after it
        self._read: OrderedDict[int, bytes] = OrderedDict()  # row number -> dictionary after this row

    def forget(self) -> None:
        """Clear the compression dictionaries for new prompts, whose prompts may not have been committed."""
        self._latest.clear()

    def add(self, database: sqlite3.Connection, row: int, query_id: str, prompt: str) -> None:
        """Store the prompt of a new row of the log, without committing the transaction."""
        before, dictionary = self._latest.pop(query_id, (None, b""))
        content = prompt.encode()
        packer = zlib.compressobj(zdict=dictionary) if dictionary else zlib.compressobj()
        packed = packer.compress(content) + packer.flush()
        database.execute("INSERT OR REPLACE INTO prompts VALUES (?, ?, ?)", (row, before, packed))
        _remember(self._latest, query_id, (row, (dictionary + content)[-_WINDOW:]))

    def read(self, database: sqlite3.Connection, row: int) -> str | None:
        chain: list[tuple[int, bytes]] = []
        number: int | None = row
        while number is not None and (number not in self._read or number == row):
            found = database.execute("SELECT before, packed FROM prompts WHERE row = ?", (number,)).fetchone()
            if found is None:
                if number == row:
                    return None
                raise ValueError(f"the prompt of row {number} is missing")
            before, packed = found
            if before is not None and before >= number:
                raise ValueError(f"row {number} refers to row {before}, which is not an earlier row")
            chain.append((number, packed))
            number = before
        # A dictionary is usually needed once, for the row that follows, so only the latest one of a query is kept.
        dictionary = b"" if number is None else self._read.pop(number)
        content = b""
        try:
            for number, packed in reversed(chain):
                unpacker = zlib.decompressobj(zdict=dictionary) if dictionary else zlib.decompressobj()
                content = unpacker.decompress(packed)
                dictionary = (dictionary + content)[-_WINDOW:]
                _remember(self._read, number, dictionary)
        except (zlib.error, TypeError) as error:
            raise ValueError(f"the prompt of row {number} cannot be decompressed: {error}") from error
        return content.decode()


def _remember(table: OrderedDict[_Key, _Value], key: _Key, value: _Value) -> None:
    table[key] = value
    table.move_to_end(key)
    if len(table) > _QUERIES:
        table.popitem(last=False)


#: Number of rows per block.
_BLOCK = 1024


class RowSet:
    """A set of row numbers of a call log; a number may be as large as SQLite allows."""

    def __init__(self) -> None:
        self._blocks: dict[int, int] = {}

    def add(self, number: int) -> bool:
        block, bit = divmod(number, _BLOCK)
        present, mask = self._blocks.get(block, 0), 1 << bit
        self._blocks[block] = present | mask
        return not present & mask

    def __contains__(self, number: int) -> bool:
        block, bit = divmod(number, _BLOCK)
        return bool(self._blocks.get(block, 0) & 1 << bit)


def open_shared_cache() -> CallLog:
    """Open the call log that all runs share, in the user's cache folder."""
    folder = cache_dir("calls")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StorageError(f"The folder {str(folder)!r} cannot be created: {error.strerror}") from error
    return CallLog(folder / "calls.sqlite", prompts="none")  # prompts in the cache would never be read


def remove_shared_cache() -> Path:
    """Remove the file of the shared cache, which may be damaged, and return its path."""
    path = cache_dir("calls", "calls.sqlite")
    try:
        for suffix in _OF_DATABASE:
            Path(f"{path}{suffix}").unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"{path} cannot be removed: {error.strerror}", remedy="Remove it yourself") from error
    return path


#: Suffixes of the names of the files that SQLite uses for one database.
_OF_DATABASE = ("", "-wal", "-shm", "-journal")
#: Checksum and columns of the rows, with and without the table of the checksums.
_WITH_CHECKSUMS = "checksums.sum, calls.* FROM calls LEFT JOIN checksums USING (digest)"
_WITHOUT_CHECKSUMS = "NULL, calls.* FROM calls"
#: Number of rows that are in memory while all calls are read.
_SLICE = 1000


class CallLog(AbstractContextManager["CallLog"]):
    """The committed calls of one run folder, or of the cache that all runs share, in a SQLite file.

    The file stays open until `close` or a fork, since SQLite must not use a connection of a parent process; the next
    use of the log opens it again. Any thread may use the log.

    ``salvage`` (with ``readonly``) opens also a truncated file, of which only a part can be read. ``prompts`` is how
    the prompts of new calls are stored: ``once`` (compressed), ``full`` (as text) or ``none``.
    """

    def __init__(
        self, path: Path, *, readonly: bool = False, salvage: bool = False, prompts: PromptStorage = "once"
    ) -> None:
        self.path, self._readonly, self._salvage, self._storage = path, readonly, salvage, prompts
        self._prompts = LoggedPrompts()
        self._source = _WITH_CHECKSUMS
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        watch_forks(self)
        with self._guard():
            _ = self._db

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(CallLog, self.path.absolute(), readonly=self._readonly, prompts=self._storage), ()

    @property
    def _db(self) -> sqlite3.Connection:
        """The connection, opened if needed; it must be used only within `_guard`."""
        if self._connection is None:
            _check_files(self.path, readonly=self._readonly)
            if self._readonly and not self.path.is_file():
                raise MissingResourceError(f"The call log {str(self.path)!r} does not exist")
            uri = self.path.resolve().as_uri()
            if self._readonly:
                # If there is no write-ahead log, the file is complete. "immutable" then keeps SQLite from creating
                # files beside it, which would fail in a read-only folder.
                log = self.path.with_name(f"{self.path.name}-wal")
                is_complete = not log.exists() or not log.stat().st_size
                uri = f"{uri}?{'immutable=1' if is_complete else 'mode=ro'}"
            else:
                _make_private(self.path)
            self._connection = sqlite3.connect(uri, uri=True, check_same_thread=False)
            # Damaged text is detected by the checksum of its row; a decoding error would not name the row.
            self._connection.text_factory = lambda data: data.decode("utf-8", "replace")
            try:
                self._prepare()
            except (sqlite3.Error, UnicodeDecodeError):  # the latter for a message with damaged names
                self.close()
                raise
        return self._connection

    def _prepare(self) -> None:
        if self._readonly:
            if self._salvage:  # with it, SQLite derives the number of pages from the file size, not from the header
                self._db.execute("PRAGMA writable_schema=ON")
            if not self._db.execute("PRAGMA table_info(calls)").fetchall():
                raise sqlite3.DatabaseError("the database has no table of calls")
            if not self._has_table("checksums"):
                self._source = _WITHOUT_CHECKSUMS  # an older version wrote the log
        else:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute(CALLS_SCHEMA)
            self._db.execute(CHECKSUMS_SCHEMA)
            self._db.execute(PROMPTS_SCHEMA)
            if not any(row[1] == "more" for row in self._db.execute("PRAGMA table_info(calls)")):  # of version 0.1
                self._db.execute("ALTER TABLE calls ADD COLUMN more TEXT")
            self._db.commit()

    def get(self, digests: Sequence[str]) -> dict[str, Reply]:
        """Return a mapping from request digest to committed reply; requests without a reply are omitted."""
        return {digest: reply for digest, (_, reply) in self.rows(digests).items()}

    def rows(self, digests: Sequence[str]) -> dict[str, tuple[int, Reply]]:
        """Return a mapping from request digest to (row number, committed reply), for requests that have a reply."""
        with self._guard():
            return {
                digest: (number, self._parse(number, row).reply)
                for digest in digests
                for number, row, _ in self._checked("WHERE calls.digest = ?", digest)
            }

    def put(self, rows: Sequence[tuple[str, Request, Reply]], model: str) -> list[int]:
        """Commit replies in one transaction; return the row number of each call, or of its earlier reply."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with self._guard(), self._transaction():
            return [self._insert(row_columns(*row, model, now)) for row in rows]

    def set_aside_unmatched(self, used: RowSet) -> int:
        """Mark calls that match no request of the finished run, so that `calls` omits them; return their number.

        An earlier version of the program may have sent other requests for the same windows. Their replies are kept.
        """
        with self._guard(), self._db:
            unmatched = [row for row in self._db.execute("SELECT rowid FROM calls") if row[0] not in used]
            if unmatched or self._has_table("unmatched_calls"):
                self._db.execute(UNMATCHED_CALLS_SCHEMA)
                self._db.execute("DELETE FROM unmatched_calls")
                self._db.executemany("INSERT INTO unmatched_calls VALUES (?)", unmatched)
        return len(unmatched)

    def calls(self) -> Iterator[Call]:
        """Yield the calls that the run used, in the order in which they were committed."""
        clause, last = f"WHERE {self._used_rows()} AND calls.rowid > ? ORDER BY calls.rowid LIMIT {_SLICE}", 0
        while True:
            with self._guard():
                found = [self._parse(number, row) for number, row, _ in self._checked(clause, last)]
            yield from found
            if len(found) < _SLICE:
                return
            last = found[-1].row

    def calls_of_query(self, query_id: str) -> list[Call]:
        """Return the calls of one query that the run used, in the order in which they were committed.

        The first call sorts the row numbers by query into a temporary table, which SQLite keeps on the disk.
        """
        with self._guard():
            if not self._db.execute("SELECT 1 FROM temp.sqlite_master WHERE name = 'by_query'").fetchone():
                self._db.execute(
                    "CREATE TEMP TABLE by_query (query_id TEXT, row INTEGER, PRIMARY KEY (query_id, row)) WITHOUT ROWID"
                )
                self._db.execute(
                    f"INSERT INTO by_query SELECT query_id, rowid FROM calls WHERE {self._used_rows()} ORDER BY 1, 2"
                )
            clause = "WHERE calls.rowid IN (SELECT row FROM by_query WHERE query_id = ?) ORDER BY calls.rowid"
            return [self._parse(number, row) for number, row, _ in self._checked(clause, query_id)]

    def prompt(self, row: int) -> Prompt | None:
        """Return the prompt of the call in a row; None if the prompt was not stored."""
        with self._guard():
            try:
                (text,) = self._db.execute("SELECT prompt FROM calls WHERE rowid = ?", (row,)).fetchone()
                text = text or self._stored_prompt(row)
                if text is None:
                    return None
                turns = json.loads(text)
                return tuple(Message(turn["role"], turn["content"], tuple(turn.get("images", ()))) for turn in turns)
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                raise self._damaged(row) from error

    def has_all_prompts(self) -> bool:
        with self._guard():
            stored = "SELECT row FROM prompts" if self._has_table("prompts") else ""
            clause = f"WHERE prompt = '' AND calls.rowid NOT IN ({stored}) AND {self._used_rows()} LIMIT 1"
            return not self._db.execute(f"SELECT 1 FROM calls {clause}").fetchone()

    def _used_rows(self) -> str:
        """Return the SQL condition that excludes calls that match no request of the finished run."""
        unmatched = "SELECT row FROM unmatched_calls" if self._has_table("unmatched_calls") else ""
        return f"calls.rowid NOT IN ({unmatched})"

    def _stored_prompt(self, number: int) -> str | None:
        return self._prompts.read(self._db, number) if self._has_table("prompts") else None

    def is_whole(self) -> bool:
        with suppress(DataError):
            return self.is_consistent() and next(self.damaged_prompts(self.calls()), None) is None
        return False

    def is_consistent(self) -> bool:
        """Return whether the tables and indexes of the file fit together; prompts are not read."""
        with suppress(DataError), self._guard():
            return self._db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return False

    def damaged_prompts(self, calls: Iterable[Call]) -> Iterator[int]:
        for call in calls:
            try:
                self.prompt(call.row)
            except DataError:
                yield call.row

    def whole_rows(self) -> tuple[list[tuple[Any, ...]], int, int]:
        """Read the log row by row, skipping damaged pages of the file.

        The result is the undamaged rows, with all columns; the number of damaged rows outside unreadable pages; and the
        number of undamaged rows whose prompt is missing, 0 if no prompts were stored.
        """
        rows: list[dict[str, Any]] = []
        damaged = 0
        files = [path for suffix in ("", "-wal") if (path := Path(f"{self.path}{suffix}")).is_file()]
        # The largest row number may be on a damaged page, so it is bounded: a row takes more than 64 bytes.
        for number in range(1, sum(path.stat().st_size for path in files) // 64 + 1):
            for source in (self._source, _WITHOUT_CHECKSUMS):  # perhaps only the checksums cannot be read
                try:
                    rows += self._whole_row(number, source)
                except DataError:
                    damaged += 1
                except sqlite3.DatabaseError:
                    continue
                break
        lost = sum(not row["prompt"] for row in rows)
        with suppress(sqlite3.DatabaseError):  # if the table cannot be read, prompts may have been stored
            lost *= lost < len(rows) or self._db.execute("SELECT 1 FROM prompts LIMIT 1").fetchone() is not None
        return [tuple(row.values()) for row in rows], damaged, lost

    def _whole_row(self, number: int, source: str) -> list[dict[str, Any]]:
        found = list(self._checked("WHERE calls.rowid = ?", number, source=source))
        for _, row, has_checksum in found:
            self._parse(number, row)
            # A row with a damaged digest has no checksum, like rows of older versions, but is also not in the index.
            query = "SELECT rowid FROM calls INDEXED BY sqlite_autoindex_calls_1 WHERE digest = ?"
            is_cut = "\0" in row["created"]  # where a page is truncated, SQLite reads zeros, up to the last column
            if not has_checksum and (is_cut or self._db.execute(query, (row["digest"],)).fetchone() != (number,)):
                raise self._damaged(number)
            with suppress(ValueError, sqlite3.DatabaseError):  # a damaged prompt is not needed for a reply
                row["prompt"] = row["prompt"] or self._stored_prompt(number) or ""
        return [row for _, row, _ in found]

    def put_rows(self, rows: Sequence[Sequence[Any]]) -> None:
        with self._guard(), self._transaction():
            for row in rows:
                self._insert(row)

    def by_model(self) -> list[dict[str, Any]]:
        """Return one row per model, with the number of calls, the numbers of tokens and the date of the last call."""
        with self._guard():
            rows = self._db.execute(
                "SELECT model, COUNT(*), SUM(tokens_in), SUM(tokens_out), MAX(created) FROM calls GROUP BY model"
            ).fetchall()
        keys = ("model", "calls", "tokens_in", "tokens_out", "latest")
        return [dict(zip(keys, row, strict=True)) for row in rows]

    def clear(self) -> int:
        with self._guard(), self._db:
            self._db.execute("DELETE FROM checksums")
            self._db.execute("DELETE FROM prompts")
            self._prompts = LoggedPrompts()
            return self._db.execute("DELETE FROM calls").rowcount

    def __len__(self) -> int:
        with self._guard():
            return int(self._db.execute("SELECT COUNT(*) FROM calls").fetchone()[0])

    def close(self) -> None:
        """Close the file, into which SQLite merges the write-ahead log; the next use of the log opens it again."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def before_fork(self) -> None:
        """Close the file, and prevent other threads from opening it until the fork has ended."""
        self._lock.acquire()
        self.close()

    def after_fork_in_parent(self) -> None:
        self._lock.release()

    after_fork_in_child = after_fork_in_parent

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _has_table(self, name: str) -> bool:
        return bool(self._db.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (name,)).fetchone())

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            with self._db:
                yield
        except BaseException:
            self._prompts.forget()
            raise

    def _insert(self, row: Sequence[Any]) -> int:
        """Write a row with checksum and prompt, unless the request already has a row; return the number of its row."""
        digest, query_id, doc_ids, prompt, *others = row
        kept = prompt if self._storage == "full" else ""
        command = f"INSERT INTO calls VALUES ({','.join('?' * len(row))}) ON CONFLICT (digest) DO NOTHING"
        is_new = self._db.execute(command, (digest, query_id, doc_ids, kept, *others)).rowcount
        number, *content = self._db.execute("SELECT rowid, * FROM calls WHERE digest = ?", (digest,)).fetchone()
        self._db.execute("INSERT OR IGNORE INTO checksums VALUES (?, ?)", (digest, _checksum(content)))
        if is_new and prompt and self._storage == "once":
            self._prompts.add(self._db, number, query_id, prompt)
        return int(number)

    def _checked(self, clause: str, *values: object, source: str = "") -> Iterator[tuple[int, dict[str, Any], bool]]:
        """Yield number and columns of each selected row, and whether it has a checksum, which must be correct."""
        cursor = self._db.execute(f"SELECT calls.rowid, {source or self._source} {clause}", values)
        names = [column[0] for column in cursor.description[2:]]
        for number, checksum, *row in cursor:
            if checksum is not None and checksum != _checksum(row):
                raise self._damaged(number)
            yield number, dict(zip(names, row, strict=True)), checksum is not None

    def _parse(self, number: int, row: Mapping[str, Any]) -> Call:
        try:
            return _parse_row(number, row)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise self._damaged(number) from error

    def _damaged(self, number: int) -> DataError:
        return DataError(
            f"Row {number} of the call log {str(self.path)!r} is damaged",
            expected="the reply that was committed",
            remedy="Keep the undamaged rows with `rerank verify --repair FOLDER`, then repeat the other calls with "
            "--resume; a damaged cache can be emptied with `rerank cache clean`",
        )

    @contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            with self._lock:
                yield
        except (sqlite3.OperationalError, OSError) as error:
            raise StorageError(
                f"The call log {str(self.path)!r} cannot be read or written: {error}",
                remedy="Free disk space or check the permissions of the folder, then continue with --resume; "
                "committed calls are kept",
            ) from error
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            raise DataError(
                f"{str(self.path)!r} is not a call log: {error}",
                expected="a SQLite file",
                remedy="If it belongs to a run folder, keep its undamaged rows with `rerank verify --repair FOLDER`; "
                "a damaged cache is removed by `rerank cache clean`",
            ) from error


def _check_files(path: Path, *, readonly: bool) -> None:
    """Check that SQLite would neither write through links nor wait for pipes in a folder from somebody else."""
    for name in (f"{path}{suffix}" for suffix in _OF_DATABASE):
        if (kind := file_kind(name, follow=readonly)) not in ("", "file"):
            raise DataError(
                f"{name} is a {kind}", expected="a regular file", remedy="Remove it, or copy its content to its place"
            )


def _make_private(path: Path) -> None:
    """Allow only the owner to read a log, since prompts and replies may be confidential; create it if it is missing."""
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    for suffix in ("", "-wal", "-shm"):
        restrict_to_owner(Path(f"{path}{suffix}"))

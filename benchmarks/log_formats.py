"""SQLite against Parquet for the call log: durable commits, lookups by digest, reading by query, and bytes.

    python benchmarks/log_formats.py [--queries 500] [--batch 8]

The calls are those of `sliding` over 100 made-up passages per query: 9 windows of 20, which overlap by 10. 64 queries
advance together, so their calls alternate. Every format has the same columns and is synchronised to the disk:

- `sqlite`: `rerank.store.CallLog` with compressed prompts;
- `parquet_commits`: a Parquet file (zstd) per commit, since a Parquet file cannot be read before it is closed;
- `parquet_shards`: Parquet files of 4,096 calls, sorted by query. A process that is killed loses the calls of its open
  file: `lost_if_killed` is how many of 2,048 calls cannot be read from a file that was not closed.

Milliseconds of wall-clock and of CPU time: `write` per call; `look_up` per batch of digests in random order (the
replies, as a resumed run asks for them); `by_query` per query (its replies, as `verify` asks for them); `load` per
call, to read the replies of a Parquet log into memory, which makes look-ups free. Needs pyarrow.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sqlite3
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from store import make_passages

from rerank.backends.fake import Fake
from rerank.judges import open_judge
from rerank.prompts import load_prompt
from rerank.store import CallLog
from rerank.store.call_log import CALLS_SCHEMA, row_columns
from rerank.tasks import Reply, Request
from rerank.types import Query, Window

Call = tuple[str, Request, Reply]
DEPTH, SIZE, STRIDE, TOGETHER, SHARD = 100, 20, 10, 64, 4096
with sqlite3.connect(":memory:") as _database:
    _database.execute(CALLS_SCHEMA)
    COLUMNS = [name for _, name, *_ in _database.execute("PRAGMA table_info(calls)")][:-3]  # without dates and extras
REPLY = ["digest", "query_id", "doc_ids", *COLUMNS[4:]]


def main() -> None:
    """Measure all formats on the same calls, print one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--batch", type=int, default=8)
    options = parser.parse_args()
    calls = make_calls(options.queries)
    result: dict[str, Any] = {"calls": len(calls), "batch": options.batch}
    for measure in (sqlite, parquet_commits, parquet_shards):
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
            result[measure.__name__] = measure(Path(folder), calls, options.batch)
    print(json.dumps(result))


def make_calls(queries: int) -> list[Call]:
    """Make the calls of all queries, in the order in which 64 queries that advance together make them."""
    passages, backend, calls = make_passages(queries * DEPTH), Fake("reversed"), []
    judge = open_judge("generate", backend, load_prompt("listwise"))
    for first in range(0, queries, TOGETHER):
        for start in range(DEPTH - SIZE, -1, -STRIDE):
            for number in range(first, min(first + TOGETHER, queries)):
                docs = tuple(passages[number * DEPTH + start : number * DEPTH + start + SIZE])
                (request,) = judge.make_requests(Window(Query(id=f"q{number}", text=docs[0].text[:40]), docs))
                calls.append((request.digest(backend.identity), request, backend.generate([request])[0]))
    return calls


def sqlite(folder: Path, calls: Sequence[Call], batch: int) -> dict[str, Any]:
    """Measure the call log."""
    path = folder / "calls.sqlite"
    with CallLog(path) as log:
        write = timed(lambda rows: log.put(rows, "fake"), split(calls, batch), len(calls))
    with CallLog(path, readonly=True) as log:
        return {
            "write": write,
            "look_up": timed(log.get, split(shuffled_digests(calls), batch)),
            "by_query": timed(log.calls_of_query, query_ids(calls)),
            "bytes_per_call": round(path.stat().st_size / len(calls)),
        }


def parquet_commits(folder: Path, calls: Sequence[Call], batch: int) -> dict[str, Any]:
    """Measure a Parquet file per commit."""
    return parquet(folder, calls, batch, shard=batch)


def parquet_shards(folder: Path, calls: Sequence[Call], batch: int) -> dict[str, Any]:
    """Measure Parquet files of 4,096 calls."""
    unclosed = folder.with_suffix(".unclosed")
    writer = pq.ParquetWriter(unclosed, table(calls[:1]).schema, compression="zstd")
    for rows in split(calls[: SHARD // 2], batch):
        writer.write_table(table(rows))
    try:
        readable = pq.read_metadata(unclosed).num_rows
    except pa.ArrowInvalid:
        readable = 0
    writer.close()
    unclosed.unlink()
    return parquet(folder, calls, batch, shard=SHARD) | {"lost_if_killed": len(calls[: SHARD // 2]) - readable}


def parquet(folder: Path, calls: Sequence[Call], batch: int, *, shard: int) -> dict[str, Any]:
    """Write files of ``shard`` calls and measure the steps; some of the steps are measured on 20 samples."""

    def write(rows: Sequence[Call]) -> None:
        path = folder / f"{len(os.listdir(folder)):08}.parquet"
        pq.write_table(table(rows).sort_by("query_id"), path, compression="zstd")
        for name in (path, folder):
            descriptor = os.open(name, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)

    def select(column: str, values: Sequence[str]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (
            ds.dataset(folder).to_table(REPLY, filter=pc.field(column).isin(values)).to_pylist()
        )
        return found

    return {
        "write": timed(write, split(calls, shard), len(calls)),
        "look_up": timed(lambda digests: select("digest", digests), split(shuffled_digests(calls), batch)[:20]),
        "by_query": timed(lambda name: select("query_id", [name]), query_ids(calls)[:20]),
        "load": timed(lambda path: ds.dataset(path).to_table(REPLY).to_pylist(), [folder], len(calls)),
        "bytes_per_call": round(sum(path.stat().st_size for path in folder.iterdir()) / len(calls)),
    }


def table(calls: Sequence[Call]) -> pa.Table:
    """Convert calls to the columns of the call log."""
    rows = [row_columns(name, request, reply, "", "")[: len(COLUMNS)] for name, request, reply in calls]
    return pa.table(dict(zip(COLUMNS, zip(*rows, strict=True), strict=True)))


def shuffled_digests(calls: Sequence[Call]) -> list[str]:
    """Return the digests of the calls in random order."""
    return random.Random(0).sample([digest for digest, *_ in calls], len(calls))


def query_ids(calls: Sequence[Call]) -> list[str]:
    """Return the queries of the calls."""
    return list(dict.fromkeys(request.window.query.id for _, request, _ in calls))


def split(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    """Split a sequence into parts of ``size``."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def timed(act: Callable[[Any], object], items: Sequence[Any], count: int = 0) -> dict[str, float]:
    """Act on all items; return milliseconds of wall-clock and CPU time per item, or per each of ``count``."""
    wall, cpu = time.perf_counter(), time.process_time()
    for item in items:
        act(item)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {key: round(1000 * value / (count or len(items)), 3) for key, value in (("wall", wall), ("cpu", cpu))}


if __name__ == "__main__":
    main()

"""BM25 and flat vector search in shards against one shard, on synthetic collections: time, memory, disk, equality.

    python benchmarks/shards.py bm25 --documents 1000000 --shards 1:1,4:1,4:2,16:2
    python benchmarks/shards.py flat --documents 1000000 --shards 1,10,100

`bm25` takes numbers of shards and of processes, `flat` numbers of shards. Documents have 30 to 89 words. The r-th most
frequent word has a probability proportional to 1/r up to the rank 10,000 and to 1/r^2 from there on, so that the
vocabulary grows with the square root of the text (Heaps' law). They are made while they are read, and are never all in
memory. Queries have 8 words, without the 100 most frequent ones. Vectors are random, of length 1 and 384 dimensions.

Each row is measured in a process of its own, on the same stored documents. CPU seconds include the processes that build
shards. `index_peak_mb` (10^6 bytes of resident memory, with mapped pages that the system can take back) is that of the
first process once the index is open, `index_peak_child_mb` that of the largest other, `peak_mb` that of the first one
after all queries. Rows with the same digest have the same documents and the same scores, bit by bit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from retrieval import DEPTH, peak_bytes, vectors, write_vectors

from rerank.indexing.documents import open_documents
from rerank.types import Document, Query, Run

CORE, STOPPED, BLOCK = 10_000, 100, 10_000
#: Share of the words up to the rank CORE: the harmonic number of CORE, against the sum of CORE / r^2 beyond it.
HARMONIC = float(np.sum(1 / np.arange(1, CORE + 1)))
CUMULATIVE = np.cumsum(1 / np.arange(1, CORE + 1)) / HARMONIC


class SyntheticCorpus:
    """Documents that are made again, the same ones, whenever they are read."""

    language = "en"

    def __init__(self, documents: int) -> None:
        self.documents, self.name = documents, f"synthetic-{documents}"
        self.fingerprint = hashlib.sha256(self.name.encode()).hexdigest()

    def docs(self) -> Iterator[Document]:
        random = np.random.default_rng(1)
        for start in range(0, self.documents, BLOCK):
            lengths = random.integers(30, 90, min(BLOCK, self.documents - start))
            words = np.split(words_of(random, int(lengths.sum())), np.cumsum(lengths)[:-1])
            for number, ranks in enumerate(words, start):
                yield Document(id=f"d{number}", text=text_of(ranks))


def words_of(random: np.random.Generator, count: int) -> np.ndarray:
    """Ranks of words from 1 up, without an upper bound."""
    core = np.searchsorted(CUMULATIVE, random.random(count)) + 1
    tail = np.minimum(CORE / (1 - random.random(count)), 2**40).astype(np.int64) + 1
    return np.where(random.random(count) < HARMONIC / (HARMONIC + 1), core, tail)


def text_of(ranks: np.ndarray) -> str:
    return " ".join(f"w{rank}x" for rank in ranks.tolist())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=("bm25", "flat"))
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--shards", default="1:1,4:1,4:2", help="numbers of shards, for bm25 SHARDS:PROCESSES")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--folder", type=Path, default=None, help="where the collection and the indexes are made")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps((measure_bm25 if options.kind == "bm25" else measure_flat)(options)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as room:
        rows = [in_a_process(options, "documents", room)]
        rows += [in_a_process(options, shards, room) for shards in options.shards.split(",")]
    first = rows[1]
    for row in rows[1:]:
        row["ratios"] = {
            name: round(row[name] / first[name], 3)
            for name in (
                "index_seconds",
                "index_cpu_seconds",
                "index_peak_mb",
                "peak_mb",
                "disk_mb",
                "queries_per_second",
            )
            if first.get(name)
        }
    print(json.dumps({"rows": rows, "identical": len({row["digest"] for row in rows[1:]}) == 1}))


def in_a_process(options: argparse.Namespace, measured: str, room: str) -> dict[str, Any]:
    command = [sys.executable, __file__, options.kind, "--documents", str(options.documents)]
    command += ["--queries", str(options.queries), "--folder", room, "--measure", measured]
    environment = os.environ | {"XDG_CACHE_HOME": room}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(row), file=sys.stderr, flush=True)
    return row


def measure_bm25(options: argparse.Namespace) -> dict[str, Any]:
    from rerank.retrieval.bm25 import Bm25

    corpus = SyntheticCorpus(options.documents)
    with Spent() as spent:
        documents = open_documents(corpus)
    if options.measure == "documents":
        size = sum(file.stat().st_size for file in documents.folder.iterdir())
        return {"documents": options.documents, "stored": spent.row, "disk_mb": round(size / 1e6, 1)}
    shards, processes = map(int, options.measure.split(":"))
    stage = Bm25(shard_documents=-(-options.documents // shards), processes=processes)
    with Spent() as spent:
        retriever = stage.over(corpus)
    built = {f"index_{name}": value for name, value in memory().items()}
    random = np.random.default_rng(0)
    drawn = words_of(random, 100 * options.queries)
    ranks = drawn[drawn > STOPPED][: 8 * options.queries].reshape(-1, 8)
    queries = [Query(id=str(number), text=text_of(row)) for number, row in enumerate(ranks)]
    retriever.search(queries[:5], DEPTH)
    with Spent() as searching:
        run = retriever.search(queries, DEPTH)
    (folder,) = retriever.folders
    row = {
        "shards": shards,
        "processes": processes,
        "terms": len(retriever._index.vocabulary),
        "index_seconds": spent.row["seconds"],
        "index_cpu_seconds": spent.row["cpu_seconds"],
        **built,
        "peak_mb": memory()["peak_mb"],
        "disk_mb": round(sum(file.stat().st_size for file in folder.iterdir()) / 1e6, 1),
        **rates(searching, len(queries)),
        "digest": digest_of(run),
    }
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    return row


def measure_flat(options: argparse.Namespace) -> dict[str, Any]:
    from rerank.indexing.vector_index import FlatIndex, nearest_vectors

    file = options.folder / "vectors.npy"
    if options.measure == "documents":
        with Spent() as spent:
            write_vectors(file, options.documents)
        return {"documents": options.documents, "stored": spent.row, "disk_mb": round(file.stat().st_size / 1e6, 1)}
    shards = int(options.measure)
    matrix = np.asarray(np.load(file, mmap_mode="r"))
    search = FlatIndex(-(-options.documents // shards)).read(matrix, Path())
    queries, ranks = vectors(np.random.default_rng(0), options.queries), np.arange(len(matrix))
    list(nearest_vectors(search, queries[:5], DEPTH, ranks))
    digest = hashlib.sha256()
    with Spent() as searching:
        for positions, scores in nearest_vectors(search, queries, DEPTH, ranks):
            digest.update(positions.tobytes() + scores.tobytes())
    return {"shards": shards, **memory(), **rates(searching, len(queries)), "digest": digest.hexdigest()[:16]}


class Spent:
    """Seconds of wall time, and of CPU time with that of ended child processes."""

    def __enter__(self) -> Spent:
        self._began = time.perf_counter(), self._cpu()
        return self

    def __exit__(self, *_: object) -> None:
        wall, cpu = self._began
        self.row = {"seconds": round(time.perf_counter() - wall, 2), "cpu_seconds": round(self._cpu() - cpu, 2)}

    def _cpu(self) -> float:
        used = os.times()
        return used.user + used.system + used.children_user + used.children_system


def memory() -> dict[str, float]:
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return {"peak_mb": round(peak_bytes() / 1e6, 1), "peak_child_mb": round(children / 1e6, 1)}


def rates(searching: Spent, queries: int) -> dict[str, float]:
    return {
        "queries_per_second": round(queries / searching.row["seconds"], 2),
        "cpu_ms_per_query": round(1000 * searching.row["cpu_seconds"] / queries, 2),
    }


def digest_of(run: Run) -> str:
    rows = [[query, list(ranking.doc_ids), [score.hex() for score in ranking.scores]] for query, ranking in run.items()]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]


if __name__ == "__main__":
    main()

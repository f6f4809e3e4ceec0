"""First stages on synthetic collections of 10^4, 10^5 and 10^6: indexing, peak memory, time per query at depth 100.

    python benchmarks/retrieval.py --max-documents 1000000

`bm25s` is our first stage over passages of 30 to 89 words that follow Zipf's law, read from a JSONL file; queries are
of 8 words, the 100 most frequent ones left out, as stop words are. `flat`, `hnsw` and `ivfpq` are the indexes of
`dense`, with its defaults, over random vectors of length 1 and 384 dimensions, which lie in a memory-mapped file. They
have no clusters, so what approximate indexes find of them says nothing, and it is not shown.

Each row is measured in a process of its own. `index_seconds` is from the file to an index that can be searched,
`peak_mb` the process's largest resident memory (10^6 bytes), with the libraries and with the pages of mapped files that
happen to be in memory, which the system can take back. `ms_per_query` is over 100 queries, 5 others having been asked.
HNSW at 10^6 takes long to build: `--only bm25s,flat,ivfpq` leaves it out.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import numpy as np

from rerank.collections import open_collection
from rerank.retrieval import open_first_stage
from rerank.types import Query

RETRIEVERS = ("bm25s", "flat", "hnsw", "ivfpq")
SIZES = (10**4, 10**5, 10**6)
QUERIES, WARM_UP, DEPTH = 100, 5, 100
VOCABULARY, DIMENSIONS, BLOCK = 100_000, 384, 10_000
#: Ranks of the vocabulary that queries leave out.
STOPPED = 100


def main() -> None:
    """Make the collections, measure each retriever on each in a process of its own, print the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--max-documents", type=int, default=SIZES[-1])
    parser.add_argument("--only", default=",".join(RETRIEVERS), help="which retrievers, joined by commas")
    parser.add_argument("--measure", nargs=3, metavar=("RETRIEVER", "DOCUMENTS", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        name, documents, file = options.measure
        print(json.dumps(measure(name, int(documents), Path(file))))
        return
    chosen = [name for name in RETRIEVERS if name in options.only.split(",")]
    sizes = [size for size in SIZES if size <= options.max_documents]
    if not chosen or not sizes:
        parser.error(f"nothing to measure: retrievers are {', '.join(RETRIEVERS)}, the smallest collection {SIZES[0]}")
    rows = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as room:
            for name in chosen:
                rows.append(in_a_process(name, size, Path(room)))
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    print(json.dumps({"rows": rows}))


def in_a_process(name: str, documents: int, room: Path) -> dict[str, object]:
    """Make the file if it is not there, and measure one retriever on it."""
    file = room / ("passages.jsonl" if name == "bm25s" else "vectors.npy")
    if not file.exists():
        (write_passages if name == "bm25s" else write_vectors)(file, documents)
    with tempfile.TemporaryDirectory(dir=room) as cache:
        command = [sys.executable, __file__, "--measure", name, str(documents), str(file)]
        environment = os.environ | {"XDG_CACHE_HOME": cache}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    row: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return row


def measure(name: str, documents: int, file: Path) -> dict[str, object]:
    """Index and search in this process."""
    index, ms = (measure_bm25 if name == "bm25s" else measure_vectors)(name, file)
    return {
        "retriever": name,
        "documents": documents,
        "index_seconds": round(index, 3),
        "peak_mb": round(peak_bytes() / 1e6, 1),
        "ms_per_query": round(ms, 3),
    }


def measure_bm25(_: str, file: Path) -> tuple[float, float]:
    """Seconds of indexing, milliseconds a query."""
    random = np.random.default_rng(0)
    queries = [Query(id=str(n), text=text_of(zipf(random, 8, STOPPED))) for n in range(QUERIES + WARM_UP)]
    began = time.perf_counter()
    search = open_first_stage("bm25", open_collection(f"jsonl:{file}"))
    index = time.perf_counter() - began
    search.search(queries[QUERIES:], DEPTH)
    began = time.perf_counter()
    found = search.search(queries[:QUERIES], DEPTH)
    spent = time.perf_counter() - began
    assert all(map(len, found.values()))
    return index, 1000 * spent / QUERIES


def measure_vectors(name: str, file: Path) -> tuple[float, float]:
    """The same for an index of vectors."""
    from rerank.indexing.vector_index import nearest_vectors
    from rerank.retrieval.dense import Dense

    matrix = np.asarray(np.load(file, mmap_mode="r"))
    kind = Dense(index=cast(Any, name)).vector_index()
    queries = vectors(np.random.default_rng(0), QUERIES + WARM_UP)
    id_ranks = np.arange(len(matrix))
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        began = time.perf_counter()
        kind.write(matrix, Path(folder))
        search = kind.read(matrix, Path(folder))
        index = time.perf_counter() - began
        list(nearest_vectors(search, queries[QUERIES:], DEPTH, id_ranks))
        began = time.perf_counter()
        found = list(nearest_vectors(search, queries[:QUERIES], DEPTH, id_ranks))
        spent = time.perf_counter() - began
    assert len(found) == QUERIES
    return index, 1000 * spent / QUERIES


def peak_bytes() -> int:
    """Largest resident memory of this process alone: what the system's own count keeps from before exec is left out."""
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def write_passages(file: Path, documents: int) -> None:
    """A collection of random words, written line by line."""
    random = np.random.default_rng(1)
    with file.open("w", encoding="utf-8") as lines:
        for start in range(0, documents, BLOCK):
            lengths = random.integers(30, 90, min(BLOCK, documents - start))
            words = np.split(zipf(random, int(lengths.sum())), np.cumsum(lengths)[:-1])
            for number, ranks in enumerate(words, start):
                lines.write(json.dumps({"id": f"d{number}", "text": text_of(ranks)}) + "\n")


def write_vectors(file: Path, documents: int) -> None:
    """A matrix of random vectors, written block by block."""
    random = np.random.default_rng(1)
    with file.open("wb") as rows:
        header = {"descr": "<f4", "fortran_order": False, "shape": (documents, DIMENSIONS)}
        np.lib.format.write_array_header_1_0(rows, header)
        for start in range(0, documents, BLOCK):
            rows.write(vectors(random, min(BLOCK, documents - start)).tobytes())


def zipf(random: np.random.Generator, count: int, first: int = 0) -> np.ndarray:
    """Ranks of words, each as likely as one over its rank; none of the ``first`` most frequent ones."""
    weights = 1 / np.arange(1 + first, VOCABULARY + 1)
    cumulative = np.cumsum(weights / weights.sum())
    return first + np.minimum(np.searchsorted(cumulative, random.random(count)), len(weights) - 1)


def text_of(ranks: np.ndarray) -> str:
    """Words that no stemmer touches."""
    return " ".join(f"w{rank}x" for rank in ranks.tolist())


def vectors(random: np.random.Generator, count: int) -> np.ndarray:
    """Rows of length 1 in random directions."""
    rows = random.standard_normal((count, DIMENSIONS), dtype=np.float32)
    normalised: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return normalised


if __name__ == "__main__":
    main()

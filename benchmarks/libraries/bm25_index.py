"""The BM25 index: ours, built in blocks on disk, against bm25s' own builder fed in three ways.

Documents have 30 to 89 words that follow Zipf's law over 100,000 words. They lie in a file as numbers and become lists
of terms when they are read, so that a builder that streams needs to hold none. The strings of the terms exist once and
are shared, which favours the builders that hold all of them. Queries have 1 to 4 words.

`peak_mb` is the rise of the resident memory, with the pages of mapped files that the system can take back at any time;
`anonymous_mb` is the rise without them: what a machine must have.
"""

from __future__ import annotations

import hashlib
import statistics
import tempfile
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bm25s
import numpy as np

from libraries.processes import Settings, anonymous_peak, cpu_seconds, in_new_process, memory
from rerank.indexing.bm25_index import InvertedIndex, top_positions_of_scores, write_inverted_index

VOCABULARY, QUERIES, DEPTH = 100_000, 200, 100
OPTIONS: dict[str, Any] = {"k1": 0.9, "b": 0.4, "method": "lucene"}
NAMES = [f"w{rank}x" for rank in range(VOCABULARY)]


class Documents:
    """Lists of numbers in a file; iterating reads one list at a time."""

    def __init__(self, file: Path) -> None:
        """Map the numbers; the documents' ends lie beside them."""
        self._numbers: np.ndarray = np.memmap(file, np.int32, "r")
        self._ends = np.load(file.with_suffix(".npy")).tolist()

    def __len__(self) -> int:
        return len(self._ends)

    def __iter__(self) -> Iterator[list[int]]:
        start = 0
        for end in self._ends:
            yield self._numbers[start:end].tolist()
            start = end

    def terms(self) -> Iterator[list[str]]:
        """Stream the documents as lists of terms."""
        return ([NAMES[number] for number in numbers] for numbers in self)


def ours(documents: Documents, folder: Path) -> None:
    """Build with blocks on disk."""
    write_inverted_index(folder, [documents.terms()], OPTIONS)


def from_terms(documents: Documents, folder: Path) -> None:
    """Build as bm25s' documentation does: all documents in memory as lists of terms."""
    index = bm25s.BM25(**OPTIONS)
    index.index(list(documents.terms()), create_empty_token=False, show_progress=False)
    index.save(folder, allow_pickle=False)


def from_numbers(documents: Documents, folder: Path) -> None:
    """Build from term numbers, with SciPy's sparse matrices, the leanest way that bm25s has."""
    vocabulary: dict[str, int] = {}
    numbered = [[vocabulary.setdefault(term, len(vocabulary)) for term in terms] for terms in documents.terms()]
    index = bm25s.BM25(**OPTIONS, csc_backend="scipy")
    index.index((numbered, vocabulary), create_empty_token=False, show_progress=False)
    index.save(folder, allow_pickle=False)


def from_file(documents: Documents, folder: Path) -> None:
    """Build from term numbers that lie on disk: code of ours around a builder that reads its input several times."""
    vocabulary: dict[str, int] = {}
    ends, aside = array("q"), folder.with_suffix(".numbers")
    with aside.open("wb") as file:
        for terms in documents.terms():
            numbers = array("i", [vocabulary.setdefault(term, len(vocabulary)) for term in terms])
            file.write(numbers.tobytes())
            ends.append((ends[-1] if ends else 0) + len(numbers))
    np.save(aside.with_suffix(".npy"), np.array(ends))
    index = bm25s.BM25(**OPTIONS, csc_backend="scipy")
    index.scores = index.build_index_from_ids(range(len(vocabulary)), Documents(aside), show_progress=False)
    index.vocab_dict = vocabulary
    index.save(folder, allow_pickle=False)


BUILDERS: tuple[Callable[[Documents, Path], None], ...] = (ours, from_terms, from_numbers, from_file)


def measure(settings: Settings) -> dict[str, Any]:
    """Build and search indexes of every size."""
    return {str(count): _measure_size(count, settings.repeat) for count in settings.documents}


def _measure_size(count: int, repeat: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as temporary:
        room = Path(temporary)
        _write_documents(room / "documents", count)
        rows: dict[str, list[dict[str, float]]] = {builder.__name__: [] for builder in BUILDERS}
        digests: dict[str, set[str]] = {name: set() for name in rows}
        for turn in range(repeat):
            for builder in BUILDERS:
                folder = room / f"{builder.__name__}-{turn}"
                rows[builder.__name__].append(in_new_process(_build, builder, room / "documents", folder))
                digests[builder.__name__].add(_digest(folder))
        medians: dict[str, dict[str, Any]] = {
            name: {key: round(statistics.median(row[key] for row in built), 2) for key in built[0]}
            for name, built in rows.items()
        }
        for name, found in medians.items():
            found["bytes"] = sum(file.stat().st_size for file in (room / f"{name}-0").iterdir())
            found["same_bytes_each_time"] = len(digests[name]) == 1 if repeat > 1 else None
            found["over_ours"] = round(found["cpu_seconds"] / medians["ours"]["cpu_seconds"], 2)
        agreement = _agreement(room / "ours-0", room / "from_numbers-0")
        return {**medians, "agreement": agreement, "queries": _queries(room / "ours-0", count, repeat)}


def _write_documents(file: Path, count: int) -> None:
    random = np.random.default_rng(1)
    lengths = random.integers(30, 90, count)
    _zipf(random, int(lengths.sum())).astype(np.int32).tofile(file)
    np.save(file.with_suffix(".npy"), np.cumsum(lengths))


def _zipf(random: np.random.Generator, count: int) -> np.ndarray:
    weights = np.cumsum(1 / np.arange(1, VOCABULARY + 1))
    return np.minimum(np.searchsorted(weights / weights[-1], random.random(count)), VOCABULARY - 1)


def _build(builder: Callable[[Documents, Path], None], file: Path, folder: Path) -> dict[str, float]:
    documents, before = Documents(file), memory("VmRSS")
    folder.mkdir()
    with anonymous_peak() as peak:
        spent = cpu_seconds(lambda: builder(documents, folder))
    return {"cpu_seconds": spent, "peak_mb": (memory("VmHWM") - before) / 1e6, "anonymous_mb": peak() / 1e6}


def _digest(folder: Path) -> str:
    found = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        found.update(file.read_bytes())
    return found.hexdigest()


def _agreement(mine: Path, theirs: Path) -> dict[str, float]:
    """Compare the weights of two indexes whose postings are in the same order."""
    a, b = (np.load(folder / "data.csc.index.npy") for folder in (mine, theirs))
    return {
        "largest_relative_difference": float((np.abs(a - b) / b).max()),
        "share_with_other_bits": round(float((a != b).mean()), 3),
    }


def _queries(folder: Path, count: int, repeat: int) -> dict[str, Any]:
    """Time the exact top under the tie rule against bm25s' own selection, on the same index."""
    random = np.random.default_rng(2)
    (index,), id_ranks = InvertedIndex(folder, count).shards, np.arange(count)
    queries = [[NAMES[rank] for rank in _zipf(random, int(random.integers(1, 5)))] for _ in range(QUERIES)]
    queries = [known for query in queries if (known := [term for term in query if term in index.vocab_dict])]

    def exact() -> list[list[int]]:
        scores = (index.get_scores_from_ids(index.get_tokens_ids(query)) for query in queries)
        return [top_positions_of_scores(one, id_ranks, DEPTH).tolist() for one in scores]

    def library() -> list[list[int]]:
        found, scores = index.retrieve(queries, k=DEPTH, show_progress=False)
        return [row[score > 0].tolist() for row, score in zip(found, scores, strict=True)]

    times = [(cpu_seconds(exact), cpu_seconds(library)) for _ in range(repeat)]
    pairs = list(zip(exact(), library(), strict=True))
    mine, theirs = (1000 * statistics.median(side) / len(queries) for side in zip(*times, strict=True))
    return {
        "ours_cpu_ms": round(mine, 3),
        "library_cpu_ms": round(theirs, 3),
        "library_over_ours": round(theirs / mine, 2),
        "queries": len(queries),
        "library_returns_other_documents": sum(set(a) != set(b) for a, b in pairs),
        "library_returns_another_order": sum(a != b for a, b in pairs),
    }

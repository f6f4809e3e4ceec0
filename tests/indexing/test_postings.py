"""Postings collected in blocks, beside bm25s' own builder, which has all in memory."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rerank.errors import DataError, StorageError
from rerank.indexing import bm25_index
from rerank.indexing.bm25_index import InvertedIndex, Postings, SavedPostings, write_inverted_index
from tests.raising import raises

METHODS = ("lucene", "robertson", "atire")
documents = st.lists(st.lists(st.sampled_from("abcdefg"), max_size=12), min_size=1, max_size=12).filter(any)


def built(folder: Path, docs: list[list[str]], options: dict[str, object]) -> tuple[object, ...]:
    folder.mkdir(parents=True)
    write_inverted_index(folder, [docs], options)
    (index,) = InvertedIndex(folder, len(docs)).shards
    return index.vocab_dict, *(np.array(index.scores[part]) for part in ("data", "indices", "indptr"))


def own(docs: list[list[str]], options: dict[str, object]) -> tuple[object, ...]:
    """What bm25s builds itself."""
    import bm25s

    vocabulary: dict[str, int] = {}
    numbered = [[vocabulary.setdefault(term, len(vocabulary)) for term in terms] for terms in docs]
    index = bm25s.BM25(**options)
    index.index((numbered, vocabulary), create_empty_token=False, show_progress=False)
    return vocabulary, *(index.scores[part] for part in ("data", "indices", "indptr"))


def same(found: tuple[object, ...], expected: tuple[object, ...]) -> None:
    assert found[0] == expected[0]
    np.testing.assert_allclose(np.asarray(found[1]), np.asarray(expected[1]), rtol=2e-7)
    for place in (2, 3):
        np.testing.assert_array_equal(np.asarray(found[place]), np.asarray(expected[place]))


@pytest.mark.parametrize("method", METHODS)
@given(
    docs=documents, block=st.integers(1, 40), k1=st.sampled_from([0.0, 0.9, 2.0]), b=st.sampled_from([0.0, 0.4, 1.0])
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_it_is_what_bm25s_builds(
    tmp_path_factory: pytest.TempPathFactory, method: str, docs: list[list[str]], block: int, k1: float, b: float
) -> None:
    options: dict[str, object] = {"k1": k1, "b": b, "method": method}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bm25_index, "BLOCK", block)
        found = built(tmp_path_factory.mktemp("x") / "index", docs, options)
    same(found, own(docs, options))


def test_a_larger_collection_in_many_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(5)
    words = [f"w{n}" for n in range(3000)]
    docs = [chance.choices(words, k=chance.randint(0, 60)) for _ in range(3000)]
    options: dict[str, object] = {"k1": 0.9, "b": 0.4, "method": "lucene"}
    monkeypatch.setattr(bm25_index, "BLOCK", 5000)
    same(built(tmp_path / "index", docs, options), own(docs, options))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index"], "what lay beside it is gone"


def test_counts(tmp_path: Path) -> None:
    with Postings(tmp_path) as postings:
        for terms in (["b", "a", "b"], [], ["a"]):
            postings.add(terms)
        postings.finish()
    saved = SavedPostings(tmp_path)
    assert (saved.terms(), list(saved.lengths), list(saved.frequencies)) == (["b", "a"], [3, 0, 1], [1, 2])
    columns = {"a": 0, "other": 1, "b": 2}
    weights, docs, starts = saved.by_term(columns, lambda terms, docs, counts: (10 * terms + counts).astype(np.float32))
    assert (list(weights), list(docs), list(starts)) == ([1, 1, 22], [0, 2, 0], [0, 2, 2, 3])


def test_no_term_at_all(tmp_path: Path) -> None:
    (tmp_path / "index").mkdir()
    with raises(DataError, "2"):
        write_inverted_index(tmp_path / "index", [[[], []]], {"k1": 0.9, "b": 0.4, "method": "lucene"})
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        write_inverted_index(tmp_path / "gone" / "index", [[["a"]]], {"k1": 0.9, "b": 0.4, "method": "lucene"})


@given(docs=documents, sizes=st.lists(st.integers(0, 5), min_size=1, max_size=4), k=st.integers(1, 13))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_shards_give_the_results_of_one_index(
    tmp_path_factory: pytest.TempPathFactory, docs: list[list[str]], sizes: list[int], k: int
) -> None:
    """Shards may be empty, lack a term, or have only documents without words."""
    options = {"k1": 0.9, "b": 0.4, "method": "lucene"}
    ends = [min(end, len(docs)) for end in accumulate(sizes)]
    shards = [docs[start:end] for start, end in pairwise([0, *ends, len(docs)])]
    folder, ranks = tmp_path_factory.mktemp("x"), np.random.default_rng(0).permutation(len(docs))
    found = []
    for name, parts in (("one", [docs]), ("many", shards)):
        (folder / name).mkdir()
        write_inverted_index(folder / name, parts, options)
        index = InvertedIndex(folder / name, len(docs))
        tops = [index.top(list("abxa"), weights, ranks, k) for weights in (None, {"a": 0.3, "c": 1.7})]
        frequencies = [index.document_frequency(term) for term in "abxc"]
        found.append([frequencies, *([part.tobytes() for part in top] for top in tops)])
    assert found[0] == found[1]


CHILD = """
import json, random, resource, sys
from pathlib import Path
import bm25s, numpy
from rerank.indexing.bm25_index import write_inverted_index

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

chance = random.Random(1)
words = [f"w{n}" for n in range(20000)]
start = peak()
folder = Path(sys.argv[1])
docs = (chance.choices(words, k=50) for _ in range(int(sys.argv[2])))
write_inverted_index(folder, [docs], {"k1": 0.9, "b": 0.4, "method": "lucene"})
print(json.dumps(peak() - start))
"""


@pytest.mark.slow
def test_memory_for_200_000_documents(tmp_path: Path) -> None:
    """Ten million words: 153 MB measured, 80 of it the index, mapped while it is written; bm25s: 204 for half."""
    grown = {}
    for count in (50_000, 200_000):
        folder = tmp_path / str(count)
        folder.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", CHILD, str(folder), str(count)], capture_output=True, text=True, check=True
        )
        grown[count] = json.loads(done.stdout)
    assert grown[200_000] < 230
    assert grown[200_000] - grown[50_000] < 110

"""BM25 indexes: postings beside those of bm25s' own builder, weights, and saved folders."""

from __future__ import annotations

import json
import math
import os
import pickle
import random
import resource
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rerank.collections.base import Corpus
from rerank.errors import DataError, StorageError, UsageError
from rerank.indexing import bm25_index
from rerank.indexing.bm25_index import (
    InvertedIndex,
    Postings,
    SavedPostings,
    inverse_document_frequency,
    query_side_weights,
    saturated_weights,
    write_inverted_index,
)
from rerank.retrieval import open_first_stage
from rerank.retrieval.bm25 import Bm25
from rerank.types import Query
from tests.raising import raises
from tests.retrieval.conftest import MakeCorpus

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


@pytest.mark.parametrize(("k3", "expected"), [(0, (1, 1)), (8, (9 * 3 / 11, 1)), (1e9, (3, 1))])
def test_saturation(k3: float, expected: tuple[float, float]) -> None:
    weights = saturated_weights(["a", "b", "a", "a"], k3)
    assert tuple(weights.values()) == pytest.approx(expected)


def test_the_query_is_weighted_as_a_document() -> None:
    idf = {"a": 2.0, "b": 0.5}
    weights = query_side_weights(["a", "b", "a"], idf.__getitem__, k1=0.9, b=0.4, average_length=6)
    saturation = 0.9 * (0.6 + 0.4 * 3 / 6)
    assert weights == pytest.approx({"a": 2.0 * 2 / (2 + saturation), "b": 0.5 * 1 / (1 + saturation)})


def test_idf() -> None:
    assert inverse_document_frequency(10, 10) == pytest.approx(math.log(1 + 0.5 / 10.5))
    assert inverse_document_frequency(10, 0) == pytest.approx(math.log(22))


def ids(corpus: Corpus, text: str, *, k: int = 10, selector: str = "bm25") -> tuple[str, ...]:
    return open_first_stage(selector, corpus).search([Query(id="q", text=text)], k)["q"].doc_ids


def folders(cache: Path) -> list[Path]:
    return sorted(cache.glob("indexes/*/bm25-*"))


def test_index_is_kept_and_the_collection_read_once(make_corpus: MakeCorpus, cache: Path) -> None:
    corpus = make_corpus("wing", "water")
    first = ids(corpus, "wing")
    (index,) = folders(cache)
    written = index.stat().st_mtime_ns
    assert ids(corpus, "wing") == first
    assert ids(corpus, "wing", selector="bm25,k1=1.2") == first
    assert vars(corpus)["passes"] == 1
    assert len(folders(cache)) == 2
    assert index.stat().st_mtime_ns == written


def test_saved_index_is_memory_mapped(make_corpus: MakeCorpus) -> None:
    retriever = Bm25().over(make_corpus("wing", "water"))
    assert isinstance(retriever._index.shards[0].scores["data"], np.memmap)


def test_shards_give_the_rankings_of_one_index_and_share_its_folder(make_corpus: MakeCorpus, cache: Path) -> None:
    texts = [f"{'wing ' * (n % 3)}{'water ' * (n % 4)}air" for n in range(23)]
    queries = [Query(id=text, text=text) for text in ("wing", "water air wing", "unheard", "")]
    selectors = [f"bm25{more}" for more in ("", ",k3=2", ",query_weights=bm25")]
    found = []
    for shards in ("", ",shard_documents=5,processes=2"):
        corpus = make_corpus(*texts)
        runs = [open_first_stage(selector + shards, corpus).search(queries, 9) for selector in selectors]
        found.append([[(ranking.doc_ids, ranking.scores) for ranking in run.values()] for run in runs])
        names = {path.name for path in folders(cache)[0].iterdir()}
        assert ("00004.data.csc.index.npy" in names) == bool(shards)
        assert vars(corpus)["passes"] == 1
        again = open_first_stage("bm25,shard_documents=7", corpus).search(queries, 9)
        assert [(ranking.doc_ids, ranking.scores) for ranking in again.values()] == found[-1][0], (
            "the index that exists"
        )
        assert {path.name for path in folders(cache)[0].iterdir()} == names
        shutil.rmtree(cache)
    assert found[0] == found[1]


@pytest.mark.parametrize("option", ["shard_documents=0", "processes=-1"])
def test_numbers_of_shards_that_cannot_be(make_corpus: MakeCorpus, option: str) -> None:
    with pytest.raises(UsageError):
        ids(make_corpus("wing"), "wing", selector=f"bm25,{option}")


def test_language_is_part_of_the_index(make_corpus: MakeCorpus, cache: Path) -> None:
    ids(make_corpus("wings"), "wing")
    assert ids(make_corpus("wings", language="und"), "wing") == ()
    assert len(folders(cache)) == 2


def test_other_library_version_gets_its_own_index(
    make_corpus: MakeCorpus, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids(make_corpus("wing"), "wing")
    monkeypatch.setattr("rerank.retrieval.bm25.version", lambda name: "99")
    assert ids(make_corpus("wing"), "wing") == ("d1",)
    assert len(folders(cache)) == 2


def truncate(index: Path) -> None:
    data = index / "data.csc.index.npy"
    data.write_bytes(data.read_bytes()[:-1])


def remove_vocabulary(index: Path) -> None:
    (index / "vocab.index.json").unlink()


def shrink_vocabulary(index: Path) -> None:
    file = index / "vocab.index.json"
    text = json.dumps({"wing": 0})
    file.write_text(text.ljust(file.stat().st_size))


@pytest.mark.parametrize("damage", [truncate, remove_vocabulary, shrink_vocabulary])
def test_damaged_index_is_made_anew(make_corpus: MakeCorpus, cache: Path, damage: Callable[[Path], None]) -> None:
    corpus = make_corpus("wing", "water")
    ids(corpus, "wing")
    damage(folders(cache)[0])
    with pytest.warns(UserWarning, match="damaged .* built again"):
        assert ids(corpus, "wing") == ("d1",)
    assert ids(corpus, "water") == ("d2",)


class _Trap:
    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (os.environ["TRAP"],)


def test_pickles_in_the_cache_are_not_loaded(
    make_corpus: MakeCorpus, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAP", str(tmp_path / "sprung"))
    corpus = make_corpus("wing")
    ids(corpus, "wing")
    (index,) = folders(cache)
    with (index / "data.csc.index.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": (1,)})
        pickle.dump(_Trap(), file)
    marker = json.loads((index / "marker.json").read_text())
    marker["sizes"]["data.csc.index.npy"] = (index / "data.csc.index.npy").stat().st_size
    (index / "marker.json").write_text(json.dumps(marker))
    with pytest.warns(UserWarning, match="built again"):
        assert ids(corpus, "wing") == ("d1",)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("limit", [100, 1000])
def test_full_disk(make_corpus: MakeCorpus, cache: Path, limit: int) -> None:
    """No file may grow past the limit: at 100 bytes the documents do not fit, at 1000 only the index does not."""
    corpus = make_corpus(" ".join(f"{a}{b}" for a in "bcdfgh" for b in "abcdefghijklmnopqrstuvwxyz"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(StorageError):
            open_first_stage("bm25", corpus)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert folders(cache) == []
    assert len(list(cache.glob("indexes/*/documents-*"))) == (limit == 1000)
    assert ids(corpus, "bb", k=1) == ("d1",)


def test_killed_in_the_middle(make_corpus: MakeCorpus, cache: Path) -> None:
    corpus = make_corpus("wing", "water")
    program = """
        import os, signal, sys
        from rerank.retrieval import open_first_stage
        from rerank.types import Document

        class Dying:
            name, language, fingerprint = "tiny", "en", sys.argv[1]
            def docs(self):
                yield Document(id="d1", text="wing")
                os.kill(os.getpid(), signal.SIGKILL)

        open_first_stage("bm25", Dying())
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program), corpus.fingerprint], check=False)
    assert done.returncode == -9
    left = (cache / "indexes" / corpus.fingerprint).iterdir()  # the folder and the lock that tells that nobody uses it
    assert {path.name[:10] for path in left} == {".building-"}
    assert ids(corpus, "water") == ("d2",)

"""The saved index of bm25: kept, shared, damaged, cut off."""

from __future__ import annotations

import json
import os
import pickle
import resource
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest

from rerank.collections.base import Corpus
from rerank.errors import StorageError, UsageError
from rerank.retrieval import open_first_stage
from rerank.retrieval.bm25 import Bm25
from rerank.types import Document, Query


class MakeCorpus(Protocol):
    def __call__(self, *documents: Document | str, language: str = "en") -> Corpus: ...


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

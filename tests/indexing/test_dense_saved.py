"""The saved embeddings and indexes of dense retrieval: kept, shared, damaged, cut off and gone on with."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("faiss")

from rerank.collections.base import Corpus
from rerank.errors import BackendError, StorageError
from rerank.retrieval.dense import Dense, DenseRetriever
from rerank.types import Query
from tests.retrieval.conftest import MakeCorpus
from tests.retrieval.encoders import Fake, Floats

MANY = [f"document number {i}" for i in range(600)]


def search(corpus: Corpus, text: str, k: int = 5, *, encoder: Fake | None = None, **options: Any) -> list[str]:
    retriever = DenseRetriever(Dense(**options), corpus, encoder or Fake())
    return list(retriever.search([Query(id="q", text=text)], k)["q"].doc_ids)


def folders(cache: Path, kind: str) -> list[Path]:
    return sorted(path for path in cache.glob(f"indexes/*/{kind}-*") if path.is_dir())


def saved(cache: Path) -> Floats:
    (folder,) = folders(cache, "embeddings")
    found: Floats = np.load(folder / "embeddings.npy")
    return found


def test_embeddings_are_made_once_for_all_indexes(make_corpus: MakeCorpus, cache: Path) -> None:
    corpus, fake = make_corpus(*MANY), Fake()
    for options in ({}, {"index": "hnsw"}, {"index": "ivfpq"}, {"index": "hnsw", "ef_search": 300}, {"batch_size": 7}):
        search(corpus, "q", encoder=fake, **options)
    assert sum(map(len, fake.batches)) == len(MANY)
    assert len(folders(cache, "embeddings")) == 1
    assert len(folders(cache, "dense")) == 3
    assert not list(cache.glob("indexes/*/*.partial"))


def test_embeddings_are_memory_mapped(make_corpus: MakeCorpus) -> None:
    retriever = DenseRetriever(Dense(), make_corpus("wing"), Fake())
    (matrix,) = [c.cell_contents for c in retriever._search.__closure__ or () if hasattr(c.cell_contents, "dtype")]
    assert isinstance(matrix.base, np.memmap)
    assert not matrix.flags.writeable


@pytest.mark.parametrize(
    ("change", "embeddings", "indexes"),
    [
        ({"encoder": Fake(identity={"weights": "other"})}, 2, 2),
        ({"encoder": Fake(query_prompt="query: ")}, 1, 2),
        ({"fields": "text"}, 2, 2),
        ({"index": "hnsw", "m": 8}, 1, 2),
        ({"batch_size": 1}, 1, 1),
        ({"device": "cpu"}, 1, 1),
    ],
)
def test_identity(make_corpus: MakeCorpus, cache: Path, change: dict[str, Any], embeddings: int, indexes: int) -> None:
    corpus = make_corpus("wing", "water")
    search(corpus, "q")
    search(corpus, "q", **change)
    assert (len(folders(cache, "embeddings")), len(folders(cache, "dense"))) == (embeddings, indexes)


def test_another_collection_has_its_own(make_corpus: MakeCorpus, cache: Path) -> None:
    search(make_corpus("wing"), "q")
    search(make_corpus("water"), "q")
    assert len(folders(cache, "embeddings")) == 2


def truncate(folder: Path, name: str) -> None:
    file = folder / name
    file.write_bytes(file.read_bytes()[:-1])


def reshape(folder: Path, name: str) -> None:
    file = folder / name
    np.save(file, np.load(file).reshape(16, -1))


def scramble(folder: Path, name: str) -> None:
    file = folder / name
    file.write_bytes(b"\0" * file.stat().st_size)


@pytest.mark.parametrize(
    ("kind", "name", "damage"),
    [
        ("embeddings", "embeddings.npy", truncate),
        ("embeddings", "embeddings.npy", reshape),
        ("embeddings", "embeddings.npy", scramble),
        ("dense", "index.faiss", truncate),
        ("dense", "index.faiss", scramble),
        ("dense", "marker.json", truncate),
    ],
)
def test_damaged_folders_are_made_anew(
    make_corpus: MakeCorpus, cache: Path, kind: str, name: str, damage: Callable[[Path, str], None]
) -> None:
    corpus = make_corpus(*MANY)
    before = search(corpus, "q", index="hnsw")
    damage(folders(cache, kind)[0], name)
    with pytest.warns(UserWarning, match="damaged .* built again"):
        assert search(corpus, "q", index="hnsw") == before
    assert search(corpus, "q", index="hnsw") == before


DYING = """
    import os, signal, sys
    from rerank.retrieval.dense import Dense, DenseRetriever
    from rerank.types import Document
    from tests.retrieval.encoders import Fake

    class Tiny:
        name, language, fingerprint = "tiny", "en", sys.argv[1]
        def docs(self):
            return (Document(id=f"d{i}", text=f"document number {i - 1}") for i in range(1, 601))

    class Dying(Fake):
        def passages(self, texts):
            if len(self.batches) == int(sys.argv[2]):
                os.kill(os.getpid(), signal.SIGKILL)
            return super().passages(texts)

    DenseRetriever(Dense(batch_size=64), Tiny(), Dying())
"""


def kill(corpus: Corpus, after: int) -> None:
    """Embed in another process that dies before its batch number ``after`` (from 0)."""
    command = [sys.executable, "-c", textwrap.dedent(DYING), corpus.fingerprint, str(after)]
    done = subprocess.run(command, check=False, env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])})
    assert done.returncode == -9


def test_killed_twice_and_gone_on_with(make_corpus: MakeCorpus, cache: Path) -> None:
    corpus, unbroken, rest = make_corpus(*MANY), Fake(), Fake()
    search(corpus, "q", encoder=unbroken, batch_size=64)
    whole = saved(cache)
    for path in folders(cache, "embeddings"):
        path.rename(cache / "aside")
    kill(corpus, 2)
    kill(corpus, 3)
    (partial,) = cache.glob("indexes/*/*.partial")
    assert json.loads((partial / "committed.json").read_text())["rows"] == 5 * 64
    search(corpus, "q", encoder=rest, batch_size=64)
    assert rest.batches == unbroken.batches[5:]
    assert saved(cache).tobytes() == whole.tobytes()
    assert not partial.exists()


def test_gone_on_with_in_other_batches(make_corpus: MakeCorpus, cache: Path) -> None:
    corpus, rest = make_corpus(*MANY), Fake()
    kill(corpus, 4)
    search(corpus, "q", encoder=rest, batch_size=100)
    assert list(map(len, rest.batches)) == [100, 100, 100, 600 - 4 * 64 - 300]
    assert saved(cache).tobytes() == Fake().queries(MANY).tobytes()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda partial: (partial / "committed.json").write_text("{"),
        lambda partial: (partial / "committed.json").write_text('{"made_from": {}, "rows": 64}'),
        lambda partial: (partial / "embeddings.npy").unlink(),
        lambda partial: truncate(partial, "embeddings.npy"),
    ],
)
def test_leftovers_that_do_not_fit_are_begun_again(
    make_corpus: MakeCorpus, cache: Path, spoil: Callable[[Path], object]
) -> None:
    corpus, fake = make_corpus(*MANY), Fake()
    kill(corpus, 2)
    (partial,) = cache.glob("indexes/*/*.partial")
    spoil(partial)
    assert search(corpus, MANY[3], 1, encoder=fake) == ["d4"]
    assert sum(map(len, fake.batches)) == len(MANY)


def test_a_model_that_fails_loses_nothing(make_corpus: MakeCorpus) -> None:
    class Failing(Fake):
        def passages(self, texts: Any) -> Floats:
            if len(self.batches) == 2:
                raise BackendError("The model fell over")
            return super().passages(texts)

    corpus, rest = make_corpus("a", "bb", "ccc", "dddd"), Fake()
    with pytest.raises(BackendError):
        search(corpus, "q", encoder=Failing(), batch_size=1)
    search(corpus, "q", encoder=rest, batch_size=1)
    assert rest.batches == [["bb"], ["a"]]


def test_a_second_process_waits_and_then_has_nothing_to_do(
    make_corpus: MakeCorpus, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus, fake = make_corpus("wing"), Fake()
    search(corpus, "q")
    (lock,) = cache.glob("indexes/*/*.lock")
    with lock.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        release = threading.Timer(0.3, lambda: fcntl.flock(held, fcntl.LOCK_UN))
        release.start()
        search(corpus, "q", encoder=fake)
        release.join()
    assert fake.batches == []
    assert "waiting" in capsys.readouterr().err


def test_full_disk(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus(*MANY)
    search(make_corpus("elsewhere"), "q")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    cases: list[tuple[int, dict[str, Any]]] = [(36_000, {}), (60_000, {"index": "hnsw"})]
    for limit, options in cases:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            with pytest.raises(StorageError):
                search(corpus, "q", **options)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert search(corpus, MANY[3], 1, index="hnsw") == ["d4"]

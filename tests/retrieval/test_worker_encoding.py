"""Texts that workers encode: the same index and the same rankings as without workers. Ray is not needed."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sentence_transformers")
pytest.importorskip("faiss")

from rerank.collections.base import Corpus
from rerank.errors import BackendError, StorageError, UsageError
from rerank.indexing import encoding_batches
from rerank.indexing.encoding_batches import EncodeTexts
from rerank.retrieval import check_first_stage, open_first_stage
from rerank.tasks.worker_map import WorkerFunction
from rerank.types import Query
from tests.raising import raises
from tests.retrieval.encoders import Fake, save_encoder, save_splade

QUERIES = [Query(id=f"q{n}", text=f"w{n} w{n + 1}") for n in range(70)]
TEXTS = [" ".join(f"w{word}" for word in range(n % 9 + 1, n % 20 + 12)) for n in range(45)]


@pytest.fixture(scope="session", params=["dense", "sparse"])
def stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    save = {"dense": save_encoder, "sparse": save_splade}[request.param]
    return f"{request.param}:{save(tmp_path_factory.mktemp('model'))},batch_size=2,device=cpu"


class OneWorker:
    """Does what workers do, in this process, with a copy of the function; remembers how many items it got."""

    def __init__(self) -> None:
        self.items = 0

    def __call__(
        self, function: WorkerFunction[Any, Any], rounds: Iterable[Iterable[Any]], *, count: int, together: int = 1
    ) -> Iterator[Any]:
        opened, before = pickle.loads(pickle.dumps(function)).open(), self.items
        for items in rounds:
            for item in items:
                self.items += 1
                yield opened(item)
        assert count == -(-(self.items - before) // together)


def index_files(cache: Path) -> dict[str, str]:
    files = {path.relative_to(cache): path for path in cache.glob("indexes/**/*") if path.is_file()}
    return {str(name): hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}


def test_workers_change_nothing(
    stage: str, make_corpus: Callable[..., Corpus], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    corpus = make_corpus(*TEXTS)
    results = []
    for workers in (None, OneWorker()):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"{workers is None}"))
        run = open_first_stage(stage, corpus, workers=workers).search(QUERIES, 5)
        results.append((run, index_files(tmp_path / f"{workers is None}" / "listrank")))
        assert len(results[-1][1]) > 2
    assert results[0] == results[1]


def test_few_queries_and_a_complete_index_need_no_workers(stage: str, make_corpus: Callable[..., Corpus]) -> None:
    corpus, workers = make_corpus(*TEXTS), OneWorker()
    run = open_first_stage(stage, corpus).search(QUERIES[:9], 5)
    assert open_first_stage(stage, corpus, workers=workers).search(QUERIES[:9], 5) == run
    assert workers.items == 0


def test_an_interrupted_build_goes_on_with_workers(
    stage: str, make_corpus: Callable[..., Corpus], monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, workers = make_corpus(*TEXTS), OneWorker()
    write = encoding_batches._write_encoded_count

    def fail(partial: Path, made_from: Any, rows: int) -> None:
        if rows == 20:
            raise OSError(28, "No space left on device")
        write(partial, made_from, rows)

    with monkeypatch.context() as patch:
        patch.setattr(encoding_batches, "_write_encoded_count", fail)
        with pytest.raises(StorageError):
            open_first_stage(stage, corpus, workers=OneWorker())
    open_first_stage(stage, corpus, workers=workers)
    assert workers.items == 23 - 9


def test_first_stages_without_a_model_have_no_use_for_workers() -> None:
    with raises(UsageError, "bm25", "dense or sparse"):
        check_first_stage("bm25", with_workers=True)


def test_another_model_in_a_worker_is_refused() -> None:
    function = EncodeTexts(load=Fake, identity={"weights": "others"}, kind="queries")
    with raises(BackendError, "others"):
        function.open()

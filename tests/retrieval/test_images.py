"""Retrieval of pictures with tiny CLIP and SigLIP models of the real classes, and with embeddings from a file."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("faiss")
pytest.importorskip("transformers")
pytest.importorskip("PIL")

from rerank.errors import BackendError, DataError, MissingPrerequisiteError, MissingResourceError, UsageError
from rerank.io.pictures import open_picture
from rerank.retrieval import open_first_stage, retriever_index_folders
from rerank.retrieval.images import ImageRetriever, Images
from rerank.retrieval.images.encoder import ImageEncoder, load_image_encoder
from rerank.types import Document, Query, Run
from tests.backends.seeing import COLOURS, draw, make_clip, make_siglip
from tests.raising import raises
from tests.retrieval.conftest import MakeCorpus
from tests.retrieval.encoders import Fake, Floats

QUERIES = [Query(id=f"q{at}", text=text) for at, text in enumerate(("a red bird", "snow", "two foxes at night"))]


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture(scope="session")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_siglip(tmp_path_factory.mktemp("models") / "siglip")


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    return draw(tmp_path / "pictures")


def documents(paths: Sequence[str]) -> list[Document]:
    return [Document(id=f"d{at}", image=path) for at, path in enumerate(paths)]


def plainly(folder: Path, paths: Sequence[str], texts: Sequence[str]) -> tuple[Floats, Floats]:
    """Embeddings by transformers' own calls, pictures in one batch and texts one by one, of length 1."""
    import torch
    import transformers

    model = transformers.AutoModel.from_pretrained(folder).eval()
    processor = transformers.AutoProcessor.from_pretrained(folder)  # type: ignore[no-untyped-call]
    padding: Any = "max_length" if "siglip" in model.config.model_type else True
    with torch.no_grad():
        pictures = model.get_image_features(
            **processor.image_processor(images=[open_picture(path) for path in paths], return_tensors="pt")
        ).pooler_output
        rows = [
            model.get_text_features(
                **processor.tokenizer([text], padding=padding, max_length=24, truncation=True, return_tensors="pt")
            ).pooler_output
            for text in texts
        ]
    found = [torch.nn.functional.normalize(part, dim=-1).numpy() for part in (pictures, torch.cat(rows))]
    return found[0], found[1]


def lists(run: Run) -> list[tuple[tuple[str, ...], tuple[float, ...]]]:
    return [(ranking.doc_ids, ranking.scores) for ranking in run.values()]


@pytest.mark.parametrize("model", ["clip", "siglip"])
def test_embeddings_are_those_of_transformers(
    request: pytest.FixtureRequest, paths: list[str], make_corpus: MakeCorpus, model: str
) -> None:
    folder = request.getfixturevalue(model)
    encoder = load_image_encoder(folder, Images(str(folder), device="cpu"))
    pictures, texts = plainly(folder, paths, [query.text for query in QUERIES])
    assert encoder.passages(paths) == pytest.approx(pictures, abs=1e-5)
    assert encoder.queries([query.text for query in QUERIES]) == pytest.approx(texts, abs=1e-5)
    assert encoder.size == pictures.shape[1]
    assert np.linalg.norm(encoder.passages(paths), axis=1) == pytest.approx(np.ones(len(paths)))
    assert np.abs(pictures - pictures[0]).max() > 1e-3  # the tower tells them apart


@pytest.mark.parametrize("model", ["clip", "siglip"])
def test_a_search_is_what_brute_force_finds(
    request: pytest.FixtureRequest, paths: list[str], make_corpus: MakeCorpus, model: str
) -> None:
    folder = request.getfixturevalue(model)
    pictures, texts = plainly(folder, paths, [query.text for query in QUERIES])
    run = open_first_stage(f"images:{folder},device=cpu,batch_size=3", make_corpus(*documents(paths))).search(
        QUERIES, 5
    )
    assert run.name == "images"
    for query, cosines in zip(QUERIES, texts @ pictures.T, strict=True):
        best = np.argsort(-cosines)[:5]
        assert run[query.id].doc_ids == tuple(f"d{at}" for at in best)
        assert run[query.id].scores == pytest.approx(cosines[best], abs=1e-5)
        assert run[query.id].docs[0].image == paths[best[0]]


def test_a_query_prompt_is_set_before_queries(clip: Path, paths: list[str], make_corpus: MakeCorpus) -> None:
    corpus = make_corpus(*documents(paths))
    prompted = open_first_stage(f"images:{clip},query_prompt=a ,device=cpu", corpus)
    written = open_first_stage(f"images:{clip},device=cpu", corpus)
    given = [Query(id=query.id, text=f"a {query.text}") for query in QUERIES]
    assert lists(prompted.search(QUERIES, 8)) == lists(written.search(given, 8)) != lists(written.search(QUERIES, 8))


def test_a_query_longer_than_the_models_context_is_cut_and_said(
    clip: Path, paths: list[str], make_corpus: MakeCorpus
) -> None:
    retriever = open_first_stage(f"images:{clip},device=cpu", make_corpus(*documents(paths)))
    with pytest.warns(UserWarning, match="1 of 2 queries .* 24 tokens"):
        run = retriever.search([Query(id="a", text="fish"), Query(id="b", text="a fish " * 20)], 3)
    assert len(run["b"]) == 3


def break_some(paths: list[str]) -> None:
    """Three that cannot be read: gone, cut off, no picture."""
    os.unlink(paths[1])
    Path(paths[4]).write_bytes(Path(paths[4]).read_bytes()[:60])
    Path(paths[6]).write_text("no picture")


@pytest.mark.parametrize("index", ["flat", "hnsw"])
def test_pictures_that_cannot_be_read_come_last_and_are_said(
    clip: Path, paths: list[str], make_corpus: MakeCorpus, index: str
) -> None:
    break_some(paths)
    corpus = make_corpus(*documents(paths), Document(id="text", text="words"))
    with pytest.warns(UserWarning, match=r"4 of 9 pictures cannot be read.*'d1', 'd4', 'd6' \.\.\..*1-green\.png"):
        retriever = open_first_stage(f"images:{clip},device=cpu,index={index}", corpus)
    whole = retriever.search(QUERIES, 20)
    for ranking in whole.values():
        assert len(ranking) == 9
        assert ranking.doc_ids[5:] == ("text", "d6", "d4", "d1")  # ties stand by id, descending
        assert set(ranking.scores[5:]) == {-2.0}
        assert min(ranking.scores[:5]) > -1.0
    for k in (1, 4, 5, 6, 7, 8):
        assert lists(retriever.search(QUERIES, k)) == lists(whole.top(k))
    assert isinstance(retriever.retriever, ImageRetriever)
    assert retriever.retriever.unseen == ("d1", "d4", "d6", "text")


def test_they_come_last_where_all_cosines_are_below_zero(make_corpus: MakeCorpus, paths: list[str]) -> None:
    """A row of zeros has a cosine of 0 with everything, which is above these."""

    class Away(Fake):
        def passages(self, texts: Sequence[str]) -> Floats:
            rows = -np.abs(super().passages(texts))
            rows[[text == paths[2] for text in texts]] = 0
            return rows

        def queries(self, texts: Sequence[str]) -> Floats:
            return np.abs(super().queries(texts))

    with pytest.warns(UserWarning, match="1 of 8 pictures"):
        retriever = ImageRetriever(Images("any"), make_corpus(*documents(paths)), Away())
    run = retriever.search(QUERIES, 8)
    for ranking in run.values():
        assert ranking.doc_ids[-1] == "d2"
        assert max(ranking.scores) < 0
    assert lists(retriever.search(QUERIES, 1)) == lists(run.top(1))


def test_pictures_that_come_or_change_are_embedded_anew(
    clip: Path, paths: list[str], make_corpus: MakeCorpus, cache: Path
) -> None:
    corpus, selector = make_corpus(*documents(paths)), f"images:{clip},device=cpu"
    kept = Path(paths[3]).read_bytes()
    os.unlink(paths[3])
    with pytest.warns(UserWarning, match="1 of 8"):
        open_first_stage(selector, corpus)
    Path(paths[3]).write_bytes(kept)
    first = open_first_stage(selector, corpus)
    assert open_first_stage(selector, corpus).search(QUERIES, 8)["q0"].scores == first.search(QUERIES, 8)["q0"].scores
    assert len(list(cache.glob("indexes/*/embeddings-*/embeddings.npy"))) == 2
    draw(Path(paths[0]).parent, width=40)
    changed = open_first_stage(selector, corpus)
    assert retriever_index_folders(changed).isdisjoint(retriever_index_folders(first))


def test_a_collection_of_texts_is_refused(clip: Path, make_corpus: MakeCorpus) -> None:
    with pytest.raises(DataError):
        open_first_stage(f"images:{clip},device=cpu", make_corpus("words", "more words"))


DYING = """
    import os, signal, sys
    from rerank.retrieval.images import ImageRetriever, Images
    from rerank.types import Document
    from tests.retrieval.encoders import Fake

    class Tiny:
        name, language, fingerprint = "tiny", "en", sys.argv[1]
        def docs(self):
            return (Document(id=f"d{i}", image=path) for i, path in enumerate(sys.argv[3:]))

    class Dying(Fake):
        def passages(self, texts):
            if len(self.batches) == int(sys.argv[2]):
                os.kill(os.getpid(), signal.SIGKILL)
            return super().passages(texts)

    ImageRetriever(Images("any", batch_size=2), Tiny(), Dying())
"""


def test_a_killed_embedding_is_gone_on_with(make_corpus: MakeCorpus, paths: list[str]) -> None:
    corpus, rest = make_corpus(*documents(paths)), Fake()
    command = [sys.executable, "-c", textwrap.dedent(DYING), corpus.fingerprint, "3", *paths]
    done = subprocess.run(command, check=False, env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])})
    assert done.returncode == -9
    retriever = ImageRetriever(Images("any", batch_size=2), corpus, rest)
    assert list(map(len, rest.batches)) == [2]
    (ranking,) = retriever.search([Query(id="q", text=paths[5])], 1).values()
    assert ranking.doc_ids == ("d5",)
    assert ranking.scores == pytest.approx((1.0,))


def save_rows(folder: Path, rows: Any, ids: Sequence[str]) -> str:
    np.save(folder / "rows.npy", rows)
    (folder / "ids.txt").write_text("".join(f"{name}\n" for name in ids))
    return f"embeddings={folder / 'rows.npy'},ids={folder / 'ids.txt'}"


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_ready_embeddings_give_the_lists_that_the_pictures_give(
    clip: Path, paths: list[str], make_corpus: MakeCorpus, tmp_path: Path, dtype: Any
) -> None:
    pictures, _ = plainly(clip, paths, ["any"])
    turned = list(range(len(paths)))[::-1]
    options = save_rows(tmp_path, (3 * pictures[turned]).astype(dtype), [f"d{at}" for at in turned])
    seen = open_first_stage(f"images:{clip},device=cpu", make_corpus(*documents(paths))).search(QUERIES, 8)
    shutil.rmtree(Path(paths[0]).parent)
    ready = open_first_stage(f"images:{clip},device=cpu,{options}", make_corpus(*documents(paths))).search(QUERIES, 8)
    for query in QUERIES:
        one, two = (dict(zip(r.doc_ids, r.scores, strict=True)) for r in (seen[query.id], ready[query.id]))
        assert one == pytest.approx(two, abs=1e-3 if dtype is np.float16 else 1e-6)


def test_ids_may_be_an_array(clip: Path, make_corpus: MakeCorpus, tmp_path: Path) -> None:
    rows = np.eye(3, 12, dtype=np.float32)
    np.save(tmp_path / "ids.npy", np.array([7, 8, 9]))
    np.save(tmp_path / "rows.npy", rows)
    corpus = make_corpus(*(Document(id=str(name)) for name in (7, 8, 9)))
    selector = f"images:{clip},device=cpu,embeddings={tmp_path / 'rows.npy'},ids={tmp_path / 'ids.npy'}"
    assert set(open_first_stage(selector, corpus).search(QUERIES, 3)["q0"].doc_ids) == {"7", "8", "9"}


def test_documents_without_a_row_come_last_and_are_said(clip: Path, make_corpus: MakeCorpus, tmp_path: Path) -> None:
    options = save_rows(tmp_path, np.eye(3, 12, dtype=np.float32), ["a", "b", "elsewhere"])
    corpus = make_corpus(*(Document(id=name) for name in "abcd"))
    with pytest.warns(UserWarning, match=r"2 of 4 pictures cannot be read.*'c', 'd'\. Reason for the first: its id"):
        retriever = open_first_stage(f"images:{clip},device=cpu,{options}", corpus)
    assert retriever.search(QUERIES, 4)["q0"].doc_ids[2:] == ("d", "c")


@pytest.mark.parametrize(
    ("rows", "ids", "error", "message"),
    [
        (np.zeros((2, 12)), ["a", "b"], DataError, "contains float64 of shape"),
        (np.zeros((2, 3, 4), dtype=np.float32), ["a", "b"], DataError, "float16 or float32 of shape"),
        (np.zeros((2, 12), dtype=np.float32), ["a"], DataError, "lists 1 documents, but .* has 2 rows"),
        (np.zeros((2, 12), dtype=np.float32), ["a", "a"], DataError, "lists a document twice"),
        (np.zeros((2, 5), dtype=np.float32), ["a", "b"], UsageError, "dimension 5, .* dimension 12"),
        (
            np.full((2, 12), np.nan, dtype=np.float32),
            ["a", "b"],
            DataError,
            r"Row 0 of .* \(document 'a'\) has a non-finite",
        ),
    ],
)
def test_wrong_embeddings(
    clip: Path, make_corpus: MakeCorpus, tmp_path: Path, rows: Any, ids: list[str], error: type[Exception], message: str
) -> None:
    options = save_rows(tmp_path, rows, ids)
    with pytest.raises(error, match=message):
        open_first_stage(f"images:{clip},device=cpu,{options}", make_corpus(Document(id="a"), Document(id="b")))


def test_wrong_files_of_embeddings(clip: Path, make_corpus: MakeCorpus, tmp_path: Path) -> None:
    corpus = make_corpus(Document(id="a"))
    save_rows(tmp_path, np.zeros((1, 12), dtype=np.float32), ["a"])
    rows, ids = tmp_path / "rows.npy", tmp_path / "ids.txt"
    binary = tmp_path / "ids.bin"
    binary.write_bytes(b"\xff\xfe")
    objects = tmp_path / "objects.npy"
    np.save(objects, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    cases: list[tuple[Path, Path, type[Exception]]] = [
        (tmp_path / "none.npy", ids, MissingResourceError),
        (rows, tmp_path / "none.txt", MissingResourceError),
        (ids, ids, DataError),
        (rows, binary, DataError),
        (rows, rows, DataError),
        (objects, ids, DataError),
    ]
    for one, two, error in cases:
        with pytest.raises(error):
            open_first_stage(f"images:{clip},device=cpu,embeddings={one},ids={two}", corpus)
    with pytest.raises(UsageError):
        open_first_stage(f"images:{clip},embeddings={rows}", corpus)


def test_other_embeddings_are_another_index(clip: Path, make_corpus: MakeCorpus, tmp_path: Path) -> None:
    corpus, found = make_corpus(Document(id="a"), Document(id="b")), []
    for value in (1, 2):
        rows = np.random.default_rng(value).standard_normal((2, 12)).astype(np.float32)
        retriever = open_first_stage(f"images:{clip},device=cpu,{save_rows(tmp_path, rows, ['a', 'b'])}", corpus)
        found.append(retriever.search(QUERIES, 2)["q0"].scores)
    assert found[0] != found[1]


def test_any_row_that_changes_is_another_index(clip: Path, make_corpus: MakeCorpus, tmp_path: Path) -> None:
    names = [f"d{at}" for at in range(3000)]
    rows = np.random.default_rng(1).standard_normal((3000, 12)).astype(np.float32)
    corpus, found = make_corpus(*(Document(id=name) for name in names)), []
    for _ in range(2):
        options = save_rows(tmp_path, rows, names)
        found.append(open_first_stage(f"images:{clip},device=cpu,{options}", corpus).search(QUERIES, 3000)["q0"])
        rows[1] = -rows[1]
    one, two = (dict(zip(r.doc_ids, r.scores, strict=True))["d1"] for r in found)
    assert one == pytest.approx(-two, abs=1e-6)


def test_memory_that_runs_out_halves_the_batch(clip: Path, paths: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load_image_encoder(clip, Images(str(clip), device="cpu"))
    wanted, pictures, tried = encoder.passages(paths), encoder._pictures, []

    def scarce(given: list[Any]) -> Floats:
        tried.append(len(given))
        if len(given) > 2:
            raise RuntimeError("CUDA out of memory")
        return pictures(given)

    monkeypatch.setattr(encoder, "_pictures", scarce)
    assert encoder.passages(paths) == pytest.approx(wanted, abs=1e-5)
    assert tried == [8, 4, 2, 3, 2, 2, 2]

    def broken(given: list[Any]) -> Floats:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(encoder, "_pictures", broken)
    with raises(BackendError, "2"):
        encoder.passages(paths)


def test_models_of_another_kind(tmp_path: Path, clip: Path, make_corpus: MakeCorpus) -> None:
    from tests.backends.pairs import save

    with pytest.raises(UsageError):
        load_image_encoder(save(tmp_path / "bert", base=True), Images("bert", device="cpu"))
    with raises(UsageError, "'all-minilm-l6-v2'"):
        open_first_stage("images:all-minilm-l6-v2", make_corpus("x"))
    lame = Path(shutil.copytree(clip, tmp_path / "lame"))
    (lame / "model.safetensors").write_bytes(b"\x08")
    with pytest.raises(DataError):
        load_image_encoder(lame, Images(str(lame), device="cpu"))


def test_identity_follows_the_model(clip: Path, siglip: Path) -> None:
    one, two = (load_image_encoder(folder, Images(str(folder), device="cpu")) for folder in (clip, siglip))
    assert one.identity["weights"] != two.identity["weights"]
    assert one.identity["processor"].startswith("CLIPImageProcessor")
    assert isinstance(one, ImageEncoder)


@pytest.mark.parametrize("module", ["faiss", "PIL"])
def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with raises(MissingPrerequisiteError, "[images]'"):
        Images("any").check_prerequisites()


def test_looking_at_the_options_imports_nothing_heavy() -> None:
    code = """
import sys
from rerank.retrieval import first_stages
first_stages.get("images")("some/model", index="hnsw")
print([name for name in ("torch", "transformers", "faiss", "PIL", "numpy") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert len(COLOURS) == 8

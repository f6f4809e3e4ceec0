"""What holds for every collection that is read from files, shown on the samples in data/."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import pytest

from rerank.collections import Collection, SupportsCandidates, fetch_documents, open_collection
from rerank.errors import DataError, MissingResourceError, UnknownNameError, UsageError
from tests.raising import raises

DATA = Path(__file__).resolve().parents[2] / "data"

SAMPLES = {
    "beir:data/beir": (5, 2, 3),
    "beir:data/beir,split=dev": (5, 1, 1),
    "trec:docs=data/trec/docs,topics=data/trec/topics.txt,qrels=data/trec/qrels.txt": (4, 2, 3),
    "trec:docs=data/trec/docs/a.sgml": (2, 0, 0),
    "trec:topics=data/trec/topics.tsv": (0, 3, 0),
    "trec:docs=data/tsv/corpus.tsv,topics=data/tsv/queries.tsv,qrels=data/tsv/qrels.txt": (2, 2, 3),
    "jsonl:data/jsonl": (4, 3, 3),
    "jsonl:data/bright": (4, 2, 4),
    "jsonl:data/jsonl/docs.jsonl": (4, 0, 0),
    "jsonl:queries=data/jsonl/queries.jsonl": (0, 3, 0),
    "cranfield:data/cranfield": (4, 2, 5),
    "cranfield:data/cisi": (2, 2, 2),
    "requests:data/requests/rank_llm.jsonl": (5, 2, 0),
    "requests:data/requests/rankgpt.json": (2, 2, 0),
    "requests:data/requests/rankify.jsonl": (2, 1, 0),
    "requests:data/requests/rag.jsonl": (3, 2, 0),
}


def opened(selector: str, root: Path = DATA) -> Collection:
    return open_collection(selector.replace("data/", f"{root}/"))


@pytest.mark.parametrize("selector", SAMPLES)
def test_counts_and_protocol(selector: str) -> None:
    collection = opened(selector)
    assert isinstance(collection, Collection)
    docs = list(collection.docs())
    counts = len(docs), len(collection.queries()), sum(map(len, collection.qrels().values()))
    assert counts == SAMPLES[selector]
    assert docs == list(collection.docs())
    assert len({doc.id for doc in docs}) == len(docs)
    assert collection.name == collection.name.strip() != ""
    assert (collection.language, collection.relevant) == ("en", 1)
    assert collection.drop_self == selector.startswith("beir")
    assert isinstance(collection, SupportsCandidates) == selector.startswith("requests")
    assert collection.qrels() is collection.qrels()
    assert fetch_documents(collection, [doc.id for doc in docs]) == {doc.id: doc for doc in docs}


@pytest.mark.parametrize("selector", SAMPLES)
def test_fingerprint_is_of_the_content_and_not_of_the_place(selector: str, tmp_path: Path) -> None:
    shutil.copytree(DATA, tmp_path / "copy")
    before = opened(selector).fingerprint
    copied = opened(selector, tmp_path / "copy")
    assert copied.fingerprint == before
    assert len(before) == 64
    assert int(before, 16) > 0
    for file in (tmp_path / "copy").rglob("*.*"):
        if file.is_file():
            file.write_bytes(file.read_bytes() + b"\n")
    assert copied.fingerprint == before, "a collection's fingerprint is computed once"
    assert opened(selector, tmp_path / "copy").fingerprint != before


def test_fingerprints_differ_between_the_samples() -> None:
    assert len({opened(selector).fingerprint for selector in SAMPLES}) == len(SAMPLES)


@pytest.mark.parametrize("selector", SAMPLES)
def test_gzip_crlf_and_byte_order_marks_change_nothing(selector: str, tmp_path: Path) -> None:
    shutil.copytree(DATA, tmp_path / "copy")
    for file in list((tmp_path / "copy").rglob("*")):
        if file.is_file():
            changed = b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n")
            file.write_bytes(gzip.compress(changed))
    plain, other = opened(selector), opened(selector, tmp_path / "copy")
    assert list(other.docs()) == list(plain.docs())
    assert other.queries() == plain.queries()
    assert dict(other.qrels()) == dict(plain.qrels())


@pytest.mark.parametrize("selector", ["beir:data/beir", "jsonl:data/jsonl", "cranfield:data/cranfield"])
def test_files_whose_names_end_in_gz_are_found(selector: str, tmp_path: Path) -> None:
    shutil.copytree(DATA, tmp_path / "copy")
    for file in list((tmp_path / "copy").rglob("*")):
        if file.is_file():
            file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
            file.unlink()
    plain, other = opened(selector), opened(selector, tmp_path / "copy")
    assert list(other.docs()) == list(plain.docs())
    assert other.queries() == plain.queries()
    assert dict(other.qrels()) == dict(plain.qrels())


@pytest.mark.parametrize("selector", SAMPLES)
def test_binary_and_truncated_files_are_data_errors(selector: str, tmp_path: Path) -> None:
    shutil.copytree(DATA, tmp_path / "copy")
    for file in (tmp_path / "copy").rglob("*"):
        if file.is_file():
            file.write_bytes(gzip.compress(bytes(range(1, 128)) * 9)[:-12])
    collection = opened(selector, tmp_path / "copy")
    with pytest.raises(DataError):
        list(collection.docs())
        collection.queries()


@pytest.mark.parametrize("name", ["beir", "jsonl", "cranfield", "requests"])
def test_a_path_that_is_not_there(name: str, tmp_path: Path) -> None:
    with pytest.raises(MissingResourceError):
        open_collection(f"{name}:{tmp_path}/nowhere")


@pytest.mark.parametrize(
    ("name", "looked_for"),
    [("beir", "corpus.jsonl"), ("jsonl", "docs.jsonl or corpus.jsonl"), ("cranfield", "cran.all.1400 or CISI.ALL")],
)
def test_a_folder_of_another_kind_says_what_was_looked_for(name: str, looked_for: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing of the kind")
    with pytest.raises(MissingResourceError, match=looked_for):
        open_collection(f"{name}:{tmp_path}")


@pytest.mark.parametrize("name", ["beir", "cranfield"])
def test_a_file_where_a_folder_belongs(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    with pytest.raises(MissingResourceError):
        open_collection(f"{name}:{tmp_path}/file")


@pytest.mark.parametrize("path", ["a\0b", "n" * 5000])
def test_impossible_paths(path: str) -> None:
    with pytest.raises(MissingResourceError):
        open_collection(f"beir:{path}")


def test_options_are_checked() -> None:
    with raises(UsageError, "'English'", "639"):
        opened("beir:data/beir,language=English")
    with raises(UsageError, "relevant=0"):
        opened("jsonl:data/jsonl,relevant=0")
    with raises(UnknownNameError, "'split'"):
        opened("beir:data/beir,splitt=dev")
    collection = opened("beir:data/beir,language=zh,relevant=2,drop-self=false")
    assert (collection.language, collection.relevant, collection.drop_self) == ("zh", 2, False)


def test_names_are_fit_for_run_tags(tmp_path: Path) -> None:
    shutil.copytree(DATA / "beir", tmp_path / "my data.v1")
    assert open_collection(f"beir:{tmp_path}/my data.v1").name == "my_data.v1"
    assert open_collection(f"beir:{tmp_path}/my data.v1,split=dev").name == "my_data.v1-dev"
    shutil.copy(DATA / "requests/rank_llm.jsonl", tmp_path / "top.100.jsonl.gz")
    assert open_collection(f"requests:{tmp_path}/top.100.jsonl.gz").name == "top.100"


def test_a_file_that_vanishes_before_it_is_hashed(tmp_path: Path) -> None:
    shutil.copy(DATA / "jsonl/docs.jsonl", tmp_path / "docs.jsonl")
    collection = open_collection(f"jsonl:{tmp_path}")
    (tmp_path / "docs.jsonl").unlink()
    with pytest.raises(MissingResourceError):
        _ = collection.fingerprint

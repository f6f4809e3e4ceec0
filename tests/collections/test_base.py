"""Opening collections by name, the files of collections, and lookups in them."""

from __future__ import annotations

import gzip
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from rerank.collections import (
    Collection,
    SupportsCandidates,
    describe_collection,
    fetch_documents,
    list_collection_providers,
    open_collection,
    open_collection_qrels,
)
from rerank.errors import DataError, MissingResourceError, UnknownNameError, UsageError
from rerank.types import Document
from tests.raising import raises

DATA = Path(__file__).resolve().parents[2] / "data"


def test_unknown_names_get_a_suggestion() -> None:
    with raises(UnknownNameError, "'bier'", "'beir'"):
        open_collection("bier:data")


def test_a_missing_or_needless_argument_shows_the_usage() -> None:
    with raises(UsageError, "beir:FOLDER"):
        open_collection("beir")
    with pytest.raises(UsageError):
        open_collection("trec:somewhere")


def test_option_values_are_converted() -> None:
    collection = open_collection(f"beir:{DATA}/beir,drop_self=no,relevant=2")
    assert (collection.drop_self, collection.relevant) == (False, 2)
    with raises(UsageError, "order='best'"):
        open_collection(f"requests:{DATA}/requests/rankgpt.json,order=best")
    with raises(UsageError, "relevant='high'"):
        open_collection("irds:vaswani,relevant=high")
    assert open_collection("irds:vaswani,relevant=2,drop_self=true").relevant == 2


def test_every_provider_says_what_it_is() -> None:
    rows = {row["name"]: row for row in list_collection_providers()}
    assert {"beir", "cranfield", "irds", "jsonl", "requests", "trec"} <= set(rows)
    assert all(row["about"] and row["usage"].startswith(row["name"]) for row in rows.values())


def test_describe() -> None:
    told = describe_collection(open_collection(f"cranfield:{DATA}/cranfield"))
    assert told.pop("fingerprint") == open_collection(f"cranfield:{DATA}/cranfield").fingerprint
    assert told == {
        "name": "cranfield",
        "language": "en",
        "documents": 4,
        "queries": 2,
        "judged_queries": 2,
        "judgments": 5,
        "relevant_from_grade": 1,
        "drop_self": False,
    }


def test_judgments_come_from_a_file_or_a_collection() -> None:
    qrels, relevant = open_collection_qrels(f"{DATA}/trec/qrels.txt")
    assert (len(qrels), relevant) == (2, 1)
    qrels, relevant = open_collection_qrels(f"cranfield:{DATA}/cranfield,relevant=3")
    assert (dict(qrels["2"]), relevant) == ({"2": 3, "1": 1}, 3)


def test_cranfields_own_file_is_no_plain_qrels() -> None:
    # read as a plain file its grades would be taken the wrong way round
    qrels, _ = open_collection_qrels(f"{DATA}/cranfield/cranqrel")
    assert qrels["1"] == {"1": 1, "2": 3, "4": -1}
    with pytest.raises(DataError):
        open_collection_qrels(f"{DATA}/cranfield/cran.qry")


DOCS = [Document(id=str(i), text=f"text {i}") for i in range(5)]


class Streamed:
    name, language, fingerprint = "streamed", "en", "0" * 64

    def __init__(self) -> None:
        self.read = 0

    def docs(self) -> Iterator[Document]:
        for doc in DOCS:
            self.read += 1
            yield doc


class Indexed(Streamed):
    def lookup(self, ids: Iterable[str]) -> dict[str, Document]:
        return {doc.id: doc for doc in DOCS if doc.id in set(ids)}


def test_one_pass_that_ends_with_the_last_document_wanted() -> None:
    corpus = Streamed()
    assert fetch_documents(corpus, ["2", "0", "2"]) == {"0": DOCS[0], "2": DOCS[2]}
    assert corpus.read == 3


def test_nothing_wanted_reads_nothing() -> None:
    corpus = Streamed()
    assert fetch_documents(corpus, []) == {}
    assert corpus.read == 0


def test_random_access_where_there_is_any() -> None:
    corpus = Indexed()
    assert fetch_documents(corpus, iter(["4"])) == {"4": DOCS[4]}
    assert corpus.read == 0


@pytest.mark.parametrize("corpus", [Streamed(), Indexed()])
def test_documents_that_are_not_there(corpus: Streamed) -> None:
    with raises(DataError, "4", "5", "'streamed'", "'a'", "'b'", "'c'"):
        fetch_documents(corpus, ["a", "b", "c", "d", "1"])


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


ROOT = Path(__file__).resolve().parents[2]
PAGES = ("docs/formats.md", "data/README.md")
SELECTOR = re.compile(r"`((?:beir|trec|jsonl|cranfield|requests):[^`\s]*data/[^`\s]*)`")


def shown() -> list[str]:
    return sorted({selector for page in PAGES for selector in SELECTOR.findall((ROOT / page).read_text("utf-8"))})


@pytest.mark.parametrize("selector", shown())
def test_selectors_on_the_page(selector: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    told = describe_collection(open_collection(selector))
    assert told["documents"] + told["queries"] > 0


def test_every_sample_folder_is_shown_and_every_provider_described() -> None:
    folders = {path.name for path in (ROOT / "data").iterdir() if path.is_dir()}
    assert folders == {match for selector in shown() for match in re.findall(r"data/([a-z]+)", selector)}
    page = (ROOT / "docs/formats.md").read_text("utf-8")
    assert re.findall(r"^### `(\w+):`", page, re.M) == ["beir", "trec", "jsonl", "cranfield", "requests", "irds"]


def test_judgments_of_a_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert open_collection_qrels("cranfield:data/cranfield")[0]["1"] == {"1": 4, "2": 2, "4": 0}

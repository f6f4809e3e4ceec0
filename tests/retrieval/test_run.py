"""First stages that return existing rankings: those of a run file, and a collection's own lists."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from rerank.collections.base import SupportsLookup
from rerank.errors import DataError, MissingResourceError, UsageError
from rerank.retrieval import open_first_stage
from rerank.types import Document, Query, Ranking, Run
from tests.raising import raises
from tests.retrieval.conftest import MakeCorpus

LINES = "q1 Q0 d1 1 2.5 tag\nq1 Q0 d2 2 3.5 tag\nq1 Q0 d3 3 2.5 tag\nq2 Q0 d3 1 1 tag\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a,run.trec"
    path.write_text(LINES)
    return path


def test_lists_of_the_file_with_the_texts_of_the_collection(make_corpus: MakeCorpus, file: Path) -> None:
    corpus = make_corpus("one", "two", "three")
    asked = [Query(id="q2", text="second"), Query(id="q1", text="first")]
    run = open_first_stage(f"run:{file}", corpus).search(asked, 10)
    assert run.name == "tag"
    assert [ranking.query for ranking in run.values()] == asked
    assert run["q1"].doc_ids == ("d2", "d3", "d1")
    assert [doc.text for doc in run["q1"].docs] == ["two", "three", "one"]
    assert run["q1"].scores == (3.5, 2.5, 2.5)
    assert vars(corpus)["passes"] == 1


def test_gzip_and_three_columns(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    path = tmp_path / "run.tsv.gz"
    path.write_bytes(gzip.compress(b"q1\td2\t1\nq1\td1\t2\n"))
    run = open_first_stage(f"run:{path}", make_corpus("one", "two")).search([Query(id="q1")], 10)
    assert run["q1"].doc_ids == ("d2", "d1")


def test_depth_cuts_and_only_what_is_kept_is_looked_up(make_corpus: MakeCorpus, file: Path) -> None:
    run = open_first_stage(f"run:{file}", make_corpus("one", "two")).search([Query(id="q1")], 1)
    assert [doc.text for doc in run["q1"].docs] == ["two"]


def test_queries_without_a_list_are_left_out(make_corpus: MakeCorpus, file: Path) -> None:
    run = open_first_stage(f"run:{file}", make_corpus("one", "two", "three")).search(
        [Query(id="q0"), Query(id="q2")], 9
    )
    assert list(run) == ["q2"]


def test_no_queries_give_an_empty_run(make_corpus: MakeCorpus, file: Path) -> None:
    assert len(open_first_stage(f"run:{file}", make_corpus("one")).search([], 9)) == 0


def test_run_of_other_queries(make_corpus: MakeCorpus, file: Path) -> None:
    retriever = open_first_stage(f"run:{file}", make_corpus("one"))
    with raises(DataError, "5", "'q1'", "'q2'", "'0'", "'1'", "'2'"):
        retriever.search([Query(id=str(i)) for i in range(5)], 9)


def test_run_of_another_collection(make_corpus: MakeCorpus, file: Path) -> None:
    retriever = open_first_stage(f"run:{file}", make_corpus("one"))
    with raises(DataError, "'tiny'", "'d2'", "'d3'"):
        retriever.search([Query(id="q1")], 9)


def test_collection_with_random_access_is_not_read(make_corpus: MakeCorpus, file: Path) -> None:
    class Indexed:
        name, language, fingerprint = "indexed", "en", "0" * 64

        def docs(self) -> Iterable[Document]:
            raise AssertionError("read through")

        def lookup(self, ids: Iterable[str]) -> dict[str, Document]:
            return {doc_id: Document(id=doc_id, text=doc_id.upper()) for doc_id in ids}

    corpus = Indexed()
    assert isinstance(corpus, SupportsLookup)
    run = open_first_stage(f"run:{file}", corpus).search([Query(id="q2")], 9)  # type: ignore[arg-type]
    assert run["q2"].docs[0].text == "D3"


def test_missing_file_and_missing_argument(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    with raises(MissingResourceError, "no.trec"):
        open_first_stage(f"run:{tmp_path / 'no.trec'}", make_corpus("one"))
    with raises(UsageError, "run:PATH"):
        open_first_stage("run", make_corpus("one"))


def test_bad_depth(make_corpus: MakeCorpus, file: Path) -> None:
    with raises(UsageError, "0"):
        open_first_stage(f"run:{file}", make_corpus("one")).search([Query(id="q1")], 0)
    with raises(UsageError, "-1"):
        open_first_stage("candidates", LISTS).search([Query(id="q1")], -1)


class WithLists:
    name, language, fingerprint = "lists", "en", "0" * 64

    def __init__(self, *rankings: Ranking) -> None:
        self.rankings = rankings

    def docs(self) -> Iterator[Document]:
        return iter(())

    def candidates(self) -> Run:
        return Run(self.rankings, name="scoreddocs")


A, B = Document(id="a", text="first"), Document(id="b", text="second")
LISTS = WithLists(Ranking.from_order(Query(id="q1"), [B, A]), Ranking.from_order(Query(id="q2"), [A]))


def test_the_collections_own_lists() -> None:
    asked = [Query(id="q2", text="two"), Query(id="q1", text="one"), Query(id="q3")]
    run = open_first_stage("candidates", LISTS).search(asked, 10)
    assert run.name == "scoreddocs"
    assert [ranking.query for ranking in run.values()] == asked[:2]
    assert run["q1"].docs == (B, A)


def test_depth_cuts() -> None:
    assert open_first_stage("candidates", LISTS).search([Query(id="q1")], 1)["q1"].docs == (B,)


def test_lists_for_none_of_the_queries() -> None:
    with raises(DataError, "'lists'", "'q1'"):
        open_first_stage("candidates", LISTS).search([Query(id="x")], 1)


class WithoutLists:
    name, language, fingerprint = "bare", "en", "0" * 64

    def docs(self) -> Iterator[Document]:
        return iter([A])


@pytest.mark.parametrize("corpus", [WithoutLists(), WithLists()])
def test_collection_without_lists(corpus: WithoutLists) -> None:
    with raises(UsageError, "run:FILE"):
        open_first_stage("candidates", corpus)


def test_takes_no_argument() -> None:
    with pytest.raises(UsageError):
        open_first_stage("candidates:x", LISTS)

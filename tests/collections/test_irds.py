"""Collections of ir_datasets, on data sets that the tests register themselves."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ir_datasets
import pytest

from rerank.collections.irds import Irds
from rerank.errors import DataError, MissingPrerequisiteError, MissingResourceError, UnknownNameError, UsageError
from rerank.types import EXCLUDED, Document, Qrels, Query
from tests.raising import raises

Register = Callable[..., str]


class TitledDoc(NamedTuple):
    doc_id: str
    title: str
    text: str

    def default_text(self) -> str:
        return f"{self.title} {self.text}"


class BareDoc(NamedTuple):
    doc_id: str
    title: str
    summary: str
    year: int
    notes: str


class Lists(ir_datasets.formats.BaseScoredDocs):  # type: ignore[misc]
    def __init__(self, *rows: Any) -> None:
        self.rows = rows

    def scoreddocs_iter(self) -> Iterator[Any]:
        return iter(self.rows)


class Docs(ir_datasets.formats.BaseDocs):  # type: ignore[misc]
    def __init__(self, *docs: Any, language: str | None = None) -> None:
        self.rows = docs
        self.language = language

    def docs_iter(self) -> Iterator[Any]:
        return iter(self.rows)

    def docs_lang(self) -> str | None:
        return self.language

    def docs_store(self) -> Docs:
        return self

    def get_many(self, ids: list[str]) -> dict[str, Any]:
        return {doc.doc_id: doc for doc in self.rows if doc.doc_id in ids}


class Broken(ir_datasets.formats.BaseQueries):  # type: ignore[misc]
    def __init__(self, error: Exception) -> None:
        self.error = error

    def queries_iter(self) -> Iterator[Any]:
        raise self.error


@pytest.fixture
def register(tmp_path: Path) -> Iterator[Register]:
    """Register a data set for one test and return its id."""
    names: list[str] = []

    def add(*parts: Any, name: str = "") -> str:
        names.append(name or f"rerank-test/{tmp_path.name}/{len(names)}")
        ir_datasets.registry.register(names[-1], ir_datasets.Dataset(*parts))
        return names[-1]

    yield add
    for name in names:
        del ir_datasets.registry._registered[name]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Any, Any, Any]:
    """Documents, queries and judgments from files, by ir_datasets' own readers."""
    (tmp_path / "docs.tsv").write_text("a\tapples keep in a cool cellar\nb\t梨放在阴凉处\nc\tcherries do not keep\n")
    (tmp_path / "queries.tsv").write_text("1\twhere do  apples keep\n2\tcherries\n")
    (tmp_path / "qrels.txt").write_text("1 0 a 2\n1 0 c 0\n2 0 c 1\n")

    def local(name: str) -> Any:
        return ir_datasets.util.LocalDownload(tmp_path / name)

    return (
        ir_datasets.formats.TsvDocs(local("docs.tsv")),
        ir_datasets.formats.TsvQueries(local("queries.tsv")),
        ir_datasets.formats.TrecQrels(local("qrels.txt"), {}),
    )


def test_a_whole_data_set(register: Register, files: tuple[Any, Any, Any]) -> None:
    name = register(*files)
    collection = Irds(name)
    assert collection.name == name
    assert list(collection.docs())[1] == Document(id="b", text="梨放在阴凉处")
    assert list(collection.docs()) == list(collection.docs())
    assert collection.queries() == [Query(id="1", text="where do apples keep"), Query(id="2", text="cherries")]
    assert {query: dict(judged) for query, judged in collection.qrels().items()} == {
        "1": {"a": 2, "c": 0},
        "2": {"c": 1},
    }
    assert (collection.language, collection.relevant, collection.drop_self) == ("en", 1, False)
    assert len(collection.candidates()) == 0


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_lookup_by_the_store_of_ir_datasets(register: Register, files: tuple[Any, Any, Any]) -> None:
    collection = Irds(register(*files))
    assert collection.lookup(["c", "nowhere", "b"]) == {
        "b": Document(id="b", text="梨放在阴凉处"),
        "c": Document(id="c", text="cherries do not keep"),
    }


def test_parts_that_do_not_exist_are_empty(register: Register, files: tuple[Any, Any, Any]) -> None:
    only_queries = Irds(register(files[1]))
    assert (list(only_queries.docs()), only_queries.lookup(["a"]), len(only_queries.qrels())) == ([], {}, 0)
    assert len(only_queries.queries()) == 2
    only_docs = Irds(register(files[0]))
    assert (only_docs.queries(), len(only_docs.candidates())) == ([], 0)
    assert only_docs.fingerprint != only_queries.fingerprint


def test_the_title_is_kept_apart(register: Register) -> None:
    docs = Docs(TitledDoc("a", "Pears", "Pears ripen late."), TitledDoc("b", "", "No title."), language="de")
    collection = Irds(register(docs))
    assert list(collection.docs()) == [
        Document(id="a", title="Pears", text="Pears ripen late."),
        Document(id="b", text="No title."),
    ]
    assert collection.language == "de"


def test_documents_without_a_default_text(register: Register) -> None:
    docs = Docs(BareDoc("a", "Pears", "They ripen late.", 1901, ""), BareDoc("b", "", "Plums", 1902, "Blue."))
    assert list(Irds(register(docs)).docs()) == [
        Document(id="a", title="Pears", text="They ripen late."),
        Document(id="b", text="Plums\nBlue."),
    ]


def test_candidates(register: Register, files: tuple[Any, Any, Any]) -> None:
    row = ir_datasets.formats.GenericScoredDoc
    docs = Docs(TitledDoc("a", "", "x"), TitledDoc("b", "", "y"), TitledDoc("c", "", "z"))
    lists = Lists(row("2", "a", 1.0), row("2", "b", 3.0), row("1", "b", 2.0), row("1", "c", 2.0), row("9", "a", 1.0))
    run = Irds(register(docs, files[1], lists)).candidates()
    assert {query: ranking.doc_ids for query, ranking in run.items()} == {"1": ("c", "b"), "2": ("b", "a")}
    assert run["2"].docs[0] == Document(id="b", text="y")
    assert run["2"].query == Query(id="2", text="cherries")


def test_candidates_without_scores(register: Register, files: tuple[Any, Any, Any]) -> None:
    class Row(NamedTuple):
        query_id: str
        doc_id: str

    docs = Docs(TitledDoc("a", "", "x"), TitledDoc("b", "", "y"))
    run = Irds(register(docs, files[1], Lists(Row("1", "b"), Row("1", "a")))).candidates()
    assert (run["1"].doc_ids, run["1"].scores) == (("b", "a"), (1, 0.5))
    mixed = Lists(Row("1", "b"), ir_datasets.formats.GenericScoredDoc("1", "a", 1.0))
    with raises(DataError, "'1'"):
        Irds(register(docs, files[1], mixed)).candidates()


def test_candidates_that_the_documents_lack(register: Register, files: tuple[Any, Any, Any]) -> None:
    lists = Lists(ir_datasets.formats.GenericScoredDoc("1", "gone", 1.0))
    with raises(DataError, "1"):
        Irds(register(Docs(), files[1], lists)).candidates()


def test_of_several_judgments_the_highest_counts(register: Register, tmp_path: Path) -> None:
    (tmp_path / "qrels").write_text("1 1 a 1\n1 2 a 3\n1 3 a 0\n")
    qrels = ir_datasets.formats.TrecQrels(ir_datasets.util.LocalDownload(tmp_path / "qrels"), {})
    assert Irds(register(qrels)).qrels()["1"] == {"a": 3}


def test_cranfields_grades_are_turned_into_gains(
    register: Register, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "qrels").write_text("1 0 a 1\n1 0 b 4\n1 0 c -1\n")
    qrels = ir_datasets.formats.TrecQrels(ir_datasets.util.LocalDownload(tmp_path / "qrels"), {})
    ours = ir_datasets.load(register(qrels))
    monkeypatch.setitem(ir_datasets.registry._registered, "cranfield", ours)
    assert Irds("cranfield").qrels()["1"] == {"a": 4, "b": 1, "c": 0}


def test_fingerprint_follows_the_content(register: Register, files: tuple[Any, Any, Any], tmp_path: Path) -> None:
    name = register(*files)
    before = Irds(name).fingerprint
    assert Irds(name).fingerprint == before
    assert len(before) == 64
    for changed in ("docs.tsv", "queries.tsv", "qrels.txt"):
        original = (tmp_path / changed).read_text()
        (tmp_path / changed).write_text(original.replace("c", "C"))
        assert Irds(name).fingerprint != before, changed
        (tmp_path / changed).write_text(original)


def test_defaults_of_known_data_sets() -> None:
    assert Irds("msmarco-passage/trec-dl-2019/judged").relevant == 2
    assert Irds("msmarco-document/trec-dl-2019").relevant == 1
    assert Irds("beir/scifact/test").drop_self is True
    assert Irds("beir/scifact/test", drop_self=False).drop_self is False
    assert Irds("mmarco/zh/dev/small").language == "zh"
    assert Irds("vaswani", language="la", relevant=3).language == "la"
    with raises(UsageError, "relevant=0"):
        Irds("vaswani", relevant=0)


def test_an_unknown_id_suggests_a_few() -> None:
    with raises(UnknownNameError, "'beir/scifactt'") as caught:
        Irds("beir/scifactt")
    assert "beir/scifact" in caught.value.suggestions
    assert len(str(caught.value)) < 600
    with pytest.raises(UnknownNameError, match="vaswani|antique"):
        Irds("qqqqqqqqqqqq")


def test_without_ir_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ir_datasets", None)
    with raises(MissingPrerequisiteError, "[irds]'"):
        Irds("vaswani")


@pytest.mark.parametrize(
    "error",
    [RuntimeError("All download sources failed"), ConnectionError("no route"), FileNotFoundError("x"), EOFError()],
)
def test_a_failed_download(register: Register, error: Exception) -> None:
    collection = Irds(register(Broken(error)))
    with raises(MissingResourceError, "IR_DATASETS_HOME"):
        collection.queries()


def test_a_document_twice(register: Register) -> None:
    with raises(DataError, "'a'"):
        list(Irds(register(Docs(TitledDoc("a", "", "x"), TitledDoc("a", "", "y")))).docs())


class LongQuery(NamedTuple):
    """The fields of ``ir_datasets.datasets.bright.BrightQuery``, which has no default text."""

    query_id: str
    text: str
    reasoning: str
    gold_answer: str
    gpt4_reason: str


class LongQueries(ir_datasets.formats.BaseQueries):  # type: ignore[misc]
    def queries_iter(self) -> Iterator[Any]:
        yield LongQuery("0", "why did\nit break", "think of ice", "ice is larger", "it froze")
        yield LongQuery("1", "why does it leak", "", "", "")


class Judged(ir_datasets.formats.BaseQrels):  # type: ignore[misc]
    def qrels_iter(self) -> Iterator[Any]:
        row = ir_datasets.formats.TrecQrel
        yield from (row("0", "a", 1, "0"), row("0", "b", -100, "0"), row("1", "b", 1, "0"))


def test_excluded_documents_and_long_queries_of_bright(register: Register, files: tuple[Any, Any, Any]) -> None:
    collection = Irds(register(files[0], LongQueries(), Judged()))
    assert [query.text for query in collection.queries()] == ["why did it break", "why does it leak"]
    assert collection.excluded() == {"0": frozenset({"b"})}
    assert collection.qrels().judged() == Qrels({"0": {"a": 1}, "1": {"b": 1}})


def test_the_fields_of_bright_are_those_of_the_package() -> None:
    fields = ir_datasets.load("bright/biology").queries_cls()._fields
    assert {*LongQuery._fields} <= {*fields}
    assert ir_datasets.load("bright/biology").qrels_defs()[EXCLUDED] == "Excluded from evaluation"

"""The SMART format: Cranfield and CISI."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank.collections.cranfield import Cranfield, grade_to_gain
from rerank.errors import DataError, MissingResourceError
from rerank.io.topic_formats import read_smart_format_file
from rerank.types import Document, Query
from tests.raising import raises

DATA = Path(__file__).resolve().parents[2] / "data"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DATA / "cranfield", tmp_path / "cran"))


def test_records() -> None:
    docs = list(Cranfield(str(DATA / "cranfield")).docs())
    assert docs[0] == Document(
        id="1",
        title="drag of a paper kite in light wind .",
        text="drag of a paper kite\nin light wind .\nthe drag was measured with a spring balance .",
    )
    assert docs[2] == Document(id="3", title="empty report .")


def test_query_ids_are_places_and_not_the_numbers_in_the_file() -> None:
    assert Cranfield(str(DATA / "cranfield")).queries() == [
        Query(id="1", text="how is the drag of a kite measured ."),
        Query(id="2", text="what does a tail do ."),
    ]


def test_grades_become_gains() -> None:
    qrels = Cranfield(str(DATA / "cranfield")).qrels()
    assert {query: dict(judged) for query, judged in qrels.items()} == {
        "1": {"1": 4, "2": 2, "4": 0},
        "2": {"2": 3, "1": 1},
    }
    assert [grade_to_gain(grade, "") for grade in (1, 2, 3, 4, 5, -1)] == [4, 3, 2, 1, 0, 0]


@pytest.mark.parametrize("grade", [0, 6, -2])
def test_an_unknown_grade(folder: Path, grade: int) -> None:
    (folder / "cranqrel").write_text(f"1 1 1\n1 2 {grade}\n")
    with pytest.raises(DataError, match=rf"cranqrel:2: the grade is {grade}; expected 1 \(complete answer\)"):
        Cranfield(str(folder)).qrels()


def test_cisi() -> None:
    collection = Cranfield(str(DATA / "cisi"))
    assert collection.name == "cisi"
    assert list(collection.docs())[0] == Document(
        id="1", title="Sorting Slips by Hand", text="Forty thousand slips were sorted by two clerks in a week."
    )
    assert collection.queries()[1] == Query(id="7", text="What does a shelf mark say about a book?")
    assert {query: dict(judged) for query, judged in collection.qrels().items()} == {"1": {"1": 1}, "7": {"2": 1}}


def test_judgments_may_be_missing_and_queries_may_not(folder: Path) -> None:
    (folder / "cranqrel").unlink()
    assert not Cranfield(str(folder)).qrels()
    (folder / "cran.qry").unlink()
    with raises(MissingResourceError, "cran.qry"):
        Cranfield(str(folder))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("1 2\n", "cranqrel:1: the line begins with '1 2'; expected query, document and grade"),
        ("1 2 3\n\n1 x 3\n", "cranqrel:3: the line begins with '1 x 3'"),
        ("1 2 3\n1 2 3\n", "cranqrel:2: document 2 of query 1 is judged twice"),
        ("\n", "cranqrel is empty"),
    ],
)
def test_broken_judgments(folder: Path, rows: str, message: str) -> None:
    (folder / "cranqrel").write_text(rows)
    with pytest.raises(DataError, match=message):
        Cranfield(str(folder)).qrels()


def test_broken_judgments_of_cisi(tmp_path: Path) -> None:
    shutil.copytree(DATA / "cisi", tmp_path / "cisi")
    (tmp_path / "cisi" / "CISI.REL").write_text("1 2 0\n")
    with raises(DataError, "CISI.REL:1", "'1 2 0'"):
        Cranfield(str(tmp_path / "cisi")).qrels()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "contains no records"),
        ("words first\n.I 1\n.W\na\n", "contains no records|is not part of a field"),
        (".I 1\nlost words\n.W\na\n", ":2: 'lost words' is not part of a field"),
        (".I 1\n.W\na\n.I 1\n.W\nb\n", ":4: duplicate document '1'"),
    ],
)
def test_broken_documents(folder: Path, text: str, message: str) -> None:
    (folder / "cran.all.1400").write_text(text)
    with pytest.raises(DataError, match=message):
        list(Cranfield(str(folder)).docs())


def test_a_query_without_text(folder: Path) -> None:
    (folder / "cran.qry").write_text(".I 1\n.W\n\n")
    with raises(DataError, "cran.qry:1"):
        Cranfield(str(folder)).queries()


def test_a_letter_that_was_opened_before_is_text(folder: Path) -> None:
    """Cranfield's document 240 has lines .A and .B inside its text."""
    (folder / "cran.all.1400").write_text(".I 1\n.A\nme\n.W\none\n.A\n.W\ntwo\n.I2 is no record\n.Q is no field\n")
    (doc,) = Cranfield(str(folder)).docs()
    assert doc.text.split() == ["one", ".A", ".W", "two", ".I2", "is", "no", "record", ".Q", "is", "no", "field"]


WORDS = st.lists(st.text("abcxyz.é字", min_size=1, max_size=6), min_size=1, max_size=6).map(" ".join)


@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=6))
def test_records_come_back(tmp_path_factory: pytest.TempPathFactory, found: list[tuple[str, str]]) -> None:
    path = tmp_path_factory.mktemp("smart") / "file"
    lines = [f".I {n}\n.T\n {title}\n.W\n {text}\n" for n, (title, text) in enumerate(found, 1)]
    path.write_text("".join(lines), encoding="utf-8")
    records = list(read_smart_format_file(path))
    assert [(record.fields["T"], record.fields["W"]) for record in records] == found
    assert [record.number for record in records] == [str(n) for n in range(1, len(found) + 1)]


@pytest.mark.shared
def test_the_real_collection(shared: Path) -> None:
    collection = Cranfield(str(shared / "data" / "cranfield"))
    docs, queries = list(collection.docs()), collection.queries()
    assert (len(docs), len(queries), sum(map(len, collection.qrels().values()))) == (1400, 225, 1837)
    assert [doc.id for doc in docs] == [str(n) for n in range(1, 1401)]
    assert docs[0].title == "experimental investigation of the aerodynamics of a wing in a slipstream ."
    assert docs[0].text.startswith(
        "experimental investigation of the aerodynamics of a\nwing in a slipstream .\nan exp"
    )
    assert docs[9].title == "the theory of the impact tube at low pressure ."
    assert docs[1399].text.startswith("the buckling shear stress of simply-supported infinitely\nlong plates")
    assert [doc.id for doc in docs if not doc.text] == ["471", "995"]
    assert [query.id for query in queries] == [str(n) for n in range(1, 226)]
    assert queries[0].text.startswith("what similarity laws must be obeyed")
    assert queries[9].text.startswith("are real-gas transport properties for air")
    assert queries[224].text == "what design factors can be used to control lift-drag ratios at mach numbers above 5 ."
    grades = [grade for judged in collection.qrels().values() for grade in judged.values()]
    assert {grade: grades.count(grade) for grade in range(5)} == {0: 225, 1: 363, 2: 734, 3: 387, 4: 128}
    assert collection.qrels()["1"]["184"] == 3
    assert collection.qrels()["225"]["1188"] == 0

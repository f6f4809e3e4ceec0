"""Topic x system matrices: what is read, and what is refused."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from rerank.errors import DataError, MissingResourceError, RerankError, UnknownNameError, UsageError
from rerank.evaluation import Matrix, Scores, read_matrix


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "matrix.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_without_topic_ids_topics_are_numbered(tmp_path: Path) -> None:
    matrix = read_matrix(written(tmp_path, "a,b\n0.5,1\n\n0.25,0\n"))
    assert (matrix.systems, matrix.topics, matrix.measure) == (("a", "b"), ("1", "2"), "")
    assert matrix.values.tolist() == [[0.5, 1.0], [0.25, 0.0]]


@pytest.mark.parametrize("head", ["topic", "Query", "qid", ""])
def test_with_topic_ids(tmp_path: Path, head: str) -> None:
    matrix = read_matrix(written(tmp_path, f'{head},"x, y", b \n401, 0.5,1\n402,0.25,0\n'))
    assert (matrix.systems, matrix.topics) == (("x, y", "b"), ("401", "402"))


def test_tabs_a_byte_order_mark_and_gzip(tmp_path: Path) -> None:
    path = tmp_path / "matrix.tsv.gz"
    path.write_bytes(gzip.compress("\ufefftopic\ta\tb\r\nt1\t1\t2\r\nt2\t3\t4\r\n".encode()))
    matrix = read_matrix(path)
    assert (matrix.systems, matrix.topics) == (("a", "b"), ("t1", "t2"))
    assert matrix.values.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty. expected a row of systems' names"),
        ("a,b\n1,2\n1,2,3\n", "line 3: 3 columns. expected 2, as in the first line"),
        ("a,b\n1,2\n\n1\n", "line 4: 1 columns"),
        ("a,b\n1,2\n,\n", "line 3: ''. expected a number"),
        ("a,b\n1,2\nx,1\n", "line 3: 'x'. expected a number. A first column of topics' ids must be called topic"),
        ("a,b\n1,2\nnan,1\n", "System 'a' scores nan on topic '2'. expected a finite number"),
        ("topic,a,b\n7,1,2\n8,1,inf\n", "System 'b' scores inf on topic '8'"),
        ("a,b\n1,2\n", "1 topic to compare. expected at least two topics"),
        ("a,b\n", "0 topics to compare"),
        ("a\n1\n2\n", "1 system to compare"),
        ("a,b,a\n1,2,3\n1,2,3\n", "Two systems are called 'a'. Give each another name"),
        ("topic,a,b\n7,1,2\n7,1,2\n", "Two topics are called '7'"),
        ("0.1,0.2\n0.3,0.4\n", "begins with numbers, such as '0.1'. expected a row of systems' names"),
        ('a,b\n1,"2\n3,4\n', "CSV, quotes in pairs"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        read_matrix(written(tmp_path, text))
    assert message in str(caught.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(MissingResourceError, match="There is no file"):
        read_matrix(tmp_path / "none.csv")


def scores(name: str, *values: float, measure: str = "AP") -> Scores:
    return Scores(run=name, values={measure: {f"q{n}": value for n, value in enumerate(values)}})


def test_from_scores() -> None:
    matrix = Matrix.from_scores([scores("a", 1, 2, 3), scores("b", 3, 2, 1)], "AP")
    assert (matrix.measure, matrix.systems, matrix.topics) == ("AP", ("a", "b"), ("q0", "q1", "q2"))
    assert matrix.values.T.tolist() == [[1, 2, 3], [3, 2, 1]]
    assert matrix.deltas("a", "b").tolist() == [-2, 0, 2]
    with pytest.raises(UnknownNameError, match="Unknown system 'c'"):
        matrix.deltas("a", "c")


@pytest.mark.parametrize(
    ("listed", "kind", "message"),
    [
        ([], DataError, "0 system"),
        ([scores("a", 1, 2)], DataError, "1 system"),
        ([scores("a", 1, 2), scores("b", 1, 2, measure="RR")], UsageError, "Run 'b' has no AP. expected one of: RR"),
        ([scores("a", 1, 2), scores("b", 1, 2, 3)], DataError, "other queries than the first"),
        ([scores("a", 1), scores("b", 1)], DataError, "1 judged query"),
    ],
)
def test_scores_that_make_no_matrix(listed: list[Scores], kind: type[RerankError], message: str) -> None:
    with pytest.raises(kind, match=message):
        Matrix.from_scores(listed, "AP")


def test_values_of_another_shape() -> None:
    with pytest.raises(DataError, match=r"Scores of shape \(2, 3\). expected 2 x 2"):
        Matrix(measure="", topics=("1", "2"), systems=("a", "b"), values=np.zeros((2, 3)))

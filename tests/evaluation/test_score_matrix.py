"""Topic x system matrices: what is read, and what is refused."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from rerank.errors import DataError, MissingResourceError, RerankError, UnknownNameError, UsageError
from rerank.evaluation import ScoreMatrix, Scores, read_score_matrix
from tests.raising import raises


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "matrix.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_without_topic_ids_topics_are_numbered(tmp_path: Path) -> None:
    matrix = read_score_matrix(written(tmp_path, "a,b\n0.5,1\n\n0.25,0\n"))
    assert (matrix.systems, matrix.topics, matrix.measure) == (("a", "b"), ("1", "2"), "")
    assert matrix.values.tolist() == [[0.5, 1.0], [0.25, 0.0]]


@pytest.mark.parametrize("head", ["topic", "Query", "qid", ""])
def test_with_topic_ids(tmp_path: Path, head: str) -> None:
    matrix = read_score_matrix(written(tmp_path, f'{head},"x, y", b \n401, 0.5,1\n402,0.25,0\n'))
    assert (matrix.systems, matrix.topics) == (("x, y", "b"), ("401", "402"))


def test_tabs_a_byte_order_mark_and_gzip(tmp_path: Path) -> None:
    path = tmp_path / "matrix.tsv.gz"
    path.write_bytes(gzip.compress("\ufefftopic\ta\tb\r\nt1\t1\t2\r\nt2\t3\t4\r\n".encode()))
    matrix = read_score_matrix(path)
    assert (matrix.systems, matrix.topics) == (("a", "b"), ("t1", "t2"))
    assert matrix.values.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "matrix.csv"),
        ("a,b\n1,2\n1,2,3\n", "line 3 has 3 columns"),
        ("a,b\n1,2\n\n1\n", "line 4 has 1 columns"),
        ("a,b\n1,2\n,\n", "line 3 contains ''"),
        ("a,b\n1,2\nx,1\n", "line 3 contains 'x'"),
        ("a,b\n1,2\nnan,1\n", "System 'a' scores nan on topic '2'"),
        ("topic,a,b\n7,1,2\n8,1,inf\n", "System 'b' scores inf on topic '8'"),
        ("a,b\n1,2\n", "contains 1 topic;"),
        ("a,b\n", "contains 0 topics"),
        ("a\n1\n2\n", "contains 1 system;"),
        ("a,b,a\n1,2,3\n1,2,3\n", "named 'a'"),
        ("topic,a,b\n7,1,2\n7,1,2\n", "named '7'"),
        ("0.1,0.2\n0.3,0.4\n", "'0.1'"),
        ('a,b\n1,"2\n3,4\n', "CSV"),
    ],
)
def test_invalid_files(tmp_path: Path, text: str, named: str) -> None:
    with raises(DataError, named):
        read_score_matrix(written(tmp_path, text))


def test_no_file(tmp_path: Path) -> None:
    with raises(MissingResourceError, "none.csv"):
        read_score_matrix(tmp_path / "none.csv")


def scores(name: str, *values: float, measure: str = "AP") -> Scores:
    return Scores(run=name, values={measure: {f"q{n}": value for n, value in enumerate(values)}})


def test_from_scores() -> None:
    matrix = ScoreMatrix.from_scores([scores("a", 1, 2, 3), scores("b", 3, 2, 1)], "AP")
    assert (matrix.measure, matrix.systems, matrix.topics) == ("AP", ("a", "b"), ("q0", "q1", "q2"))
    assert matrix.values.T.tolist() == [[1, 2, 3], [3, 2, 1]]
    assert matrix.deltas("a", "b").tolist() == [-2, 0, 2]
    with raises(UnknownNameError, "c"):
        matrix.deltas("a", "c")


@pytest.mark.parametrize(
    ("scores", "error", "named"),
    [
        ([], DataError, ("0 system",)),
        ([scores("a", 1, 2)], DataError, ("1 system",)),
        ([scores("a", 1, 2), scores("b", 1, 2, measure="RR")], UsageError, ("'b'", "AP", "RR")),
        ([scores("a", 1, 2), scores("b", 1, 2, 3)], DataError, ("'a'", "'b'")),
        ([scores("a", 1), scores("b", 1)], DataError, ("1 judged query",)),
    ],
)
def test_scores_that_make_no_matrix(scores: list[Scores], error: type[RerankError], named: tuple[str, ...]) -> None:
    with raises(error, *named):
        ScoreMatrix.from_scores(scores, "AP")


def test_values_of_another_shape() -> None:
    with raises(DataError, (2, 3), "(2, 2)"):
        ScoreMatrix(measure="", topics=("1", "2"), systems=("a", "b"), values=np.zeros((2, 3)))

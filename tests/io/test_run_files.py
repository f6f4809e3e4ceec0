"""Runs and judgments from every form, and back."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import math
import pickle
import random
from pathlib import Path

import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st

from rerank.errors import DataError, MissingResourceError
from rerank.evaluation.evaluator import read_query_groups
from rerank.io import run_files
from rerank.io.run_files import (
    IndexedRun,
    open_trec_run_file,
    read_qrels,
    read_run,
    read_run_lists,
    write_qrels,
    write_run,
)
from rerank.types import Document, Qrels, Query, Ranking, Run
from tests.raising import raises

TREC = "q1 Q0 b 1 1.5 tag\nq1\tQ0\ta\t7\t2.5\ttag\nq2 Q0 c 1 -3e-2 tag\n"


def save(folder: Path, text: str, name: str = "x.run") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def ids(run: Run) -> dict[str, tuple[str, ...]]:
    return {query: ranking.doc_ids for query, ranking in run.items()}


def test_trec_run_ignores_ranks_and_takes_its_tag(tmp_path: Path) -> None:
    run = read_run(save(tmp_path, TREC))
    assert ids(run) == {"q1": ("a", "b"), "q2": ("c",)}
    assert run.name == "tag"
    assert run["q1"].scores == (2.5, 1.5)
    assert read_run(save(tmp_path, TREC), name="mine").name == "mine"


def test_gzip_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.run"
    path.write_bytes(gzip.compress(("\n \n" + TREC + "\n").encode()))
    assert ids(read_run(path)) == {"q1": ("a", "b"), "q2": ("c",)}


def test_errors_count_blank_lines(tmp_path: Path) -> None:
    for text in ("\n\nq Q0 a 1 2 t\n \nq Q0 b 2\n", "\n\nq a 1\n\nq b\n"):
        with raises(DataError, f"{tmp_path / 'x.run'}:5"):
            read_run(save(tmp_path, text))
    with raises(DataError, f"{tmp_path / 'x.run'}:4"):
        read_qrels(save(tmp_path, "\nq 0 a 1\n\nq 0 b\n"))


@pytest.mark.parametrize("space", ["\u00a0", "\u3000", "\u0085", "\u001c", "\u2028", "\ufeff"])
@pytest.mark.parametrize("large", [False, True])
def test_only_ascii_whitespace_separates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, space: str, *, large: bool
) -> None:
    monkeypatch.setattr("rerank.io.run_files._LARGE", 0 if large else 1 << 30)
    run = Run([ranking(f"q{space}1", **{f"a{space}7": 2.0, f"7{space}": 1.0})])
    write_run(run, tmp_path / "run")
    assert ids(read_run(tmp_path / "run")) == ids(run)
    grades = {f"q{space}1": {f"a{space}7": 1, f"7{space}": 0}}
    write_qrels(Qrels(grades), tmp_path / "qrels")
    assert dict(read_qrels(tmp_path / "qrels")) == grades
    assert read_query_groups(save(tmp_path, f"q{space}1 a group\n")) == {f"q{space}1": "a group"}


def test_words_after_the_tag_between_tabs(tmp_path: Path) -> None:
    """As in the files of trec_eval's own tests; a space in an id is an error between tabs, too."""
    (tmp_path / "run").write_text("q\tQ0\ta\t1\t 2\tSTANDARD more words\nq\tQ0\tb\t2\t1\ttag\n")
    assert read_run(tmp_path / "run")["q"].doc_ids == ("a", "b")
    (tmp_path / "run").write_text("q\tQ0\ta b\t1\t2\tSTANDARD\n")
    with pytest.raises(DataError, match=":1: .*7 columns"):
        read_run(tmp_path / "run")


@pytest.mark.parametrize(
    "line",
    ["q Q0 a b 1 2 t", "q Q0 a b 1 2", "q Q0 a 1 2 my tag", "q Q0 a first 2 t", "q Q0 a nan 2 t", "q Q0 a 1_0 2 t"],
)
def test_lines_of_another_length_and_ranks_that_are_no_numbers(tmp_path: Path, line: str) -> None:
    with pytest.raises(DataError, match=":2: .*6 columns"):
        read_run(save(tmp_path, f"q Q0 c 1 3 t\n{line}\n"))


def test_ties_go_by_descending_id(tmp_path: Path) -> None:
    run = read_run(save(tmp_path, "q Q0 a 1 1 t\nq Q0 c 2 1 t\nq Q0 b 3 1 t\n"))
    assert run["q"].doc_ids == ("c", "b", "a")


def test_scores_that_differ_only_in_double_precision_are_ties_as_in_trec_eval(tmp_path: Path) -> None:
    run = read_run(save(tmp_path, "q Q0 a 1 1.000000001 t\nq Q0 b 2 1 t\n"))
    assert run["q"].doc_ids == ("b", "a")


def test_huge_scores_stay_finite(tmp_path: Path) -> None:
    run = read_run(save(tmp_path, "q Q0 a 1 1e300 t\nq Q0 b 2 -1e300 t\n"))
    assert run["q"].doc_ids == ("a", "b")


def test_msmarco_run(tmp_path: Path) -> None:
    run = read_run(save(tmp_path, "q\tb\t2\nq\ta\t1\nr\tz\t10\n", "top.dev.tsv"))
    assert ids(run) == {"q": ("a", "b"), "r": ("z",)}
    assert run["q"].scores == (1.0, 0.5)
    assert run.name == "top.dev"


def test_json_run(tmp_path: Path) -> None:
    run = read_run(save(tmp_path, json.dumps({"q": {"a": 1, "b": 2.5}, "empty": {}}, indent=1), "sys.json"))
    assert ids(run) == {"q": ("b", "a"), "empty": ()}
    assert run.name == "sys"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("q Q0 a 1 1\n", r"x\.run:1: the line has 5 columns"),
        ("q Q0 a 1 1 t\nq Q0 b 1\n", r"x\.run:2: the line has 4 columns"),
        ("q a 1\nq Q0 b 2 1 t\n", r"x\.run:2: the line has 6 columns"),
        ("q Q0 a 1 nan t\n", r"x\.run:1: the score of document 'a' is 'nan'"),
        ("q Q0 a 1 inf t\n", "score of document 'a' is 'inf'"),
        ("q Q0 a 1 1e999 t\n", "score of document 'a' is '1e999'"),
        ("q Q0 a 1 high t\n", "score of document 'a' is 'high'"),
        ("q Q0 a 1 1_0 t\n", "score of document 'a' is '1_0'"),
        ("q Q0 a 1 2 t\nq Q0 a 2 1 t\n", r"x\.run:2: duplicate document 'a' in query 'q'"),
        ("q a 0\n", "rank of document 'a' is '0'"),
        ("q a one\n", "rank of document 'a' is 'one'"),
        ("q a 1.5\n", "rank of document 'a' is '1.5'"),
        ("q a 1\nq b 1\n", r"x\.run:2: the rank of document 'b' is '1'"),
        ("q a 1\nq a 2\n", "duplicate"),
        ('{"q": {"a": NaN}}', "nan for document 'a'"),
        ('{"q": {"a": Infinity}}', "inf for document 'a'"),
        ('{"q": {"a": "1"}}', "'1' for document 'a'"),
        ('{"q": {"a": true}}', "True for document 'a'"),
        ('{"q": {"a": null}}', "None for document"),
        ('{"q": {"a": 1, "a": 2}}', "key 'a' occurs twice"),
        ('{"q": {"a": 1}, "q": {"b": 2}}', "key 'q' occurs twice"),
        ('{"q": [1, 2]}', r"query 'q' has \[1, 2\]"),
        ('{"q": "' + "x" * 99 + '"}', "x…"),
        ('{"q": {}}', "contains no documents"),
        ("{}", "contains no documents"),
        ('{"q": {"a": 1}', "starts like JSON"),
        ('{"q":' + "[" * 100_000, "starts like JSON"),
    ],
)
def test_bad_runs(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_run(save(tmp_path, text))


def test_missing_binary_and_cut_off_files(tmp_path: Path) -> None:
    with pytest.raises(MissingResourceError):
        read_run(tmp_path / "none")
    (tmp_path / "bin").write_bytes(b"q Q0 a 1 1 t\n\0")
    with pytest.raises(DataError):
        read_run(tmp_path / "bin")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(TREC.encode() * 100)[:-9])
    with pytest.raises(DataError):
        read_qrels(tmp_path / "cut.gz")


def test_the_folder_of_a_run_is_not_its_file(tmp_path: Path) -> None:
    save(tmp_path, "q Q0 d 1 1 tag\n", "run.trec")
    with pytest.raises(MissingResourceError, match=f"{tmp_path} is a folder.*Did you mean {tmp_path}/run.trec"):
        read_run(tmp_path)
    with pytest.raises(MissingResourceError):
        read_qrels(tmp_path)


def test_no_folder_to_write_in(tmp_path: Path) -> None:
    with pytest.raises(MissingResourceError):
        write_run(Run([]), tmp_path / "no" / "x.trec")
    assert not list(tmp_path.iterdir())


def test_huge_whole_numbers_in_json(tmp_path: Path) -> None:
    run = read_run(save(tmp_path, '{"q": {"a": 1' + "0" * 400 + ', "b": 1}}'))
    assert run["q"].doc_ids == ("a", "b")


def ranking(query: str, /, **scores: float) -> Ranking:
    return Ranking.from_scores(Query(id=query), [(Document(id=doc), score) for doc, score in scores.items()])


def test_written_form() -> None:
    out = io.StringIO()
    write_run(Run([ranking("q", a=2.0, b=2.0, c=0.5)], name="my run"), out)
    assert out.getvalue() == "q Q0 b 1 2 my_run\nq Q0 a 2 1.99999988 my_run\nq Q0 c 3 0.5 my_run\n"


def test_unnamed_runs_get_a_tag() -> None:
    out = io.StringIO()
    write_run(Run([ranking("q", a=1.0)], name=""), out)
    assert out.getvalue().endswith(" run\n")


@pytest.mark.parametrize("bad", ["", "a b", "a\tb", "a\n", "\ufeffa", '{"a', "{}", "a\0", "\ud800"])
def test_ids_that_the_form_cannot_hold(tmp_path: Path, bad: str) -> None:
    path = save(tmp_path, "old")
    for run in (Run([ranking("q", **{bad: 1.0})]), Run([ranking(bad, a=1.0)])):
        with pytest.raises(DataError):
            write_run(run, path)
    with pytest.raises(DataError):
        write_qrels(Qrels({"q": {bad: 1}}), path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


writable = st.text(st.characters(exclude_categories=("Cs", "Cc", "Z")), min_size=1, max_size=5).filter(
    lambda name: not name.startswith(("\ufeff", '{"', "{}")) and not any(map(str.isspace, name))
)
# values that share single-precision numbers, ties, tiny and huge ones
scores = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, -0.0, 1.0, 1.0 + 1e-12, 1e-45, -1e-45, 5e-324, 1e300, -1e300, 16777217.0, 0.1, 0.1 + 1e-9]),
)


def trec_eval_order(text: str) -> dict[str, list[str]]:
    """The order trec_eval finds in a run file, asked of pytrec_eval one rank at a time."""
    run = pytrec_eval.parse_run(io.StringIO(text))
    order: dict[str, list[str]] = {}
    for query, found in run.items():
        ranks: dict[int, str] = {}
        for doc in found:
            evaluator = pytrec_eval.RelevanceEvaluator({query: {doc: 1}}, {"recip_rank"})
            ranks[round(1 / evaluator.evaluate({query: found})[query]["recip_rank"])] = doc
        order[query] = [ranks[rank] for rank in range(1, len(found) + 1)]
    return order


@given(st.dictionaries(writable, scores, min_size=1, max_size=8))
def test_written_order_is_the_order_that_trec_eval_finds(found: dict[str, float]) -> None:
    run = Run([ranking("q", **found)])
    out = io.StringIO()
    write_run(run, out)
    assert trec_eval_order(out.getvalue())["q"] == list(run["q"].doc_ids)
    written = [float(line.split()[4]) for line in out.getvalue().splitlines()]
    assert all(above > below for above, below in itertools.pairwise(written))


@given(st.dictionaries(writable, st.dictionaries(writable, scores, min_size=1, max_size=8), min_size=1, max_size=3))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, table: dict[str, dict[str, float]]) -> None:
    path = tmp_path_factory.getbasetemp() / "round.trec"
    run = Run([ranking(query, **found) for query, found in table.items()], name="r")
    write_run(run, path)
    first = path.read_bytes()
    again = read_run(path)
    assert ids(again) == ids(run)
    assert again.name == "r"
    write_run(again, path)
    assert path.read_bytes() == first, "scores come back exactly"


def test_an_id_may_start_with_a_brace(tmp_path: Path) -> None:
    assert ids(read_run(save(tmp_path, "{ Q0 a 1 1 t\n"))) == {"{": ("a",)}
    assert ids(read_run(save(tmp_path, "{7} Q0 a 1 1 t\n"))) == {"{7}": ("a",)}


def test_written_gzip_is_read(tmp_path: Path) -> None:
    write_run(Run([ranking("q", a=1.0)]), tmp_path / "r.gz")
    assert (tmp_path / "r.gz").read_bytes()[:2] == b"\x1f\x8b"
    assert ids(read_run(tmp_path / "r.gz")) == {"q": ("a",)}


@pytest.mark.parametrize(
    "text",
    [
        "q 0 a 2\nq 0 b 0\nr 0 c -1\n",
        "q\tQ0\ta\t2\nq\tQ0\tb\t0.0\nr\t0\tc\t-1\n",
        "query-id\tcorpus-id\tscore\nq\ta\t2\nq\tb\t0\nr\tc\t-1\n",
        "q a 2\nq b 0\nr c -1\n",
        "qid\t-\tpid\trel\nq\t0\ta\t2\nq\t0\tb\t0\nr\t0\tc\t-1\n",
        '{"q": {"a": 2, "b": 0.0}, "r": {"c": -1}}',
        "\ufeffq 0 a 2\r\nq 0 a +2\r\nq 0 b 00\r\nr 0 c -1\r\n",
    ],
)
def test_judgments_in_every_form(tmp_path: Path, text: str) -> None:
    qrels = read_qrels(save(tmp_path, text))
    assert {query: dict(judged) for query, judged in qrels.items()} == {"q": {"a": 2, "b": 0}, "r": {"c": -1}}
    assert qrels.name.endswith("x.run")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("query-id\tcorpus-id\tscore\n", "header but no judgments"),
        ("q a\n", r"x\.run:1: the line has 2 columns"),
        ("q 0 a 1 x\n", r"x\.run:1: the line has 5 columns"),
        ("q 0 a 1\nq a 1\n", r"x\.run:2: the line has 3 columns; expected 4"),
        ("q 0 a 1.5\n", r"x\.run:1: the grade of document 'a' is '1.5'"),
        ("q 0 a high\n", "grade of document 'a' is 'high'"),
        ("q 0 a 1000000\n", "at most six digits"),
        ("q 0 a 1\nq 0 a 2\n", r"x\.run:2: document 'a' of query 'q' has grade 2 here and 1 above"),
        ('{"q": {"a": 1.5}}', "1.5 for document 'a'"),
        ('{"q": {"a": true}}', "True for document 'a'"),
        ('{"q": {"a": 12345678}}', "at most six digits"),
    ],
)
def test_bad_judgments(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_qrels(save(tmp_path, text))


@given(st.dictionaries(writable, st.dictionaries(writable, st.integers(-9, 9), min_size=1, max_size=5), min_size=1))
def test_judgments_round_trip(tmp_path_factory: pytest.TempPathFactory, table: dict[str, dict[str, int]]) -> None:
    path = tmp_path_factory.getbasetemp() / "round.qrels"
    write_qrels(Qrels(table), path)
    assert {query: dict(judged) for query, judged in read_qrels(path).items()} == table


def test_a_query_without_documents_has_no_line() -> None:
    out = io.StringIO()
    write_run(Run([Ranking(Query(id="q"), (), ())]), out)
    assert out.getvalue() == ""


def test_no_score_is_lost_to_infinity() -> None:
    out = io.StringIO()
    write_run(Run([ranking("q", a=1e308, b=1e307)]), out)
    assert all(math.isfinite(float(line.split()[4])) for line in out.getvalue().splitlines())


def test_a_run_that_is_written_list_by_list_replaces_the_file_only_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "run.trec"
    path.write_text("q Q0 old 1 1 t\n")
    ranking = Ranking.from_order(Query(id="q"), [Document(id="a"), Document(id="b")])
    with pytest.raises(RuntimeError), open_trec_run_file(path, "new") as write:
        write(ranking)
        raise RuntimeError
    assert path.read_text() == "q Q0 old 1 1 t\n"
    assert [found.name for found in tmp_path.iterdir()] == ["run.trec"]
    with open_trec_run_file(path, "a name") as write:
        write(ranking)
    assert path.read_text() == "q Q0 a 1 1 a_name\nq Q0 b 2 0.5 a_name\n"


def test_lists_are_streamed_as_they_are_read_together(tmp_path: Path) -> None:
    path = tmp_path / "run.trec"
    lists = [Ranking(Query(id=f"q{n}"), (Document(id="x"), Document(id="a")), (0.3, 0.1)) for n in (2, 1)]
    write_run(Run(lists), path)
    assert list(read_run_lists(path)) == list(read_run(path).values())
    path.write_text("")
    assert list(read_run_lists(path)) == []
    for text, message in (
        ("q Q0 a 1 2 t\nq Q0 a 2 1 t\n", ":2"),
        ("q Q0 a 1 1 t\nq Q0 b 2 2 t\n", "'b'"),
        ("\n", ":1"),
    ):
        path.write_text(text)
        with raises(DataError, message):
            list(read_run_lists(path))


LINES = [f"q{q} Q0 d{d} 1 {(7 * d + q) % 5 / 3} tag" for q in range(30) for d in range(12)]


def scattered(*, seed: int = 0) -> list[str]:
    return random.Random(seed).sample(LINES, len(LINES))


def text_of(lines: list[str], end: str = "\n") -> str:
    return end.join(lines) + end


TEXTS = {
    "together": text_of(LINES),
    "windows": text_of(LINES, "\r\n"),
    "blank lines": "\n \n" + text_of(LINES, "\n\n"),
    "byte order mark": "\ufeff" + text_of(LINES),
    "no last line end": text_of(LINES)[:-1],
    "two places": text_of([*LINES[:100], *LINES[200:], *LINES[100:200]]),
    "scattered": text_of(scattered()),
    "msmarco": text_of([f"q{q}\td{d}\t{d + 1}" for q in range(9) for d in range(9)]),
    "old line ends": text_of(LINES, "\r"),
    "json": '{"q": {"d1": 2.5, "d2": 3}}',
}


def read(path: Path, monkeypatch: pytest.MonkeyPatch, *, large: int) -> Run:
    monkeypatch.setattr(run_files, "_LARGE", large)
    return run_files.read_run(path)


@pytest.mark.parametrize("form", TEXTS)
def test_rankings_are_those_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    path = tmp_path / "r.trec"
    path.write_text(TEXTS[form], encoding="utf-8", newline="")
    expected, found = (read(path, monkeypatch, large=size) for size in (1 << 40, 1))
    assert isinstance(found, IndexedRun) == (form not in ("old line ends", "json"))
    assert (list(found), found.name, len(found)) == (list(expected), expected.name, len(expected))
    assert list(found.values()) == list(expected.values())
    assert found[list(found)[-1]] == expected[list(found)[-1]]
    assert ("q0" in found, "none" in found, found.get("none")) == ("q0" in expected, False, None)
    assert list(pickle.loads(pickle.dumps(found)).values()) == list(expected.values())
    assert list(found.top(2).values()) == list(expected.top(2).values())


@pytest.mark.parametrize(
    "lines",
    [
        [*LINES[:50], "q3 Q0 d1", *LINES[50:]],
        [*LINES[:50], "q3 Q0 new 1 nan tag", *LINES[50:]],
        [*LINES, LINES[0]],
        [*LINES[:12], LINES[3], *LINES[12:]],
        [*LINES[:50], "q3 Q0 \x00 1 1 tag", *LINES[50:]],
    ],
)
def test_errors_are_those_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str]) -> None:
    path, messages = tmp_path / "r.trec", []
    path.write_text(text_of(lines), encoding="utf-8")
    for size in (1 << 40, 1):
        with pytest.raises(DataError) as caught:
            read(path, monkeypatch, large=size)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_a_file_that_is_not_in_utf8_names_the_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "r.trec").write_bytes(text_of(LINES[:3]).encode() + b"q9 Q0 \xff 1 1 tag\n")
    with raises(DataError, "r.trec:4"):
        read(tmp_path / "r.trec", monkeypatch, large=1)


def test_a_run_in_which_no_query_is_together_is_read_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [f"q{q} Q0 d{d} 1 {d} tag" for d in range(50) for q in range(60)]
    (tmp_path / "r.trec").write_text(text_of(lines))
    run = read(tmp_path / "r.trec", monkeypatch, large=1)
    assert not isinstance(run, IndexedRun)
    assert {len(ranking) for ranking in run.values()} == {50}


def test_a_file_that_changes_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.trec"
    path.write_text(text_of(LINES))
    run = read(path, monkeypatch, large=1)
    with path.open("a") as file:
        file.write(LINES[0])
    with raises(DataError, path):
        run["q1"]

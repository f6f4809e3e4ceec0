"""JSON records, ids and texts, as all formats read them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank.errors import DataError, MissingResourceError
from rerank.io.json_records import read_json_lines_file_documents, read_json_lines_query_file
from rerank.io.settings_files import read_json_object, read_toml_file
from rerank.types import Document, Query
from tests.raising import raises

IDS = st.text(st.characters(exclude_categories=["Cs", "Z", "Cc"]), min_size=1, max_size=8).filter(
    lambda text: "\ufeff" not in text and not any(c.isspace() for c in text)
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


def write(folder: Path, *lines: str) -> Path:
    path = folder / "records.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8", newline="\n")
    return path


@given(st.dictionaries(IDS, st.tuples(TEXTS, TEXTS), min_size=1, max_size=8), st.booleans())
def test_documents_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, table: dict[str, tuple[str, str]], ascii_only: bool
) -> None:
    docs = [Document(id=doc_id, title=title, text=text) for doc_id, (title, text) in table.items()]
    lines = [json.dumps({"id": d.id, "title": d.title, "text": d.text}, ensure_ascii=ascii_only) for d in docs]
    assert list(read_json_lines_file_documents(write(tmp_path_factory.mktemp("docs"), *lines))) == docs


@pytest.mark.parametrize("key", ["text", "segment", "contents", "content", "body", "passage"])
@pytest.mark.parametrize("id_key", ["id", "_id", "pid", "docid", "docno", "doc_id"])
def test_names_of_the_fields(tmp_path: Path, key: str, id_key: str) -> None:
    path = write(tmp_path, json.dumps({id_key: 7, key: "words"}))
    assert list(read_json_lines_file_documents(path)) == [Document(id="7", text="words")]


def test_the_first_name_counts_and_null_is_no_value(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        '{"docid": "page", "pid": "passage", "text": null, "contents": "b", "segment": "a", "title": null}',
        "",
        "   ",
        '{"id": "2", "text": "", "title": "only a title"}',
    )
    assert list(read_json_lines_file_documents(path)) == [
        Document(id="passage", text="a"),
        Document(id="2", text="", title="only a title"),
    ]


def test_queries(tmp_path: Path) -> None:
    path = write(tmp_path, '{"qid": 1, "query": "a"}', '{"_id": "b", "text": "复旦大学在哪个城市？"}')
    assert read_json_lines_query_file(path) == [Query(id="1", text="a"), Query(id="b", text="复旦大学在哪个城市？")]


def test_half_a_surrogate_pair_becomes_the_replacement_character(tmp_path: Path) -> None:
    path = write(tmp_path, r'{"id": "a", "text": "x\ud83dy \ud83d\ude00"}')
    assert [doc.text for doc in read_json_lines_file_documents(path)] == ["x\ufffdy \U0001f600"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "a"}', "there is no document id among the keys text; expected one of id, _id"),
        ('{"id": "a"}', "there is no text among the keys id; expected one of text, segment"),
        ("{}", r"there is no document id among the keys \(none\)"),
        ('{"id": "", "text": "a"}', "the document id is ''"),
        ('{"id": "a b", "text": "a"}', "the document id is 'a b'; expected one or more characters without ASCII"),
        (r'{"id": "a\u0000", "text": "a"}', "the document id"),
        (r'{"id": "\ufeffa", "text": "a"}', "the document id"),
        (r'{"id": "\ud83d", "text": "a"}', "the document id"),
        ('{"id": 1.5, "text": "a"}', "the document id is 1.5; expected a string or a whole number"),
        ('{"id": true, "text": "a"}', "the document id is True"),
        ('{"id": "a", "text": ["b"]}', r"the value is \['b'\]; expected a string"),
        ('{"id": "a", "text": "b", "title": 3}', "the value is 3; expected a string"),
        ('{"id": "a", "text": "b"', "invalid JSON"),
        ('{"id": "a", "id": "b", "text": "c"}', r"invalid JSON \(the key 'id' occurs twice\)"),
        ("[" * 100_000, "invalid JSON"),
        ("1" * 5000, "invalid JSON"),
        ('["a"]', r"the line contains \['a'\]; expected one JSON object per line"),
        ('"' + "long" * 40 + '"', "the line contains 'longlong.*lo…; expected one JSON object per line"),
        ('{"id": "ok", "text": "again"}', "duplicate document 'ok'; expected each id once"),
    ],
)
def test_faults_name_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    path = write(tmp_path, '{"id": "ok", "text": "fine"}', "", line)
    with pytest.raises(DataError, match=rf"records\.jsonl:3: {message}"):
        list(read_json_lines_file_documents(path))


@pytest.mark.parametrize("content", ["", "\n\n  \n"])
def test_an_empty_file(tmp_path: Path, content: str) -> None:
    with pytest.raises(DataError):
        list(read_json_lines_file_documents(write(tmp_path, content)))
    with pytest.raises(DataError):
        read_json_lines_query_file(write(tmp_path, content))


def test_a_query_twice(tmp_path: Path) -> None:
    path = write(tmp_path, '{"id": "1", "text": "a"}', '{"qid": 1, "text": "b"}')
    with raises(DataError, ":2", "'1'"):
        read_json_lines_query_file(path)


@pytest.mark.parametrize("text", ["[" * 100_000, "a = " + "9" * 5000, "a = [" * 5000, "a", "a = 1\na = 2"])
def test_what_is_not_toml_is_a_data_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "x").write_text(text)
    with pytest.raises(DataError):
        read_toml_file(tmp_path / "x", "recipe")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "9" * 5000, "[]", "null", '{"a": 1, "a": 2}', ""])
def test_what_is_not_a_json_object_is_a_data_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "x").write_text(text)
    with pytest.raises(DataError):
        read_json_object(tmp_path / "x", "file")


def test_files_that_are_too_large_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rerank.io.settings_files._MAX_CHARACTERS", 10)
    (tmp_path / "x").write_text("a = 1" + " " * 10)
    with pytest.raises(DataError):
        read_toml_file(tmp_path / "x", "recipe")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(MissingResourceError):
        read_json_object(tmp_path / "x", "file")

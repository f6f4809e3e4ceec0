"""Label files: what is read, what is refused and where, what a list guarantees."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank.errors import DataError, MissingResourceError
from rerank.finetune.labels.files import read_labels, write_labels
from rerank.finetune.labels.lists import LabelList
from tests.raising import raises

ABC = LabelList(qid="q", initial=("a", "b", "c"), final=("c", "a", "b"), scores=(0.5, 0.1, 0.9), teacher="t", query="?")


def test_a_list_knows_its_order_and_its_agreement() -> None:
    assert ABC.order == (2, 0, 1)
    assert ABC.tau == pytest.approx(-1 / 3)  # of the pairs ab, ac, bc only ab keeps its order
    assert LabelList(qid="q", initial=("a", "b"), final=("a", "b")).tau == 1
    assert LabelList(qid="q", initial=("a",), final=("a",)).tau is None


def test_taking_documents_keeps_the_label_and_the_scores() -> None:
    taken = ABC.take([2, 1])
    assert (taken.initial, taken.final, taken.scores) == (("c", "b"), ("c", "b"), (0.9, 0.1))
    assert (taken.qid, taken.query, taken.teacher) == ("q", "?", "t")


@given(st.permutations(range(6)), st.permutations(range(6)), st.data())
def test_any_choice_of_documents_is_a_list_in_the_labels_order(
    shown: list[int], best: list[int], data: st.DataObject
) -> None:
    whole = LabelList(qid="q", initial=tuple(f"d{n}" for n in shown), final=tuple(f"d{n}" for n in best))
    positions = data.draw(st.lists(st.sampled_from(range(6)), min_size=1, unique=True))
    taken = whole.take(positions)
    assert taken.initial == tuple(whole.initial[at] for at in positions)
    assert list(taken.final) == sorted(taken.final, key=whole.final.index)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    other = LabelList(qid="7", initial=("x",), final=("x",))
    for name in ("labels.jsonl", "labels.jsonl.gz"):
        assert write_labels([ABC, other], tmp_path / name) == 2
        assert list(read_labels(tmp_path / name)) == [ABC, other]
    assert json.loads((tmp_path / "labels.jsonl").read_text("utf-8").splitlines()[1]) == {
        "qid": "7",
        "initial_list": ["x"],
        "final_list": ["x"],
    }


def test_a_stream_is_written_to() -> None:
    stream = io.StringIO()
    write_labels([ABC], stream)
    assert json.loads(stream.getvalue())["scores"] == [0.5, 0.1, 0.9]


def test_fullranks_form_is_read_with_numbers_for_ids(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'\n{"qid": 3, "initial_list": [10, "11"], "final_list": ["11", "10"], "a": 1}\n'))
    (one,) = read_labels(path)
    assert (one.qid, one.initial, one.final) == ("3", ("10", "11"), ("11", "10"))
    assert one.where == f"{path}:2"


GOOD = '{"qid": "1", "initial_list": ["a"], "final_list": ["a"]}'
WRONG = [
    ('{"qid": "1", "initial_list": ["a"], "final_list": ["b"]}', "1 documents in its final_list"),
    ('{"qid": "1", "initial_list": ["a", "a"], "final_list": ["a"]}', "document 'a' twice in its initial_list"),
    ('{"qid": "1", "initial_list": ["a", "b"], "final_list": ["b", "b"]}', "document 'b' twice in its final_list"),
    ('{"qid": "1", "initial_list": [], "final_list": []}', "initial_list"),
    ('{"qid": "1", "initial_list": ["a", "b"], "final_list": ["b"]}', "1 of its 2 documents in its final_list"),
    ('{"qid": "1", "initial_list": ["a"]}', "final_list"),
    ('{"qid": "1", "initial_list": "a", "final_list": ["a"]}', "initial_list is 'a'"),
    ('{"qid": "1", "initial_list": [["a"]], "final_list": ["a"]}', "['a']"),
    ('{"initial_list": ["a"], "final_list": ["a"]}', "initial_list, final_list"),
    ('{"qid": "1", "initial_list": ["a"], "final_list": ["a"], "scores": [1, 2]}', "2 scores for 1 documents"),
    ('{"qid": "1", "initial_list": ["a"], "final_list": ["a"], "scores": ["x"]}', "['x']"),
    ('{"qid": "1", "initial_list": ["a"], "final_list": ["a"], "scores": [Infinity]}', "finite"),
    ('{"qid": "1", "initial_list": ["a"], "final_list": ["a"], "teacher": 3}', "3"),
    ("[1]", "JSON object"),
    ("nothing", "JSON"),
]


@pytest.mark.parametrize(("line", "message"), WRONG)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text(f"{GOOD}\n{line}\n", "utf-8")
    found = read_labels(path)
    assert next(found).qid == "1"
    with pytest.raises(DataError) as caught:
        next(found)
    assert message in str(caught.value)
    assert f"{path}:2" in str(caught.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    with raises(DataError, "empty.jsonl"):
        list(read_labels(tmp_path / "empty.jsonl"))
    with raises(MissingResourceError, tmp_path):
        list(read_labels(tmp_path / "none.jsonl"))
    with raises(MissingResourceError, tmp_path):
        write_labels([ABC], tmp_path / "no" / "labels.jsonl")


@pytest.mark.shared
def test_real_labels_of_gpt4o(shared: Path) -> None:
    path = shared / "data/rankgpt_teacher/msmarco_gpt-4o_bm25top100_9passes.jsonl.gz"
    lists = list(read_labels(path))
    assert (len(lists), {len(one) for one in lists}) == (1000, {100})
    taus = [one.tau for one in lists if one.tau is not None]
    assert sum(taus[:300]) / 300 == pytest.approx(0.3576, abs=5e-5)
    assert sum(taus) / 1000 == pytest.approx(0.3555, abs=5e-5)

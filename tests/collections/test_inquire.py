"""INQUIRE's files in their published form, small ones written here and the real queries beside the checkout."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rerank.collections import SupportsQueryFields, describe_collection, open_collection, read_query_field
from rerank.collections.inquire import Inquire, InquireRerank
from rerank.errors import DataError, MissingResourceError, UnknownNameError, UsageError
from rerank.evaluation import evaluate_by_group, evaluate_run
from rerank.retrieval import open_first_stage
from rerank.types import Document, Query, Ranking, Run
from tests.raising import raises

HEAD = ",query_id,query_text,supercategory,category,iconic_group"
QUERIES = (
    "0,3,A mongoose standing upright alert,Behavior,Defensive and Survival Behaviors,Mammals",
    '2,7,"puffins, carrying  food ",Behavior,Feeding and Hydration,Birds',
    "16,29,Fishing net on a reef,Context,Human Impact,",
)
ANNOTATIONS = ("3,11,train/a/11.jpg", "3,12,train/a/12.jpg", "7,12,train/a/12.jpg", "99,13,train/b/13.jpg")


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inner = tmp_path / "inquire" / "data" / "inquire"
    inner.mkdir(parents=True)
    write(inner / "inquire_queries_test.csv", HEAD, *QUERIES)
    write(
        inner / "inquire_queries_val.csv", HEAD, "83,99,Eurasian Black Grouse male,Appearance,Sex identification,Birds"
    )
    write(inner / "inquire_annotations.csv", "query_id,image_id,image_path", *ANNOTATIONS)
    return tmp_path / "inquire"


def test_what_is_read(folder: Path) -> None:
    collection = Inquire(str(folder))
    told = describe_collection(collection)
    assert (told["name"], told["documents"], told["queries"]) == ("inquire-test", 3, 3)
    assert collection.queries()[1] == Query(id="7", text="puffins, carrying food")
    assert {query: dict(row) for query, row in collection.qrels().items()} == {"3": {"11": 1, "12": 1}, "7": {"12": 1}}
    assert list(collection.docs())[1] == Document(id="12", image="train/a/12.jpg")
    assert dict(Inquire(str(folder), split="val").qrels()) == {"99": {"13": 1}}
    assert Inquire(str(folder), split="val").fingerprint == collection.fingerprint, "both search the same images"
    assert Inquire(str(folder / "data" / "inquire")).queries() == collection.queries()


def test_query_fields(folder: Path) -> None:
    collection = Inquire(str(folder))
    assert isinstance(collection, SupportsQueryFields)
    fields = collection.query_fields()
    assert fields["supercategory"] == {"3": "Behavior", "7": "Behavior", "29": "Context"}
    assert fields["iconic_group"] == {"3": "Mammals", "7": "Birds"}, "29 has none"
    assert read_query_field(f"inquire:{folder}", "category")["29"] == "Human Impact"
    with raises(UnknownNameError, "'categry'", "'category'"):
        read_query_field(f"inquire:{folder}", "categry")
    for other in ("pydoc", str(folder / "qrels.txt")):
        with pytest.raises(UsageError):
            read_query_field(other, "category")


def test_a_list_of_all_images(folder: Path, tmp_path: Path) -> None:
    listed = tmp_path / "images.csv.gz"
    listed.write_bytes(gzip.compress(b"image_path,image_id,width\ntrain/a/11.jpg,11,5\ntrain/c/50.jpg,50,5\n"))
    collection = open_collection(f"inquire:{folder},images={listed}")
    assert [doc.id for doc in collection.docs()] == ["11", "50"]
    assert len(collection.qrels()) == 2
    (folder / "data" / "inquire" / "inquire_annotations.csv").unlink()
    assert not open_collection(f"inquire:{folder},images={listed}").qrels()
    with raises(MissingResourceError, "inquire_annotations.csv"):
        Inquire(str(folder))


def test_where_the_images_lie(folder: Path, file: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for selector in (f"inquire:{folder}", f"inquire-rerank:{file}"):
        plain, rooted = open_collection(selector), open_collection(f"{selector},root={tmp_path / 'images'}")
        assert [doc.image for doc in rooted.docs()] == [str(tmp_path / "images" / doc.image) for doc in plain.docs()]
        assert not any(doc.text or doc.title for doc in rooted.docs()), "paths name species"
        assert rooted.fingerprint != plain.fingerprint
        with pytest.raises(MissingResourceError):
            open_collection(f"{selector},root={tmp_path / 'gone'}")


@pytest.mark.parametrize(
    ("file", "lines", "message"),
    [
        (
            "inquire_queries_test.csv",
            (HEAD, "0,3,a,b,c"),
            "inquire_queries_test.csv:2: the row has 5 columns.*expected 6",
        ),
        ("inquire_queries_test.csv", ("query_id,query_text",), "missing: supercategory, category, iconic_group"),
        ("inquire_queries_test.csv", (HEAD, *QUERIES, QUERIES[0]), "duplicate query '3'"),
        ("inquire_queries_test.csv", (HEAD, '0,3,"open'), "invalid CSV"),
        (
            "inquire_annotations.csv",
            ("query_id,image_id,image_path", "3,1,a", "7,1,b"),
            "image 1 has the path b, but a in an earlier line",
        ),
        ("inquire_annotations.csv", ("query_id,image_id,image_path", "3,,a"), "image id is ''"),
    ],
)
def test_wrong_files(folder: Path, file: str, lines: Sequence[str], message: str) -> None:
    write(folder / "data" / "inquire" / file, *lines)
    with pytest.raises(DataError, match=message):
        describe_collection(Inquire(str(folder)))


def test_an_image_twice_in_the_list_of_all(folder: Path, tmp_path: Path) -> None:
    listed = write(tmp_path / "images.csv", "image_id,image_path", "1,a", "1,a")
    with raises(DataError, "'1'"):
        list(open_collection(f"inquire:{folder},images={listed}").docs())


def rows(scores: Sequence[float], relevant: Sequence[int], query: str, category: str) -> list[dict[str, Any]]:
    """Rows as the data set has them, less what nobody reads; image n of each query is ``<query>-n``."""
    common = {"query": query, "supercategory": category, "category": "c", "iconic_group": None, "license": "CC"}
    return [
        {
            **common,
            "relevant": hit,
            "clip_score": score,
            "inat24_image_id": 100 * len(query) + n,
            "inat24_file_name": f"train/{query}/{n}.jpg",
        }
        for n, (score, hit) in enumerate(zip(scores, relevant, strict=True))
    ]


#: By clip_score: hits at ranks 1 and 3 of 4; hit at rank 2 of 2; three that tie, one of them a hit; no hit at all.
ROWS = [
    *rows([0.2, 0.9, 0.5, 0.1], [1, 1, 0, 0], "q", "Behavior"),
    *rows([0.4, 0.3], [0, 1], "qq", "Behavior"),
    *rows([0.5, 0.5, 0.5], [0, 1, 0], "qqq", "Species"),
    *rows([0.5, 0.4], [0, 0], "qqqq", "Species"),
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "test.jsonl", *(json.dumps(row) for row in ROWS))


def test_rerank_lists(file: Path) -> None:
    collection = open_collection(f"inquire-rerank:{file}")
    assert isinstance(collection, InquireRerank)
    told = describe_collection(collection)
    assert (told["documents"], told["queries"], told["judged_queries"], told["judgments"]) == (11, 4, 4, 11)
    run = collection.candidates()
    assert run["1"].doc_ids == ("101", "102", "100", "103")
    assert run["1"].scores == (0.9, 0.5, 0.2, 0.1)
    assert run["1"].docs[0].image == "train/q/1.jpg"
    assert [query.text for query in collection.queries()] == ["q", "qq", "qqq", "qqqq"]
    assert dict(collection.qrels()["2"]) == {"200": 0, "201": 1}
    found = open_first_stage("candidates", collection).search(collection.queries(), 100)
    assert {query: ranking.doc_ids for query, ranking in found.items()} == {q: r.doc_ids for q, r in run.items()}


def test_the_official_measures_by_category_by_hand(file: Path) -> None:
    """As the benchmark's scripts call them over all candidates: a group of ties shares the precision at its end."""
    collection = InquireRerank(str(file))
    fields = collection.query_fields()
    assert fields["iconic_group"] == {}
    names = ["INQUIRE_AP@100", "INQUIRE_nDCG@100", "RR"]
    found = evaluate_by_group(collection.qrels(), collection.candidates(), names, fields["supercategory"])
    log3, log4 = 1.584962500721156, 2.0
    behavior = {
        "INQUIRE_AP@100": ((1 / 1 + 2 / 3) / 2 + 1 / 2) / 2,
        "INQUIRE_nDCG@100": ((1 + 1 / log4) / (1 + 1 / log3) + 1 / log3) / 2,
        "RR": (1 + 1 / 2) / 2,
    }
    shared = (1 + 1 / log3 + 1 / log4) / 3
    species = {"INQUIRE_AP@100": (1 / 3 + 0) / 2, "INQUIRE_nDCG@100": (shared + 0) / 2}
    assert list(found) == ["Behavior", "Species"]
    assert found["Behavior"].summary() == pytest.approx(behavior)
    assert found["Species"].summary() == pytest.approx({**species, "RR": 0.25})  # 302, 301, 300: the rule of ids
    whole = evaluate_run(collection.qrels(), collection.candidates(), names).summary()
    assert whole["INQUIRE_AP@100"] == pytest.approx((behavior["INQUIRE_AP@100"] + species["INQUIRE_AP@100"]) / 2)


def test_scores_that_are_yes_or_no_tie(file: Path) -> None:
    """A judge that says yes to everything ranks like chance, whatever the order of the file: AP = precision."""
    collection = InquireRerank(str(file))
    first = collection.candidates()["1"]
    same = Run([Ranking(first.query, first.docs, (1.0,) * 4)])
    assert evaluate_run(collection.qrels(), same, ["INQUIRE_AP@100"]).values["INQUIRE_AP@100"]["1"] == 2 / 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"relevant": 2}, "relevant is 2; expected 0 or 1"),
        ({"relevant": None}, "relevant is None"),
        ({"clip_score": None}, "clip_score is None; expected a finite number"),
        ({"clip_score": "0.5"}, "clip_score is '0.5'"),
        ({"inat24_image_id": 100}, "duplicate image 100 in query 'q'"),
        ({"inat24_image_id": None}, "no image id among the keys"),
        ({"query": None}, "no text among the keys"),
        ({"supercategory": "Context"}, "query 'q' has other categories than in earlier rows"),
        (
            {"query": "new", "inat24_image_id": 100},
            "Image 100 has the path train/q/3.jpg in query 'new', but train/q/0.jpg in an earlier query",
        ),
    ],
)
def test_wrong_rows(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    changed = [*ROWS[:3], {**ROWS[3], **change}]
    file = write(tmp_path / "test.jsonl", *(json.dumps(row) for row in changed))
    with pytest.raises(DataError, match=message):
        describe_collection(InquireRerank(str(file)))


def test_relevant_may_be_a_truth_value(tmp_path: Path) -> None:
    file = write(tmp_path / "x.jsonl", *(json.dumps({**row, "relevant": bool(row["relevant"])}) for row in ROWS))
    assert dict(InquireRerank(str(file)).qrels()["1"]) == {"100": 1, "101": 1, "102": 0, "103": 0}


@pytest.mark.shared
def test_real_queries(shared: Path, tmp_path: Path) -> None:
    source = shared / "data" / "inquire"
    for split in ("test", "val"):
        (tmp_path / f"inquire_queries_{split}.csv").symlink_to(source / f"inquire_queries_{split}.csv")
    (tmp_path / "inquire_annotations.csv").symlink_to(source / "inquire_annotations.sample.csv")
    test, val = Inquire(str(tmp_path)), Inquire(str(tmp_path), split="val")
    assert Counter(test.query_fields()["supercategory"].values()) == {
        "Behavior": 67,
        "Appearance": 66,
        "Context": 49,
        "Species": 18,
    }
    assert sorted(Counter(val.query_fields()["supercategory"].values()).values()) == [4, 12, 17, 17]
    assert len(set(test.query_fields()["category"].values())) == 16
    assert len(test.queries()) - len(test.query_fields()["iconic_group"]) == 2
    assert test.queries()[0] == Query(id="3", text="A mongoose standing upright alert")
    assert {query: len(row) for query, row in test.qrels().items()} == {"3": 3, "4": 3}
    assert [doc.image.partition("/")[0] for doc in test.docs()] == ["train"] * 6
    assert not {query.id for query in test.queries()} & {query.id for query in val.queries()}

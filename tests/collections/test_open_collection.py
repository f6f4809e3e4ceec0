"""Opening collections by name, and what is told about them."""

from __future__ import annotations

from pathlib import Path

import pytest

from rerank.collections import describe_collection, list_collection_providers, open_collection, open_collection_qrels
from rerank.errors import DataError, UnknownNameError, UsageError
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

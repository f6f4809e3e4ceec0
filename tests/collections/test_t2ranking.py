"""T2Ranking's files, written here in their published form, and its official measures on them by hand."""

from __future__ import annotations

import gzip
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from rerank.collections import describe_collection, open_collection
from rerank.collections.t2ranking import T2ranking, lookup_numbered_rows, parse_whole_number
from rerank.errors import DataError, MissingResourceError, StorageError, UsageError
from rerank.evaluation import evaluate_run
from rerank.retrieval import open_first_stage
from rerank.types import Document, Query, Ranking, Run
from tests.raising import raises

PASSAGES = {
    0: "第一段",
    1: "<br><img><br>【重新获取取件码】<br>1、点击&quot;取快递&quot;",
    2: 'a "quoted\tpassage',
    10: "",
    11: "快递柜\u2028在哪里",
}
QUERIES = {7: "蜂巢取快递验证码摁错怎么办", 8: "取件码在哪", 9: "没有答案的问题"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "listrank"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    where = tmp_path / "t2"
    (where / "data").mkdir(parents=True)
    write(where / "data" / "collection.tsv", "pid\ttext", *(f"{pid}\t{text}" for pid, text in PASSAGES.items()))
    write(where / "data" / "queries.dev.tsv", "qid\ttext", *(f"{qid}\t{text}" for qid, text in QUERIES.items()))
    rows = ("7\t0\t1\t3", "7\t0\t0\t2", "7\t0\t2\t1", "7\t0\t10\t0", "8\t0\t11\t2", "9\t0\t2\t0")
    write(where / "data" / "qrels.dev.tsv", "qid\t-\tpid\trel", *rows)
    write(where / "data" / "qrels.retrieval.dev.tsv", "qid\tpid", "7\t1", "7\t0", "8\t11")
    return where


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", "utf-8", newline="\n")
    return path


def opened(folder: Path, rest: str = "") -> T2ranking:
    found = open_collection(f"t2ranking:{folder}{rest}")
    assert isinstance(found, T2ranking)
    return found


def test_what_is_read(folder: Path) -> None:
    told = describe_collection(opened(folder))
    told.pop("fingerprint")
    assert told == {
        "name": "t2ranking-dev",
        "language": "zh",
        "documents": 5,
        "queries": 3,
        "judged_queries": 3,
        "judgments": 6,
        "relevant_from_grade": 1,
        "drop_self": False,
    }


def test_passages_are_as_published(folder: Path) -> None:
    assert {doc.id: doc.text for doc in opened(folder).docs()} == {str(pid): text for pid, text in PASSAGES.items()}


def test_markup_can_be_dropped(folder: Path) -> None:
    texts = {doc.id: doc.text for doc in opened(folder, ",markup=drop").docs()}
    assert texts["1"] == '【重新获取取件码】 1、点击"取快递"'
    assert opened(folder, ",markup=drop").lookup(["1"])["1"].text == texts["1"]


def test_the_folder_may_be_the_inner_one(folder: Path) -> None:
    assert opened(folder / "data").fingerprint == opened(folder).fingerprint


def test_tasks(folder: Path) -> None:
    reranking, retrieval = opened(folder), opened(folder, ",task=retrieval")
    assert {query: dict(row) for query, row in reranking.qrels().items()} == {
        "7": {"1": 3, "0": 2, "2": 1, "10": 0},
        "8": {"11": 2},
        "9": {"2": 0},
    }
    assert {query: dict(row) for query, row in retrieval.qrels().items()} == {
        "7": {"1": 1, "0": 1},
        "8": {"11": 1},
        "9": {},
    }
    (folder / "data" / "qrels.retrieval.dev.tsv").unlink()
    assert dict(opened(folder, ",task=retrieval").qrels()) == dict(retrieval.qrels()), "grades 2 and 3 are the same"


def test_splits_and_tasks_share_an_index_and_markup_does_not(folder: Path) -> None:
    write(folder / "data" / "queries.test.tsv", "qid\ttext", "100\t测试")
    test = opened(folder, ",split=test")
    assert [query.text for query in test.queries()] == ["测试"]
    assert not test.qrels()
    prints = [opened(folder, rest).fingerprint for rest in ("", ",task=retrieval", ",split=test", ",markup=drop")]
    assert len(set(prints[:3])) == 1
    assert prints[3] != prints[0]


@pytest.mark.parametrize("packed", [False, True])
def test_lookup(folder: Path, packed: bool) -> None:
    source = folder / "data" / "collection.tsv"
    if packed:
        (folder / "data" / "collection.tsv.gz").write_bytes(gzip.compress(source.read_bytes()))
        source.unlink()
    found = opened(folder).lookup(["11", "0", "2", "3", "x", "99999999999999999999"])
    assert {doc.id: doc.text for doc in found.values()} == {i: PASSAGES[int(i)] for i in ("0", "2", "11")}
    assert opened(folder).lookup([]) == {}


def test_lookup_of_rows_in_any_order_without_a_header_and_with_windows_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "x.tsv"
    path.write_bytes("\ufeff5\tfive\r\n\r\n3\tthree\r\n4.0\tfour".encode())
    assert list(lookup_numbered_rows(path, ["3", "4", "5"])) == [("5", "five"), ("3", "three"), ("4", "four")]


def test_places_are_kept_until_the_file_changes(folder: Path, cache: Path) -> None:
    opened(folder).lookup(["1"])
    (kept,) = (cache / "rows").iterdir()
    before = kept.stat().st_mtime_ns
    opened(folder).lookup(["2"])
    assert kept.stat().st_mtime_ns == before
    kept.write_bytes(b"broken")
    assert set(opened(folder).lookup(["2"])) == {"2"}
    write(folder / "data" / "collection.tsv", "pid\ttext", "2\tanother")
    assert opened(folder).lookup(["1", "2"]) == {"2": Document(id="2", text="another")}


def test_a_place_that_does_not_fit_is_an_error(folder: Path, cache: Path) -> None:
    import numpy as np

    opened(folder).lookup(["1"])
    (kept,) = (cache / "rows").iterdir()
    np.save(kept, np.array([[1, 2], [0, 3]]), allow_pickle=False)
    with raises(DataError, "2"):
        opened(folder).lookup(["2"])


def test_the_cache_cannot_be_written(folder: Path, cache: Path) -> None:
    cache.parent.mkdir(parents=True, exist_ok=True)
    cache.write_text("a file")
    with pytest.raises(StorageError):
        opened(folder).lookup(["1"])


def test_candidate_lists(folder: Path) -> None:
    lines = ("7 11.0 2 8.5", "7\t1\t1\t9", " 7  0 3 1.5", "7 0 4 0", "8 10 1 1", "8 11 2 2", "55 1 1 1", "9 0 1 0")
    run = opened(folder, f",candidates={write(folder / 'lists.txt', *lines)}").candidates()
    assert {query: ranking.doc_ids for query, ranking in run.items()} == {
        "7": ("1", "11", "0"),
        "8": ("10", "11"),
        "9": ("0",),
    }
    assert list(run["7"].scores) == [9, 8.5, 1.5]
    assert list(run["8"].scores) == [1, 1 / 2], "scores that rise are not those of the ranks"
    assert run["7"].docs[0].text == PASSAGES[1]
    assert run["7"].query.text == QUERIES[7]


def test_pads_are_dropped_where_no_passage_has_their_number(folder: Path) -> None:
    source = folder / "data" / "collection.tsv"
    source.write_text(source.read_text("utf-8").replace("\n0\t", "\n5\t"), "utf-8")
    file = write(folder / "lists.txt", "qid pid index", "7 1 0", "7 0 1", "7 2 2", "7 0 3")
    assert opened(folder, f",candidates={file}").candidates()["7"].doc_ids == ("1", "2")
    assert opened(folder, f",candidates={file},depth=1").candidates()["7"].doc_ids == ("1",)


def test_candidates_as_first_stage(folder: Path) -> None:
    file = write(folder / "lists.txt", "7 1 1", "7 2 2")
    collection = opened(folder, f",candidates={file}")
    run = open_first_stage("candidates", collection).search(collection.queries(), 1)
    assert {query: ranking.doc_ids for query, ranking in run.items()} == {"7": ("1",)}
    with pytest.raises(UsageError):
        open_first_stage("candidates", opened(folder))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("7 1 1", "7 2 1"), "lists.txt:2: query 7 has rank 1 twice"),
        (("7 1 1", "7 1 2"), "query 7 has passage 1 twice"),
        (("7 1",), "query, passage, rank"),
        (("7 1 a",), "query, passage, rank"),
        (("7 x 1",), "passage id is 'x'.*a whole number of at least 0"),
        (("7 1.5 1",), "passage id is '1.5'"),
        (("7 1 1 nan",), "score is 'nan'.*a finite number"),
        (("7 777 1",), "1 of 1 documents are not in the collection"),
    ],
)
def test_wrong_candidates(folder: Path, lines: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        opened(folder, f",candidates={write(folder / 'lists.txt', *lines)}").candidates()


@pytest.mark.parametrize(
    ("file", "lines", "message"),
    [
        ("collection.tsv", ("pid\ttext", "1\ta", "1\tb"), "collection.tsv:3: duplicate document '1'"),
        ("collection.tsv", ("pid\ttext", "1 a"), "expected passage id, a tab, text"),
        ("collection.tsv", ("pid\ttext", "a\tb"), "passage id is 'a'.*whole number"),
        ("queries.dev.tsv", ("qid\ttext", "7\ta", "7\tb"), "duplicate query '7'"),
        ("qrels.dev.tsv", ("7\t0\t1\t4",), "a grade from 0 to 3"),
        ("qrels.dev.tsv", ("7\t0\t1",), "query, 0, passage and a grade"),
        ("qrels.dev.tsv", ("7\t0\t1\t1", "7\t0\t1\t2"), "grade 2 here and 1 above"),
        ("qrels.dev.tsv", ("70\t0\t1\t1",), "1 of the 1 queries in .*queries.dev.tsv, including 70"),
    ],
)
def test_wrong_files(folder: Path, file: str, lines: tuple[str, ...], message: str) -> None:
    write(folder / "data" / file, *lines)
    with pytest.raises(DataError, match=message):
        describe_collection(opened(folder))


def test_wrong_positives_and_rows_twice(folder: Path) -> None:
    write(folder / "data" / "qrels.retrieval.dev.tsv", "7\t1\t1")
    with raises(DataError, "3", "2"):
        opened(folder, ",task=retrieval").qrels()
    write(folder / "data" / "collection.tsv", "pid\ttext", "1\ta", "1\tb")
    with raises(DataError, "1"):
        opened(folder).lookup(["1"])


@pytest.mark.parametrize(
    ("rest", "error", "message"),
    [
        (",split=train", MissingResourceError, "queries.train.tsv"),
        (",split=validation", UsageError, "split='validation'"),
        (",depth=0", UsageError, "depth=0.*at least 1"),
        (",candidates=gone.txt", MissingResourceError, "gone.txt does not exist"),
    ],
)
def test_wrong_options(folder: Path, rest: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        opened(folder, rest)


@pytest.mark.parametrize("text", ["", "-1", "1.5", "1e400", "nan", "9" * 17, "１", "1_0"])
def test_no_whole_number(text: str) -> None:
    with pytest.raises(DataError):
        parse_whole_number(text, "passage", "x:1")


def test_the_official_measures_by_hand(folder: Path) -> None:
    """Run over 7, 8, 9: first hits at ranks 2, 3 and none; 7 has two positives, 8 one."""
    lines = ("7 10 1", "7 1 2", "7 2 3", "7 0 4", "8 1 1", "8 2 2", "8 11 3", "9 2 1", "9 1 2")
    source = f",candidates={write(folder / 'lists.txt', *lines)}"
    retrieval = opened(folder, f",task=retrieval{source}")
    asked = ["T2Ranking_RR@10", "T2Ranking_R@1", "T2Ranking_R@2", "T2Ranking_R@50"]
    found = evaluate_run(retrieval.qrels(), retrieval.candidates(), asked, relevant=retrieval.relevant)
    assert found.overall == {
        "T2Ranking_RR@10": (1 / 2 + 1 / 3 + 0) / 3,
        "T2Ranking_R@1": 0,
        "T2Ranking_R@2": 1 / 3,
        "T2Ranking_R@50": 3 / 3,
    }
    reranking = opened(folder, source)
    graded = evaluate_run(reranking.qrels(), reranking.candidates(), ["nDCG@20", "nDCG@100"])
    seven = (3 / math.log2(3) + 1 / 2 + 2 / math.log2(5)) / (3 + 2 / math.log2(3) + 1 / 2)
    assert graded.values["nDCG@20"] == pytest.approx({"7": seven, "8": 1 / 2, "9": 0.0})
    assert graded.values["nDCG@100"] == graded.values["nDCG@20"]


def official(lists: dict[int, list[int]], positives: dict[int, set[int]], k: int) -> tuple[float, float]:
    """MRR and recall of T2Ranking, second implementation: lists filled with 0, sums over queries, one division."""
    gained, hit, all_positive = 0.0, 0, 0
    for query, found in lists.items():
        filled = (found + [0] * k)[:k]
        first = next((rank for rank, doc in enumerate(filled, 1) if doc in positives.get(query, set())), None)
        gained += 1 / first if first else 0.0
        hit += len(set(filled) & positives.get(query, set()))
        all_positive += len(positives.get(query, set()))
    return gained / len(lists), hit / all_positive


def test_the_official_measures_on_a_larger_run(tmp_path: Path) -> None:
    import random

    chance = random.Random(3)
    lists = {query: chance.sample(range(1, 400), chance.randint(1, 120)) for query in range(200)}
    positives = {q: set(chance.sample(range(1, 400), chance.randint(1, 9))) for q in range(250) if q % 11}
    write(tmp_path / "collection.tsv", "pid\ttext", *(f"{pid}\tx" for pid in range(1, 400)))
    write(tmp_path / "queries.dev.tsv", "qid\ttext", *(f"{query}\tx" for query in range(250)))
    pairs = [f"{query}\t{doc}" for query, docs in positives.items() for doc in sorted(docs)]
    write(tmp_path / "qrels.retrieval.dev.tsv", "qid\tpid", *pairs)
    rows = [f"{query}.0\t{doc}\t{rank}.0" for query, docs in lists.items() for rank, doc in enumerate(docs, 1)]
    write(tmp_path / "run.tsv", *rows, *(f"{query} 0 {121}" for query in lists))
    collection = opened(tmp_path, f",task=retrieval,candidates={tmp_path / 'run.tsv'},depth=1000")
    names = [f"T2Ranking_{kind}@{k}" for k in (1, 10, 50, 1000) for kind in ("RR", "R")]
    found = evaluate_run(collection.qrels(), collection.candidates(), names).overall
    for k in (1, 10, 50, 1000):
        expected = official(lists, positives, k)
        assert (found[f"T2Ranking_RR@{k}"], found[f"T2Ranking_R@{k}"]) == pytest.approx(expected, abs=1e-12), k


def test_bm25_over_it(folder: Path) -> None:
    collection = opened(folder)
    run = open_first_stage("bm25,segmenter=pairs", collection).search(collection.queries(), 3)
    assert run["7"].doc_ids[0] in ("1", "11")
    fused = Run([Ranking.from_order(Query(id="7"), [Document(id="11")])])
    assert evaluate_run(collection.qrels(), fused, ["nDCG@20"]).missing == ("8", "9")


CHILD = """
import json, resource, sys
from pathlib import Path
from rerank.collections import open_collection
from rerank.indexing.documents import open_documents

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

import numpy, platformdirs
collection = open_collection("t2ranking:" + sys.argv[1])
start = peak()
found = collection.lookup([str(n) for n in range(0, 200000, 2000)])
looked_up = peak()
documents = open_documents(collection)
print(json.dumps({"lookup": looked_up - start, "stream": peak() - start, "documents": len(documents),
                  "right": all(doc.text.startswith(f"{n} ") for n, doc in found.items()),
                  "last": documents[199999].text[:7]}))
"""


@pytest.mark.full
def test_200_000_passages_in_bounded_memory(tmp_path: Path) -> None:
    """Texts of 118 MB; what is held is ids and places: 16 bytes a row to look up, some 200 bytes while copying."""
    filler = "一二三四五六七八九十" * 19
    with (tmp_path / "collection.tsv").open("w", encoding="utf-8") as file:
        file.write("pid\ttext\n")
        file.writelines(f"{n}\t{n} {filler}\n" for n in range(200_000))
    write(tmp_path / "queries.dev.tsv", "qid\ttext", "1\tx")
    size = (tmp_path / "collection.tsv").stat().st_size / 2**20
    assert size > 110
    done = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path)], capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    assert (told["documents"], told["right"], told["last"]) == (200_000, True, "199999 ")
    assert told["lookup"] < 25
    assert told["stream"] < 70


@pytest.mark.shared
def test_mtebs_rows_are_read_by_the_provider_of_json_lines(shared: Path, tmp_path: Path) -> None:
    """C-MTEB hands T2Retrieval on as rows with id and text; the sample has one query and one passage of it."""
    lines = (shared / "data/t2ranking_sample/c_mteb_t2retrieval_rows.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    for part, name in (("query", "queries.jsonl"), ("corpus", "corpus.jsonl")):
        write(tmp_path / name, *(json.dumps(row, ensure_ascii=False) for row in rows if row["part"] == part))
    collection = open_collection(f"jsonl:{tmp_path},language=zh")
    (query,) = collection.queries()
    assert (query.id, query.text) == ("0", QUERIES[7])
    run = open_first_stage("bm25,segmenter=pairs", collection).search([query], 5)
    assert run["0"].doc_ids == ("159474",)


@pytest.mark.shared
def test_real_passages_in_the_published_form(shared: Path, tmp_path: Path) -> None:
    pairs = (shared / "data/t2ranking_sample/pairs.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in pairs]
    write(tmp_path / "collection.tsv", "pid\ttext", *(f"{n}\t{row['passage']}" for n, row in enumerate(rows, 1)))
    write(tmp_path / "queries.dev.tsv", "qid\ttext", *(f"{n}\t{row['query']}" for n, row in enumerate(rows, 1)))
    collection = opened(tmp_path)
    assert [query.text for query in collection.queries()] == [row["query"] for row in rows]
    assert [doc.text for doc in collection.docs()] == [row["passage"] for row in rows]
    dropped = list(opened(tmp_path, ",markup=drop").docs())
    assert not any("<" in doc.text for doc in dropped)

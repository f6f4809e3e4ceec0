"""`rerank label`: whole ways through it, what it prints, and what it says of wrong input."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Cli


def rows(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]


def spoken(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def labels(cli: Cli, lists: tuple[str, ...]) -> str:
    assert cli("label", "make", *lists, "--teacher", "qrels", "-o", "labels.jsonl").returncode == 0
    return "labels.jsonl"


def test_a_method_labels_and_is_a_run(cli: Cli, lists: tuple[str, ...]) -> None:
    flags = ("label", "make", *lists, "--method", "multipass", "--window-size", "6", "--stride", "3", "-o", "l.jsonl")
    report = spoken(cli(*flags, "--out", "folder", "--format", "json"))
    assert list(report) == [
        *("output", "queries", "written", "left_out", "failed", "failed_lists", "silent", "teachers")
    ]
    (told,) = report["teachers"].values()
    assert (report["written"], told["folder"], told["reused_calls"]) == (4, "folder", 0)
    first = rows("l.jsonl")[0]
    assert list(first) == ["qid", "query", "initial_list", "final_list", "teacher"]
    assert first["final_list"][:3] == ["d0-3", "d0-7", "d0-11"]  # grade 3, in first-stage order
    Path("l.jsonl").unlink()
    again = cli(*flags, "--out", "folder")  # answered from the folder
    assert again.stdout.splitlines() == ["queries\tlists\tfailed\tcandidates without a label", "4\t4\t0\t0"]
    assert "written: l.jsonl" in again.stderr
    assert "windows: 24 ok; folder: folder" in again.stderr
    assert rows("l.jsonl")[0] == first


def test_nothing_is_asked_by_a_dry_run(cli: Cli, lists: tuple[str, ...]) -> None:
    expected = spoken(cli("label", "make", *lists, "-o", "l.jsonl", "--dry-run", "--format", "json"))
    assert (expected["queries"], expected["calls"]) == (4, 4)
    assert cli("label", "make", *lists, "-o", "l.jsonl", "--dry-run").stdout.startswith("queries\tcalls")
    assert not Path("l.jsonl").exists()
    assert not Path("runs").exists()


def test_several_teachers_and_a_specification(cli: Cli, lists: tuple[str, ...]) -> None:
    Path("spec.toml").write_text('depth = 6\nmethod = "pointwise"\n', "utf-8")
    flags = ("--teacher", "method", "--teacher", "qrels", "--fuse", "z-score", "--weights", "1+2")
    report = spoken(cli("label", "make", *lists, "--spec", "spec.toml", *flags, "-o", "l.jsonl", "--format", "json"))
    assert list(report["teachers"]) == ["pointwise fake:perfect", "qrels"]
    first = rows("l.jsonl")[0]
    assert (first["teacher"], len(first["scores"])) == ("pointwise fake:perfect + qrels", 6)
    assert first["final_list"] == ["d0-3", "d0-2", "d0-1", "d0-5", "d0-0", "d0-4"]


def test_failures_are_counted_left_out_and_said(cli: Cli, lists: tuple[str, ...]) -> None:
    flags = ("label", "make", *lists, "--model", "fake:fail", "-o", "l.jsonl")
    done = cli(*flags, "--format", "json")
    assert done.returncode == 7
    report = json.loads(done.stdout)
    assert (report["output"], report["left_out"], report["failed_lists"]) == (None, {"a window failed": 4}, 4)
    assert "--resume" in done.stderr
    assert not Path("l.jsonl").exists()
    accepted = cli(*flags, "--resume", "--max-failure-rate", "1")
    assert accepted.returncode == 5
    assert "None of the 4 lists has a label (4: a window failed). query q0: a window failed" in accepted.stderr
    kept = cli(*flags, "--resume", "--max-failure-rate", "1", "--keep-failed")
    assert kept.returncode == 0
    assert len(rows("l.jsonl")) == 4


def test_lists_are_looked_through(cli: Cli, labels: str, lists: tuple[str, ...]) -> None:
    report = spoken(cli("label", "check", labels, *lists[:2], "--against", lists[1], "--format", "json"))
    assert list(report) == [
        *("file", "lists", "queries", "documents", "docs_per_list", "tau", "unchanged", "with_scores", "with_query"),
        *("repeated", "teachers", "probe", "leaks", "leaking", "skipped"),
    ]
    assert (report["lists"], report["documents"], report["with_scores"]) == (4, 48, 4)
    assert report["tau"] == pytest.approx(-1 / 11)  # grades 0123 three times: of 66 pairs 36 are turned round
    assert [one["feature"] for one in report["probe"]["features"]] == ["length", "first words"]
    assert report["probe"]["warns"]  # "text 3", "text 7" and "text 11" are the best of every list
    assert "There are only 4 queries, so the confidence intervals are not reliable." in report["probe"]["notes"]
    assert report["leaks"] >= 4
    assert sum(leak["exact"] for leak in report["leaking"]) == 4
    bare = spoken(cli("label", "check", labels, "--format", "json"))
    assert (bare["probe"], bare["leaks"]) == (None, None)
    text = cli("label", "check", labels)
    assert "documents per list\t12 to 12, mean 12.0" in text.stdout
    assert "--collection" in text.stderr


def test_strict_is_for_scripts(cli: Cli, labels: str, lists: tuple[str, ...]) -> None:
    done = cli("label", "check", labels, "--against", lists[1], "--strict")
    assert done.returncode == 5
    assert "queries leak" in done.stderr
    pairs = [
        {"query": f"q{at}", "pos": [f"right {at}"], "neg": [f"{'w ' * (20 + n)}{at}" for n in range(4)]}
        for at in range(30)
    ]
    Path("flag.jsonl").write_text("\n".join(map(json.dumps, pairs)), "utf-8")
    done = cli("label", "check", "flag.jsonl", "--strict")
    assert done.returncode == 5
    assert "the best documents have 2 words" in done.stderr
    assert "flag.jsonl" in done.stderr
    assert cli("label", "check", "flag.jsonl").returncode == 0


def test_filters(cli: Cli, labels: str, lists: tuple[str, ...]) -> None:
    report = spoken(cli("label", "filter", labels, "--min-docs", "12", "-o", "kept.jsonl", "--format", "json"))
    assert report == {"output": "kept.jsonl", "lists": 4, "kept": 4, "dropped": {}}
    assert rows("kept.jsonl") == rows(labels)
    none = cli("label", "filter", labels, "--min-tau", "0.5", "-o", "none.jsonl")
    assert (none.returncode, Path("none.jsonl").exists()) == (5, False)
    assert all(value in none.stderr for value in ("labels.jsonl", "4 "))
    done = cli("label", "filter", labels, *lists[:2], "--max-words", "4", "-o", "kept.jsonl")
    assert done.returncode == 5  # every text has five words
    same = cli("label", "filter", labels, "--agree-with", labels, "--min-tau", "1", "-o", "kept.jsonl")
    assert same.stdout.splitlines() == ["lists\tkept", "4\t4"]


def test_splits(cli: Cli, labels: str, lists: tuple[str, ...]) -> None:
    report = spoken(cli("label", "split", labels, "--dev", "0.25", "-o", "parts", "--format", "json"))
    assert (report["train"], report["dev"], report["test"]) == (3, 1, 0)
    assert report["leaks"] == 3  # "question number 0" and "question number 1" are nearly the same
    assert {row["qid"] for row in [*rows("parts/train.jsonl"), *rows("parts/dev.jsonl")]} == {"q0", "q1", "q2", "q3"}
    assert not Path("parts/test.jsonl").exists()
    told = cli("label", "split", labels, "--dev", "0.25", "--threshold", "1", "-o", "parts")
    assert told.stdout.splitlines() == ["train\tdev\ttest\tleaks", "3\t1\t0\t0"]
    done = cli("label", "split", labels, "--dev", "0.25", "--against", lists[1], "--drop-leaks", "-o", "parts")
    assert done.returncode == 5
    assert "--threshold" in done.stderr


def test_leaks_are_dropped_and_named(cli: Cli) -> None:
    texts = ["how tall is it", "what do cats eat", "How tall is it?", "where is the sea", "why is snow white"]
    made = [
        {"qid": f"q{at}", "query": text, "initial_list": ["a", "b"], "final_list": ["b", "a"]}
        for at, text in enumerate(texts)
    ]
    Path("labels.jsonl").write_text("\n".join(map(json.dumps, made)), "utf-8")
    Path("queries.jsonl").write_text(json.dumps({"id": "x", "text": "what do the cats eat"}), "utf-8")
    against = "jsonl:queries=queries.jsonl"
    flags = ("label", "split", "labels.jsonl", "--dev", "0.2", "--against", against, "-o", "parts")
    warned = cli(*flags)
    assert warned.returncode == 0
    assert f"leak: 'what do cats eat' and 'what do the cats eat' of {against} are" in warned.stderr
    assert "warning: queries leak" in warned.stderr
    assert "q1" in {row["qid"] for row in rows("parts/train.jsonl")}
    done = cli(*flags, "--drop-leaks")
    assert "omitted from train: 1 lists" in done.stderr
    assert "q1" not in {row["qid"] for row in rows("parts/train.jsonl")}
    parts = {name: {row["qid"] for row in rows(f"parts/{name}.jsonl")} for name in ("train", "dev")}
    assert any({"q0", "q2"} <= part for part in parts.values())  # the same words are in one part


def test_other_forms_become_folders(cli: Cli) -> None:
    texts = {"neg": ["no", "nothing", "no"]}
    pairs = [{"query": f"what is {at}", "pos": [f"it is {at} and more"], **texts} for at in range(3)]
    Path("flag.jsonl").write_text("\n".join(map(json.dumps, pairs)), "utf-8")
    report = spoken(cli("label", "convert", "flag.jsonl", "-o", "made", "--format", "json"))
    assert (report["lists"], report["queries"], report["documents"]) == (3, 3, 5)
    assert report["skipped"] == {"texts that were there twice": 3}
    assert spoken(cli("collections", "jsonl:made", "--format", "json"))["documents"] == 5
    checked = spoken(cli("label", "check", "made/labels.jsonl", "--collection", "jsonl:made", "--format", "json"))
    assert (checked["lists"], checked["probe"]["lists"]) == (3, 3)
    cut = cli("label", "convert", "made/labels.jsonl", "--collection", "jsonl:made", "--cut-words", "2", "-o", "cut")
    assert cut.returncode == 0
    assert {row["text"] for row in rows("cut/docs.jsonl")} == {"it is", "no", "nothing"}


def test_queries_from_documents(cli: Cli) -> None:
    docs = [
        {"id": name, "title": f"All about {name}s", "text": f"The {name} is known. It likes {other}s more than rain."}
        for name, other in (("cat", "dog"), ("dog", "bird"), ("bird", "fish"), ("fish", "cat"))
    ]
    Path("docs.jsonl").write_text("\n".join(map(json.dumps, docs)), "utf-8")
    flags = ("label", "queries", "--collection", "jsonl:docs=docs.jsonl", "-o", "made")
    report = spoken(cli(*flags, "--from", "title", "--within", "1", "--format", "json"))
    assert (report["documents"], report["folder"]) == (4, "made")
    done = cli(*flags, "--from", "llm", "--count", "2", "--model", "fake:fail", "--within", "0")
    assert done.returncode == 7
    assert "'docs' (2 no reply)" in done.stderr
    asked = ("--from", "llm", "--count", "2", "--model", "fake:reversed", "--min-words", "1", "--within", "0")
    written = cli(*flags, *asked)
    assert written.returncode == 5  # it writes [1] for every document: one query that both give
    assert "2 queries that several documents give" in written.stderr


WRONG = [
    (("make", "--collection", "pydoc", "-o", "x.jsonl", "--teacher", "run:none"), 4, "There is no file none"),
    (("split", "ids.jsonl", "-o", "x"), 2, "--collection"),
    (("convert", "labels.jsonl", "-o", "x"), 2, "Pass --collection"),
]


@pytest.mark.parametrize(("arguments", "code", "message"), WRONG)
def test_wrong_input(cli: Cli, labels: str, arguments: tuple[str, ...], code: int, message: str) -> None:
    Path("bad.jsonl").write_text('{"a": 1}', "utf-8")
    Path("ids.jsonl").write_text('{"qid": "q", "initial_list": ["a"], "final_list": ["a"]}', "utf-8")
    before = Path(labels).read_bytes()
    done = cli("label", *arguments)
    assert done.returncode == code, done
    assert message in " ".join(done.stderr.replace("│", " ").split())
    assert Path(labels).read_bytes() == before


def test_help(cli: Cli) -> None:
    for command in ("make", "check", "filter", "augment", "split", "convert", "queries"):
        done = cli("label", command, "--help")
        assert (done.returncode, done.stderr) == (0, "")
        assert "Example: rerank label" in " ".join(done.stdout.split())

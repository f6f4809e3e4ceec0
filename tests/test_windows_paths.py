r"""Paths of Windows in every text that joins a path with something else.

On other systems, `C:\data\x` is the name of a file in the working folder, so the texts can be tried there.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rerank.collections import open_collection, open_collection_qrels
from rerank.errors import MissingResourceError, UsageError
from rerank.experiment.calibrate import split_folder_and_qrels
from rerank.io.file_hashes import folder_hash
from rerank.leaderboard.exports import folder_of_run
from rerank.models import resolve_model_name, split_model_selector
from rerank.models.adapters import adapter_folder
from rerank.prompts import load_prompt
from rerank.retrieval import open_first_stage
from rerank.selector import Selector
from tests.raising import raises

ROOT = Path(__file__).resolve().parents[1]
#: Relative paths of POSIX systems with the form of absolute paths of Windows.
FOLDER, QRELS, RUN = r"C:\data\mine", r"C:\data\qrels.tsv", r"C:\data\first.trec"


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(FOLDER).mkdir()
    rows = {"docs.jsonl": [{"id": "d", "text": "a text"}], "queries.jsonl": [{"id": "q", "text": "a query"}]}
    for name, lines in rows.items():
        text = "\n".join(map(json.dumps, lines))
        for path in (Path(FOLDER) / name, Path(f"{FOLDER}-{name}")):
            path.write_text(text, encoding="utf-8")
    for path in (Path(QRELS), Path(FOLDER) / "qrels.tsv"):
        path.write_text("q 0 d 1\n", encoding="utf-8")
    Path(RUN).write_text("q Q0 d 1 1.0 tag\n", encoding="utf-8")
    for name in ("config.json", "spec.json"):
        (Path(FOLDER) / name).write_text("{}", encoding="utf-8")
    prompt = (ROOT / "rerank/prompts/listwise.yaml").read_text(encoding="utf-8")
    Path(rf"{FOLDER}\mine.yaml").write_text(prompt, encoding="utf-8")


@pytest.mark.parametrize(
    "selector",
    [
        f"jsonl:{FOLDER}",
        f"jsonl:{FOLDER},qrels={QRELS},language=en",
        f"jsonl:docs={FOLDER}-docs.jsonl,queries={FOLDER}-queries.jsonl,qrels={QRELS}",
    ],
)
def test_collections(selector: str) -> None:
    collection = open_collection(selector)
    assert [doc.id for doc in collection.docs()] == ["d"]
    assert collection.qrels() == {"q": {"d": 1}}
    assert open_collection_qrels(selector)[0] == {"q": {"d": 1}}


def test_judgments_in_a_file() -> None:
    assert open_collection_qrels(QRELS)[0] == {"q": {"d": 1}}


@pytest.mark.parametrize("stage", [f"run:{RUN}", f"hybrid:(run:{RUN})+bm25,depth=5"])
def test_first_stages(stage: str) -> None:
    collection = open_collection(f"jsonl:{FOLDER}")
    (ranking,) = open_first_stage(stage, collection).search(collection.queries(), 5).values()
    assert ranking.doc_ids == ("d",)


@pytest.mark.parametrize("name", ["dense", "sparse", "late-interaction", "images"])
def test_models_of_first_stages(name: str) -> None:
    selector = Selector.parse(f"{name}:{FOLDER},batch_size=4")
    assert (selector.name, selector.argument, selector.options) == (name, FOLDER, {"batch_size": "4"})


@pytest.mark.parametrize("path", [FOLDER, r"D:\m", "D:/m", r"models\m", r"\\server\share\m"])
def test_the_colon_of_a_drive_does_not_end_the_name_of_a_backend(path: str) -> None:
    assert split_model_selector(path) == ("hf", path)
    assert split_model_selector(f"cross-encoder:{path}") == ("cross-encoder", path)


@pytest.mark.parametrize("find", [resolve_model_name, adapter_folder])
@pytest.mark.parametrize("path", [r"D:\m", "D:/m", r"models\m", r"\\server\share\m"])
def test_a_missing_folder_is_not_a_name_on_the_hub(find: Callable[[str], Any], path: str) -> None:
    with raises(MissingResourceError, "folder", repr(path), "does not exist"):
        find(path)


def test_a_path_without_a_provider() -> None:
    with raises(UsageError, "is a path without a provider"):
        open_collection(r"D:\missing")


def test_prompts() -> None:
    assert load_prompt(rf"{FOLDER}\mine.yaml").render("query", ["passage"])
    with raises(MissingResourceError, "missing"):
        load_prompt(r"prompts\missing")


@pytest.mark.parametrize("qrels", [QRELS, f"jsonl:{FOLDER}", None])
def test_folders_and_judgments(qrels: str | None) -> None:
    text = FOLDER if qrels is None else f"{FOLDER}:{qrels}"
    assert split_folder_and_qrels(text) == (Path(FOLDER), qrels)


@pytest.mark.parametrize(("name", "folder"), [("con", "con-"), ("Aux.v2", "Aux-.v2"), ("m:7b", "m-7b"), ("ok.", "ok")])
def test_names_of_runs_in_exports(name: str, folder: str) -> None:
    assert folder_of_run(name) == folder


def test_hashes_of_folders_do_not_depend_on_the_system(tmp_path: Path) -> None:
    for name in ("b/x", "B", "a-b", "a/b"):
        (tmp_path / "hashed" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "hashed" / name).write_bytes(name.encode())
    assert folder_hash(tmp_path / "hashed") == "9ebf05bdb1a00bd4968c2e5c62625f13e77cc2d9d09f2ef4f8a6aec0cb8de23d"

"""Data sets through the real clients: mteb's tasks and training lists on the hub, and a collection of ir_datasets.

The hub is a stand-in; ir_datasets reads files in its home folder. Each command is a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hub_server import HubServer

pytestmark = [pytest.mark.full, pytest.mark.enable_socket]

DOCS = {
    "d1": "A glacier is a large mass of ice that moves slowly over land.",
    "d2": "Bread dough rises because yeast gives off gas.",
    "d3": "Glaciers melt faster when summers are warm.",
    "d4": "The violin has four strings and is played with a bow.",
}
QUERIES = {"q1": "why do glaciers melt", "q2": "yeast in bread"}
RELEVANT = {"q1": {"d3": 2, "d1": 1}, "q2": {"d2": 1}}
LISTS = {"q1": ["d1", "d3", "d2"], "q2": ["d4", "d2"]}
#: The commits at which mteb 2.26 reads these data sets.
NFCORPUS, SCIDOCS = "ec0fa4fe99da2ff19ca1214b7966684033a58814", "39b8377811871075eed9de3b8a7e21aaa6acb3d8"


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer(page_size=2) as server:
        yield server


def run(hub: HubServer, folder: Path, *command: str, code: int = 0, **env: str) -> str:
    """Run Python with the caches in a folder; check its exit code, and return what it printed, or the error."""
    own = {"XDG_CACHE_HOME": str(folder / "cache"), "IR_DATASETS_HOME": str(folder / "irds")}
    done = subprocess.run(
        [sys.executable, *command],
        env=os.environ | hub.environment(folder / "home") | own | env,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    return done.stderr if code else done.stdout


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(f"{json.dumps(row)}\n" for row in rows).encode()


def card(**files: str) -> bytes:
    """The head of a data set's card, which maps configurations to splits and files."""
    parts = [f"- config_name: {name}\n  data_files:\n  - split: {path}" for name, path in files.items()]
    return "\n".join(["---", "configs:", *parts, "---", "# Data set", ""]).encode()


def texts(values: dict[str, str], **more: str) -> bytes:
    return lines([{"_id": key, **more, "text": value} for key, value in values.items()])


def qrels() -> bytes:
    rows = ((query, doc, grade) for query, judged in RELEVANT.items() for doc, grade in judged.items())
    return lines([{"query-id": query, "corpus-id": doc, "score": grade} for query, doc, grade in rows])


def rerank(collection: str, first_stage: str, *flags: str) -> list[str]:
    command = ["-m", "rerank", "run", "--collection", collection, "--first-stage", first_stage, "--format", "json"]
    return [*command, "--model", "fake:perfect", "--max-failure-rate", "1", *flags]


def test_mteb_reads_a_retrieval_and_a_reranking_task_through_the_hub(hub: HubServer, tmp_path: Path) -> None:
    pytest.importorskip("mteb")
    common = {"corpus.jsonl": texts(DOCS, title=""), "queries.jsonl": texts(QUERIES), "qrels/test.jsonl": qrels()}
    configs = {"default": "test\n    path: qrels/test.jsonl", "corpus": "corpus\n    path: corpus.jsonl"}
    configs["queries"] = "queries\n    path: queries.jsonl"
    hub.commit("datasets/mteb/nfcorpus", common | {"README.md": card(**configs)}, commit=NFCORPUS)
    hub.commit("datasets/mteb/nfcorpus", {"README.md": b"moved on"})
    configs["top_ranked"] = "test\n    path: top_ranked/test.jsonl"
    lists = lines([{"query-id": query, "corpus-ids": docs} for query, docs in LISTS.items()])
    files = common | {"README.md": card(**configs), "top_ranked/test.jsonl": lists}
    hub.commit("datasets/mteb/SciDocsRR", files, commit=SCIDOCS)

    def figures(out: str) -> list[Any]:
        summary = json.loads(out)
        return [summary["queries"], summary["scores"]]

    online = {
        name: run(hub, tmp_path, *rerank(f"mteb:{name}", stage, "--out", name))
        for name, stage in (("NFCorpus", "bm25"), ("SciDocsRR", "candidates"))
    }
    hub.stop()
    offline = run(hub, tmp_path, *rerank("mteb:NFCorpus", "bm25", "--out", "again"), HF_HUB_OFFLINE="1")
    assert figures(offline) == figures(online["NFCorpus"])
    assert (tmp_path / "again/run.trec").read_text() == (tmp_path / "NFCorpus/run.trec").read_text()
    refused = run(hub, tmp_path, *rerank("mteb:SciDocsRR", "candidates"), code=4, HF_HUB_OFFLINE="1")
    assert "is not found without the hub" in refused.splitlines()[-1]  # the package datasets cannot list it
    ranked = [line.split() for line in (tmp_path / "SciDocsRR/run.trec").read_text().splitlines()]
    assert {query: sorted(row[2] for row in ranked if row[0] == query) for query in LISTS} == {
        query: sorted(docs) for query, docs in LISTS.items()
    }
    assert [row[2] for row in ranked if row[0] == "q1"][0] == "d3"
    hub.start()


def test_training_lists_are_read_at_one_commit(hub: HubServer, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    rows = [{"query": "wing lift", "positive": "wing", "negative": "heat"}]
    first = hub.commit("datasets/acme/lists", {"data/train.jsonl": lines(rows)})
    code = """if True:
        import sys
        from rerank.finetune.labels.files import read_label_lists_of_file
        from rerank.finetune.labels.hub import pin_hub_datasets
        selector = sys.argv[1]
        print(pin_hub_datasets([selector])[selector])
        print([[entry.docs[at].text for at in entry.order] for entry in read_label_lists_of_file(selector)])
    """
    told = run(hub, tmp_path, "-c", code, "hf:acme/lists")
    assert told.splitlines() == [f"hf:acme/lists,revision={first}", "[['wing', 'heat']]"]
    second = hub.commit("datasets/acme/lists", {"data/train.jsonl": lines([rows[0] | {"positive": "tail"}])})
    assert run(hub, tmp_path, "-c", code, "hf:acme/lists").splitlines()[0].endswith(second)
    hub.stop()
    told = run(hub, tmp_path, "-c", code, f"hf:acme/lists,revision={second}", HF_HUB_OFFLINE="1")
    assert told.splitlines()[1] == "[['tail', 'heat']]"
    hub.start()


def test_ir_datasets_reads_a_collection_in_its_home_folder(hub: HubServer, tmp_path: Path) -> None:
    pytest.importorskip("ir_datasets")
    home = tmp_path / "irds/antique"
    (home / "test").mkdir(parents=True)
    (home / "collection.tsv").write_text("".join(f"{key}\t{value}\n" for key, value in DOCS.items()))
    (home / "test/queries.txt").write_text("".join(f"{key}\t{value}\n" for key, value in QUERIES.items()))
    (home / "test/qrels").write_text("q1 U0 d3 4\nq1 U0 d1 2\nq2 Q0 d2 3\n")
    told = json.loads(run(hub, tmp_path, *rerank("irds:antique/test", "bm25", "--out", "run")))
    assert told["queries"] == 2
    assert next(line.split()[2] for line in (tmp_path / "run/run.trec").read_text().splitlines()) == "d3"
    assert hub.requests == []

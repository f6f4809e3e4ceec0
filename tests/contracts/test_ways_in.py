"""Every way in assembles the same ranker: equal requests, digest for digest, and the same order of the same list."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rerank import Reranker
from rerank.assemble import assemble
from rerank.backends.fake import Fake
from rerank.experiment import run
from rerank.experiment.robustness import measure_robustness, prepare_cells
from rerank.experiment.spec import Execution, RunSpec
from rerank.finetune.labels.labelling import LabellingPlan, make_labels, prepare_labelling
from rerank.leaderboard.suites.bench import execute_runs, plan_runs
from rerank.leaderboard.suites.suite import Suite
from rerank.tasks import Reply, Request

FIXTURES = Path(__file__).parents[1] / "fixtures" / "v2d4cd24" / "inputs"
QUERY = "which text is about apples"
#: The library names the query "0" and the documents by their position, and both are part of a digest.
TEXTS = ["pears and plums", "apples in autumn", "a text about nothing", "apples, apples, apples", "the last one"]
COLLECTION = "requests:lists.jsonl,qrels=lists.qrels"

#: What is sent, and the documents in the resulting order.
Sent = tuple[list[str], list[str]]
WayIn = Callable[[Mapping[str, Any], Path], list[str]]


def from_python(settings: Mapping[str, Any], folder: Path) -> list[str]:
    return [str(hit.corpus_id) for hit in Reranker.from_pretrained(**settings).rank(QUERY, TEXTS)]


def spec_of(settings: Mapping[str, Any], **more: Any) -> RunSpec:
    lists = {"collection": COLLECTION, "first_stage": "candidates", "measures": ("nDCG@10",)}
    return RunSpec.make({**lists, **{key: value for key, value in settings.items() if key != "device"}, **more})


def order_in(folder: Path) -> list[str]:
    return [line.split()[2] for line in (folder / "run.trec").read_text(encoding="utf-8").splitlines()]


def from_run(settings: Mapping[str, Any], folder: Path) -> list[str]:
    run(spec_of(settings), Execution(out=folder / "run", device="cpu"))
    return order_in(folder / "run")


def from_command(settings: Mapping[str, Any], folder: Path) -> list[str]:
    import sys

    from rerank.cli import main

    flags = [word for key, value in settings.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    words = ["rerank", "rerank", "--collection", COLLECTION, "--out", str(folder / "command"), *flags]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as end:
            main()
    assert not end.value.code
    return order_in(folder / "command")


def from_robustness(settings: Mapping[str, Any], folder: Path) -> list[str]:
    execution = Execution(out=folder / "robustness", device="cpu")
    measure_robustness(list(prepare_cells(spec_of(settings), execution, shuffles=0))[:1], execution)
    (place,) = [path.parent for path in (folder / "robustness").rglob("spec.json") if shuffle_of(path) == "none"]
    return order_in(place)


def shuffle_of(path: Path) -> str:
    return str(json.loads(path.read_text(encoding="utf-8"))["spec"]["shuffle"])


def from_bench(settings: Mapping[str, Any], folder: Path) -> list[str]:
    shared = {"name": "test", "collections": [COLLECTION], "first_stages": ["candidates"], "depths": [100]}
    row = {key: value for key, value in settings.items() if key != "device"}
    suite = Suite.make({**shared, "rerankers": [row]})
    execution = Execution(device="cpu")
    planned = plan_runs(suite, folder / "bench", execution)
    assert [made.problem for made in execute_runs(planned, folder / "bench", execution)] == [""]
    (spec,) = (folder / "bench").rglob("spec.json")
    return order_in(spec.parent)


def from_label_teacher(settings: Mapping[str, Any], folder: Path) -> list[str]:
    execution = Execution(out=folder / "labels", device="cpu")
    make_labels(prepare_labelling(spec_of(settings), execution, LabellingPlan(teachers=("method",))))
    return order_in(folder / "labels")


WAYS: Mapping[str, WayIn] = {
    "run": from_run,
    "command": from_command,
    "robustness": from_robustness,
    "bench": from_bench,
    "label teacher": from_label_teacher,
}
#: Settings that differ in what decides the method, the prompt and the limits.
RANKERS: Mapping[str, Mapping[str, Any]] = {
    "plain model": {"model": "model", "method": "icr", "max_passage_tokens": 40},
    "adapter by name": {"adapter": "tiny-adapter"},
    "adapter folder": {"adapter": "adapter"},
    "merged folder": {"model": "merged"},
    "fake": {"model": "fake:reversed", "method": "sliding", "window_size": 3},
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model, its adapter, both merged, and one list; ``tiny-adapter`` names the adapter."""
    for name in ("model", "adapter", "merged"):
        shutil.copytree(FIXTURES / name, tmp_path / name)
    shutil.copytree(FIXTURES / "adapter", tmp_path / "shipped" / "tiny-adapter")
    docs = [{"docid": str(n), "doc": text, "score": 100 - n} for n, text in enumerate(TEXTS)]
    row = {"query": {"qid": "0", "text": QUERY}, "candidates": docs}
    (tmp_path / "lists.jsonl").write_text(json.dumps(row), encoding="utf-8")
    (tmp_path / "lists.qrels").write_text("0 0 1 1\n0 0 3 2\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr("rerank.models.adapters._SHIPPED", tmp_path / "shipped")
    return tmp_path


@contextmanager
def recorded(backend: Any) -> Iterator[list[str]]:
    """The digests of everything that a class of backends is asked meanwhile."""
    digests: list[str] = []
    generate = backend.generate

    def spy(self: Any, requests: Sequence[Request]) -> list[Reply]:
        digests.extend(request.digest(self.identity) for request in requests)
        replies: list[Reply] = generate(self, requests)
        return replies

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "generate", spy)
        yield digests


def sent_by(way: WayIn, settings: Mapping[str, Any], folder: Path) -> Sent:
    backend: Any = Fake
    if not str(settings.get("model", "")).startswith("fake:"):
        pytest.importorskip("torch")
        pytest.importorskip("peft")
        from rerank.backends.hf import Hf

        backend = Hf
    with recorded(backend) as digests:
        order = way(settings, folder)
    return sorted(digests), order


@pytest.mark.parametrize("ranker", RANKERS)
@pytest.mark.parametrize("way", WAYS)
def test_it_sends_what_the_library_sends(way: str, ranker: str, place: Path) -> None:
    settings = RANKERS[ranker]
    given = settings if ranker == "fake" else {**settings, "device": "cpu"}
    expected = sent_by(from_python, given, place)
    assert expected[0], "nothing was sent"
    assert sorted(expected[1]) == [str(n) for n in range(len(TEXTS))]
    digests, order = sent_by(WAYS[way], given if way == "command" else settings, place)
    assert order == expected[1]
    if way == "robustness":  # it ranks the list in other orders, too
        assert set(digests) >= set(expected[0])
    else:
        assert digests == expected[0]


def test_a_training_asks_what_the_adapter_is_asked_later(place: Path) -> None:
    """A recipe's [method] table holds settings of a ranker; the adapter brings the same ones, and learnt heads."""
    recipe = json.loads((place / "adapter" / "recipe.json").read_text(encoding="utf-8"))
    trained = assemble({"model": "model", **recipe["method"], "prompt": "adapter/prompt.yaml"})
    used = assemble({"adapter": "adapter"})
    assert trained.template.digest == used.template.digest
    assert (trained.strategy, trained.limits) == (used.strategy, used.limits)
    assert {**trained.method.judge.options, "heads": "adapter/heads.json"} == used.method.judge.options

"""Every way in assembles the same ranker: equal requests, digest for digest, and the same order of the same list."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rerank import Reranker
from rerank.adjudication.judging.grader import Grader
from rerank.backends.fake import Fake
from rerank.experiment import run_experiment
from rerank.experiment.calibrate import fit_to_runs
from rerank.experiment.robustness import measure_orders, prepare_cells
from rerank.experiment.spec import Execution, RunSpec
from rerank.finetune.labels.labelling import LabellingPlan, make_labels, prepare_labelling
from rerank.finetune.recipe import Recipe
from rerank.finetune.trainer.training import train_adapter
from rerank.leaderboard.suites.bench import execute_runs, plan_runs
from rerank.leaderboard.suites.suite import Suite
from rerank.models import MARKER, open_model_backend
from rerank.prompts import load_prompt
from rerank.tasks import BackendOptions, Reply, Request
from rerank.types import Document, Query, Window

FIXTURES = Path(__file__).parents[1] / "fixtures" / "v2d4cd24" / "inputs"
QUERY = "which text is about apples"
#: The library names the query "0" and the documents by their position, and both are part of a digest.
TEXTS = ["pears and plums", "apples in autumn", "a text about nothing", "apples, apples, apples", "the last one"]
#: First-stage scores; only their order is known to mteb, which makes the same of them.
SCORES = [1.0, 1 / 2, 1 / 3, 1 / 4, 1 / 5]
COLLECTION = "requests:lists.jsonl,qrels=lists.qrels"

#: What is sent, with the backend's identity, and the documents in the resulting order.
Sent = tuple[list[tuple[Request, Mapping[str, str]]], list[str]]
WayIn = Callable[[Mapping[str, Any], Path], list[str]]


def from_python(settings: Mapping[str, Any], folder: Path) -> list[str]:
    return [str(hit.corpus_id) for hit in Reranker.from_pretrained(**settings).rank(QUERY, TEXTS, scores=SCORES)]


def from_lazy_backend(settings: Mapping[str, Any], folder: Path) -> list[str]:
    return from_open_backend(settings, folder, lazy=True)


def from_open_backend(settings: Mapping[str, Any], folder: Path, *, lazy: bool = False) -> list[str]:
    loading = {key: settings[key] for key in ("adapter", "device", "context_size") if key in settings}
    backend = open_model_backend(settings.get("model", "model"), BackendOptions(**loading), lazy=lazy)
    ranking = {key: value for key, value in settings.items() if key not in ("model", "adapter", "device")}
    (folder / "elsewhere").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder / "elsewhere")  # where no folder has the name of the model
        return [
            str(hit.corpus_id) for hit in Reranker.from_backend(backend, **ranking).rank(QUERY, TEXTS, scores=SCORES)
        ]


def spec_of(settings: Mapping[str, Any], **more: Any) -> RunSpec:
    lists = {"collection": COLLECTION, "first_stage": "candidates", "measures": ("nDCG@10",)}
    return RunSpec.make({**lists, **{key: value for key, value in settings.items() if key != "device"}, **more})


def order_in(folder: Path) -> list[str]:
    return [line.split()[2] for line in (folder / "run.trec").read_text(encoding="utf-8").splitlines()]


def from_run(settings: Mapping[str, Any], folder: Path) -> list[str]:
    run_experiment(spec_of(settings), Execution(out=folder / "run", device="cpu"))
    return order_in(folder / "run")


def from_command(settings: Mapping[str, Any], folder: Path) -> list[str]:
    flags = [word for key, value in settings.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    command("rerank", "--collection", COLLECTION, "--out", str(folder / "command"), *flags)
    return order_in(folder / "command")


def command(*words: str) -> None:
    from rerank.cli import main

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["rerank", *words])
        with pytest.raises(SystemExit) as end:
            main()
    assert not end.value.code


def from_robustness(settings: Mapping[str, Any], folder: Path) -> list[str]:
    execution = Execution(out=folder / "robustness", device="cpu")
    measure_orders(list(prepare_cells(spec_of(settings), execution, shuffles=0))[:1], execution)
    (place,) = [path.parent for path in (folder / "robustness").rglob("spec.json") if shuffle_of(path) == "none"]
    return order_in(place)


def shuffle_of(path: Path) -> str:
    return str(json.loads(path.read_text(encoding="utf-8"))["spec"]["shuffle"])


def from_bench(settings: Mapping[str, Any], folder: Path) -> list[str]:
    shared = {"name": "test", "collections": [COLLECTION], "first_stages": ["candidates"], "depths": [100]}
    row = {key: value for key, value in settings.items() if key not in ("device", "seed")}
    suite = Suite.make({**shared, "seeds": [settings.get("seed", 0)], "rerankers": [row]})
    execution = Execution(device="cpu")
    planned = plan_runs(suite, folder / "bench", execution)
    assert [made.problem for made in execute_runs(planned, folder / "bench", execution)] == [""]
    (spec,) = (folder / "bench").rglob("spec.json")
    return order_in(spec.parent)


def from_label_teacher(settings: Mapping[str, Any], folder: Path) -> list[str]:
    execution = Execution(out=folder / "labels", device="cpu")
    make_labels(prepare_labelling(spec_of(settings), execution, LabellingPlan(teachers=("method",))))
    return order_in(folder / "labels")


def from_mteb(settings: Mapping[str, Any], folder: Path) -> list[str]:
    pytest.importorskip("mteb")
    from rerank.mmteb import MtebReranker
    from tests.mmteb import tasks

    ids = [str(n) for n in range(len(TEXTS))]
    data = tasks.part(dict(zip(ids, TEXTS, strict=True)), {"0": QUERY}, {}, {"0": ids})
    model = MtebReranker(spec_of(settings), out=folder / "mteb", execution=Execution(device="cpu"))
    model.index(data["corpus"])
    part = {"task_metadata": tasks.LocalRetrieval.metadata, "hf_split": "test", "hf_subset": "default"}
    scores = model.search(data["queries"], top_ranked=data["top_ranked"], **part)["0"]
    return sorted(scores, key=lambda doc: -scores[doc])


WAYS: Mapping[str, WayIn] = {
    "open backend": from_open_backend,
    "lazy backend": from_lazy_backend,
    "run": from_run,
    "command": from_command,
    "robustness": from_robustness,
    "bench": from_bench,
    "label teacher": from_label_teacher,
    "mteb": from_mteb,
}
#: Settings that differ in what decides the method, the prompt and the limits.
RANKERS: Mapping[str, Mapping[str, Any]] = {
    "plain model": {"model": "model", "method": "icr", "max_passage_tokens": 40},
    "adapter by name": {"adapter": "tiny-adapter"},
    "adapter folder": {"adapter": "adapter"},
    "adapter in the home folder": {"adapter": "~/adapter"},
    "merged folder": {"model": "merged"},
    "merged folder with its backend": {"model": "hf:merged"},
    "merged folder in the home folder": {"model": "~/merged"},
    "fake": {"model": "fake:reversed", "method": "sliding", "window_size": 3},
    "sampling": {"model": "model", "temperature": 0.7, "seed": 5, "context_size": 1500, "min_passage_tokens": 2},
    "passages": {"model": "fake:reversed", "passages": "max,size=2,stride=1", "top_k": 3},
    "preset": {"model": "smollm2-135m"},
    "top of the list": {"model": "fake:reversed", "method": "sliding", "window_size": 2, "stride": 1, "top_k": 2},
}
#: What the library sends per ranker, with its order.
EXPECTED: dict[str, Sent] = {}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model, its adapter, both merged, and one list.

    ``tiny-adapter`` names the adapter, and the model is also in the place of the preset ``smollm2-135m``.
    """
    for name in ("model", "adapter", "merged"):
        shutil.copytree(FIXTURES / name, tmp_path / name)
    shutil.copytree(FIXTURES / "adapter", tmp_path / "shipped" / "tiny-adapter")
    shutil.copytree(FIXTURES / "model", tmp_path / "cache" / "listrank" / "models" / "smollm2-135m")
    (tmp_path / "cache" / "listrank" / "models" / "smollm2-135m" / MARKER).write_text("{}", encoding="utf-8")
    write_lists(tmp_path, "0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr("rerank.models.adapters._SHIPPED", tmp_path / "shipped")
    return tmp_path


def write_lists(folder: Path, *queries: str) -> None:
    """Write lists of the same documents and their judgments, for queries with the same text."""
    docs = [{"docid": str(n), "doc": text, "score": SCORES[n]} for n, text in enumerate(TEXTS)]
    rows = [json.dumps({"query": {"qid": query, "text": QUERY}, "candidates": docs}) for query in queries]
    qrels = [f"{query} 0 1 1\n{query} 0 3 2\n" for query in queries]
    (folder / "lists.jsonl").write_text("\n".join(rows), encoding="utf-8")
    (folder / "lists.qrels").write_text("".join(qrels), encoding="utf-8")


@contextmanager
def recorded(backend: Any) -> Iterator[list[tuple[Request, Mapping[str, str]]]]:
    """Everything that a class of backends is asked meanwhile, with the identity of the backend."""
    asked: list[tuple[Request, Mapping[str, str]]] = []
    generate = backend.generate

    def spy(self: Any, requests: Sequence[Request]) -> list[Reply]:
        asked.extend((request, self.identity) for request in requests)
        replies: list[Reply] = generate(self, requests)
        return replies

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "generate", spy)
        yield asked


def digests(sent: Sent) -> list[str]:
    return sorted(request.digest(identity) for request, identity in sent[0])


def sent_by(way: WayIn, settings: Mapping[str, Any], folder: Path) -> Sent:
    backend: Any = Fake
    if not str(settings.get("model", "")).startswith("fake:"):
        pytest.importorskip("torch")
        pytest.importorskip("peft")
        from rerank.backends.hf import Hf

        backend = Hf
    with recorded(backend) as asked:
        order = way(settings, folder)
    return asked, order


@pytest.mark.parametrize("ranker", RANKERS)
@pytest.mark.parametrize("way", WAYS)
def test_it_sends_what_the_library_sends(way: str, ranker: str, place: Path) -> None:
    settings = RANKERS[ranker]
    given = settings if str(settings.get("model")).startswith("fake:") else {**settings, "device": "cpu"}
    if ranker not in EXPECTED:
        EXPECTED[ranker] = sent_by(from_python, given, place)
    expected = EXPECTED[ranker]
    assert expected[0], "nothing was sent"
    assert sorted(expected[1]) == [str(n) for n in range(len(TEXTS))]
    sent = sent_by(WAYS[way], given if way in ("command", "open backend", "lazy backend") else settings, place)
    assert sent[1] == expected[1]
    if way == "robustness":  # it ranks the list in other orders, too
        assert {*digests(sent)} >= {*digests(expected)}
    else:
        assert digests(sent) == digests(expected)


def test_the_rankers_differ_in_what_they_send_and_merged_ones_do_not(place: Path) -> None:
    """If a setting had no effect, all ways in would agree on it."""
    pytest.importorskip("torch")
    merged = [name for name in RANKERS if name.startswith("merged")]
    adapted = [name for name in RANKERS if name.startswith("adapter")]
    for name, settings in RANKERS.items():
        given = settings if str(settings.get("model")).startswith("fake:") else {**settings, "device": "cpu"}
        EXPECTED.setdefault(name, sent_by(from_python, given, place))
    sent = {name: tuple(digests(EXPECTED[name])) for name in RANKERS}
    assert len({sent[name] for name in merged}) == len({sent[name] for name in adapted}) == 1
    assert len({*sent.values()}) == len(RANKERS) - len(merged) - len(adapted) + 2


def test_an_open_backend_takes_no_settings_from_the_working_directory(place: Path) -> None:
    """The name of its model may also be that of a folder there."""
    pytest.importorskip("torch")

    class NamedLikeAFolder(Fake):
        @property
        def identity(self) -> Mapping[str, str]:
            return {"model": "merged"}

    assert Reranker.from_pretrained("merged", device="cpu").name == "full-attention"
    (place / "merged" / "rerank-calibration.json").write_text("not a calibration", encoding="utf-8")
    assert Reranker.from_backend(NamedLikeAFolder("reversed")).name == "fullrank"


@pytest.mark.parametrize("trained", [{"adapter": "adapter"}, {"model": "merged"}])
def test_a_calibration_travels_with_an_adapter_and_with_a_merged_model(trained: Mapping[str, str], place: Path) -> None:
    """The file in the folder is found, changes neither digest nor hash, and goes unused with another method."""
    pytest.importorskip("torch")
    write_lists(place, "0", "1")
    summary = run_experiment(spec_of(trained), Execution(out=place / "run", device="cpu"))
    (folder,) = trained.values()
    fit_to_runs([place / "run"], place / folder / "rerank-calibration.json", complete=True)
    hits = Reranker.from_pretrained(**trained, device="cpu").rank(QUERY, TEXTS)
    relevance = [hit.relevance for hit in hits]
    assert None not in relevance
    assert relevance == sorted(relevance, key=lambda p: -(p or 0))
    again = run_experiment(spec_of(trained), Execution(out=place / "run", device="cpu", resume=True))
    assert (again["hash"], again["reused_calls"]) == (summary["hash"], summary["calls"])
    other = Reranker.from_pretrained(**trained, device="cpu", method="fullrank", prompt="listwise").rank(QUERY, TEXTS)
    assert {hit.relevance for hit in other} == {None}


# A training asks what the adapter is asked later


RECIPE: Mapping[str, Any] = {
    "model": "model",
    "data": {"lists": ["labels.jsonl"], "collection": COLLECTION, "documents": len(TEXTS), "max_lists": 1},
    "adapter": {"name": "lora", "r": 2},
    "training": {"steps": 2, "accumulation": 1, "save_every": 2, "dtype": "float32"},
    "validation": {"collection": COLLECTION, "first_stage": "candidates", "every": 2},
}
TRAININGS: Mapping[str, Mapping[str, Any]] = {
    "attention": {
        "method": {"method": "full:attention,calibrate=false", "prompt": "icr_ie", "max_passage_tokens": 40},
        "losses": [{"name": "distill", "on": "log-attention"}],
        "readout": {"layers": "0-1"},
    },
    "generate": {"method": {"method": "fullrank", "min_passage_tokens": 1, "max_passage_tokens": 3}},
}


@pytest.mark.parametrize("judge", TRAININGS)
def test_a_training_asks_what_the_adapter_is_asked_later(judge: str, place: Path) -> None:
    """Training examples have the prompt of the finished adapter, and validations its requests."""
    pytest.importorskip("torch")
    pytest.importorskip("peft")
    from rerank.backends.hf import Hf
    from rerank.finetune.trainer.examples import ExampleBuilder, TrainingExample

    write_lists(place, "0", "1")  # a validation needs two queries
    order = [str(n) for n in range(len(TEXTS))]
    label = {"qid": "0", "initial_list": order, "final_list": order[::-1], "scores": [float(n) for n in order]}
    (place / "labels.jsonl").write_text(json.dumps(label), encoding="utf-8")
    examples: list[TrainingExample] = []
    make = ExampleBuilder.make

    def spy(self: Any, training_list: Any) -> TrainingExample:
        examples.append(make(self, training_list))
        return examples[-1]

    with pytest.MonkeyPatch.context() as patch, recorded(Hf) as validated:
        patch.setattr(ExampleBuilder, "make", spy)
        train_adapter(Recipe.make({**RECIPE, **TRAININGS[judge]}), place / "trained", device="cpu")
    reranker: Any = Reranker.from_pretrained(adapter="trained", device="cpu")
    with recorded(Hf) as asked:
        reranker.rank(QUERY, TEXTS)
    ((expected, _),) = asked
    untrained, *_, trained = [request for request, _ in validated if request.window.query.id == "0"]
    assert trained.digest({}) == expected.digest({})
    assert replace(untrained, task=expected.task).digest({}) == expected.digest({})  # its heads have no weights yet
    tokens = reranker.judge.backend.tokens
    prompt = tokens.ids(tokens.render(expected.prompt))
    assert len(examples) >= 2
    assert {example.texts[0][: len(prompt)] for example in examples} == {tuple(prompt)}


def test_a_model_that_judges_documents_is_the_same_under_every_name(place: Path) -> None:
    pytest.importorskip("torch")
    from rerank.backends.hf import Hf

    (place / "pool.trec").write_text("0 Q0 0 1 2 a\n0 Q0 3 2 1 a\n", encoding="utf-8")
    terms = ("--method", "depth", "--budget", "2", "--judge", "llm", "--device", "cpu")
    sent = []
    for number, name in enumerate(("merged", "hf:merged", "~/merged")):
        with recorded(Hf) as asked:
            command(
                *("qrels", "judge", "pool.trec", "--collection", COLLECTION, *terms),
                *("--model", name, "--out", f"judged-{number}.jsonl"),
            )
        sent.append(digests((asked, [])))
    with recorded(Hf) as asked:
        backend = open_model_backend("merged", BackendOptions(device="cpu"))
        grader = Grader(backend=backend, template=load_prompt(Grader.prompt), grades=(0, 1, 2, 3))
        pairs = [Window(Query(id="0", text=QUERY), (Document(id=str(n), text=TEXTS[n]),)) for n in (0, 3)]
        backend.generate([request for pair in pairs for request in grader.make_requests(pair)])
    assert sent[0]
    assert sent == [digests((asked, []))] * 3

"""Formats on disk do not change: the code of today verifies, replays, resumes and opens what commit 2d4cd24 wrote.

The files are in ``tests/fixtures/v2d4cd24``; its README says how each was made. Every test works on a copy. If one of
these tests fails, the code is wrong and not the fixture, unless a change of format was decided on purpose.
"""

from __future__ import annotations

import functools
import json
import shutil
import sqlite3
import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from rerank.experiment import prepare_run, replay_and_rescore_run, run_experiment, verify_run_folder
from rerank.experiment.execute import complete_resumed_spec
from rerank.experiment.spec import LATER_KEYS, Execution, RunSpec
from rerank.finetune.component_registry import make_training_components
from rerank.finetune.recipe import Recipe, read_recipe
from rerank.finetune.trainer.training import train_adapter
from rerank.models.adapters import AdapterSettings, read_settings
from rerank.prompts.base import Message
from rerank.store import RunFolder, hash_identity
from rerank.tasks import (
    AttentionTask,
    ContinuationTask,
    CrossEncoderTask,
    GenerationTask,
    LikelihoodTask,
    PermutationTask,
    Request,
    Sampling,
)
from rerank.types import Document, Query, Window

FIXTURES = Path(__file__).parent / "fixtures" / "v2d4cd24"
VALUES: dict[str, Any] = json.loads((FIXTURES / "digests.json").read_text(encoding="utf-8"))
RECIPES: dict[str, Any] = json.loads((FIXTURES / "recipes.json").read_text(encoding="utf-8"))

#: The names that 2d4cd24 hashed, and the classes that stand for them today.
TASKS: dict[str, Any] = {
    "Write": GenerationTask,
    "Permute": PermutationTask,
    "Weigh": ContinuationTask,
    "Recite": LikelihoodTask,
    "Attend": AttentionTask,
    "Relate": CrossEncoderTask,
}

FOLDERS = sorted(path.name.removesuffix(".tar.gz") for path in (FIXTURES / "folders").iterdir())
FINISHED = [name for name in FOLDERS if not name.startswith("unfinished-")]
#: These need torch and the tiny model; those of the real model are marked.
TINY = [name for name in FINISHED if name.startswith("tiny-")]
REAL = [name for name in FINISHED if name.startswith("smollm2")]
#: Fake models, whose replies are the same on every machine.
FAKE = [name for name in FINISHED if name not in (*TINY, *REAL)]
#: Permutations by constrained decoding. Their replies have scores now; the rest of their rows is as it was.
PERMUTED = ["tiny-fullrank", "smollm2"]
WITH_MODELS = [*FAKE, *TINY, *(pytest.param(name, marks=pytest.mark.model) for name in REAL)]
#: What an adapter or a trained model decides in a specification where the user says nothing.
_DECIDED = ("model", "revision", "method", "prompt", "min_passage_tokens", "max_passage_tokens", "context_size")


@pytest.fixture(autouse=True)
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """A copy of the inputs, as the current folder; nothing of the user's is read or written but real models."""
    folder = shutil.copytree(FIXTURES / "inputs", tmp_path / "inputs")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(FIXTURES / "plugins")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    if request.node.get_closest_marker("model") is None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


def unpack(archive: str, into: Path) -> Path:
    """Extract a fixture and return the folder that it holds."""
    with tarfile.open(FIXTURES / archive) as packed:
        packed.extractall(into, filter="data")
    return into / Path(archive).name.removesuffix(".tar.gz")


def unpack_folder(name: str, into: Path) -> Path:
    return unpack(f"folders/{name}.tar.gz", into)


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def spec_of(folder: Path) -> RunSpec:
    """The specification in a folder, without what an adapter or a trained model adds to it by itself."""
    values = read(folder, "spec.json")["spec"]
    if values["adapter"]:
        values = {key: value for key, value in values.items() if key not in _DECIDED}
    elif values["model"] == "merged":
        values = {key: value for key, value in values.items() if key not in _DECIDED[1:]}
    return RunSpec.make({key: value for key, value in values.items() if value is not None})


def calls_of(folder: Path) -> dict[str, tuple[Any, ...]]:
    """All rows of a call log by digest, with every column: a repeated call has another date."""
    with closing(sqlite3.connect(folder / "calls.sqlite")) as log:
        return {row[0]: row for row in log.execute("SELECT * FROM calls")}


def columns_of(folder: Path) -> list[str]:
    with closing(sqlite3.connect(folder / "calls.sqlite")) as log:
        return [row[1] for row in log.execute("PRAGMA table_info(calls)")]


def more_keys(row: tuple[Any, ...]) -> set[str]:
    """The keys of the last column, which holds what only some replies have."""
    return set(json.loads(row[12] or "{}"))


def require_torch(name: str) -> None:
    if name in (*TINY, *REAL):
        pytest.importorskip("torch")
        pytest.importorskip("peft")


def require_same_weights(name: str, folder: Path) -> None:
    """Skip if the real model was pulled from the hub or converted by other versions, so that its files differ."""
    if name in REAL:
        then, now = read(folder, "spec.json")["identity"]["model"]["weights"], real_weights(spec_of(folder))
        if now != then:
            pytest.skip(f"smollm2-135m has other weights here: {now}, not {then}")


@functools.cache
def real_weights(spec: RunSpec) -> str:
    """The hash of the real model's files; cached, since the model has to be loaded for it."""
    return prepare_run(spec, Execution()).backend.identity["weights"]


# Run folders


@pytest.mark.parametrize("name", FINISHED)
def test_a_folder_is_verified(name: str, tmp_path: Path) -> None:
    assert verify_run_folder(RunFolder.existing(unpack_folder(name, tmp_path))) == []


@pytest.mark.parametrize("name", FINISHED)
def test_a_folder_is_replayed(name: str, tmp_path: Path) -> None:
    folder = unpack_folder(name, tmp_path)
    then, now = read(folder, "summary.json"), replay_and_rescore_run(RunFolder.existing(folder))
    for key in ("queries", "windows", "split_windows", "complete", "calls", "tokens_in", "tokens_out", "truncated"):
        assert now[key] == then[key]
    assert now["scores"] == pytest.approx(then["scores"])
    assert now["first_stage_scores"] == pytest.approx(then["first_stage_scores"])


@pytest.mark.parametrize("name", ["unfinished-capped", "unfinished-killed"])
def test_an_unfinished_folder_is_replayed_as_far_as_it_came(name: str, tmp_path: Path) -> None:
    folder = unpack_folder(name, tmp_path)
    committed = len(calls_of(folder))
    now = replay_and_rescore_run(RunFolder.existing(folder))
    assert 0 < now["calls"] <= committed
    assert not now["complete"]


@pytest.mark.parametrize("name", WITH_MODELS)
def test_a_run_has_the_identity_that_it_had(name: str, tmp_path: Path) -> None:
    require_torch(name)
    folder = unpack_folder(name, tmp_path)
    require_same_weights(name, folder)
    document, identity = read(folder, "spec.json"), prepare_run(spec_of(folder), Execution()).identity()
    assert identity == document["identity"]
    assert hash_identity(identity) == document["hash"]


@pytest.mark.parametrize("name", [param for param in WITH_MODELS if param != "failing"])
def test_a_finished_folder_is_answered_without_a_call(name: str, tmp_path: Path) -> None:
    require_torch(name)
    folder = unpack_folder(name, tmp_path)
    require_same_weights(name, folder)
    before, ranked, summary = calls_of(folder), (folder / "run.trec").read_bytes(), read(folder, "summary.json")
    again = run_experiment(spec_of(folder), Execution(out=folder, resume=True))
    assert again["reused_calls"] == again["calls"] == summary["calls"]
    assert again["hash"] == summary["hash"]
    assert again["scores"] == pytest.approx(summary["scores"])
    assert calls_of(folder) == before
    assert (folder / "run.trec").read_bytes() == ranked


@pytest.mark.parametrize("name", [param for param in WITH_MODELS if param != "failing"])
def test_a_finished_folder_is_continued_with_no_flag_but_its_path(name: str, tmp_path: Path) -> None:
    """All settings come from spec.json; those of an adapter at another path come from the adapter."""
    require_torch(name)
    folder = unpack_folder(name, tmp_path)
    require_same_weights(name, folder)
    summary = read(folder, "summary.json")
    again = run_experiment(RunSpec.make(complete_resumed_spec({}, folder)), Execution(out=folder, resume=True))
    assert (again["hash"], again["reused_calls"]) == (summary["hash"], summary["calls"])


def test_specifications_have_the_keys_that_they_had(tmp_path: Path) -> None:
    """A key that was added needs a value that reproduces runs without it: see `rerank.experiment.spec.LATER_KEYS`."""
    recorded = read(unpack_folder("fullrank", tmp_path), "spec.json")["spec"]
    assert recorded.keys().isdisjoint(LATER_KEYS)
    assert {*RunSpec.model_fields} == {*recorded, *LATER_KEYS}


@pytest.mark.parametrize("name", WITH_MODELS)
def test_a_run_made_again_sends_the_same_requests(name: str, tmp_path: Path) -> None:
    require_torch(name)
    folder = unpack_folder(name, tmp_path)
    require_same_weights(name, folder)
    again = run_experiment(spec_of(folder), Execution(out=tmp_path / "again", log_prompts="full"))
    then, now = calls_of(folder), calls_of(tmp_path / "again")
    assert set(now) == set(then)
    # Prompt, sampling, query and documents as they are written; what a real model replies depends on the machine.
    assert {key: row[1:5] for key, row in now.items()} == {key: row[1:5] for key, row in then.items()}
    assert columns_of(tmp_path / "again")[:13] == columns_of(folder)
    for key, row in then.items():
        assert more_keys(now[key]) - {"tokens_cached"} == more_keys(row) | ({"scores"} if name in PERMUTED else set())
    assert again["hash"] == read(folder, "spec.json")["hash"]
    if name in FAKE:
        assert {key: row[5:8] for key, row in now.items()} == {key: row[5:8] for key, row in then.items()}
        assert (tmp_path / "again" / "run.trec").read_bytes() == (folder / "run.trec").read_bytes()


@pytest.mark.parametrize(
    ("name", "whole"), [("unfinished-capped", "capped-whole"), ("unfinished-killed", "killed-whole")]
)
def test_an_unfinished_run_resumes_without_repeating_calls(name: str, whole: str, tmp_path: Path) -> None:
    folder, expected = unpack_folder(name, tmp_path), unpack_folder(whole, tmp_path)
    before = calls_of(folder)
    summary = run_experiment(spec_of(folder), Execution(out=folder, resume=True))
    after = calls_of(folder)
    assert summary["complete"]
    assert summary["reused_calls"] == len(before)
    assert summary["calls"] == len(after) > len(before)
    assert {digest: after[digest] for digest in before} == before
    assert set(after) == set(calls_of(expected))
    assert (folder / "run.trec").read_bytes() == (expected / "run.trec").read_bytes()
    assert summary["scores"] == pytest.approx(read(expected, "summary.json")["scores"])
    assert verify_run_folder(RunFolder.existing(folder)) == []


def test_only_calls_without_a_reply_are_repeated(tmp_path: Path) -> None:
    folder = unpack_folder("failing", tmp_path)
    before, windows = calls_of(folder), read(folder, "summary.json")["windows"]
    summary = run_experiment(spec_of(folder), Execution(out=folder, resume=True))
    assert calls_of(folder) == before
    assert summary["reused_calls"] == len(before)
    assert summary["windows"] == windows


def test_the_call_cache_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(unpack("cache.tar.gz", tmp_path / "shared")))
    folder = unpack_folder("cached", tmp_path)
    summary = run_experiment(spec_of(folder), Execution(out=tmp_path / "again", call_cache=True))
    assert summary["reused_calls"] == summary["calls"] == len(calls_of(folder)) > 0
    assert (tmp_path / "again" / "run.trec").read_bytes() == (folder / "run.trec").read_bytes()


# Digests of requests, and hashes of runs


def frozen(value: Any) -> Any:
    return tuple(map(frozen, value)) if isinstance(value, list) else value


def chat(turns: list[dict[str, Any]]) -> tuple[Message, ...]:
    return tuple(Message(**{key: frozen(value) for key, value in turn.items()}) for turn in turns)


def task_of(row: dict[str, Any]) -> Any:
    fields = {key: chat(value) if key == "null" else frozen(value) for key, value in row.items() if key != "kind"}
    return TASKS[row["kind"]](**fields)


def window_of(row: dict[str, Any]) -> Window:
    documents = tuple(Document(**document) for document in row["docs"])
    return Window(Query(**row["query"]), documents, tuple(row.get("scores", ())), row.get("best"))


def request_of(row: dict[str, Any]) -> Request:
    given = {"prompt": chat(row["prompt"]), "sampling": Sampling(**row["sampling"]), "task": task_of(row["task"])}
    return Request(**given, window=window_of(row["window"])) if "window" in row else Request(**given)


@pytest.mark.parametrize("row", VALUES["requests"], ids=lambda row: row["name"])
def test_the_digest_of_a_request(row: dict[str, Any]) -> None:
    assert request_of(row).digest(row["identity"]) == row["digest"]


def test_every_kind_of_task_has_digests() -> None:
    assert {row["task"]["kind"] for row in VALUES["requests"]} == set(TASKS)
    assert len({row["digest"] for row in VALUES["requests"]}) >= 25


@pytest.mark.parametrize("row", VALUES["specifications"], ids=lambda row: row["name"])
def test_the_identity_of_a_specification(row: dict[str, Any]) -> None:
    identity = prepare_run(RunSpec.make(row["spec"]), Execution()).identity()
    assert identity == row["identity"]
    assert hash_identity(identity) == row["hash"]


# Recipes, adapters and trainings


def contains(now: Any, then: Any) -> bool:
    """Whether a value says all that it said then; keys that were added later do not matter."""
    if isinstance(then, dict):
        return isinstance(now, dict) and all(key in now and contains(now[key], value) for key, value in then.items())
    if isinstance(then, list):
        return isinstance(now, list) and len(now) == len(then) and all(map(contains, now, then))
    return bool(now == then)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_loads_to_the_same_values(name: str, inputs: Path) -> None:
    recipe = read_recipe(inputs / "recipes" / name, trust_remote_code=True)
    assert contains(recipe.model_dump(mode="json"), RECIPES[name])
    assert Recipe.make(RECIPES[name]) == recipe


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_has_the_same_components(name: str, inputs: Path) -> None:
    components = make_training_components(read_recipe(inputs / "recipes" / name, trust_remote_code=True))
    for kind in ("adapter", "optimizer", "layers", "ranks", "objective"):
        check_component(getattr(components, kind), RECIPES[name][kind])
    for kind in ("losses", "callbacks"):
        for component, then in zip(getattr(components, kind), RECIPES[name][kind], strict=True):
            check_component(component, then)


#: Keys of the tables of all losses and of all optimizers, which are not options of a class.
_OF_THE_TABLE = {"name", "weight", "on", "lr", "weight_decay"}


def check_component(component: Any, then: Any) -> None:
    """Check a component's class by its name, and all options that the recipe recorded."""
    if then is None:
        assert component is None
        return
    assert type(component).__name__.lower() == then["name"].replace("-", "").replace("_", "")
    options = {key: value for key, value in then.items() if key not in _OF_THE_TABLE}
    assert json.loads(json.dumps({key: getattr(component, key) for key in options}, default=str)) == options


def test_adapters_and_merged_models_say_how_they_are_used(inputs: Path) -> None:
    expected = AdapterSettings(
        model="model",
        method="full:attention,calibrate=false,heads=heads.json",
        min_passage_tokens=1,
        max_passage_tokens=40,
    )
    assert read_settings(inputs / "adapter") == expected
    merged = read_settings(inputs / "merged")
    assert merged is not None
    assert (merged.method, merged.max_passage_tokens) == (expected.method, expected.max_passage_tokens)


def noting(begun: list[int]) -> Callable[..., Any]:
    """A progress bar that notes how many steps were done when it began."""

    @contextmanager
    def progress(title: str, total: int, done: int) -> Iterator[Callable[[int], None]]:
        begun.append(done)
        yield lambda steps: None

    return progress


def test_a_killed_training_resumes_from_its_checkpoint(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("peft")
    from safetensors.torch import load_file

    folder, whole = (unpack(f"trainings/listwise-{end}.tar.gz", tmp_path) for end in ("killed", "whole"))
    begun: list[int] = []
    result = train_adapter(
        read_recipe("recipes/listwise.toml"), folder, resume=True, device="cpu", progress=noting(begun)
    )
    assert (begun, result.steps) == ([10], 40)
    now, then = (load_file(place / "adapter_model.safetensors") for place in (folder, whole))
    assert set(now) == set(then)
    for name, value in then.items():
        torch.testing.assert_close(now[name], value, atol=1e-3, rtol=0)


def test_a_finished_training_is_not_repeated(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("peft")
    folder = unpack("trainings/tiny-attention.tar.gz", tmp_path)
    begun: list[int] = []
    result = train_adapter(
        read_recipe("recipes/attention.toml"), folder, resume=True, device="cpu", progress=noting(begun)
    )
    then = read(folder, "result.json")
    assert begun == []
    assert (result.steps, result.loss, result.validation) == (then["steps"], then["loss"], then["validation"])

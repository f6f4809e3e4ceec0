"""Backends that load their model at the first call: what is known before, and that it is the same afterwards."""

from __future__ import annotations

import copy
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from transformers import AutoTokenizer

from rerank.errors import BackendError, DataError, MissingPrerequisiteError, UsageError
from rerank.experiment import prepare_run, run_experiment
from rerank.experiment.estimate import estimate_run_cost
from rerank.experiment.spec import Execution, RunSpec
from rerank.io import file_hashes, model_base
from rerank.lm import loading
from rerank.lm.loading import load_tokenizer
from rerank.lm.model_process import LocalModel
from rerank.models import open_model_backend
from rerank.models.lazy_backend import LazyBackend
from rerank.prompts.base import Message
from rerank.tasks import BackendOptions, Request, Sampling, tasks_supported_by_backend
from tests.backends.conftest import _one_thread, make_model, make_tokenizer
from tests.raising import raises

__all__ = ["_one_thread"]

FP32 = BackendOptions(dtype="float32", device="cpu")
ASKED = Request(prompt=(Message("user", "a"),), sampling=Sampling(max_tokens=8, min_tokens=8))


def save(folder: Path, kind: str = "Llama", **config: Any) -> Path:
    with loading.quiet_transformers():
        make_model(kind, **config).save_pretrained(folder)
        make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("models") / "tiny", max_position_embeddings=1024)


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved, tmp_path / "tiny")


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    with loading.quiet_transformers():
        peft.get_peft_model(make_model(), config).save_pretrained(str(tmp_path / "lora"))
    return tmp_path / "lora"


def open_lazily(folder: Path, options: BackendOptions = FP32) -> LazyBackend:
    backend = open_model_backend(str(folder), options, lazy=True)
    assert isinstance(backend, LazyBackend)
    return backend


@pytest.mark.parametrize(
    ("kind", "dtype", "config"),
    [("Llama", "auto", {}), ("Qwen3", "float32", {}), ("Gemma3", "bfloat16", {"sliding_window": 16})],
)
def test_it_is_the_loaded_backend(tmp_path: Path, kind: str, dtype: str, config: dict[str, Any]) -> None:
    folder, options = save(tmp_path / "model", kind, **config), BackendOptions(dtype=dtype)  # type: ignore[arg-type]
    lazy, eager = open_lazily(folder, options), open_model_backend(str(folder), options)
    prompt = list(ASKED.prompt)
    known = (dict(lazy.identity), lazy.batch_size, lazy.tasks, lazy.costs_money, lazy.tokens.context_size)
    assert known == (
        dict(eager.identity),
        eager.batch_size,
        tasks_supported_by_backend(eager),
        False,
        eager.tokens.context_size,
    )
    assert lazy.batch_characters == getattr(eager, "batch_characters", None)
    assert lazy.tokens.count(tuple(prompt)) == eager.tokens.count(tuple(prompt))
    was_loaded = lazy.is_loaded
    assert lazy.generate([ASKED])[0].text == eager.generate([ASKED])[0].text
    assert (was_loaded, lazy.is_loaded) == (False, True)
    assert lazy.warm_up().tokens is lazy.tokens


def test_an_adapter_belongs_to_the_identity(folder: Path, adapter: Path) -> None:
    for dtype in ("float32", "bfloat16"):
        options = BackendOptions(dtype=dtype, device="cpu", adapter=str(adapter))
        lazy, eager = open_lazily(folder, options), open_model_backend(str(folder), options)
        assert dict(lazy.identity) == dict(eager.identity)
        assert lazy.generate([ASKED])[0].text == eager.generate([ASKED])[0].text


def test_attributes_of_the_class_do_not_load_the_model(folder: Path) -> None:
    lazy = open_lazily(folder)
    assert lazy.classes == loading.LANGUAGE
    assert not hasattr(lazy, "agenerate")
    assert copy.copy(lazy).identity == lazy.identity
    was_loaded = lazy.is_loaded
    assert lazy.model.config.vocab_size == 260
    assert (was_loaded, lazy.is_loaded) == (False, True)


def test_torch_is_not_imported_before_the_first_call(folder: Path) -> None:
    if torch.version.cuda or torch.version.hip:
        pytest.skip("this build of torch has to be asked for its devices")
    code = """if True:
        import sys
        from rerank.models import open_model_backend
        backend = open_model_backend(sys.argv[1], lazy=True)
        known = backend.identity["model"], backend.batch_size, backend.tokens.lengths(["abc"])
        print(*known, "torch" in sys.modules)
    """
    told = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["tiny", "4", "[3]", "False"]


@pytest.mark.parametrize("kind", ["Llama", "Qwen3"])
def test_the_tokenizer_is_that_of_auto_tokenizer(tmp_path: Path, kind: str) -> None:
    folder = save(tmp_path / "model", kind)
    assert_same_tokenizer(load_tokenizer(folder, FP32), AutoTokenizer.from_pretrained(folder))


@pytest.mark.model
def test_the_tokenizer_of_the_embedded_model() -> None:
    from rerank.models import resolve_model_name

    folder = Path(resolve_model_name("smollm2-135m"))
    assert_same_tokenizer(load_tokenizer(folder, FP32), AutoTokenizer.from_pretrained(folder))


def assert_same_tokenizer(made: Any, expected: Any) -> None:
    assert type(made) is type(expected)
    assert made.backend_tokenizer.to_str() == expected.backend_tokenizer.to_str()
    for name in ("chat_template", "special_tokens_map", "model_max_length", "added_tokens_decoder", "padding_side"):
        assert getattr(made, name) == getattr(expected, name)


def test_weights_that_change_before_they_are_loaded(folder: Path) -> None:
    lazy = open_lazily(folder)
    make_model(seed=1, max_position_embeddings=1024).save_pretrained(folder)
    with raises(BackendError, "'tiny'", "changed"):
        lazy.generate([ASKED])


def test_what_the_files_show_is_reported_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with raises(UsageError, "--context-size is 4096", "1024"):
        open_lazily(folder, BackendOptions(context_size=4096))
    with raises(UsageError, "tpu"):
        open_lazily(folder, BackendOptions(device="tpu"))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with raises(MissingPrerequisiteError, "transformers", "[hf]'"):
        open_lazily(folder)


@pytest.mark.parametrize("options", [BackendOptions(trust_remote_code=True), BackendOptions(device_map="auto")])
def test_models_that_have_to_be_loaded_to_be_known(folder: Path, options: BackendOptions) -> None:
    assert not isinstance(open_model_backend(str(folder), options, lazy=True), LazyBackend)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("cuda: Optional[str] = None\nhip: Optional[str] = None\n", True),
        ("cuda: Optional[str] = '12.8'\nhip: Optional[str] = None\n", False),
        ("cuda = None\nhip = '6.3'\n", False),
        ("cuda = None\nhip = None\nxpu = '2025'\n", False),
        ("", False),
    ],
)
def test_what_torch_was_built_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, expected: bool
) -> None:
    (tmp_path / "version.py").write_text(content)
    spec = type("Spec", (), {"origin": str(tmp_path / "__init__.py")})
    monkeypatch.setattr(loading, "find_spec", lambda name: spec)
    monkeypatch.setattr(sys, "platform", "linux")
    assert loading._is_cpu_only_torch() is expected


def test_large_weights_are_hashed_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("_LARGE", "_FRESH"):
        monkeypatch.setattr(file_hashes, name, 0)
    model_base._hash_content.cache_clear()
    before = model_base.hash_file_contents_of_model(folder)
    model_base._hash_content.cache_clear()
    monkeypatch.setattr("hashlib.file_digest", lambda *_: pytest.fail("a file was read again"))
    assert model_base.hash_file_contents_of_model(folder) == before
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    monkeypatch.undo()
    (folder / "model.safetensors").write_bytes(weights)
    assert model_base.hash_file_contents_of_model(folder) != before


@pytest.fixture
def spec(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunSpec:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    settings = {"collection": "pydoc", "depth": 2, "max_queries": 1, "max_passage_tokens": 20, "min_passage_tokens": 1}
    return RunSpec.make({**settings, "model": str(folder), "method": "pointwise", "dtype": "float32"})


def test_estimates_and_finished_runs_do_not_load_the_model(
    spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = prepare_run(spec, Execution())
    assert estimate_run_cost(prepared)["calls"] == 2
    assert isinstance(prepared.backend, LazyBackend)
    assert not prepared.backend.is_loaded
    first = run_experiment(spec, Execution(out=tmp_path / "out"))
    monkeypatch.setattr(LazyBackend, "warm_up", lambda self: pytest.fail("the model was loaded"))
    again = run_experiment(spec, Execution(out=tmp_path / "out"))
    assert (again["reused_calls"], again["scores"]) == (2, first["scores"])


def test_a_model_that_cannot_be_loaded_leaves_no_folder(spec: RunSpec, tmp_path: Path) -> None:
    weights = Path(spec.model) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with raises(DataError, "tiny"):
        run_experiment(spec, Execution(out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_the_tokens_of_a_batch_are_reported_before_its_reply(folder: Path) -> None:
    backend = open_lazily(folder)
    parts: list[float] = []
    backend.report_tokens_to(parts.append)
    assert not backend.is_loaded
    prompt = backend.tokens.count(ASKED.prompt)
    reply = backend.generate([ASKED])[0]
    assert sum(parts) == pytest.approx(prompt + reply.tokens_out - 1)  # the last token is not read
    assert parts[0] == pytest.approx(prompt / 2)  # of the first of two layers
    backend.report_tokens_to(None)
    parts.clear()
    backend.generate([ASKED])
    assert not parts


def test_a_backend_of_a_plug_in_needs_no_files(folder: Path) -> None:
    """Written for versions in which a description had a name, and a backend could have slots."""

    @dataclass(frozen=True)
    class Description:
        name: Path
        options: BackendOptions
        identity: dict[str, str]
        device: str = "cpu"
        tokens: Any = None

    @dataclass(frozen=True, slots=True)
    class Plug:
        identity: dict[str, str]

        @classmethod
        def load_described(cls, description: Description) -> Plug:
            return cls(description.identity)

    description: Any = Description(folder, FP32, {"model": "m"})
    lazy = LazyBackend(Plug, description)
    assert lazy.settings_folder == folder
    assert lazy.base is None
    assert dict(lazy.warm_up().identity) == {"model": "m"}

    class Local(LocalModel):
        @classmethod
        def load(cls, name: str | Path, options: BackendOptions | None = None) -> Local:
            backend = cls()
            backend.identity = {"model": "m"}
            backend.set_source(name, options or FP32)
            return backend

    assert Local.load(folder).settings_folder == folder

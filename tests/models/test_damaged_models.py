"""Models whose files were damaged: each is refused in one line, never loaded with other or random weights."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sentence_transformers")

import torch
from safetensors.torch import load_file, save_file

from rerank.errors import BackendError, DataError, MissingResourceError, RerankError, UsageError
from rerank.indexing.text_encoder import load_text_encoder
from rerank.lm.model_process import check_scores
from rerank.retrieval.dense import Dense
from tests.backends import pairs
from tests.backends.modular import save_ettin
from tests.models.kinds import KINDS, LOADING
from tests.raising import raises
from tests.retrieval.encoders import save_encoder


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder of a model of a kind, which is saved once."""
    folders: dict[str, Path] = {}

    def save(kind: str) -> Path:
        if kind not in folders:
            folders[kind] = KINDS[kind].save(tmp_path_factory.mktemp("models") / "m")
        return folders[kind]

    return save


@pytest.fixture
def copied(saved: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    return lambda kind: Path(shutil.copytree(saved(kind), tmp_path / "damaged"))


def change_weight(folder: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> str:
    """Change a weight in the middle of the last file with weights, and return the weight's name."""
    path = sorted(folder.rglob("*.safetensors"))[-1]
    weights = load_file(path)
    name = sorted(weights)[len(weights) // 2]
    save_file({**weights, name: change(weights[name].clone()).contiguous()}, path, {"format": "pt"})
    return name


def put(weight: torch.Tensor, value: float) -> torch.Tensor:
    weight.view(-1)[0] = value
    return weight


CHANGES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "nan": lambda weight: put(weight, torch.nan),
    "shape": lambda weight: torch.cat([weight, weight]),
}


#: Kinds with a loader of their own; all of them are damaged in all ways in tests/attacks.
LOADERS = ("language model", "modular cross-encoder", "jina ranking", "dense stage", "images stage")


@pytest.mark.parametrize(("kind", "change"), [(kind, change) for kind in LOADERS for change in ("nan", "shape")])
def test_a_weight_that_is_not_finite_or_of_another_shape(copied: Callable[[str], Path], kind: str, change: str) -> None:
    folder = copied(kind)
    name = change_weight(folder, CHANGES[change]).rpartition(".")[2]
    with raises(DataError, folder.name, name) as caught:
        KINDS[kind].use(folder)
    assert "\n" not in str(caught.value)


def test_a_number_beyond_the_range_of_half_precision(copied: Callable[[str], Path]) -> None:
    from rerank.backends.hf import Hf
    from rerank.tasks import BackendOptions

    folder = copied("language model")
    change_weight(folder, lambda weight: put(weight, 1e6))
    Hf.load(folder, BackendOptions(dtype="bfloat16", device="cpu"))
    with raises(DataError, "not finite in float16", "--dtype float32"):
        Hf.load(folder, BackendOptions(dtype="float16", device="cpu"))


def test_scores_that_are_not_finite() -> None:
    for score in (float("nan"), float("inf"), -float("inf")):
        with raises(BackendError, "scores that are not numbers", "--dtype float32"):
            check_scores([0.0, score])


def change_json(folder: Path, name: str, **values: Any) -> None:
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**content, **values}))


@pytest.mark.parametrize("kind", ["language model", "cross-encoder", "images stage"])
@pytest.mark.parametrize(
    "values",
    [
        {"num_hidden_layers": -1},
        {"num_hidden_layers": 0},
        {"num_hidden_layers": "2"},
        {"num_hidden_layers": None},
        {"num_attention_heads": 0, "text_config": {"num_attention_heads": 0}},
        {"hidden_size": [], "text_config": []},
        {"vocab_size": "\ud800", "text_config": {"vocab_size": "\ud800"}},
        {"architectures": 1.5, "model_type": {}},
        {"architectures": [[]], "vocab_size": None, "text_config": 5},
    ],
    ids=str,
)
def test_nonsense_in_the_configuration(copied: Callable[[str], Path], kind: str, values: dict[str, Any]) -> None:
    folder = copied(kind)
    if kind == "images stage" and "num_hidden_layers" in values:
        values = {"text_config": {**json.loads((folder / "config.json").read_text())["text_config"], **values}}
    change_json(folder, "config.json", **values)
    with pytest.raises(RerankError) as caught:
        KINDS[kind].use(folder)
    assert "\n" not in str(caught.value)


def test_fewer_layers_than_weights_are_said(copied: Callable[[str], Path], caplog: pytest.LogCaptureFixture) -> None:
    folder = copied("cross-encoder")
    change_json(folder, "config.json", num_hidden_layers=1)
    KINDS["cross-encoder"].use(folder)
    assert "has 1 layers in config.json, but its weights have more: bert.encoder.layer.1." in caplog.text


@pytest.mark.parametrize(
    "content",
    [
        5,
        None,
        [1],
        {"a": 1},
        [{"path": 5, "type": "x"}],
        [{"path": None}],
        "modules",
        [{"path": "a" * 300, "type": "x"}],
    ],
)
def test_a_list_of_modules_of_the_wrong_type(tmp_path: Path, content: Any) -> None:
    folder = save_encoder(tmp_path)
    (folder / "modules.json").write_text(json.dumps(content))
    with raises(DataError, "malformed list of modules") as caught:
        load_text_encoder(folder, Dense(str(folder), **LOADING))
    assert "\n" not in str(caught.value)


def test_settings_of_modules(tmp_path: Path) -> None:
    folder = save_encoder(tmp_path)
    settings = folder / "1_Pooling" / "config.json"
    before = settings.read_text()
    for text, kind in (("[]", DataError), ("null", DataError), ('{"pooling_mode": 5}', RerankError)):
        settings.write_text(text)
        with pytest.raises(kind):
            load_text_encoder(folder, Dense(str(folder), **LOADING))
    settings.write_text(before)
    change_json(folder, "config_sentence_transformers.json", model_type="CrossEncoder")
    with raises(UsageError, "was saved as 'CrossEncoder'"):
        load_text_encoder(folder, Dense(str(folder), **LOADING))


def test_an_activation_function_that_the_library_would_replace(tmp_path: Path) -> None:
    folder = save_ettin(tmp_path / "m")
    change_json(folder, "4_Dense/config.json", activation_function="os.system")
    with raises(UsageError, "activation function 'os.system'", "--trust-remote-code"):
        KINDS["modular cross-encoder"].use(folder)


def test_pickled_modules_of_an_encoder(tmp_path: Path) -> None:
    import sentence_transformers
    from sentence_transformers.base.modules import Dense as DenseModule
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    modules = [Transformer(str(pairs.save(tmp_path / "base", base=True))), Pooling(16, "mean"), DenseModule(16, 8)]
    folder = tmp_path / "encoder"
    sentence_transformers.SentenceTransformer(modules=modules, device="cpu").save(str(folder), create_model_card=False)
    path = folder / "2_Dense" / "model.safetensors"
    torch.save(load_file(path), path.with_name("pytorch_model.bin"))
    path.unlink()
    with raises(DataError, "2_Dense/pytorch_model.bin", "can run code"):
        load_text_encoder(folder, Dense(str(folder), **LOADING))


def test_pooling_that_no_file_states_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = pairs.save(tmp_path / "m", base=True)
    with caplog.at_level(logging.WARNING):
        load_text_encoder(folder, Dense(str(folder), **LOADING))
    assert "has no modules.json" in caplog.text
    assert "mean" in caplog.text


@pytest.mark.parametrize(
    ("template", "found"),
    [
        ("\ud800{{ messages }}", "half of a surrogate pair"),
        ("{{ '\\ud800' }}", "half of a surrogate pair"),
        ("{{ cycler() }}", "RuntimeError"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ 1 + 'a' }}", "TypeError"),
        (5, "TypeError"),
        ({"rag": "x"}, "no default"),
        ([1], "wrong value"),
    ],
)
def test_chat_templates_that_fail(copied: Callable[[str], Path], template: Any, found: str) -> None:
    folder = copied("language model")
    (folder / "chat_template.jinja").unlink()
    change_json(folder, "tokenizer_config.json", chat_template=template)
    with raises(RerankError, found) as caught:
        KINDS["language model"].use(folder)
    assert "\n" not in str(caught.value)


def test_a_missing_chat_template_is_said(copied: Callable[[str], Path], caplog: pytest.LogCaptureFixture) -> None:
    folder = copied("language model")
    (folder / "chat_template.jinja").unlink()
    KINDS["language model"].use(folder)
    assert caplog.text.count("has no chat template") == 1


def test_a_missing_folder() -> None:
    with pytest.raises(MissingResourceError):
        KINDS["dense stage"].use(Path("absent"))

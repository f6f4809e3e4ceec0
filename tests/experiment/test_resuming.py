"""Completing the settings of a resumed run from its folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rerank.errors import DataError, MissingResourceError
from rerank.experiment import execute, spec
from rerank.experiment.execute import complete_resumed_spec
from rerank.experiment.prepare import spec_with_trained_defaults
from rerank.experiment.spec import LATER_KEYS, RunSpec
from rerank.models.adapters import adapter_folder
from tests.raising import raises

SHIPPED = "smollm2-135m-attention"
#: Settings of the shipped adapter, with the paths of another machine.
ELSEWHERE = {
    "method": "icr,heads=/elsewhere/adapter/heads.json",
    "prompt": "/elsewhere/adapter/prompt.yaml",
    "model": "smollm2-135m",
    "max_passage_tokens": 64,
}


def write_spec(folder: Path, identity: Any = None, **values: Any) -> Path:
    folder.mkdir(exist_ok=True)
    document = {"hash": "", "spec": {"collection": "pydoc", **values}, "identity": identity or {}}
    (folder / "spec.json").write_text(json.dumps(document))
    return folder


def test_a_folder_without_a_run_adds_nothing(tmp_path: Path) -> None:
    values = {"collection": "pydoc", "depth": 3}
    assert complete_resumed_spec(values, tmp_path) == values
    with raises(MissingResourceError, str(tmp_path)):
        complete_resumed_spec({"depth": 3}, tmp_path)


def test_given_values_precede_recorded_ones(tmp_path: Path) -> None:
    folder = write_spec(tmp_path / "a", depth=20, seed=4, qrels=None)
    expected = {"collection": "pydoc", "depth": 3, "seed": 4, "qrels": None}
    assert complete_resumed_spec({"depth": 3}, folder) == {**LATER_KEYS, **expected}


def test_recorded_values_precede_defaults(tmp_path: Path) -> None:
    """A default that has changed since the run began does not make its folder unusable."""
    folder = write_spec(tmp_path / "a", min_passage_tokens=48)
    assert RunSpec.make(complete_resumed_spec({}, folder)).min_passage_tokens == 48


def test_a_run_keeps_its_method_when_the_default_of_its_model_has_changed(tmp_path: Path) -> None:
    recorded = {"model": "smollm2-135m", "method": "fullrank", "prompt": "auto", "max_passage_tokens": None}
    resumed = RunSpec.make(complete_resumed_spec({}, write_spec(tmp_path / "a", **recorded)))
    assert spec_with_trained_defaults(resumed).model_dump(include={*recorded}) == recorded


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"dtype": "bfloat16", "adapter": "a1"}, "float32"),
        ({"dtype": "bfloat16", "adapter": "a1", "adapter_dtype": "bfloat16"}, "auto"),
        ({"dtype": "bfloat16", "adapter": "a1", "engine": "vllm"}, "auto"),
        ({"dtype": "float32", "adapter": "a1"}, "auto"),
        ({"dtype": "bfloat16"}, "auto"),
    ],
)
def test_a_run_keeps_the_dtype_that_its_adapter_had(tmp_path: Path, model: dict[str, Any], expected: str) -> None:
    folder = write_spec(tmp_path / "a", identity={"model": model})
    assert RunSpec.make(complete_resumed_spec({}, folder)).adapter_dtype == expected


def test_a_recorded_null_precedes_a_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the default of max_passage_tokens had been changed from None to a number."""
    values = complete_resumed_spec({}, write_spec(tmp_path / "a", max_passage_tokens=None))

    class Later(RunSpec):
        max_passage_tokens: int | None = 64

    assert Later.make({"collection": "pydoc"}).max_passage_tokens == 64
    assert Later.make(values).max_passage_tokens is None


def test_a_key_that_the_run_did_not_have_gets_the_value_of_that_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (execute, spec):
        monkeypatch.setattr(module, "LATER_KEYS", {"thinking_tokens": 5})
    folder = write_spec(tmp_path / "a")
    assert complete_resumed_spec({}, folder)["thinking_tokens"] == 5
    assert complete_resumed_spec({"thinking_tokens": 7}, folder)["thinking_tokens"] == 7
    assert spec.read_run_spec(folder / "spec.json")["thinking_tokens"] == 5
    assert RunSpec.from_record({"collection": "pydoc"}).thinking_tokens == 5
    assert RunSpec.from_record({"collection": "pydoc", "thinking_tokens": 0}).thinking_tokens == 0


@pytest.mark.parametrize("part", ["spec", "identity"])
def test_a_damaged_spec_is_reported(tmp_path: Path, part: str) -> None:
    document = {"hash": "", "spec": {}, "identity": {}, part: []}
    (tmp_path / "spec.json").write_text(json.dumps(document))
    with pytest.raises(DataError) as error:
        complete_resumed_spec({}, tmp_path)
    assert part in error.value.found


def test_an_adapter_by_name_was_elsewhere(tmp_path: Path) -> None:
    shipped = adapter_folder(SHIPPED)
    settings = json.loads((shipped / "rerank.json").read_text())
    recorded = ELSEWHERE | {"method": elsewhere(settings["method"]), "adapter": SHIPPED}
    values = complete_resumed_spec({}, write_spec(tmp_path / "a", **recorded))
    assert values["adapter"] == SHIPPED
    assert values["prompt"] == str(shipped / "prompt.yaml")
    assert "/elsewhere/" not in values["method"]


def test_an_adapter_that_was_moved(tmp_path: Path) -> None:
    moved = tmp_path / "adapter"
    shutil.copytree(adapter_folder(SHIPPED), moved)
    settings = json.loads((moved / "rerank.json").read_text())
    recorded = ELSEWHERE | {"method": elsewhere(settings["method"]), "adapter": "/elsewhere/adapter"}
    values = complete_resumed_spec({"adapter": str(moved)}, write_spec(tmp_path / "a", **recorded))
    assert values["adapter"] == str(moved)
    assert values["prompt"] == str(moved / "prompt.yaml")
    assert "/elsewhere/" not in values["method"]


def test_files_of_the_user_with_the_names_of_the_adapters_are_kept(tmp_path: Path) -> None:
    settings = json.loads((adapter_folder(SHIPPED) / "rerank.json").read_text())
    mine = tmp_path / "mine"
    mine.mkdir()
    for name in ("prompt.yaml", "heads.json"):
        (mine / name).write_text("")
    recorded = {
        "method": settings["method"].replace("heads=", f"heads={mine}/"),
        "prompt": f"{mine}/prompt.yaml",
        "adapter": SHIPPED,
        "model": "smollm2-135m",
    }
    folder = write_spec(tmp_path / "a", **recorded)
    values = complete_resumed_spec({}, folder)
    assert (values["method"], values["prompt"]) == (recorded["method"], recorded["prompt"])
    (mine / "heads.json").unlink()
    values = complete_resumed_spec({}, folder)
    assert (values["method"] == recorded["method"], values["prompt"]) == (False, recorded["prompt"])


def test_a_method_that_is_not_the_adapters_own_is_kept(tmp_path: Path) -> None:
    recorded = {"method": "sliding,size=4", "prompt": "listwise", "adapter": SHIPPED, "model": "smollm2-135m"}
    values = complete_resumed_spec({}, write_spec(tmp_path / "a", **recorded))
    assert (values["method"], values["prompt"]) == ("sliding,size=4", "listwise")


def elsewhere(method: str) -> str:
    return method.replace("heads=", "heads=/elsewhere/adapter/")

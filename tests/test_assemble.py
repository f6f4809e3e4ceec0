"""Settings of rankers: what they accept, and their defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from rerank.assemble import assemble_ranker, complete_settings
from rerank.backends.fake import Fake
from rerank.errors import UsageError
from rerank.experiment.prepare import ranker_settings, spec_with_trained_defaults
from rerank.experiment.spec import RunSpec
from rerank.judges import Limits
from rerank.models import MODELS, ModelPreset
from rerank.settings import RankerOptions, RankerSettings

INVALID: list[dict[str, Any]] = [
    {"top_k": 0},
    {"top_k": -3},
    {"top_k": "two"},
    {"temperature": -1.0},
    {"thinking_tokens": -4},
    {"min_passage_tokens": 0},
    {"seed": "x"},
    {"passages": 5},
    {"model": 3},
    {"window_size": [4]},
    {"timeout": 0},
    {"dtype": "int3"},
    {"device_map": "everywhere"},
]


@pytest.mark.parametrize("settings", INVALID, ids=str)
def test_an_invalid_value_is_reported(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as error:
        assemble_ranker({"model": "fake:perfect", **settings})
    ((name, value),) = settings.items()
    assert error.value.found == f"{name} = {value!r}"
    assert error.value.expected


def test_values_are_converted_as_on_the_command_line(tmp_path: Path) -> None:
    config = complete_settings({"model": tmp_path, "window_size": "4", "temperature": 1})
    assert (config.model, config.window_size, config.temperature) == (str(tmp_path), 4, 1.0)


def test_keywords_are_the_settings_except_the_model() -> None:
    hints = get_type_hints(RankerSettings)
    settings = {name: hints[name] for name in RankerSettings.model_fields if name != "model"}
    optional = {name: hint if type(None) in get_args(hint) else hint | None for name, hint in settings.items()}
    choices = dict.fromkeys(("dtype", "adapter_dtype", "attention", "device_map"), str | None)
    assert get_type_hints(RankerOptions) == {**optional, **choices}


def test_a_run_has_every_setting_of_a_ranker() -> None:
    assert ranker_settings(RunSpec(collection="pydoc")) == RankerSettings()
    assert RankerSettings(seed=3).limits() == Limits()
    assert RankerSettings(seed=3, temperature=0.5).limits() == Limits(seed=3, temperature=0.5)


RECIPE = dict(MODELS["smollm2-135m"].recipe)
FULLRANK = {"method": "fullrank", "prompt": "auto", "max_passage_tokens": None}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, RECIPE),
        ({"model": "smollm2-135m"}, RECIPE),
        ({"model": "hf:smollm2-135m", "method": "auto"}, RECIPE),
        ({"model": "vllm:smollm2-135m"}, RECIPE),
        ({"prompt": "auto"}, {**RECIPE, "prompt": "auto"}),
        (
            {"prompt": "query_likelihood", "max_passage_tokens": 40},
            {**RECIPE, "prompt": "query_likelihood", "max_passage_tokens": 40},
        ),
        ({"method": "fullrank"}, FULLRANK),
        ({"method": "qlm"}, {**FULLRANK, "method": "qlm"}),
        ({"model": "openai:smollm2-135m"}, FULLRANK),
        ({"model": "org/another-model"}, FULLRANK),
        ({"model": "fake:perfect"}, FULLRANK),
    ],
    ids=str,
)
def test_auto_is_the_recipe_of_the_preset_or_else_fullrank(settings: dict[str, Any], expected: dict[str, Any]) -> None:
    assert {name: getattr(complete_settings(settings), name) for name in expected} == expected
    spec = spec_with_trained_defaults(RunSpec.make({"collection": "pydoc", **settings}))
    assert {name: getattr(spec, name) for name in expected} == expected
    assert spec_with_trained_defaults(spec) == spec
    assert spec.recorded()["method"] == expected["method"]


def test_the_method_of_an_adapter_precedes_the_recipe_of_its_model() -> None:
    config = complete_settings({"adapter": "smollm2-135m-attention", "method": "auto"})
    assert config.model == "smollm2-135m"
    assert config.method.startswith("full:attention,")
    assert config.max_passage_tokens == 64


@pytest.mark.parametrize(
    "preset", [preset for preset in MODELS.values() if preset.recipe], ids=lambda preset: preset.name
)
def test_recipes_can_be_used(preset: ModelPreset) -> None:
    setup = assemble_ranker({"model": preset.name})
    assert setup.config.method == preset.recipe["method"]
    judge = setup.open_judge(Fake("perfect"))
    assert judge.first_stage == 0.5
    assert set(preset.recipe) <= set(RankerSettings.model_fields)

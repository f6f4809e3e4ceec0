"""Recipes: what is read, and what is refused before a model is loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rerank.errors import DataError, MissingResourceError, UnknownNameError, UsageError
from rerank.finetune.component_registry import make_training_components
from rerank.finetune.recipe import Recipe, TrainingTable, describe_recipe_keys, read_recipe
from tests.raising import raises

RECIPES = Path(__file__).resolve().parents[2] / "training"

LEAST: dict[str, Any] = {"data": {"lists": ["labels.jsonl"]}}


def test_the_defaults_make_a_recipe() -> None:
    recipe = Recipe.make(LEAST)
    assert (recipe.adapter.name, recipe.optimizer.name, recipe.losses[0].name) == ("lora", "adamw", "importance")
    make_training_components(recipe)


def test_json_and_back() -> None:
    recipe = Recipe.make(
        {
            **LEAST,
            "adapter": {"name": "dora", "r": 4},
            "losses": [{"name": "lm"}, {"name": "infonce", "on": "attention", "weight": 0.1, "temperature": 0.1}],
        }
    )
    again = Recipe.make(json.loads(recipe.model_dump_json()))
    assert again == recipe
    assert again.adapter.options == {"r": 4}
    assert make_training_components(again).losses[1].temperature == 0.1


def test_a_file_is_read_and_dashes_are_underscores(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(
        "seed = 2\n[data]\nlists = ['a.jsonl']\nmax-lists = 3\n[training]\nbatch-size = 2\n"
    )
    recipe = read_recipe(tmp_path / "recipe.toml")
    assert recipe.data.lists == ("a.jsonl",)
    assert (recipe.seed, recipe.data.max_lists, recipe.training.batch_size) == (2, 3, 2)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"sed": 1}, UnknownNameError, "seed"),
        ({"training": {"step": 1}}, UnknownNameError, "steps"),
        ({"training": {"lr": 1}}, UnknownNameError, "[optimizer]"),
        ({"data": {"lists": ["a"], "documnets": 3}}, UnknownNameError, "key of [data]"),
        ({"adapter": "lora"}, UsageError, "[adapter]"),
        ({"losses": {"name": "lm"}}, UsageError, "[[losses]]"),
        ({"training": {"warmup": 100}}, UsageError, "raction of the optimizer steps"),
        ({"data": {}}, UsageError, "data.lists"),
        ({"data": {"lists": ["a"], "documents": 1}}, UsageError, "data.documents = 1"),
        ({"data": {"lists": ["a"], "documents": 4, "best": 3, "hard": 2}}, UsageError, "best = 3 and hard = 2"),
        ({"data": {"lists": ["a"], "collection": ["b", "c"]}}, UsageError, "2 collections for 1 label files"),
        ({"losses": []}, UsageError, "losses"),
        ({"losses": [{"name": "lm"}, {"name": "lm"}]}, UsageError, "'lm', 'lm'"),
        ({"losses": [{"name": "lm", "weight": 0}]}, UsageError, "weight = 0"),
        ({"training": {"schedule": "wild"}}, UsageError, "schedule"),
        ({"method": {"max_passage_tokens": 20}}, UsageError, "max_passage_tokens = 20, but min_passage_tokens = 32"),
    ],
)
def test_values_that_do_not_fit(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with raises(error, message):
        Recipe.make({**LEAST, **changes})


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"adapter": {"name": "loar"}}, UnknownNameError, "lora"),
        ({"adapter": {"name": "lora", "rank": 3}}, UnknownNameError, "option of 'lora'"),
        (
            {"training": {"fsdp": True}, "adapter": {"name": "full"}, "optimizer": {"name": "galore"}},
            UsageError,
            "whole matrices",
        ),
        ({"training": {"fsdp": True}, "adapter": {"name": "full"}, "layers": {"name": "lisa"}}, UsageError, "layers"),
        ({"training": {"fsdp": True}, "adapter": {"name": "osf"}}, UsageError, "base model"),
        ({"training": {"fsdp": True}, "adapter": {"name": "pissa"}}, UsageError, "base model"),
        ({"training": {"fsdp": True}, "adapter": {"name": "lr-qat"}}, UsageError, "base model"),
        ({"training": {"fsdp": True}, "adapter": {"name": "qlora"}}, UsageError, "4 bits"),
        ({"losses": [{"name": "lm", "on": "logits"}]}, UsageError, "no 'on'"),
        ({"losses": [{"name": "importance", "alpha": -1}]}, UsageError, "alpha"),
        ({"optimizer": {"name": "galore"}}, UsageError, "adapter 'lora'"),
        ({"optimizer": {"name": "lora-pro"}, "adapter": {"name": "full"}}, UsageError, "lora"),
        ({"layers": {"name": "lisa"}}, UsageError, "full"),
        ({"callbacks": [{"name": "refactor"}], "adapter": {"name": "vera"}}, UsageError, "lora"),
        ({"ranks": {"name": "welore"}, "adapter": {"name": "full"}}, UsageError, "'welore'"),
    ],
)
def test_parts_that_do_not_fit_together(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with raises(error, message):
        make_training_components(Recipe.make({**LEAST, **changes}))


@pytest.mark.parametrize(
    ("optimizer", "error", "message"),
    [
        ({"name": "sgd", "momentm": 1}, UnknownNameError, "option of 'sgd'"),
        ({"name": "adamw_torch", "eps": "x"}, UsageError, "'eps': 'x'"),
    ],
)
def test_wrong_options_of_an_optimizer_of_transformers(
    optimizer: dict[str, Any], error: type[Exception], message: str
) -> None:
    pytest.importorskip("transformers")
    with raises(error, message):
        make_training_components(Recipe.make({**LEAST, "optimizer": optimizer}))


def test_every_message_about_a_key_lists_all_keys_of_its_table() -> None:
    with raises(UnknownNameError, *TrainingTable.model_fields):
        Recipe.make({**LEAST, "training": {"learning_rate": 1}})


def test_every_key_is_described() -> None:
    described = {(table, key.strip("`").split(" ")[0]): meaning for table, key, meaning in describe_recipe_keys()}
    assert all(described.values())
    assert {key for table, key in described if table == "`[training]`"} == set(TrainingTable.model_fields)
    assert {("", "model"), ("`[optimizer]`", "lr"), ("`[[losses]]`", "on")} <= set(described)


def test_the_preset_of_dora_and_galore() -> None:
    make_training_components(
        Recipe.make({**LEAST, "adapter": {"name": "dora"}, "optimizer": {"name": "galore", "factors": True}})
    )


def test_files_that_are_no_recipe(tmp_path: Path) -> None:
    with raises(MissingResourceError, "none.toml"):
        read_recipe(tmp_path / "none.toml")
    (tmp_path / "broken.toml").write_text("seed = ")
    with raises(DataError, "TOML", "broken.toml"):
        read_recipe(tmp_path / "broken.toml")


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*/recipe.toml")), ids=lambda path: path.parent.name)
def test_the_recipes_beside_the_package_are_valid(path: Path) -> None:
    make_training_components(read_recipe(path))


def test_checking_a_recipe_imports_no_torch() -> None:
    code = (
        "import sys; from rerank.finetune.component_registry import make_training_components; "
        "from rerank.finetune.recipe import Recipe; "
        f"make_training_components(Recipe.make({LEAST!r})); "
        "print([m for m in ('torch', 'transformers', 'peft') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

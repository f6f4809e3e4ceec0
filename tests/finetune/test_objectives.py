"""Objectives in recipes: what is read and what is refused before anything is loaded. Needs no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rerank.errors import MissingPrerequisiteError, UnknownNameError, UsageError
from rerank.finetune.component_registry import OBJECTIVES, make_training_components
from rerank.finetune.extra import objectives
from rerank.finetune.recipe import Recipe
from tests.raising import raises

GRPO = {"name": "grpo"}


def made(**changes: Any) -> Recipe:
    return Recipe.make({"data": {"lists": ["l.jsonl"]}, "objective": GRPO, **changes})


def test_an_objective_stands_in_the_place_of_losses() -> None:
    asked = made(objective={"name": "grpo", "group": 4, "max-tokens": 30})
    assert asked.losses == ()
    parts = make_training_components(asked)
    assert (parts.objective, parts.losses) == (objectives.Grpo(group=4, max_tokens=30), ())
    assert Recipe.make(json.loads(asked.model_dump_json())) == asked
    assert make_training_components(Recipe.make({"data": {"lists": ["l.jsonl"]}})).objective is None


@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_it_says_what_it_is(name: str) -> None:
    objective = OBJECTIVES.get(name)
    assert objective.summary
    assert objective.__doc__
    assert "import torch" not in Path(str(objectives.__file__)).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"losses": [{"name": "lm"}]}, ("lm", "'grpo'")),
        ({"objective": {"name": "gpro"}}, ("'gpro'", "'grpo'")),
        ({"objective": {**GRPO, "groups": 4}}, ("groups", "'group'")),
        ({"objective": {**GRPO, "group": 1}}, ("group", "1", "2")),
        ({"objective": {**GRPO, "together": 3}}, ("together", "3", "group is 8")),
        ({"objective": {**GRPO, "temperature": 0}}, ("temperature", "0")),
        ({"objective": {**GRPO, "beta": -1}}, ("beta", "-1")),
        ({"objective": {**GRPO, "max_tokens": 0}}, ("max_tokens", "0")),
        ({"method": {"method": "icr"}}, ("'attention'", "fullrank")),
        ({"method": {"method": "first"}}, ("'logits'",)),
        ({"method": {"method": "pointwise"}}, ("'score'", "generate")),
        ({"adapter": {"name": "lora", "dropout": 0.1}}, ("dropout = 0.1",)),
        ({"training": {"neftune": 5.0}}, ("neftune = 5.0",)),
        ({"objective": {**GRPO, "beta": 0.1}, "adapter": {"name": "pissa"}}, ("beta = 0.1", "'pissa'")),
        ({"objective": {**GRPO, "beta": 0.1}, "adapter": {"name": "full"}}, ("'full'", "lora")),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], named: tuple[str, ...]) -> None:
    with raises((UsageError, UnknownNameError), *named):
        make_training_components(made(**changes))


def test_a_package_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(objectives, "find_spec", lambda name: None)
    asked = made()
    parts = make_training_components(asked)
    objective: Any = parts.objective
    with raises(MissingPrerequisiteError, "trl", "datasets", "listrank[train]"):
        objective.run(asked, parts, tmp_path, device="cpu")

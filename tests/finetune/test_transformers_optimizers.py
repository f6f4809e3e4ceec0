"""Optimizers under transformers' names: which exist, which are refused, and resumed trainings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rerank.errors import MissingPrerequisiteError, UnknownNameError, UsageError
from rerank.finetune.component_registry import OPTIMIZERS, make_training_components
from rerank.finetune.recipe import Recipe

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from transformers.training_args import OptimizerNames  # noqa: E402

from rerank.finetune.optimizers import TransformersOptimizer, find_transformers_optimizer  # noqa: E402
from rerank.finetune.trainer.training import train_adapter  # noqa: E402
from tests.finetune.small import recipe  # noqa: E402
from tests.finetune.stepping import lora_model, same_weights, trainer  # noqa: E402
from tests.finetune.tiny import tiny_model  # noqa: E402
from tests.raising import raises  # noqa: E402

#: Optimizers that need neither a GPU nor a further package, some with options of their classes.
RUNNABLE: dict[str, dict[str, Any]] = {
    "adamw_torch": {"betas": (0.9, 0.95)},
    "adamw_torch_fused": {},
    "adafactor": {},
    "sgd": {"momentum": 0.9, "nesterov": True},
    "adagrad": {},
    "rmsprop": {"centered": True},
}
REFUSED = {"galore": "apollo", "apollo": "galore", "lomo": "galore", "layerwise": "galore", "grokadamw": "adamw"}


def make_optimizer(table: dict[str, Any], **tables: Any) -> Any:
    made = Recipe.make({"data": {"lists": ["x"]}, "optimizer": table, **tables})
    return make_training_components(made).optimizer


@pytest.mark.parametrize("name", [str(member.value) for member in OptimizerNames])
def test_every_name_of_transformers_runs_or_says_why_it_does_not(name: str) -> None:
    if replacements := [own for part, own in REFUSED.items() if part in name]:
        with raises(UsageError, *replacements):
            make_optimizer({"name": name})
        return
    optimizer = make_optimizer({"name": name})
    if name in RUNNABLE:
        optimizer.check_machine()
        assert isinstance(optimizer.build(tiny_model(), lr=1e-3, weight_decay=0.1), torch.optim.Optimizer)
    else:
        with raises(MissingPrerequisiteError, name):
            optimizer.check_machine()


def test_a_missing_package_is_reported_before_the_model_is_looked_for(tmp_path: Path) -> None:
    asked = Recipe.make({"model": "absent/model", "data": {"lists": ["x"]}, "optimizer": {"name": "adamw_bnb_8bit"}})
    with raises(MissingPrerequisiteError, "bitsandbytes"):
        train_adapter(asked, tmp_path, device="cpu")


def test_no_name_is_taken_twice_and_an_unknown_one_lists_both_kinds() -> None:
    assert not {str(member.value) for member in OptimizerNames} & set(OPTIMIZERS.names())
    with raises(UnknownNameError, "adafactor", "lora-plus") as raised:
        make_optimizer({"name": "adafacto"})
    assert "adafactor" in raised.value.suggestions
    assert make_optimizer({"name": "adamw-torch"}) == TransformersOptimizer(name="adamw_torch")


@pytest.mark.parametrize(
    ("table", "kind", "named"),
    [
        ({"name": "sgd", "momentun": 0.9}, UnknownNameError, "momentum"),
        ({"name": "sgd", "momentum": -1}, UsageError, "-1"),
        ({"name": "adafactor", "beta1": True, "relative_step": True}, UsageError, "relative_step"),
    ],
)
def test_options_are_checked_before_anything_is_loaded(table: dict[str, Any], kind: Any, named: str) -> None:
    with raises(kind, named):
        make_optimizer(table)


def test_state_that_exists_before_the_first_step_cannot_be_dropped() -> None:
    with raises(UsageError, "layer sampling"):
        make_optimizer({"name": "adagrad"}, layers={"name": "lisa"}, adapter={"name": "full"})
    make_optimizer({"name": "adafactor"}, layers={"name": "lisa"}, adapter={"name": "full"})


@pytest.mark.parametrize("name", RUNNABLE)
def test_vectors_do_not_decay(name: str) -> None:
    groups = find_transformers_optimizer(name, RUNNABLE[name], own=[]).build(
        lora_model(dora=True), lr=1e-3, weight_decay=0.1
    )
    for group in groups.param_groups:
        assert {weight.ndim < 2 for weight in group["params"]} == {group["weight_decay"] == 0.0}
        assert group["lr"] == 1e-3


@pytest.mark.parametrize("name", RUNNABLE)
def test_a_trainer_resumes_to_the_bit(name: str, tmp_path: Path) -> None:
    spec = find_transformers_optimizer(name, RUNNABLE[name], own=[])

    def model() -> Any:
        torch.manual_seed(0)
        return lora_model(dora=True)

    whole = trainer(model(), spec, tmp_path / "whole")
    whole.train()
    resumed = trainer(model(), spec, tmp_path / "resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert same_weights(whole.model, resumed.model)
    assert not same_weights(whole.model, model())


def test_adamw_torch_trains_what_adamw_trains(model: Path, collection: Path, tmp_path: Path) -> None:
    for name in ("adamw", "adamw_torch"):
        train_adapter(recipe(model, collection, optimizer={"name": name, "lr": 1e-3}), tmp_path / name, device="cpu")
    ours, theirs = (tmp_path / name / "adapter_model.safetensors" for name in ("adamw", "adamw_torch"))
    assert ours.read_bytes() == theirs.read_bytes()

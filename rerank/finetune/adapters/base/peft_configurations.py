"""Find and build configurations of peft by name, and reject methods that this package cannot train."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_type_hints

import torch
from peft import PeftType, PromptLearningConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

from rerank.errors import UnknownNameError, UsageError
from rerank.finetune.adapters.base.targets import LinearTargets
from rerank.selector import convert_option_values

#: Fields of peft's configurations that describe a file or a task rather than a method.
_NO_OPTIONS = frozenset(
    {"auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "peft_version", "revision", "task_type"}
)
#: Initialisations of LoRA that need further calls of peft, data or a quantised model, and what to use instead.
_INITIALISATIONS_ELSEWHERE = {
    "corda": "the adapter pissa, which takes the singular directions of the weights without data",
    "eva": "the adapter lora-ga, which also starts from the training data",
    "loftq": "the adapter qlora with init = 'loftq'",
    "lora_ga": "the adapter lora-ga",
}


def find_peft_type(name: str) -> PeftType:
    """Return the member of `peft.PeftType` with this name (``boft``) or configuration class (``BOFTConfig``).

    Raises:
        UnknownNameError: peft has no such configuration; the message lists the types that peft has.
    """
    known = {}
    for kind, configuration in PEFT_TYPE_TO_CONFIG_MAPPING.items():
        known[_comparable_name(kind.value)] = known[_comparable_name(configuration.__name__)] = kind
    if _comparable_name(name) not in known:
        types = [str(kind.value).lower() for kind in PEFT_TYPE_TO_CONFIG_MAPPING]
        raise UnknownNameError("configuration of peft", name, types, limit=len(types))
    return known[_comparable_name(name)]


def make_peft_configuration(name: str, options: Mapping[str, Any], targets: list[str], *, seed: int) -> Any:
    """Build a `peft.PeftConfig` for a causal language model from the options in a recipe.

    Args:
        name: Type or class name of the configuration.
        options: Values of the configuration's fields, as a recipe contains them.
        targets: Names of the adapted modules, unless ``options`` contains ``target_modules``.
        seed: Random seed; assigned to every seed field of the configuration that ``options`` does not contain.

    Raises:
        UnknownNameError: peft has no such configuration, or the configuration has no such field.
        UsageError: peft rejects a value, or this package cannot train the method; the message states the reason.
    """
    kind = find_peft_type(name)
    configuration = PEFT_TYPE_TO_CONFIG_MAPPING[kind]
    types = get_type_hints(configuration)
    options_of_peft = {
        field.name: types[field.name] for field in fields(configuration) if field.init and field.name not in _NO_OPTIONS
    }
    values = convert_option_values(name, options_of_peft, options)
    if reason := _reason_against_training(kind, values):
        raise UsageError(
            f"The configuration {name!r} of peft {reason}",
            expected="a method that only changes weights, without further data or steps",
        )
    _check_targets_are_given_once(name, values)
    seeds = {key: seed for key in options_of_peft if re.search("(seed|prng_key)$", key)}
    try:
        with warnings.catch_warnings():
            # peft warns that another version of torch may generate other random bases; the docs of the methods say so.
            warnings.filterwarnings("ignore", message=".*save_projection.*")
            return configuration(**seeds | {"target_modules": targets} | values, task_type="CAUSAL_LM")
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(
            f"peft rejects the options of {name!r}: {error}", expected="values that peft accepts"
        ) from error


def default_target_modules(name: str, targets: LinearTargets, model: Any) -> list[str]:
    """Return the full names of the modules that a method of peft adapts if its options do not name any.

    peft lists the usual modules of a method for many architectures, such as the norms of a Llama for ``ln_tuning``.
    Modules of this list are adapted if none of them is linear; otherwise the selected linear layers are adapted.

    Raises:
        UsageError: The options select no linear layer of the model.
    """
    mapping = getattr(PEFT_TYPE_TO_TUNER_MAPPING[find_peft_type(name)], "target_module_mapping", {})
    suffixes = mapping.get(model.config.model_type, ())
    usual = {key: module for key, module in model.named_modules() if key.rpartition(".")[2] in suffixes}
    if usual and not any(isinstance(module, torch.nn.Linear) for module in usual.values()):
        return [key for key in usual if targets.selects(key)]
    return targets.module_names(model)


def _reason_against_training(kind: PeftType, values: Mapping[str, Any]) -> str:
    """Return the reason why this package cannot train a method of peft; empty if the method can be trained."""
    learns_prompt = issubclass(PEFT_TYPE_TO_CONFIG_MAPPING[kind], PromptLearningConfig)
    if learns_prompt or kind is PeftType.ADAPTION_PROMPT:
        return (
            "adds trained tokens to the prompt, and the losses and judges of this package read logits and attention at "
            "the positions of the prompt's own tokens"
        )
    if kind is PeftType.XLORA:
        return "mixes adapters that have been trained before"
    if kind is PeftType.ADALORA or values.get("use_asa"):
        return "allocates ranks after each optimizer step, which peft leaves to the trainer; use the adapter adalora"
    if (start := values.get("init_lora_weights")) in _INITIALISATIONS_ELSEWHERE:
        return f"needs data or another model for {start!r}; use {_INITIALISATIONS_ELSEWHERE[start]}"
    return ""


def _check_targets_are_given_once(name: str, values: Mapping[str, Any]) -> None:
    """Check that options that limit the target modules are used only together with ``target_modules``.

    Without ``target_modules``, the modules are passed by their full names, and peft would ignore these options.
    """
    ignored = sorted({"layers_to_transform", "layers_pattern"} & values.keys())
    if ignored and "target_modules" not in values:
        raise UsageError(
            f"The options of the configuration {name!r} of peft contain {ignored[0]} but not target_modules",
            expected="target_modules as well, or layers = N instead, to adapt the first N layers",
        )


def _comparable_name(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower()).removesuffix("config")

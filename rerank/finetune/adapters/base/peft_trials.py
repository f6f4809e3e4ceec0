"""Determine properties of peft configurations, such as whether they can be merged, by trial on a small model."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import get_peft_model

from rerank.errors import UsageError
from rerank.finetune.adapters.base.peft_configurations import default_target_modules, make_peft_configuration
from rerank.finetune.adapters.base.peft_files import convert_peft_errors, wrap_model_with_adapter
from rerank.finetune.adapters.base.targets import LinearTargets

#: Width of the small model. Block sizes divide it, and ranks do not exceed it.
_WIDTH = 512
#: Largest number of weights that are allocated to count the parameters of a method.
_MOST_WEIGHTS = 10**7
#: Largest change of a logit that is attributed to rounding.
_ROUNDING = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class PeftBehaviour:
    """Properties of a peft configuration; `rerank.finetune.components.Adapter` has attributes of the same meaning.

    The default values are used if the configuration does not fit the small model.
    """

    identity: bool = False
    moves_base: bool = True
    merges: bool = False


def try_peft_configuration(name: str, options: Mapping[str, Any]) -> PeftBehaviour:
    """Return the properties of a peft configuration, determined by trial on a one-layer Llama with random weights."""
    with torch.random.fork_rng(devices=[]):
        model = _small_llama()
        ids = torch.arange(8)[None]
        before = {key: value.clone() for key, value in model.state_dict().items()}
        logits = _logits(model, ids)
        try:
            given = "target_modules" in options
            targets = [] if given else default_target_modules(name, LinearTargets(), model)
            config = make_peft_configuration(name, options, targets, seed=0)
            with convert_peft_errors(name):
                wrapped = wrap_model_with_adapter(model, config, seed=0)
                start = _logits(wrapped, ids)
        except UsageError:
            return PeftBehaviour()
        now = {
            key.removeprefix("base_model.model.").replace(".base_layer.", "."): value
            for key, value in wrapped.state_dict().items()
        }
        return PeftBehaviour(
            identity=_are_equal(start, logits),
            moves_base=any(not torch.equal(value, now.get(key, torch.empty(0))) for key, value in before.items()),
            merges=_can_be_merged(name, wrapped, ids),
        )


def count_trained_by_peft(name: str, options: Mapping[str, Any], shapes: Sequence[tuple[int, int]]) -> int:
    """Return the number of parameters that peft trains when it adapts matrices of these shapes.

    Raises:
        UsageError: The configuration does not fit the matrices, or the method reads the values of matrices that are too
            large to be allocated for counting.
    """
    options = {key: value for key, value in options.items() if key != "target_modules"}
    named = {f"matrix{index}": shape for index, shape in enumerate(shapes)}
    try:
        return _count_on_device("meta", name, options, named)
    except UsageError:  # some methods read the weights, which have no values on the device meta
        if sum(rows * columns for rows, columns in shapes) > _MOST_WEIGHTS:
            raise
        return _count_on_device("cpu", name, options, named)


def _count_on_device(device: str, name: str, options: Mapping[str, Any], shapes: Mapping[str, tuple[int, int]]) -> int:
    config = make_peft_configuration(name, options, list(shapes), seed=0)
    config.task_type = None  # the matrices are not a language model
    with torch.random.fork_rng(devices=[]), torch.device(device), convert_peft_errors(name):
        matrices = {key: torch.nn.Linear(columns, rows, bias=False) for key, (rows, columns) in shapes.items()}
        wrapped: Any = get_peft_model(torch.nn.Sequential(OrderedDict(matrices)), config)
    return sum(parameter.numel() for parameter in wrapped.parameters() if parameter.requires_grad)


def _can_be_merged(name: str, wrapped: Any, ids: torch.Tensor) -> bool:
    """Return whether the model has the same outputs after peft has merged an adapter with arbitrary values."""
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.01)
    logits = _logits(wrapped, ids)
    try:
        with convert_peft_errors(name):
            return _are_equal(_logits(wrapped.merge_and_unload(), ids), logits)
    except UsageError:
        return False


def _small_llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32, hidden_size=_WIDTH, intermediate_size=_WIDTH, num_hidden_layers=1, num_attention_heads=4
    )
    model: Any = LlamaForCausalLM(config)
    return model.eval()


def _logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    return logits


def _are_equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool((one - other).abs().max() <= _ROUNDING * other.abs().max())

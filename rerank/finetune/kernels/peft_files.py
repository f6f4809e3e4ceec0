"""Models of peft: wrap a model, read LoRA factors, write adapter files, and build configurations by name.

Whether a configuration can be merged, and what else an adapter states about itself, is found by trial on a small model.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import torch
from peft import LoraConfig, PeftType, PromptLearningConfig, get_peft_model, get_peft_model_state_dict
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file

from rerank.errors import UnknownNameError, UsageError
from rerank.finetune.components import Shapes
from rerank.selector import convert_option_values

if TYPE_CHECKING:
    from rerank.finetune.adapters import LinearTargets

#: Name that peft gives to the only adapter of a model.
ADAPTER = "default"
#: Prefix of the base model's parameter names in a `peft.PeftModel`.
_PREFIX = "base_model.model."

#: Factors (B, A) per module name, of shapes (rows, r) and (r, columns).
Factors = Mapping[str, tuple[torch.Tensor, torch.Tensor]]


def wrap(model: Any, config: Any, *, seed: int) -> Any:
    """Return a `peft.PeftModel` in which only a new float32 adapter is trainable; seeds torch's global generator."""
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        # peft reads an attribute under the name that it had before transformers 5.24.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        wrapped = get_peft_model(model, config)
    # peft converts trainable parameters to float32 itself, except those outside the layers that it replaces.
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    # New modules start in training mode. The model's own mode is restored, so that dropout stays off in evaluation.
    return wrapped.train(model.training)


@contextmanager
def convert_errors(configuration: str) -> Iterator[None]:
    """Raise a `UsageError` instead of the error that peft raises if the named configuration does not fit the model."""
    try:
        with warnings.catch_warnings():
            # peft replaces, for example, a block size that does not divide the width; the recipe would then be wrong.
            warnings.filterwarnings("error", message="Invalid .*Adjusted")
            yield
    except torch.OutOfMemoryError:
        raise
    except (ValueError, TypeError, AttributeError, LookupError, RuntimeError, UserWarning) as error:
        raise UsageError(
            f"The configuration {configuration!r} of peft does not fit the model: {error}",
            expected="options that fit the sizes, the architecture and the data type of the model",
        ) from error


def lora_config(ranks: Mapping[str, int], alphas: Mapping[str, float], **options: Any) -> Any:
    """Return a LoRA configuration with a rank (above 0) and an alpha per module, and further fields as ``options``."""
    largest = max(ranks, key=ranks.__getitem__)
    default = (ranks[largest], alphas[largest])
    exceptions = [name for name in ranks if (ranks[name], alphas[name]) != default]
    # peft declares alpha as an integer, but fractions work too.
    written: dict[str, Any] = {n: int(a) if float(a).is_integer() else a for n, a in alphas.items()}
    return LoraConfig(
        r=ranks[largest],
        lora_alpha=written[largest],
        rank_pattern={name: ranks[name] for name in exceptions},
        alpha_pattern={name: written[name] for name in exceptions},
        target_modules=list(ranks),
        task_type="CAUSAL_LM",
        **options,
    )


def iter_lora_layers(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield (module name in the base model, LoRA layer of peft) for every adapted matrix."""
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            yield name.removeprefix(_PREFIX), module


def read_factors(model: Any) -> Factors:
    """Return a mapping from the name of each adapted module to its current factors (B, A)."""
    return {
        name: (layer.lora_B[ADAPTER].weight.detach(), layer.lora_A[ADAPTER].weight.detach())
        for name, layer in iter_lora_layers(model)
    }


def save_adapter(model: Any, folder: Path) -> None:
    """Write the adapter in the format that peft defines for the method of the adapter."""
    # Without save_embedding_layers=False, peft would look up the base model on the hub to find out whether embeddings
    # changed.
    tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    config, names = copy.copy(model.peft_config[ADAPTER]), model.targeted_module_names
    if hasattr(config, "feedforward_modules"):  # IA3 expects these names to be among the names of the targets
        layers = {name: model.get_submodule(f"{_PREFIX}{name}") for name in names}
        config.feedforward_modules = sorted(name for name, layer in layers.items() if layer.is_feedforward)
    _write(config, names, tensors, folder)


def save_factors(model: Any, factors: Factors, folder: Path, *, scaling: float = 1.0) -> None:
    """Write the factors of all adapted matrices, whose ranks may differ, as a plain LoRA adapter."""
    ranks = {name: a.shape[0] for name, (_, a) in factors.items()}
    config = lora_config(ranks, {name: scaling * rank for name, rank in ranks.items()})
    trained = model.peft_config[ADAPTER]
    config.base_model_name_or_path = trained.base_model_name_or_path or model.get_base_model().name_or_path or None
    tensors = {}
    for name, (b, a) in factors.items():
        tensors[f"{_PREFIX}{name}.lora_A.weight"] = a
        tensors[f"{_PREFIX}{name}.lora_B.weight"] = b
    _write(config, list(factors), tensors, folder)


def _write(config: Any, names: Sequence[str], tensors: Mapping[str, torch.Tensor], folder: Path) -> None:
    config = copy.copy(config)
    config.inference_mode = True
    # Full names are written. peft would shorten them to suffixes that are unambiguous in this model, but this model may
    # lack the last layers of the model that the adapter will be loaded onto.
    config.target_modules = sorted(names)
    # Tensors are copied, because safetensors rejects tensors that share memory.
    copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    save_file(copies, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(str(folder))


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
#: Width of the small model. Block sizes divide it, and ranks do not exceed it.
_WIDTH = 512
#: Largest number of weights that are allocated to count the parameters of a method.
_MOST_WEIGHTS = 10**7
#: Largest change of a logit that is attributed to rounding.
_ROUNDING = 1e-4


def find_type(name: str) -> PeftType:
    """Return the member of `peft.PeftType` with this name (``boft``) or configuration class (``BOFTConfig``)."""
    known = {}
    for kind, configuration in PEFT_TYPE_TO_CONFIG_MAPPING.items():
        known[_comparable(kind.value)] = known[_comparable(configuration.__name__)] = kind
    if _comparable(name) not in known:
        types = [str(kind.value).lower() for kind in PEFT_TYPE_TO_CONFIG_MAPPING]
        raise UnknownNameError("configuration of peft", name, types, limit=len(types))
    return known[_comparable(name)]


def _comparable(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower()).removesuffix("config")


def make_configuration(name: str, options: Mapping[str, Any], targets: list[str], *, seed: int) -> Any:
    """Build a `peft.PeftConfig` for a causal language model from the options in a recipe.

    ``targets`` are used unless ``options`` contain ``target_modules``; ``seed`` is the default of every seed field.
    """
    kind = find_type(name)
    configuration = PEFT_TYPE_TO_CONFIG_MAPPING[kind]
    types = get_type_hints(configuration)
    known = {entry.name: types[entry.name] for entry in fields(configuration) if entry.init}
    known = {key: value for key, value in known.items() if key not in _NO_OPTIONS}
    values = convert_option_values(name, known, options)
    if reason := _reason_against_training(kind, values):
        raise UsageError(
            f"The configuration {name!r} of peft {reason}",
            expected="a method that only changes weights, without further data or steps",
        )
    # Without target_modules, the modules are passed by their full names, and peft would ignore these options.
    ignored = sorted({"layers_to_transform", "layers_pattern"} & values.keys())
    if ignored and "target_modules" not in values:
        raise UsageError(
            f"The options of the configuration {name!r} of peft contain {ignored[0]} but not target_modules",
            expected="target_modules as well, or layers = N instead, to adapt the first N layers",
        )
    seeds = {key: seed for key in known if re.search("(seed|prng_key)$", key)}
    try:
        with warnings.catch_warnings():
            # peft warns that another version of torch may generate other random bases; the docs of the methods say so.
            warnings.filterwarnings("ignore", message=".*save_projection.*")
            return configuration(**seeds | {"target_modules": targets} | values, task_type="CAUSAL_LM")
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(
            f"peft rejects the options of {name!r}: {error}", expected="values that peft accepts"
        ) from error


def _reason_against_training(kind: PeftType, values: Mapping[str, Any]) -> str:
    """Return the reason why this package cannot train a method of peft; empty if the method can be trained."""
    if issubclass(PEFT_TYPE_TO_CONFIG_MAPPING[kind], PromptLearningConfig) or kind is PeftType.ADAPTION_PROMPT:
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


def default_target_modules(name: str, targets: LinearTargets, model: Any) -> list[str]:
    """Return the full names of the modules that a method of peft adapts if its options do not name any.

    peft lists the usual modules of a method for many architectures, such as the norms of a Llama for ``ln_tuning``.
    Modules of this list are adapted if none of them is linear; otherwise the selected linear layers are adapted.
    """
    mapping = getattr(PEFT_TYPE_TO_TUNER_MAPPING[find_type(name)], "target_module_mapping", {})
    suffixes = mapping.get(model.config.model_type, ())
    usual = {key: module for key, module in model.named_modules() if key.rpartition(".")[2] in suffixes}
    if usual and not any(isinstance(module, torch.nn.Linear) for module in usual.values()):
        return [key for key in usual if targets.selects(key)]
    return targets.module_names(model)


@dataclass(frozen=True, slots=True, kw_only=True)
class PeftBehaviour:
    """The properties of an `Adapter` that a peft configuration has; the defaults if it does not fit the small model."""

    identity: bool = False
    moves_base: bool = True
    merges: bool = False


def try_configuration(name: str, options: Mapping[str, Any], targets: LinearTargets) -> PeftBehaviour:
    """Return the properties of a peft configuration, determined by trial on a one-layer Llama with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        small = LlamaConfig(
            vocab_size=32, hidden_size=_WIDTH, intermediate_size=_WIDTH, num_hidden_layers=1, num_attention_heads=4
        )
        model: Any = LlamaForCausalLM(small)
        model.eval()
        before = {key: value.clone() for key, value in model.state_dict().items()}
        logits = _logits(model)
        try:
            names = [] if "target_modules" in options else default_target_modules(name, targets, model)
            config = make_configuration(name, options, names, seed=0)
            with convert_errors(name):
                wrapped = wrap(model, config, seed=0)
                start = _logits(wrapped)
        except UsageError:
            return PeftBehaviour()
        now = {
            key.removeprefix("base_model.model.").replace(".base_layer.", "."): value
            for key, value in wrapped.state_dict().items()
        }
        return PeftBehaviour(
            identity=_are_equal(start, logits),
            moves_base=any(not torch.equal(value, now.get(key, torch.empty(0))) for key, value in before.items()),
            merges=_can_be_merged(name, wrapped),
        )


def _can_be_merged(name: str, wrapped: Any) -> bool:
    """Return whether the model has the same outputs after peft has merged an adapter with arbitrary values."""
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.01)
    logits = _logits(wrapped)
    try:
        with convert_errors(name):
            return _are_equal(_logits(wrapped.merge_and_unload()), logits)
    except UsageError:
        return False


def _logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=torch.arange(8)[None], use_cache=False).logits
    return logits


def _are_equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool((one - other).abs().max() <= _ROUNDING * other.abs().max())


def count_trained(name: str, options: Mapping[str, Any], shapes: Shapes) -> int:
    """Return the number of parameters that peft trains when it adapts matrices of these shapes."""
    options = {key: value for key, value in options.items() if key != "target_modules"}
    try:
        return _count_on_device("meta", name, options, shapes)
    except UsageError:  # some methods read the weights, which have no values on the device meta
        if sum(rows * columns for rows, columns in shapes) > _MOST_WEIGHTS:
            raise
        return _count_on_device("cpu", name, options, shapes)


def _count_on_device(device: str, name: str, options: Mapping[str, Any], shapes: Shapes) -> int:
    named = {f"matrix{index}": shape for index, shape in enumerate(shapes)}
    config = make_configuration(name, options, list(named), seed=0)
    config.task_type = None  # the matrices are not a language model
    with torch.random.fork_rng(devices=[]), torch.device(device), convert_errors(name):
        matrices = {key: torch.nn.Linear(columns, rows, bias=False) for key, (rows, columns) in named.items()}
        wrapped: Any = get_peft_model(torch.nn.Sequential(OrderedDict(matrices)), config)
    return sum(parameter.numel() for parameter in wrapped.parameters() if parameter.requires_grad)

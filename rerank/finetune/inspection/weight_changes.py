"""Compute the weight changes caused by training, one matrix at a time.

For plain LoRA, changes are computed from the factors; for complete models, as differences of weights. Other adapters
are merged, for which the whole model in float32 has to fit in memory.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any

from rerank.errors import DataError, UsageError
from rerank.finetune.inspection.checkpoints import FULL, CheckpointReader, InspectedModel
from rerank.tasks import BackendOptions

if TYPE_CHECKING:
    from torch import Tensor

#: Prefix of module names in PEFT.
PREFIX = "base_model.model."
_FACTOR = re.compile(r"(?P<module>.+)\.(?P<kind>lora|lora_embedding)_(?P<side>[AB])(?:\.weight)?")
#: Settings of LoRA that do not affect the change s B A of a weight, except through the factors and the scale s.
_HARMLESS = frozenset(
    (
        *("task_type", "peft_type", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode"),
        *("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "lora_dropout", "fan_in_fan_out"),
        *("init_lora_weights", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
        *("peft_version", "eva_config", "runtime_config", "megatron_core", "qalora_group_size"),
    )
)
#: Initialisations that leave the base weights unchanged; others, such as PiSSA, change them when loading.
_STARTS = (True, False, "gaussian", "eva", "orthogonal", "mica")
#: Names of tensors that are not weights; only some model files contain them.
_BUFFERS = ("inv_freq", "attn.bias", "attn.masked_bias")
#: Relative rounding error of a few float32 operations.
_ROUNDING = 8 * 2.0**-24


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WeightChange:
    """A weight matrix before training, and its change by training."""

    name: str
    weight: Tensor  #: Weight before training, in float32, shape (m, n); a vector has the shape (1, n).
    delta: Tensor  #: Weight after training minus ``weight``, shape (m, n).
    #: Factors of ``delta``, shapes (m, r) and (r, n); None if they are unknown.
    factors: tuple[Tensor, Tensor] | None = None
    floor: float = 0.0  #: Singular values of ``delta`` up to this value may be rounding errors.


def iterate_weight_changes(subject: InspectedModel, base: CheckpointReader) -> Iterator[WeightChange]:
    """Yield the changed weights in layer order; ``base`` reads the tensors of the untrained model."""
    stored = subject.tensors()
    changes: Iterator[WeightChange]
    if subject.kind == FULL:
        names = [name for name in sorted(stored, key=layer_sort_key) if not name.endswith(_BUFFERS)]
        changes = (_from_tensor(name, stored.read(name), base) for name in names)
    else:
        check_adapter_layers(stored, base)
        if is_plain_lora(stored, config := subject.config):
            changes = _from_factors(stored, base, config)
        else:
            merged = dict(merge_with_peft(subject)[0].named_parameters())
            changes = (_from_tensor(n, merged[n].data, base) for n in sorted(merged, key=layer_sort_key))
    for change in changes:
        if not math.isfinite(float(change.delta.sum())):
            raise DataError(
                f"{change.name} in {subject.folder} contains values that are not finite",
                remedy="The training diverged: train again with a lower learning rate",
            )
        if change.delta.any():
            yield change


def _from_factors(stored: CheckpointReader, base: CheckpointReader, config: Any) -> Iterator[WeightChange]:
    for module, keys in names_of_lora_factors(stored).items():
        a, b = (stored.read(keys[side]) for side in "AB")
        left, right = b * lora_scaling(config, module, len(a)), a
        if config.fan_in_fan_out or keys["kind"] == "lora_embedding":  # stored transposed
            left, right = right.T, left.T
        weight = _read_untrained(base, module, (left.shape[0], right.shape[1]), f"{module}.weight")
        yield WeightChange(name=module, weight=weight, delta=left @ right, factors=(left, right))


def _from_tensor(name: str, changed: Tensor, base: CheckpointReader) -> WeightChange:
    module = name.removesuffix(".weight")
    weight = _read_untrained(base, module, tuple(changed.shape), name)
    delta = changed.float() - weight
    if delta.ndim != 2:
        weight, delta = weight.reshape(1, -1), delta.reshape(1, -1)
    return WeightChange(name=module, weight=weight, delta=delta, floor=_ROUNDING * float(weight.norm()))


def _read_untrained(base: CheckpointReader, module: str, shape: tuple[int, ...], name: str) -> Tensor:
    """Return the weight before training, in float32; the base may store it under a name with another model prefix."""
    if (stored := base.find(name)) is None or base.shape(stored) != shape:
        other = "no weight of this name" if stored is None else f"one of shape {base.shape(stored)}"
        raise DataError(
            f"The trained {module} has the shape {shape}, but its shape in {base.folder} is {other}",
            expected="the base model of the training",
            remedy="Pass this model with --model",
        )
    return base.read(stored)


def merge_with_peft(subject: InspectedModel) -> tuple[Any, Any]:
    """Load the base model in float32 on the CPU, and merge the adapter into it; return the model and the tokenizer."""
    if subject.config.is_prompt_learning:
        raise UsageError(
            f"Adapter {str(subject.folder)!r} is a learned prompt ({subject.kind}), which changes no weights",
            expected="an adapter that changes weights, such as LoRA",
        )
    import peft

    from rerank.lm.loading import load_language_model, quiet_transformers, untie_head

    loaded = load_language_model(subject.base, BackendOptions(dtype="float32", device="cpu"))
    with quiet_transformers(), warnings.catch_warnings():
        # PEFT warns of tied weights and missing keys.
        for message in ("Model (?:with|has) `tie_word", "Found missing adapter keys", "Input and output embeddings"):
            warnings.filterwarnings("ignore", message=message)
        try:
            wrapped: Any = peft.PeftModel.from_pretrained(loaded.model, str(subject.folder))
        except (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError) as error:
            raise UsageError(
                f"Adapter {str(subject.folder)!r} does not fit the model: {error}",
                expected="the base model of the training",
            ) from error
        try:
            untie_head(wrapped)
            return wrapped.merge_and_unload(safe_merge=True).eval(), loaded.tokenizer
        except (ValueError, RuntimeError, AttributeError, TypeError) as error:  # NotImplementedError is a RuntimeError
            raise UsageError(
                f"Adapter {str(subject.folder)!r} ({subject.kind}) cannot be merged: {error}",
                expected="an adapter that PEFT can merge",
            ) from error


def is_plain_lora(stored: CheckpointReader, config: Any) -> bool:
    """Return whether an adapter is a plain LoRA: its factors alone determine the weight changes."""
    if str(getattr(config, "peft_type", "")).rpartition(".")[2] != "LORA" or not all(map(_FACTOR.fullmatch, stored)):
        return False
    return config.init_lora_weights in _STARTS and all(
        getattr(config, entry.name) == (entry.default if entry.default_factory is MISSING else entry.default_factory())
        for entry in fields(config)
        if entry.name not in _HARMLESS
    )


def check_adapter_layers(stored: CheckpointReader, base: CheckpointReader) -> None:
    """Check that the model has all layers of an adapter; PEFT would silently ignore layers that the model lacks."""
    for key in stored:
        if not key.startswith(PREFIX):
            continue  # shared by several matrices, such as the bases of VeRA
        name = key.removeprefix(PREFIX)
        if (layer := re.match(r".*?\.\d+\.", name)) and not base.has(layer[0]):
            raise DataError(
                f"The adapter changes {name}, but the model in {base.folder} has no {layer[0].rstrip('.')}",
                expected="the model that the adapter was trained on",
                remedy="Pass this model with --model",
            )


def missing_adapter_modules(stored: CheckpointReader, base: CheckpointReader, config: Any) -> list[str]:
    """Return the targets in an adapter's settings that lack tensors; they indicate that it belongs to another model."""
    from peft.tuners.tuners_utils import check_target_module_exists

    if not getattr(config, "target_modules", None):
        return []
    keys = [f".{key}" for key in stored]
    modules = [name.removesuffix(".weight") for name in base if name.endswith(".weight") and len(base.shape(name)) == 2]
    return [
        module
        for module in sorted(modules, key=layer_sort_key)
        if check_target_module_exists(config, module) and not any(f".{module}." in key for key in keys)
    ]


def layer_sort_key(name: str) -> list[Any]:
    """Return a key that sorts module names by layer number, so that layer 2 comes before layer 10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def names_of_lora_factors(stored: CheckpointReader) -> dict[str, dict[str, str]]:
    """Return the tensor names of the factors (``A``, ``B``) of each module of a LoRA adapter, in layer order.

    The key ``kind`` has the value ``lora``, or ``lora_embedding`` for an embedding.
    """
    modules: dict[str, dict[str, str]] = {}
    for key in sorted(stored, key=layer_sort_key):
        if match := _FACTOR.fullmatch(key):
            modules.setdefault(match["module"].removeprefix(PREFIX), {"kind": match["kind"]})[match["side"]] = key
    return modules


def lora_scaling(config: Any, module: str, rank: int) -> float:
    """Return the scaling factor of B A in PEFT: alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA."""
    from peft.utils.other import get_pattern_key

    patterns = config.alpha_pattern or {}
    alpha = patterns.get(get_pattern_key(list(patterns), module), config.lora_alpha)
    return float(alpha / (math.sqrt(rank) if config.use_rslora else rank))

"""What training changed, matrix by matrix: of a LoRA from its factors, of other adapters by merging, of whole models.

One matrix is in memory at a time; an adapter other than plain LoRA needs its whole model in float32 beside it. Knows
which file says what, not what a change means.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any

from rerank.errors import DataError
from rerank.finetune.inspection.checkpoints import Checkpoint
from rerank.finetune.inspection.subject import FULL, Subject

if TYPE_CHECKING:
    from torch import Tensor

#: What PEFT puts before the name of a module of the model.
PREFIX = "base_model.model."
_FACTOR = re.compile(r"(?P<module>.+)\.(?P<kind>lora|lora_embedding)_(?P<side>[AB])(?:\.weight)?")
#: Settings of LoRA that leave the change what the factors say, s B A added to the untouched weight.
_HARMLESS = frozenset(
    (
        *(
            "task_type",
            "peft_type",
            "auto_mapping",
            "base_model_name_or_path",
            "revision",
            "inference_mode",
            "peft_version",
        ),
        *(
            "r",
            "lora_alpha",
            "rank_pattern",
            "alpha_pattern",
            "use_rslora",
            "lora_dropout",
            "fan_in_fan_out",
            "init_lora_weights",
        ),
        *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
        *("eva_config", "runtime_config", "megatron_core", "qalora_group_size"),
    )
)
#: Ways to begin that leave the model's own weights alone; others, such as PiSSA, are computed again when loading.
_STARTS = (True, False, "gaussian", "eva", "orthogonal", "mica")
#: Tensors that some models' files hold beside their weights, and others leave out.
_BUFFERS = ("inv_freq", "attn.bias", "attn.masked_bias")
#: The rounding of a few operations on float32 numbers.
_ROUNDING = 8 * 2.0**-24


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Change:
    """One matrix before training, and what was added to it.

    Attributes:
        name: Full name of its module in the model.
        weight: (m, n) before, in float32, as it is stored; a vector is (1, n).
        delta: (m, n) what was added.
        factors: (m, r) and (r, n) whose product ``delta`` is, where that is known.
        floor: Singular values of ``delta`` up to this may be left by rounding.
    """

    name: str
    weight: Tensor
    delta: Tensor
    factors: tuple[Tensor, Tensor] | None = None
    floor: float = 0.0


def changes(subject: Subject, base: Checkpoint) -> Iterator[Change]:
    """What changed, in the order of layers; what training left as it was is not given.

    Args:
        subject: The adapter or model.
        base: The untrained model's tensors.

    Raises:
        DataError: It was trained on another model, or holds numbers that are not finite.
        UsageError: An adapter that changes no weights.
        RerankError: What loading and merging raises.
    """
    if subject.kind == FULL:
        found = _between(Checkpoint(subject.folder), base)
    else:
        stored = Checkpoint(subject.folder / "adapter_model.safetensors")
        check_places(stored, base)
        config = subject.config
        found = _of_factors(stored, base, config) if is_plain(stored, config) else _of_merged(subject, base)
    for change in found:
        if not math.isfinite(float(change.delta.sum())):
            raise DataError(
                f"{change.name} in {subject.folder} holds numbers that are not finite",
                remedy="The training diverged: lower its learning rate, and train again",
            )
        if change.delta.any():
            yield change


def is_plain(stored: Checkpoint, config: Any) -> bool:
    """Whether an adapter is a LoRA whose factors alone say what it changes."""
    if str(getattr(config, "peft_type", "")).rpartition(".")[2] != "LORA" or not all(map(_FACTOR.fullmatch, stored)):
        return False
    if config.init_lora_weights not in _STARTS:
        return False
    return all(f.name in _HARMLESS or getattr(config, f.name) == _default(f) for f in fields(config))


def check_places(stored: Checkpoint, base: Checkpoint) -> None:
    """Refuse an adapter that has layers which the model does not have; PEFT would leave them out and say nothing.

    Raises:
        DataError: There is one.
    """
    for key in stored:
        if not key.startswith(PREFIX):
            continue  # what several matrices share, such as the bases of VeRA
        place = key.removeprefix(PREFIX)
        layer = re.match(r".*?\.\d+\.", place)
        if layer and not base.has(layer[0]):
            raise DataError(
                f"The adapter changes {place}, and the model in {base.folder} has no {layer[0].rstrip('.')}",
                expected="the model that the adapter was trained on",
                remedy="Name that model with --model",
            )


def left_out(stored: Checkpoint, base: Checkpoint, config: Any) -> list[str]:
    """Modules of the model that the adapter's settings name and that it has nothing for: a sign of another model."""
    from peft.tuners.tuners_utils import check_target_module_exists

    if not getattr(config, "target_modules", None):
        return []
    keys = [f".{key}" for key in stored]
    modules = [name.removesuffix(".weight") for name in base if name.endswith(".weight") and len(base.shape(name)) == 2]
    return [
        module
        for module in sorted(modules, key=in_order)
        if check_target_module_exists(config, module) and not any(f".{module}." in key for key in keys)
    ]


def in_order(name: str) -> list[Any]:
    """A key that sorts layer 2 before layer 10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def factors_of(stored: Checkpoint) -> dict[str, dict[str, str]]:
    """Module -> side (``A``, ``B``) -> key, of a LoRA adapter, in the order of layers."""
    found: dict[str, dict[str, str]] = {}
    for key in sorted(stored, key=in_order):
        if match := _FACTOR.fullmatch(key):
            module = match["module"].removeprefix(PREFIX)
            found.setdefault(module, {"kind": match["kind"]})[match["side"]] = key
    return found


def scaling(config: Any, module: str, rank: int) -> float:
    """What PEFT multiplies B A with: alpha / r, or alpha / sqrt(r) where it is rank-stabilised."""
    from peft.utils.other import get_pattern_key

    patterns = config.alpha_pattern or {}
    alpha = patterns.get(get_pattern_key(list(patterns), module), config.lora_alpha)
    return float(alpha / (math.sqrt(rank) if config.use_rslora else rank))


def _of_factors(stored: Checkpoint, base: Checkpoint, config: Any) -> Iterator[Change]:
    for module, keys in factors_of(stored).items():
        a, b = (stored.read(keys[side]) for side in "AB")
        left, right = b * scaling(config, module, len(a)), a
        if config.fan_in_fan_out or keys["kind"] == "lora_embedding":  # stored the other way round
            left, right = right.T, left.T
        weight = _weight(base, module, (left.shape[0], right.shape[1]))
        yield Change(name=module, weight=weight, delta=left @ right, factors=(left, right))


def _of_merged(subject: Subject, base: Checkpoint) -> Iterator[Change]:
    from rerank.finetune.inspection.peft_merging import merged

    model, _ = merged(subject)
    parameters = dict(model.named_parameters())
    for name in sorted(parameters, key=in_order):
        yield _difference(name, parameters[name].data, base)


def _between(tuned: Checkpoint, base: Checkpoint) -> Iterator[Change]:
    for name in sorted(tuned, key=in_order):
        if name.endswith(_BUFFERS):
            continue
        yield _difference(name, tuned.read(name), base)


def _difference(name: str, changed: Tensor, base: Checkpoint) -> Change:
    module = name.removesuffix(".weight")
    weight = _weight(base, module, tuple(changed.shape), name)
    delta = changed.float() - weight
    if delta.ndim != 2:
        weight, delta = weight.reshape(1, -1), delta.reshape(1, -1)
    return Change(name=module, weight=weight, delta=delta, floor=_ROUNDING * float(weight.norm()))


def _weight(base: Checkpoint, module: str, shape: tuple[int, ...], name: str = "") -> Tensor:
    """The weight before training, of the shape that the change has."""
    stored = base.find(name or f"{module}.weight")
    if stored is None or base.shape(stored) != shape:
        other = "none of that name" if stored is None else f"one of shape {base.shape(stored)}"
        raise DataError(
            f"{module} of shape {shape} was trained, and the model in {base.folder} has {other}",
            expected="the model that was trained",
            remedy="Name that model with --model",
        )
    return base.read(stored)


def _default(field: Any) -> Any:
    """A field's own value, where it has one."""
    if field.default_factory is not MISSING:
        return field.default_factory()
    return field.default

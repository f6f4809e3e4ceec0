"""A trained adapter or model: its base model, a reader of its tensors, and the change of each weight by training.

For plain LoRA, changes are computed from the factors; for complete models, as differences of weights. Other adapters
are merged, for which the whole model in float32 has to fit in memory.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rerank.errors import DataError, MissingResourceError, RerankError, UsageError
from rerank.installation import importing
from rerank.io.settings_files import read_json_object
from rerank.lm.model_files import locate_model
from rerank.models import MODELS, is_model_downloaded, resolve_model_name
from rerank.models.adapters import adapter_folder, read_settings
from rerank.tasks import BackendOptions

if TYPE_CHECKING:
    from torch import Tensor

#: File of PEFT with the tensors of an adapter.
ADAPTER_WEIGHTS = "adapter_model.safetensors"
#: Kind of a model whose own weights were trained. The kind of an adapter is its type in PEFT.
FULL = "full"
_SETTINGS = "adapter_config.json"
#: Names of the output matrix; many models share it with the embeddings and do not store it.
_HEADS = ("lm_head.weight", "embed_out.weight")
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight")
#: Prefixes of tensor names; the files of some models omit them.
_PREFIXES = ("model.", "transformer.", "gpt_neox.")


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectedModel:
    """A trained adapter or model with its base model; only settings are read, not weights."""

    folder: Path  #: Folder of an adapter saved by PEFT, or of a complete model.
    base: Path  #: Folder of the untrained model.
    kind: str  #: Type of the adapter in PEFT, such as ``LORA``; ``full`` for a complete model.

    @property
    def config(self) -> Any:
        return read_peft_config(self.folder)

    def tensors(self) -> CheckpointReader:
        return CheckpointReader(self.folder if self.kind == FULL else self.folder / ADAPTER_WEIGHTS)


def open_inspected_model(name: str, model: str = "") -> InspectedModel:
    """Locate a trained adapter or model, and its base model: ``model``, or if empty the one that its settings name."""
    folder, written = Path(name).expanduser(), {}
    if folder.is_dir() and not (folder / _SETTINGS).is_file():
        if not (folder / "config.json").is_file():
            raise MissingResourceError(
                f"The folder {str(folder)!r} contains neither an adapter nor a model",
                expected=f"{_SETTINGS} and adapter_model.safetensors, or config.json and the weights of a model",
                remedy="Check the path",
            )
        folder, kind = _locate(f"{folder}"), FULL
    else:
        folder = adapter_folder(str(folder) if folder.is_dir() else name)
        written = read_json_object(
            folder / _SETTINGS, "configuration of the adapter", expected="a file written by PEFT"
        )
        kind = str(written.get("peft_type", ""))
    if model:
        return InspectedModel(folder=folder, base=_locate(model), kind=kind)
    named, revision = _stated_base(folder, written)
    if not named:
        raise UsageError(
            f"The settings of {name!r} do not state its base model", remedy="Pass the base model with --model"
        )
    try:
        base = _locate(named, revision)
    except RerankError as error:
        raise MissingResourceError(
            f"The base model {named!r} of {name!r} cannot be found: {error}",
            remedy="Pass the folder of the base model with --model",
        ) from error
    return InspectedModel(folder=folder, base=base, kind=kind)


def _locate(model: str, revision: str = "") -> Path:
    location = resolve_model_name(model)
    return location if isinstance(location, Path) else locate_model(location, revision).folder


def _stated_base(folder: Path, settings: dict[str, Any]) -> tuple[str, str]:
    """Return the base model and its revision from our settings or else PEFT's; empty if they are not stated."""
    if (ours := read_settings(folder)) is not None:
        return ours.model.removeprefix("hf:"), ours.revision or ""
    named = settings.get("base_model_name_or_path")
    if not isinstance(named, str):
        return "", ""
    here = [card.name for card in MODELS.values() if card.hub_id == named and is_model_downloaded(card.name)]
    return (here[0], "") if here else (named, str(settings.get("revision") or ""))


def read_peft_config(folder: Path) -> Any:
    """Read the configuration of an adapter as a PEFT object."""
    with importing("Inspecting an adapter needs peft", "hf"):
        import peft
    try:
        return peft.PeftConfig.from_pretrained(str(folder))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder / _SETTINGS} is not a configuration that PEFT {peft.__version__} supports: {error}",
            expected="a file written by save_pretrained of PEFT",
            remedy="Update PEFT, if a newer version wrote the file",
        ) from error


class CheckpointReader:
    """Reader of the tensors of a model; values are returned in float32."""

    def __init__(self, folder: Path) -> None:
        from safetensors import safe_open

        self.folder = folder
        self._files: dict[str, Any] = {}  # name of a tensor -> file, as a memory map
        for path in _weight_files(folder):
            with _read_errors(path):
                file: Any = safe_open(path, framework="pt")
            self._files |= dict.fromkeys(file.keys(), file)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._files))

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._files[name].get_slice(name).get_shape())

    def dtype(self, name: str) -> Any:
        with _read_errors(self.folder):
            return self._files[name].get_slice(name)[:0].dtype

    def find(self, name: str) -> str | None:
        """Return the name under which a tensor is stored, or None if it is not stored.

        Both names may differ in a model prefix. An output matrix that is shared with the embeddings has their name.
        """
        stored = [spelling for spelling in _spellings(name) if spelling in self._files]
        if not stored and name.endswith(_HEADS):
            stored = [embedding for embedding in self if embedding.endswith(_EMBEDDINGS)]
        return stored[0] if stored else None

    def has(self, prefix: str) -> bool:
        """Return whether the name of any tensor starts with ``prefix``, with or without a model prefix before it."""
        return any(name.startswith(spelling) for spelling in _spellings(prefix) for name in self._files)

    def read(self, name: str) -> Tensor:
        with _read_errors(self.folder):
            tensor: Tensor = self._files[name].get_tensor(name)
        if not tensor.is_floating_point():
            raise DataError(
                f"{name} in {self.folder} has the data type {tensor.dtype}",
                expected="floating-point weights, since quantised weights cannot be inspected",
                remedy="Pass the folder of the model before quantisation",
            )
        return tensor.float()


def _spellings(name: str) -> list[str]:
    without = [name.removeprefix(prefix) for prefix in _PREFIXES if name.startswith(prefix)]
    return [name, *(prefix + name for prefix in _PREFIXES), *without]


def _weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a model: those of its index, since others may be a second copy of the weights."""
    if folder.is_file():
        return [folder]
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        whole = folder / "model.safetensors"
        return [whole] if whole.is_file() else sorted(folder.glob("*.safetensors"))
    try:
        names = sorted(set(read_json_object(index, "index of weights")["weight_map"].values()))
    except (KeyError, AttributeError, TypeError) as error:
        raise DataError(
            f"{index} is not a valid index of weights: {error!r}", remedy="Download the model again"
        ) from error
    if missing := [name for name in names if not (folder / str(name)).is_file()]:
        raise DataError(
            f"{index} lists the file {missing[0]!r}, which does not exist", remedy="Download the model again"
        )
    return [folder / name for name in names]


@contextmanager
def _read_errors(path: Path) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}", remedy="Download or save the model again") from error


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

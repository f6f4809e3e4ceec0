"""Functions that adapters share for models of peft: wrap a model, read LoRA factors, and write adapter files."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file

from rerank.errors import UsageError

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

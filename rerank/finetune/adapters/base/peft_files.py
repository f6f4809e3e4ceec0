"""What adapters share of peft: wrapping a model, reading factors, and writing the two files of an adapter.

Knows peft's layers and files, and no method.
"""

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

#: The name that peft gives to the only adapter of a model, and where it puts the model that it wraps.
ADAPTER = "default"
_INSIDE = "base_model.model."

#: Module name -> (B, A): (rows, r) and (r, columns).
Factors = Mapping[str, tuple[torch.Tensor, torch.Tensor]]


def wrap(model: Any, config: Any, *, seed: int) -> Any:
    """A `peft.PeftModel` with one new adapter, which alone trains, in float32; what is drawn comes from the seed.

    Args:
        model: A model of transformers.
        config: A `peft.PeftConfig`.
        seed: For torch's own generator.
    """
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        # peft asks for an attribute by the name that it had before transformers 5.24.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        wrapped = get_peft_model(model, config)
    # peft does so itself, but for what lies outside the layers that it replaces.
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    # New modules come in training mode, which would make dropout act in a model that is being evaluated.
    return wrapped.train(model.training)


@contextmanager
def bases_drawn_again() -> Iterator[None]:
    """Keep quiet that random bases which are not saved may be drawn otherwise by another version of torch.

    Those who choose this write it into their cards; files that hold the bases are a hundred times as large.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*save_projection.*")
        yield


def lora_config(ranks: Mapping[str, int], alphas: Mapping[str, float], **options: Any) -> Any:
    """A configuration of LoRA with a rank and an alpha a module; the largest rank stands for the whole.

    Args:
        ranks: Module name -> rank, above 0.
        alphas: Module name -> alpha.
        **options: Further fields of `peft.LoraConfig`.
    """
    first = max(ranks, key=ranks.__getitem__)
    differ = [name for name in ranks if (ranks[name], alphas[name]) != (ranks[first], alphas[first])]
    return LoraConfig(
        r=ranks[first],
        lora_alpha=_whole(alphas[first]),
        rank_pattern={name: ranks[name] for name in differ},
        alpha_pattern={name: _whole(alphas[name]) for name in differ},
        target_modules=list(ranks),
        task_type="CAUSAL_LM",
        **options,
    )


def lora_layers(model: Any) -> Iterator[tuple[str, Any]]:
    """(Module name in the base model, peft's layer) of every adapted matrix."""
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            yield name.removeprefix(_INSIDE), module


def factors(model: Any) -> Factors:
    """The factors of every adapted matrix, as they are now."""
    return {
        name: (_weight(layer.lora_B[ADAPTER]), _weight(layer.lora_A[ADAPTER])) for name, layer in lora_layers(model)
    }


def scaling(model: Any) -> float:
    """What the products of factors are multiplied by; the same for all matrices here."""
    return float(next(layer.scaling[ADAPTER] for _, layer in lora_layers(model)))


def save(model: Any, folder: Path) -> None:
    """Write the adapter as it is."""
    # Asked whether embeddings changed, peft would look the base model up on the hub.
    tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    _write(model.peft_config[ADAPTER], model.targeted_module_names, tensors, folder)


def save_factors(model: Any, factors: Factors, folder: Path, *, scaling: float = 1.0) -> None:
    """Write factors as a plain LoRA, whatever they were trained as.

    Args:
        model: The wrapped model, which gives the names of what is adapted.
        factors: For every adapted matrix; ranks may differ.
        folder: An existing folder.
        scaling: What their products are multiplied by.
    """
    ranks = {name: a.shape[0] for name, (_, a) in factors.items()}
    config = lora_config(ranks, {name: scaling * rank for name, rank in ranks.items()})
    trained = model.peft_config[ADAPTER]
    config.base_model_name_or_path = trained.base_model_name_or_path or model.get_base_model().name_or_path or None
    tensors = {}
    for name, (b, a) in factors.items():
        tensors[f"{_INSIDE}{name}.lora_A.weight"] = a
        tensors[f"{_INSIDE}{name}.lora_B.weight"] = b
    _write(config, list(factors), tensors, folder)


def _write(config: Any, names: Sequence[str], tensors: Mapping[str, torch.Tensor], folder: Path) -> None:
    config = copy.copy(config)
    config.inference_mode = True
    # In full: peft makes them as short as tells them apart in the model at hand, which may lack the last layers of the
    # one that the adapter is loaded on.
    config.target_modules = sorted(names)
    # Copies, because tensors that share their memory are refused.
    kept = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    save_file(kept, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(str(folder))


def _weight(module: Any) -> torch.Tensor:
    weight: torch.Tensor = module.weight
    return weight.detach()


def _whole(value: float) -> Any:
    # peft asks for whole numbers in its types and computes with fractions as well.
    return int(value) if float(value).is_integer() else value

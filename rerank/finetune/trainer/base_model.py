"""Preparation of the base model: loading, removal of unused layers, dropout, and the tensors of checkpoints."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rerank.backends.hf import Hf
from rerank.finetune.recipe import ReadoutTable, Recipe
from rerank.finetune.trainer import processes
from rerank.finetune.trainer.listwise_module import ListwiseModule
from rerank.judges.attention import parse_layers
from rerank.judges.attention.heads import open_attention_heads
from rerank.lm.icr_scoring import select_heads
from rerank.lm.loading import load_language_model
from rerank.models import BackendOptions, resolve_model_name, with_hub_id_of_preset
from rerank.tasks import AttentionTask

_log = logging.getLogger(__name__)


def load_base_model(recipe: Recipe, *, dtype: str, device: str) -> tuple[Hf, Any]:
    """Return the base model as a backend with all weights frozen, and the tokenizer of the model.

    If processes share weights, only the first one reads them; `rerank.finetune.trainer.sharding` sends the others their
    parts.
    """
    options = BackendOptions(
        revision=recipe.revision,
        dtype=dtype,  # type: ignore[arg-type]  # checked at run time
        device=device,
        trust_remote_code=recipe.trust_remote_code,
    )
    empty = recipe.training.fsdp and not processes.is_main()
    loaded = load_language_model(resolve_model_name(recipe.model), options, empty=empty)
    loaded.model.requires_grad_(False)
    backend = Hf(loaded.model, loaded.tokenizer, identity=loaded.identity, options=options)
    backend.files = with_hub_id_of_preset(loaded.files)
    return backend, loaded.tokenizer


def select_readout_heads(table: ReadoutTable, backend: Hf) -> list[tuple[int, int]]:
    """Return the (layer, head) pairs of the attention heads that losses on attention use."""
    listed: tuple[tuple[int, int], ...] = ()
    if table.heads:
        heads = open_attention_heads(table.heads, backend.identity, backend.base)
        listed, path = heads.heads, Path(table.heads)
        if path.is_file() and not heads.fits_exactly(backend.identity, path.parent):
            _log.warning("The heads in %s were selected with other weights of %s", path, backend.identity["model"])
    task = AttentionTask(spans=(), tail=0, heads=listed, layers=parse_layers(table.layers))
    heads_by_layer = select_heads(backend.model.config.get_text_config(), task)
    return [(layer, head) for layer, heads in heads_by_layer.items() for head in heads]


def truncate_layers(model: Any, layers: int) -> bool:
    """Keep only the first ``layers`` layers of a model, and return whether any were removed."""
    config, decoder = model.config.get_text_config(), model.get_decoder()
    if not hasattr(decoder, "layers") or len(decoder.layers) <= layers:
        return False
    decoder.layers = decoder.layers[:layers]
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]
    return True


def unwrap_adapted_model(model: Any) -> Any:
    """Return the transformers model inside a model that an adapter has wrapped."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def checkpoint_tensor_names(module: ListwiseModule, before: set[str], *, moved: bool) -> list[str]:
    """Return the sorted names of the tensors of a checkpoint: trained ones, and those that the adapter added or moved.

    ``moved`` is true if it has changed the base weights of the adapted matrices.
    """
    trained = {name for name, value in module.named_parameters() if value.requires_grad}
    from_adapter = set()
    tensors = module.state_dict()
    for name in tensors:
        inner = name.removeprefix("model.").removeprefix("base_model.model.")
        original = inner.replace(".base_layer", "")  # peft moves an adapted weight below base_layer
        if original not in before or (moved and original != inner):
            from_adapter.add(name)
    # Some methods of peft share a tensor between layers; safetensors stores it under one name only.
    distinct: dict[tuple[int, torch.Size], str] = {}
    for name in [*sorted(trained), *sorted(from_adapter - trained)]:
        distinct.setdefault((tensors[name].data_ptr(), tensors[name].shape), name)
    return sorted(distinct.values())


#: Number of values of an int16; each decides on one element.
_VALUES = 1 << 16


class CpuDropout(nn.Dropout):
    """Dropout for CPUs that needs a quarter as many random numbers as torch's.

    The probability is rounded to a multiple of 2^-16, so that a 64-bit random number serves 4 elements.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name of the base class)
        """Return the input with elements set to 0 at random and the others scaled by 1 / (1 - p); in training only."""
        dropped = round(self.p * _VALUES)
        if not self.training or not 0 < dropped < _VALUES:
            return super().forward(input)
        bits = torch.empty(-(-input.numel() // 4), dtype=torch.int64).random_(-(1 << 63), None)
        mask = torch.empty_like(input, requires_grad=False)
        torch.ge(bits.view(torch.int16)[: input.numel()].view(input.shape), dropped - _VALUES // 2, out=mask)
        return input * mask.mul_(_VALUES / (_VALUES - dropped))


def use_cpu_dropout(model: nn.Module) -> None:
    """Make each `torch.nn.Dropout` of a model a `CpuDropout`."""
    for module in model.modules():
        if type(module) is nn.Dropout:
            module.__class__ = CpuDropout  # settings, hooks and places in the model stay

"""LR-QAT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from rerank.errors import UsageError
from rerank.finetune.adapters.base.peft_methods import PeftMethod
from rerank.finetune.adapters.base.targets import LinearTargets, at_least
from rerank.finetune.parts import Shape

#: The file with the whole numbers and steps.
INTEGERS = "integers.safetensors"


@dataclass(frozen=True, kw_only=True)
class LrQat(LinearTargets, PeftMethod):
    """s clip(round(W / s + alpha / r B A)): low-rank factors inside the rounding of a quantised weight train.

    s is the largest |weight| of a row, or of ``group`` columns of one, over 2^(bits-1) - 1, and stays as it is; the
    gradient passes through the rounding. W is kept in the number type that the model has (the paper keeps it in fewer
    bits).

    Rounding at the start is a change already (`identity` is False). The product is inside the rounding, so what is
    learnt is no low-rank difference to the base model and no LoRA can hold it: saved is the whole model with the
    rounded weights, which loads as any other does, and beside it ``integers.safetensors`` with ``NAME.weight`` (int8)
    and ``NAME.step`` (float32; rows x groups) for each matrix, weight = step times integer. In a model of 16 bits the
    weights of the former are these products rounded once more.

    Attributes:
        r: Rank of the product.
        alpha: The product is multiplied by alpha / r. It is in steps of the grid.
        bits: Of a whole number, its sign included; 2 to 8.
        group: Columns that share a step; None for a whole row.
    """

    r: int = 32
    alpha: int = 32
    bits: int = 4
    group: int | None = None

    paper: ClassVar[str] = "Bondarenko et al., 2024, arXiv 2406.06385 (LR-QAT)"
    summary: ClassVar[str] = "Trains low-rank factors inside the rounding to a few bits"
    shape: ClassVar[Shape] = "lora"
    identity: ClassVar[bool] = False
    saves: ClassVar[Literal["adapter", "model"]] = "model"

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        for option, value in (("r", self.r), ("alpha", self.alpha), ("group", self.group or 1)):
            at_least(option, value, 1)
        if not 2 <= self.bits <= 8:
            raise UsageError(f"bits={self.bits}", expected="2 to 8")

    def config(self, model: Any, seed: int) -> Any:
        """See `PeftMethod`.

        Raises:
            UsageError: A matrix's columns do not fall into groups of this size.
        """
        from functools import partial

        import torch

        from rerank.finetune.adapters.base import peft_files
        from rerank.finetune.extra.adapters.lr_qat.fake_quantisation import QuantisedLinear

        names = self.names(model)
        for name, (_, columns) in zip(names, self.shapes(model), strict=True):
            if self.group and columns % self.group:
                raise UsageError(f"group={self.group} does not divide the {columns} columns of {name}")
        config: Any = peft_files.lora_config(dict.fromkeys(names, self.r), dict.fromkeys(names, float(self.alpha)))
        config._register_custom_module({torch.nn.Linear: partial(QuantisedLinear, bits=self.bits, group=self.group)})
        return config

    def save(self, model: Any, folder: Path) -> None:
        """See `Adapter`."""
        import torch
        from safetensors.torch import save_file

        from rerank.finetune.adapters.base import peft_files

        base = model.get_base_model()
        tensors = {
            name.replace(".base_layer.", "."): tensor
            for name, tensor in base.state_dict().items()
            if ".lora_" not in name
        }
        whole = {}
        with torch.no_grad():
            for name, layer in peft_files.lora_layers(model):
                del tensors[f"{name}.step"]
                weight = tensors[f"{name}.weight"]
                tensors[f"{name}.weight"] = layer.quantised().to(weight.dtype)
                whole[f"{name}.weight"] = layer.integers().to("cpu", torch.int8)
                whole[f"{name}.step"] = layer.step.cpu()
        base.save_pretrained(folder, state_dict=tensors)
        save_file(whole, folder / INTEGERS, metadata={"format": "pt", "bits": str(self.bits)})

    def trainable(self, shapes: Sequence[tuple[int, int]]) -> int:
        """A matrix: r (rows + columns)."""
        return sum(self.r * (rows + columns) for rows, columns in shapes)

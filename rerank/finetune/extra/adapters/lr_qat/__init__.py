"""The adapter LR-QAT: a trained low-rank product is added to each weight before the weight is rounded to integers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from rerank.errors import UsageError
from rerank.finetune.adapters.base.peft_methods import PeftAdapter
from rerank.finetune.adapters.base.targets import LinearTargets, require_adapter_option_at_least
from rerank.finetune.components import ParameterKind

#: Name of the file with the integers and step sizes.
INTEGERS = "integers.safetensors"


@dataclass(frozen=True, kw_only=True)
class LrQat(LinearTargets, PeftAdapter):
    """LR-QAT: the weight becomes s clip(round(W / s + alpha / r B A)), and the low-rank factors A and B are trained.

    The step size s is the largest |weight| of a row, or of ``group`` columns of a row, divided by 2^(bits-1) - 1; it is
    not trained. Gradients pass through the rounding unchanged (straight-through estimator). W keeps the data type of
    the model; the paper stores it in fewer bits.

    Rounding changes the model before training starts (`identity` is False). The product B A is inside the rounding, so
    the learnt difference from the base model is not low-rank, and no LoRA can represent it. `save` therefore writes the
    whole model with the rounded weights, which loads like any other model. It also writes ``integers.safetensors`` with
    ``NAME.weight`` (int8) and ``NAME.step`` (float32, shape rows x groups) per matrix, where weight = step times
    integer. In a 16-bit model, the weights in the model files are these products rounded to 16 bits.

    Attributes:
        r: Rank of the product.
        alpha: Numerator of the scaling factor alpha / r; the product is in units of the step size.
        bits: Number of bits of each integer, including the sign; 2 to 8.
        group: Number of columns that share a step size; None for a whole row.
    """

    r: int = 32
    alpha: int = 32
    bits: int = 4
    group: int | None = None

    paper: ClassVar[str] = "Bondarenko et al., 2024, arXiv 2406.06385 (LR-QAT)"
    summary: ClassVar[str] = "Trains low-rank factors inside the rounding to a few bits"
    differs: ClassVar[str] = "Frozen weights keep the data type of the model instead of fewer bits"
    shape: ClassVar[ParameterKind] = "lora"
    identity: ClassVar[bool] = False
    saves: ClassVar[Literal["adapter", "model"]] = "model"

    def __post_init__(self) -> None:
        """Check that ``r``, ``alpha``, ``bits`` and ``group`` are in range."""
        super().__post_init__()
        for option, value in (("r", self.r), ("alpha", self.alpha), ("group", self.group or 1)):
            require_adapter_option_at_least(option, value, 1)
        if not 2 <= self.bits <= 8:
            raise UsageError(f"Option bits is {self.bits}", expected="2 to 8")

    def peft_config(self, model: Any, seed: int) -> Any:
        """Return a LoRA configuration whose layers quantise their weights."""
        from functools import partial

        import torch

        from rerank.finetune.adapters.base import peft_files
        from rerank.finetune.extra.adapters.lr_qat.fake_quantisation import FakeQuantisedLinear

        names = self.module_names(model)
        for name, (_, columns) in zip(names, self.shapes(model), strict=True):
            if self.group and columns % self.group:
                raise UsageError(
                    f"group={self.group} does not divide the {columns} columns of {name}",
                    expected="a group size that divides the number of columns of every adapted matrix",
                )
        config: Any = peft_files.make_lora_config(dict.fromkeys(names, self.r), dict.fromkeys(names, float(self.alpha)))
        config._register_custom_module(
            {torch.nn.Linear: partial(FakeQuantisedLinear, bits=self.bits, group=self.group)}
        )
        return config

    def save(self, model: Any, folder: Path) -> None:
        """Write the model with rounded weights, and the integers with their step sizes."""
        import torch
        from safetensors.torch import save_file

        from rerank.finetune.adapters.base import peft_files

        base = model.get_base_model()
        tensors = {
            name.replace(".base_layer.", "."): tensor
            for name, tensor in base.state_dict().items()
            if ".lora_" not in name
        }
        integers = {}
        with torch.no_grad():
            for name, layer in peft_files.iter_lora_layers(model):
                del tensors[f"{name}.step"]
                weight = tensors[f"{name}.weight"]
                tensors[f"{name}.weight"] = layer.quantised().to(weight.dtype)
                integers[f"{name}.weight"] = layer.integers().to("cpu", torch.int8)
                integers[f"{name}.step"] = layer.step.cpu()
        base.save_pretrained(folder, state_dict=tensors)
        save_file(integers, folder / INTEGERS, metadata={"format": "pt", "bits": str(self.bits)})

    def count_trainable(self, shapes: Sequence[tuple[int, int]]) -> int:
        """Return the number of trainable parameters: r (rows + columns) per matrix."""
        return sum(self.r * (rows + columns) for rows, columns in shapes)

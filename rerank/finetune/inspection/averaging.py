"""Exact averaging of several LoRA adapters of one model, computed from their factors without loading the model.

Adapters trained on shards of the data cannot be averaged factor by factor: mean(B_i) mean(A_i) is not mean(B_i A_i).
Two methods are exact. If B is the same in all adapters, A can be averaged; this is the case for LoRA-SB, whose trained
core is multiplied into A (Singhal et al., Fed-SB, arXiv 2502.15436). Otherwise the factors can be concatenated, which
adds up the ranks. PEFT's ``add_weighted_adapter(combination_type="cat")`` concatenates on a loaded model; in version
0.21, its result for rank-stabilised adapters is too large by a factor of sqrt(summed rank).
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rerank.errors import DataError, UsageError
from rerank.finetune.inspection.checkpoint_reader import CheckpointReader
from rerank.finetune.inspection.folders import new_merge_folder
from rerank.finetune.inspection.inspected_model import InspectedModel
from rerank.finetune.inspection.weight_changes import is_plain_lora, lora_scaling, names_of_lora_factors
from rerank.judges.attention.heads import HeadList, read_attention_heads
from rerank.models.adapters import HEADS, PROMPT, SETTINGS

if TYPE_CHECKING:
    from torch import Tensor

#: Files that define how an adapter is used; they must be equal in all adapters.
_USE = (SETTINGS, PROMPT)
_WEIGHTS = "adapter_model.safetensors"


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Shard:
    """An adapter to be averaged with others, such as one trained on a shard of the data.

    Attributes:
        folder: Folder of the adapter.
        config: PEFT configuration of the adapter.
        stored: Reader of the adapter's tensors.
        modules: Mapping from module name to a mapping from side (``A`` or ``B``) to the name of the tensor with this
            factor.
    """

    folder: Path
    config: Any
    stored: CheckpointReader
    modules: Mapping[str, Mapping[str, str]]

    def factor(self, module: str, side: str) -> Tensor:
        """Read A (r, columns) or B (rows, r) of a module, in float32."""
        return self.stored.read(self.modules[module][side])

    def scale(self, module: str) -> float:
        """Return the factor by which PEFT multiplies B A."""
        return lora_scaling(self.config, module, self.stored.shape(self.modules[module]["A"])[0])


def average_adapter_cores(adapters: Sequence[InspectedModel], out: Path) -> int:
    """Average adapters with the same B, such as LoRA-SB adapters trained on shards.

    A LoRA-SB adapter is saved as B and A = (R - R0) A0. B, R0 and A0 are the same in all adapters, so the mean of A is
    the A of the mean core R.

    Args:
        adapters: Two or more adapters.
        out: New folder for a plain LoRA adapter, with prompt, settings and averaged head weights if there are any.

    Returns:
        Number of adapted matrices.
    """
    shards = _open_averaged_adapters(adapters)
    first = shards[0]
    averaged: dict[str, Tensor] = {}
    for module, keys in first.modules.items():
        b = first.factor(module, "B")
        for other in shards[1:]:
            if other.scale(module) != first.scale(module) or not b.equal(other.factor(module, "B")):
                raise DataError(
                    f"The adapters in {first.folder} and {other.folder} differ in B or in the scale of {module}",
                    expected="adapters with exactly the same B, such as LoRA-SB adapters with the same basis",
                    remedy="Train shards with basis = FOLDER of one LoRA-SB adapter, or use --concatenate: averaging "
                    "both A and B does not give the mean of their products",
                )
        averaged[keys["A"]] = _mean_adapter_tensor([shard.factor(module, "A") for shard in shards])
        averaged[keys["B"]] = b
    _write_averaged_weights(out, first.config, averaged, shards)
    return len(first.modules)


def concatenate_adapter_factors(adapters: Sequence[InspectedModel], out: Path) -> int:
    """Concatenate the factors of adapters: B = [B_1 .. B_n], A = [s_1 A_1 .. s_n A_n] / n, with scale 1.

    The result equals the mean of the weight changes up to rounding; its rank is the sum of the ranks.

    Args:
        adapters: Two or more adapters.
        out: New folder for a plain LoRA adapter, with prompt, settings and averaged head weights if there are any.

    Returns:
        Number of adapted matrices.
    """
    import torch

    shards = _open_averaged_adapters(adapters)
    first, joined, ranks = shards[0], dict[str, "Tensor"](), dict[str, int]()
    for module, keys in first.modules.items():
        a = [shard.factor(module, "A") * (shard.scale(module) / len(shards)) for shard in shards]
        b = [shard.factor(module, "B") for shard in shards]
        if len({(x.shape[1], y.shape[0]) for x, y in zip(a, b, strict=True)}) > 1:
            raise DataError(
                f"The shapes of {module} differ between the adapters", expected="adapters of the same model"
            )
        joined[keys["A"]], joined[keys["B"]] = torch.cat(a), torch.cat(b, dim=1)
        ranks[module] = len(joined[keys["A"]])
    rank = max(ranks.values())
    pattern = {module: own for module, own in ranks.items() if own != rank}
    config = dataclasses.replace(
        first.config, r=rank, lora_alpha=rank, rank_pattern=pattern, alpha_pattern=dict(pattern), use_rslora=False
    )
    _write_averaged_weights(out, config, joined, shards)
    return len(ranks)


def _open_averaged_adapters(adapters: Sequence[InspectedModel]) -> list[_Shard]:
    """Open the adapters and check that they can be combined."""
    if len(adapters) < 2:
        raise UsageError(
            f"The number of adapters to average is {len(adapters)}",
            expected="two or more adapters, trained on shards of the data",
        )
    shards = []
    for adapter in adapters:
        stored = CheckpointReader(adapter.folder / _WEIGHTS) if adapter.kind == "LORA" else None
        if stored is None or not is_plain_lora(stored, adapter.config):
            raise UsageError(
                f"The adapter in {adapter.folder} cannot be averaged",
                expected="a LoRA, rank-stabilised LoRA or LoRA-SB adapter",
                remedy="To use it alone, merge it into its model: rerank merge ADAPTER --out FOLDER",
            )
        shards.append(_Shard(adapter.folder, adapter.config, stored, names_of_lora_factors(stored)))
    for other, subject in zip(shards[1:], adapters[1:], strict=True):
        if other.modules.keys() != shards[0].modules.keys():
            module = min(other.modules.keys() ^ shards[0].modules.keys())
            raise DataError(
                f"{module} is adapted by only one of {shards[0].folder} and {other.folder}",
                expected="adapters of the same matrices",
            )
        if subject.base.resolve() != adapters[0].base.resolve():
            raise DataError(
                f"{shards[0].folder} was trained on {adapters[0].base}, but {other.folder} on {subject.base}",
                expected="adapters of the same base model",
            )
        _check_adapters_share_use(shards[0].folder, other.folder)
    return shards


def _check_adapters_share_use(first: Path, other: Path) -> None:
    """Check that two adapters have the same method and prompt, with which their mean is used."""
    for name in _USE:
        texts = [(folder / name).read_bytes() if (folder / name).is_file() else b"" for folder in (first, other)]
        if texts[0] != texts[1]:
            raise DataError(
                f"{first / name} and {other / name} differ",
                expected="adapters trained for the same method with the same prompt",
            )


def _mean_adapter_tensor(tensors: Sequence[Tensor]) -> Tensor:
    """Return the mean of one tensor over the adapters, as float32; the sum is accumulated in float64."""
    total = tensors[0].double()
    for tensor in tensors[1:]:
        if tensor.shape != total.shape:
            raise DataError(
                f"The shapes of the factors differ: {tuple(total.shape)} and {tuple(tensor.shape)}",
                expected="adapters of the same rank",
            )
        total = total + tensor.double()
    return (total / len(tensors)).float()


def _average_trained_adapter_heads(paths: Sequence[Path]) -> HeadList | None:
    """Return the attention heads with averaged weights and length powers; None if no adapter has a head list.

    A score is the weighted sum of attention over heads, multiplied by a power of the passage length. Averaging the
    weights averages the scores exactly if the powers are equal, and approximately if the powers are similar.
    """
    if not any(path.is_file() for path in paths):
        return None
    lists = [read_attention_heads(path) for path in paths]
    first = lists[0]
    for path, other in zip(paths, lists, strict=True):
        if set(other.heads) != set(first.heads) or other.model != first.model:
            raise DataError(
                f"{paths[0]} and {path} list different heads or models",
                expected="adapters with the same heads of the same model",
            )
    weights = {
        head: sum(_normalised_trained_head_weight(heads, head) for heads in lists) / len(lists) for head in first.heads
    }
    order = sorted(first.heads, key=lambda head: -weights[head])
    return dataclasses.replace(
        first,
        heads=tuple(order),
        weights=tuple(weights[head] for head in order) if any(heads.weights for heads in lists) else (),
        length_power=sum(heads.length_power for heads in lists) / len(lists),
    )


def _normalised_trained_head_weight(heads: HeadList, head: tuple[int, int]) -> float:
    """Return the weight of a head, normalised so that the weights of all heads sum to 1."""
    if not heads.weights:
        return 1 / len(heads.heads)
    return heads.weights[heads.heads.index(head)] / sum(heads.weights)


def _write_averaged_weights(out: Path, config: Any, tensors: Mapping[str, Tensor], shards: Sequence[_Shard]) -> None:
    """Write an adapter in the format of PEFT, in float32, since a mean of rounded factors needs more digits."""
    from safetensors.torch import save_file

    first = shards[0]
    heads = _average_trained_adapter_heads([shard.folder / HEADS for shard in shards])
    converted = {key: tensor.float().contiguous() for key, tensor in tensors.items()}
    with new_merge_folder(out) as folder:
        save_file(converted, folder / _WEIGHTS, metadata={"format": "pt"})
        for name in _USE:
            if (first.folder / name).is_file():
                shutil.copyfile(first.folder / name, folder / name)
        if heads is not None:
            heads.write(folder / HEADS)
        config.save_pretrained(str(folder))

"""Several LoRA adapters of one model made into one, exactly, from their factors alone. Loads no model.

Adapters that were trained on shards of the data cannot be averaged factor by factor: the mean of B_i times the mean of
A_i is not the mean of B_i A_i. Two ways are exact: where B is the same in all of them, as in LoRA-SB, whose trained
core is folded into A, the mean of A is (Singhal et al., Fed-SB, arXiv 2502.15436); and factors side by side, at summed
rank. PEFT's ``add_weighted_adapter(combination_type="cat")`` does the latter on a loaded model; of rank-stabilised
adapters 0.21 makes one that is sqrt(summed rank) times too large.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rerank.errors import DataError, UsageError
from rerank.finetune.inspection.checkpoints import Checkpoint
from rerank.finetune.inspection.deltas import factors_of, is_plain, scaling
from rerank.finetune.inspection.folders import new_folder
from rerank.finetune.inspection.subject import Subject
from rerank.judges.attention.heads import HeadList, read_heads
from rerank.models.trained import HEADS, PROMPT, SETTINGS

if TYPE_CHECKING:
    from torch import Tensor

#: What of an adapter's folder says how it is used, and has to be the same in all.
_USE = (SETTINGS, PROMPT)
_WEIGHTS = "adapter_model.safetensors"


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Shard:
    """One adapter: where it is, its settings, its tensors, and module -> side -> key."""

    folder: Path
    config: Any
    stored: Checkpoint
    modules: Mapping[str, Mapping[str, str]]

    def factor(self, module: str, side: str) -> Tensor:
        """A is (r, columns) and B (rows, r), in float32."""
        return self.stored.read(self.modules[module][side])

    def scale(self, module: str) -> float:
        """What PEFT multiplies B A with."""
        return scaling(self.config, module, self.stored.shape(self.modules[module]["A"])[0])


def average_core(adapters: Sequence[Subject], out: Path) -> int:
    """Average adapters that share their B, as LoRA-SB adapters of shards do.

    A LoRA-SB adapter is saved as B and A = (R - R0) A0, with B, R0 and A0 the same in all, so the mean of A is that of
    the mean core R.

    Args:
        adapters: Two or more.
        out: A new folder, which gets a plain LoRA adapter, and their prompt, settings and mean heads if they have some.

    Returns:
        How many matrices it adapts.

    Raises:
        UsageError: Fewer than two, or one that is no plain LoRA.
        DataError: They differ in more than A, or were trained on other models, for other methods or with other heads.
    """
    shards = _shards(adapters)
    first = shards[0]
    averaged: dict[str, Tensor] = {}
    for module, keys in first.modules.items():
        b = first.factor(module, "B")
        for other in shards[1:]:
            if other.scale(module) != first.scale(module) or not b.equal(other.factor(module, "B")):
                raise DataError(
                    f"{first.folder} and {other.folder} have other B or another scale in {module}",
                    expected="adapters that share their B to the bit, as LoRA-SB adapters of one basis do",
                    remedy="Train shards with basis = FOLDER of one LoRA-SB adapter, or use --concatenate: the mean of "
                    "A times the mean of B is not the mean of their products",
                )
        averaged[keys["A"]] = _mean([shard.factor(module, "A") for shard in shards])
        averaged[keys["B"]] = b
    _write(out, first.config, averaged, shards)
    return len(first.modules)


def concatenate(adapters: Sequence[Subject], out: Path) -> int:
    """Put the factors of adapters side by side: B = [B_1 .. B_n], A = [s_1 A_1 .. s_n A_n] / n, with scale 1.

    Its change is the mean of theirs, up to rounding; its rank is the sum of theirs.

    Args:
        adapters: Two or more.
        out: A new folder, which gets a plain LoRA adapter, and the rest as `average_core` has it.

    Returns:
        How many matrices it adapts.

    Raises:
        UsageError: Fewer than two, or one that is no plain LoRA.
        DataError: They adapt other matrices, or were trained on other models, for other methods or with other heads.
    """
    import torch

    shards = _shards(adapters)
    first, joined, ranks = shards[0], dict[str, "Tensor"](), dict[str, int]()
    for module, keys in first.modules.items():
        a = [shard.factor(module, "A") * (shard.scale(module) / len(shards)) for shard in shards]
        b = [shard.factor(module, "B") for shard in shards]
        if len({(x.shape[1], y.shape[0]) for x, y in zip(a, b, strict=True)}) > 1:
            raise DataError(f"{module} has another shape in some adapters", expected="adapters of one model")
        joined[keys["A"]], joined[keys["B"]] = torch.cat(a), torch.cat(b, dim=1)
        ranks[module] = len(joined[keys["A"]])
    rank = max(ranks.values())
    pattern = {module: own for module, own in ranks.items() if own != rank}
    config = dataclasses.replace(
        first.config, r=rank, lora_alpha=rank, rank_pattern=pattern, alpha_pattern=dict(pattern), use_rslora=False
    )
    _write(out, config, joined, shards)
    return len(ranks)


def _shards(adapters: Sequence[Subject]) -> list[_Shard]:
    """The adapters, opened and found fit for each other."""
    if len(adapters) < 2:
        raise UsageError("One adapter to average", expected="two or more, trained on shards of the data")
    shards = []
    for one in adapters:
        stored = Checkpoint(one.folder / _WEIGHTS) if one.kind == "LORA" else None
        if stored is None or not is_plain(stored, one.config):
            raise UsageError(
                f"{one.folder} is no plain LoRA adapter",
                expected="plain or rank-stabilised LoRA, or LoRA-SB as it is saved",
                remedy="Merge it into its model: rerank merge ADAPTER --out FOLDER",
            )
        shards.append(_Shard(one.folder, one.config, stored, factors_of(stored)))
    for other, subject in zip(shards[1:], adapters[1:], strict=True):
        if other.modules.keys() != shards[0].modules.keys():
            module = min(other.modules.keys() ^ shards[0].modules.keys())
            raise DataError(
                f"Only one of {shards[0].folder} and {other.folder} adapts {module}",
                expected="adapters of the same matrices",
            )
        if subject.base.resolve() != adapters[0].base.resolve():
            raise DataError(
                f"{shards[0].folder} was trained on {adapters[0].base}, {other.folder} on {subject.base}",
                expected="adapters of one model",
            )
        _check_use(shards[0].folder, other.folder)
    return shards


def _check_use(first: Path, other: Path) -> None:
    """Refuse adapters that are asked in another way: what comes out could be used in neither."""
    for name in _USE:
        texts = [(folder / name).read_bytes() if (folder / name).is_file() else b"" for folder in (first, other)]
        if texts[0] != texts[1]:
            raise DataError(
                f"{first / name} and {other / name} differ",
                expected="adapters that were trained for one method, with one prompt",
            )


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    """The mean, summed in float64."""
    total = tensors[0].double()
    for one in tensors[1:]:
        if one.shape != total.shape:
            raise DataError(f"Shapes {tuple(total.shape)} and {tuple(one.shape)}", expected="adapters of one rank")
        total = total + one.double()
    return (total / len(tensors)).float()


def _mean_heads(paths: Sequence[Path]) -> HeadList | None:
    """How much each head counts in the mean, and the mean power of lengths; None where no adapter has heads.

    Scores are read off heads that are weighted and then multiplied by a power of lengths: their mean is that of the
    weights where powers are the same, and near it where they are nearly so.
    """
    if not any(path.is_file() for path in paths):
        return None
    lists = [read_heads(path) for path in paths]
    first = lists[0]
    for path, other in zip(paths, lists, strict=True):
        if set(other.heads) != set(first.heads) or other.model != first.model:
            raise DataError(
                f"{paths[0]} and {path} are of other heads or models",
                expected="adapters that read the same heads of one model",
            )
    weights = {head: sum(_weight(one, head) for one in lists) / len(lists) for head in first.heads}
    order = sorted(first.heads, key=lambda head: -weights[head])
    return dataclasses.replace(
        first,
        heads=tuple(order),
        weights=tuple(weights[head] for head in order) if any(one.weights for one in lists) else (),
        length_power=sum(one.length_power for one in lists) / len(lists),
    )


def _weight(heads: HeadList, head: tuple[int, int]) -> float:
    """How much a head counts, of 1 in all."""
    if not heads.weights:
        return 1 / len(heads.heads)
    return heads.weights[heads.heads.index(head)] / sum(heads.weights)


def _write(out: Path, config: Any, tensors: Mapping[str, Tensor], shards: Sequence[_Shard]) -> None:
    """Write an adapter as PEFT does; weights are of the first adapter's number type."""
    from safetensors.torch import save_file

    first = shards[0]
    heads = _mean_heads([shard.folder / HEADS for shard in shards])
    kept = {key: tensor.to(first.stored.dtype(key)).contiguous() for key, tensor in tensors.items()}
    with new_folder(out) as made:
        save_file(kept, made / _WEIGHTS, metadata={"format": "pt"})
        for name in _USE:
            if (first.folder / name).is_file():
                shutil.copyfile(first.folder / name, made / name)
        if heads is not None:
            heads.write(made / HEADS)
        config.save_pretrained(str(made))

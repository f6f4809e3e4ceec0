"""Merge an adapter into its base model, or average several adapters of one model.

A merge can reduce intruder dimensions, leading singular vectors that are not similar to any singular vector before
training. The reduction is applied to the matrices that PEFT merged, and is exact, because they can have any rank.
PEFT's ``reduce_intruder_dimension`` (0.21) writes a second adapter instead, whose limited rank makes it inexact.

Averages are computed from the factors, without loading the model. Factor by factor they would be wrong: mean(B_i)
mean(A_i) is not mean(B_i A_i). Two methods are exact. If B is the same in all adapters, A can be averaged; this is the
case for LoRA-SB, whose trained core is multiplied into A (Singhal et al., Fed-SB, arXiv 2502.15436). Otherwise the
factors can be concatenated, which adds up the ranks. The result of PEFT's ``add_weighted_adapter`` (0.21, "cat") for
rank-stabilised adapters is too large by a factor of sqrt(summed rank).
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rerank.errors import DataError, MissingResourceError, StorageError, UsageError, ensure, error_repr
from rerank.finetune.inspection import checkpoints
from rerank.finetune.inspection.checkpoints import ADAPTER_WEIGHTS, FULL, CheckpointReader, InspectedModel
from rerank.finetune.inspection.report import shrink_intruder_dimensions
from rerank.io import atomic_folder
from rerank.judges.attention.heads import BESIDE, HeadList, read_attention_heads
from rerank.lm.loading import load_language_model, named_loading_errors, quiet_transformers
from rerank.models.adapters import HEADS, PROMPT, SETTINGS
from rerank.tasks import DTYPES, BackendOptions

if TYPE_CHECKING:
    from torch import Tensor

#: File beside the weights that describes the merge; it does not affect the identity of the model.
MARKER = "rerank-merge.json"
#: Largest rounding error of the written weights, as a fraction of the norm of the weight change.
MAX_ROUNDING = 0.1
#: Files that define how an adapter is used; they must be equal in all adapters that are averaged.
_USE = (SETTINGS, PROMPT)


def check_new_folder(folder: Path) -> None:
    """Check that a folder can be created, before its content is computed."""
    try:
        full = folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))
    except OSError as error:
        raise StorageError(f"{folder} cannot be read: {error.strerror}", remedy="Choose another name") from error
    ensure(not full, f"{folder} already exists", expected="a new folder", remedy="Choose another --out")
    ensure(
        folder.absolute().parent.is_dir(),
        f"{folder} cannot be created: the folder {folder.absolute().parent} does not exist",
        remedy="Create the folder, or check the path",
        error=MissingResourceError,
    )


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that is renamed to its final name at the end, and removed after an error."""
    check_new_folder(folder)
    try:
        with atomic_folder.new_folder(folder) as draft:
            yield draft
    except OSError as error:
        raise StorageError(
            f"{folder} cannot be written: {error.strerror or error}", remedy="Free disk space, or choose another folder"
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeOptions:
    """Options for merging an adapter into its base model."""

    #: Factor by which the singular values of intruder dimensions are multiplied, from 0 (removed) to 1 (unchanged);
    #: None for no reduction.
    reduce: float | None = None
    top: int = 10  #: Number of leading singular vectors that are checked for intruder dimensions.
    epsilon: float = 0.5  #: Cosine threshold below which a singular vector counts as an intruder dimension.
    dtype: str = "float32"  #: Data type of the written weights; ``auto`` uses the data type of the base model.
    #: Write the model even if ``dtype`` alters the weight change by more than `MAX_ROUNDING`.
    allow_rounding: bool = False
    device: str = "cpu"  #: Torch device for the singular value decompositions.

    def __post_init__(self) -> None:
        ensure(
            self.reduce is None or 0 <= self.reduce <= 1,
            f"--reduce-intruders is {self.reduce}",
            expected="a factor from 0 (removed) to 1 (unchanged)",
        )
        ensure(
            self.top >= 1 and 0 < self.epsilon <= 1,
            f"top is {self.top} and epsilon is {self.epsilon}",
            expected="top of at least 1, and epsilon above 0 and at most 1",
        )
        ensure(self.dtype in DTYPES, f"dtype is {error_repr(self.dtype)}", expected=f"one of: {', '.join(DTYPES)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeResult:
    """Result of merging an adapter into its base model."""

    out: Path
    dtype: str
    changed: int  #: Number of matrices and vectors that differ from the base model.
    #: Norm of the rounding error divided by the norm of the weight change, or None if nothing changed. A value near 1
    #: means that rounding removed most of the training.
    rounded: float | None
    #: ``name`` of each changed matrix, and its intruder dimensions ``before`` and ``after`` the reduction, if any.
    reduced: tuple[dict[str, Any], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {
            "out": str(self.out),
            "dtype": self.dtype,
            "changed": self.changed,
            "rounded": self.rounded,
            "matrices": list(self.reduced),
            "intruders": sum(row["before"] for row in self.reduced),
            "intruders_after": sum(row["after"] for row in self.reduced),
        }


def merge_adapter(subject: InspectedModel, out: Path, options: MergeOptions | None = None) -> MergeResult:
    """Merge an adapter, and write the merged model: config, safetensors and tokenizer.

    Weights are merged in float32 and rounded once at the end; memory must hold the base model in float32. Method,
    prompt, limits and heads of an adapter trained with `rerank train` are copied, so that ``--model FOLDER`` ranks in
    the same way as the adapter.
    """
    options = options or MergeOptions()
    check_new_folder(out)
    base = CheckpointReader(subject.base)
    if subject.kind == FULL:
        ensure(
            options.reduce is not None,
            f"{subject.folder} is a complete model, which contains no adapter to merge",
            expected="an adapter, or --reduce-intruders",
        )
        loaded = load_language_model(subject.folder, BackendOptions(dtype="float32", device="cpu"))
        model, tokenizer = loaded.model, loaded.tokenizer
    else:
        checkpoints.check_adapter_layers(subject.tensors(), base)
        model, tokenizer = checkpoints.merge_with_peft(subject)
    dtype = _written_dtype(subject.base, options.dtype)
    dtype_name = str(dtype).removeprefix("torch.")
    rows: list[dict[str, Any]] = []
    squares = [0.0, 0.0]  # squared norms of the rounding errors, and of the changes
    changed = 0
    for name, parameter in model.named_parameters():
        stored = base.find(name)
        weight = base.read(stored) if stored is not None else None
        if weight is None or weight.shape != parameter.shape or parameter.data.equal(weight):
            continue
        changed += 1
        if options.reduce is not None and parameter.ndim == 2:
            reduced, before, after = shrink_intruder_dimensions(
                weight.to(options.device),
                parameter.data.to(options.device),
                options.reduce,
                top=options.top,
                epsilon=options.epsilon,
            )
            parameter.data.copy_(reduced)
            rows.append({"name": name.removesuffix(".weight"), "before": before, "after": after})
        squares[0] += float((parameter.data - parameter.data.to(dtype).float()).norm()) ** 2
        squares[1] += float((parameter.data - weight).norm()) ** 2
    rounded = math.sqrt(squares[0] / squares[1]) if squares[1] else None
    ensure(
        options.allow_rounding or (rounded or 0.0) <= MAX_ROUNDING,
        f"Rounding the merged weights to {dtype_name} would alter the weight update by {100 * (rounded or 0.0):.1f} % "
        "of its norm",
        expected=f"at most {100 * MAX_ROUNDING:.0f} %; nothing was written",
        remedy="Merge with --dtype float32, use the adapter without merging, or accept the rounding with "
        "--allow-rounding",
    )
    with quiet_transformers(), new_folder(out) as folder:
        model.to(dtype).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        description = {"base": str(subject.base), "trained": str(subject.folder), **asdict(options)}
        if not options.allow_rounding:
            del description["allow_rounding"]  # an option that was added later is written only if it is used
        (folder / MARKER).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8", newline="\n")
        _copy_use(subject.folder, folder)
        if (subject.folder / HEADS).is_file():
            heads = read_attention_heads(subject.folder / HEADS)
            # The heads referred to the base model with this adapter; now they refer to the weights in the same folder.
            replace(heads, model={"model": heads.model.get("model", ""), "weights": BESIDE}).write(folder / HEADS)
    return MergeResult(out=out, dtype=dtype_name, changed=changed, rounded=rounded, reduced=tuple(rows))


def _written_dtype(base: Path, name: str) -> Any:
    import torch
    import transformers

    if name == "auto":
        with quiet_transformers(), named_loading_errors(base):
            dtype = transformers.AutoConfig.from_pretrained(base).dtype
        return dtype if isinstance(dtype, torch.dtype) else torch.float32
    return getattr(torch, name)


def _copy_use(trained: Path, folder: Path) -> None:
    for name in _USE:
        if (trained / name).is_file():
            shutil.copyfile(trained / name, folder / name)


@dataclass(frozen=True, slots=True, eq=False)
class _Shard:
    """An adapter to be averaged with others, such as one trained on a shard of the data."""

    folder: Path
    config: Any  #: PEFT configuration of the adapter.
    stored: CheckpointReader
    modules: Mapping[str, Mapping[str, str]]  #: Module name -> side (``A`` or ``B``) -> name of the tensor.

    def factor(self, module: str, side: str) -> Tensor:
        return self.stored.read(self.modules[module][side])

    def scale(self, module: str) -> float:
        return checkpoints.lora_scaling(self.config, module, self.stored.shape(self.modules[module]["A"])[0])


def average_adapter_cores(adapters: Sequence[InspectedModel], out: Path) -> int:
    """Average two or more adapters with the same B, and return the number of adapted matrices.

    A LoRA-SB adapter is saved as B and A = (R - R0) A0, where only R differs, so the mean of A is the A of the mean R.
    The new folder contains a plain LoRA adapter, with prompt, settings and averaged head weights if there are any.
    """
    shards = _open_shards(adapters)
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
        total = first.factor(module, "A").double()
        for other in shards[1:]:
            a = other.factor(module, "A")
            if a.shape != total.shape:
                raise DataError(
                    f"The shapes of the factors differ: {tuple(total.shape)} and {tuple(a.shape)}",
                    expected="adapters of the same rank",
                )
            total = total + a.double()
        averaged[keys["A"]], averaged[keys["B"]] = (total / len(shards)).float(), b
    _write_average(out, first.config, averaged, shards)
    return len(first.modules)


def concatenate_adapter_factors(adapters: Sequence[InspectedModel], out: Path) -> int:
    """Concatenate the factors of two or more adapters, and return the number of adapted matrices.

    B = [B_1 .. B_n] and A = [s_1 A_1 .. s_n A_n] / n, with scale 1. The product equals the mean of the weight changes
    up to rounding; its rank is the sum of the ranks. The files are those of `average_adapter_cores`.
    """
    import torch

    shards = _open_shards(adapters)
    first, joined, ranks = shards[0], dict[str, "Tensor"](), dict[str, int]()
    for module, keys in first.modules.items():
        a = [shard.factor(module, "A") * (shard.scale(module) / len(shards)) for shard in shards]
        b = [shard.factor(module, "B") for shard in shards]
        ensure(
            len({(x.shape[1], y.shape[0]) for x, y in zip(a, b, strict=True)}) == 1,
            f"The shapes of {module} differ between the adapters",
            expected="adapters of the same model",
            error=DataError,
        )
        joined[keys["A"]], joined[keys["B"]] = torch.cat(a), torch.cat(b, dim=1)
        ranks[module] = len(joined[keys["A"]])
    rank = max(ranks.values())
    pattern = {module: own for module, own in ranks.items() if own != rank}
    config = replace(
        first.config, r=rank, lora_alpha=rank, rank_pattern=pattern, alpha_pattern=dict(pattern), use_rslora=False
    )
    _write_average(out, config, joined, shards)
    return len(ranks)


def _open_shards(adapters: Sequence[InspectedModel]) -> list[_Shard]:
    ensure(
        len(adapters) >= 2,
        f"The number of adapters to average is {len(adapters)}",
        expected="two or more adapters, trained on shards of the data",
    )
    shards: list[_Shard] = []
    for adapter in adapters:
        if adapter.kind != "LORA" or not checkpoints.is_plain_lora(stored := adapter.tensors(), adapter.config):
            raise UsageError(
                f"The adapter in {adapter.folder} cannot be averaged",
                expected="a LoRA, rank-stabilised LoRA or LoRA-SB adapter",
                remedy="To use it alone, merge it into its model: rerank merge ADAPTER --out FOLDER",
            )
        shards.append(_Shard(adapter.folder, adapter.config, stored, checkpoints.names_of_lora_factors(stored)))
    first = shards[0]
    for other, subject in zip(shards[1:], adapters[1:], strict=True):
        if only_one := other.modules.keys() ^ first.modules.keys():
            raise DataError(
                f"{min(only_one)} is adapted by only one of {first.folder} and {other.folder}",
                expected="adapters of the same matrices",
            )
        ensure(
            subject.base.resolve() == adapters[0].base.resolve(),
            f"{first.folder} was trained on {adapters[0].base}, but {other.folder} on {subject.base}",
            expected="adapters of the same base model",
            error=DataError,
        )
        for name in _USE:
            paths = [folder / name for folder in (first.folder, other.folder)]
            texts = [path.read_bytes() if path.is_file() else b"" for path in paths]
            ensure(
                texts[0] == texts[1],
                f"{paths[0]} and {paths[1]} differ",
                expected="adapters trained for the same method with the same prompt",
                error=DataError,
            )
    return shards


def _write_average(out: Path, config: Any, tensors: Mapping[str, Tensor], shards: Sequence[_Shard]) -> None:
    """Write an adapter in the format of PEFT, in float32, since a mean of rounded factors needs more digits."""
    from safetensors.torch import save_file

    heads = _average_heads([shard.folder / HEADS for shard in shards])
    converted = {key: tensor.float().contiguous() for key, tensor in tensors.items()}
    with new_folder(out) as folder:
        save_file(converted, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
        _copy_use(shards[0].folder, folder)
        if heads is not None:
            heads.write(folder / HEADS)
        config.save_pretrained(str(folder))


def _average_heads(paths: Sequence[Path]) -> HeadList | None:
    """Return the heads with averaged weights and length powers; None if no adapter has a head list.

    This averages the scores exactly if the length powers are equal, and approximately if they are similar.
    """
    if not any(path.is_file() for path in paths):
        return None
    lists = [read_attention_heads(path) for path in paths]
    first = lists[0]
    for path, other in zip(paths, lists, strict=True):
        ensure(
            set(other.heads) == set(first.heads) and other.model == first.model,
            f"{paths[0]} and {path} list different heads or models",
            expected="adapters with the same heads of the same model",
            error=DataError,
        )

    def weight(heads: HeadList, head: tuple[int, int]) -> float:
        return heads.weights[heads.heads.index(head)] / sum(heads.weights) if heads.weights else 1 / len(heads.heads)

    weights = {head: sum(weight(heads, head) for heads in lists) / len(lists) for head in first.heads}
    order = sorted(first.heads, key=lambda head: -weights[head])
    return replace(
        first,
        heads=tuple(order),
        weights=tuple(weights[head] for head in order) if any(heads.weights for heads in lists) else (),
        length_power=sum(heads.length_power for heads in lists) / len(lists),
    )

"""Merge an adapter into its base model, with an optional reduction of intruder dimensions.

Intruder dimensions are leading singular vectors that are not similar to any singular vector before training. PEFT
merges the weights. The reduction is applied to the merged matrices and is exact, because they can have any rank.
PEFT's ``reduce_intruder_dimension`` (0.21) writes a second adapter instead, whose limited rank makes the reduction
inexact.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rerank.errors import UsageError, error_repr
from rerank.finetune.inspection import spectra
from rerank.finetune.inspection.checkpoint_reader import CheckpointReader
from rerank.finetune.inspection.folders import check_new_merge_folder, new_merge_folder
from rerank.finetune.inspection.inspected_model import FULL, InspectedModel
from rerank.finetune.inspection.weight_changes import check_adapter_layers
from rerank.judges.attention.heads import BESIDE, read_attention_heads
from rerank.lm.loading import load_language_model, named_loading_errors, quiet_transformers
from rerank.models.adapters import HEADS, PROMPT, SETTINGS
from rerank.tasks import DTYPES, BackendOptions

if TYPE_CHECKING:
    from torch import Tensor

#: File beside the weights that describes the merge; it does not affect the identity of the model.
MARKER = "rerank-merge.json"
#: Largest rounding error of the written weights, as a fraction of the norm of the weight change.
MAX_ROUNDING = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeOptions:
    """Options for merging an adapter into its base model.

    Attributes:
        reduce: Factor by which the singular values of intruder dimensions are multiplied, from 0 (removed) to 1
            (unchanged); None for no reduction.
        top: Number of leading singular vectors that are checked for intruder dimensions.
        epsilon: Cosine threshold below which a singular vector counts as an intruder dimension.
        dtype: Data type of the written weights; ``auto`` uses the data type of the base model.
        allow_rounding: Write the model even if ``dtype`` alters the weight change by more than `MAX_ROUNDING`.
        device: Torch device for the singular value decompositions.
    """

    reduce: float | None = None
    top: int = 10
    epsilon: float = 0.5
    dtype: str = "float32"
    allow_rounding: bool = False
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Check that ``reduce``, ``top`` and ``epsilon`` are in range, and that ``dtype`` is known."""
        if self.reduce is not None and not 0 <= self.reduce <= 1:
            raise UsageError(
                f"--reduce-intruders is {self.reduce}", expected="a factor from 0 (removed) to 1 (unchanged)"
            )
        if self.top < 1 or not 0 < self.epsilon <= 1:
            raise UsageError(
                f"top is {self.top} and epsilon is {self.epsilon}",
                expected="top of at least 1, and epsilon above 0 and at most 1",
            )
        if self.dtype not in DTYPES:
            raise UsageError(f"dtype is {error_repr(self.dtype)}", expected=f"one of: {', '.join(DTYPES)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class IntruderReduction:
    """Numbers of intruder dimensions of one matrix, before and after the reduction.

    Attributes:
        name: Name of the module.
        before: Number of intruder dimensions among the leading singular vectors before the reduction.
        after: Number of intruder dimensions among the leading singular vectors after the reduction.
    """

    name: str
    before: int
    after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeResult:
    """Result of merging an adapter into its base model.

    Attributes:
        out: Folder of the merged model.
        dtype: Data type of the weights of the merged model.
        changed: Number of matrices and vectors that differ from the base model.
        rounded: Norm of the rounding error that ``dtype`` causes, divided by the norm of the weight change. A value
            near 1 means that rounding removed most of the training. None if nothing changed.
        reduced: Numbers of intruder dimensions of each changed matrix; empty without a reduction.
    """

    out: Path
    dtype: str
    changed: int
    rounded: float | None
    reduced: tuple[IntruderReduction, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """Return the result as the JSON object that ``rerank merge --format json`` prints."""
        return {
            "out": str(self.out),
            "dtype": self.dtype,
            "changed": self.changed,
            "rounded": self.rounded,
            "matrices": [asdict(row) for row in self.reduced],
            "intruders": sum(row.before for row in self.reduced),
            "intruders_after": sum(row.after for row in self.reduced),
        }


def merge_adapter(subject: InspectedModel, out: Path, options: MergeOptions | None = None) -> MergeResult:
    """Merge an adapter, and write the merged model: config, safetensors and tokenizer.

    Weights are merged in float32 and rounded once at the end; memory must hold the base model in float32. Method,
    prompt, limits and heads of an adapter trained with `rerank train` are copied, so that ``--model FOLDER`` ranks in
    the same way as the adapter.

    Args:
        subject: An adapter, or a complete model whose intruder dimensions are to be reduced.
        out: New folder.
        options: Options for merging; the defaults if omitted.
    """
    options = options or MergeOptions()
    check_new_merge_folder(out)
    base = CheckpointReader(subject.base)
    model, tokenizer = _load_model_to_merge(subject, base, options)
    dtype = _dtype_of_merged_weights(subject.base, options.dtype)
    rows: list[IntruderReduction] = []
    squares = [0.0, 0.0]  # squared norms of the rounding errors, and of the changes
    changed = 0
    for name, parameter, weight in _merged_parameters_that_differ(model, base):
        changed += 1
        if options.reduce is not None and parameter.ndim == 2:
            rows.append(_reduce_intruder_dimensions(name, parameter, weight, options))
        squares[0] += float((parameter.data - parameter.data.to(dtype).float()).norm()) ** 2
        squares[1] += float((parameter.data - weight).norm()) ** 2
    rounded = math.sqrt(squares[0] / squares[1]) if squares[1] else None
    if not options.allow_rounding:
        _check_rounding_of_merge(rounded, dtype)
    with quiet_transformers(), new_merge_folder(out) as folder:
        model.to(dtype).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        description = {"base": str(subject.base), "trained": str(subject.folder), **asdict(options)}
        if not options.allow_rounding:
            del description["allow_rounding"]  # an option that was added later is written only if it is used
        (folder / MARKER).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
        _copy_adapter_settings_to_merge(subject.folder, folder)
    return MergeResult(
        out=out,
        dtype=str(dtype).removeprefix("torch."),
        changed=changed,
        rounded=rounded,
        reduced=tuple(rows),
    )


def _check_rounding_of_merge(rounded: float | None, dtype: Any) -> None:
    if rounded is not None and rounded > MAX_ROUNDING:
        name = str(dtype).removeprefix("torch.")
        raise UsageError(
            f"Rounding the merged weights to {name} would alter the weight update by {100 * rounded:.1f} % of its norm",
            expected=f"at most {100 * MAX_ROUNDING:.0f} %; nothing was written",
            remedy="Merge with --dtype float32, use the adapter without merging, or accept the rounding with "
            "--allow-rounding",
        )


def _copy_adapter_settings_to_merge(trained: Path, folder: Path) -> None:
    """Copy method, prompt, limits and heads, if they exist, into the folder of the merged model."""
    for name in (SETTINGS, PROMPT):
        if (trained / name).is_file():
            shutil.copyfile(trained / name, folder / name)
    if (trained / HEADS).is_file():
        heads = read_attention_heads(trained / HEADS)
        # The heads referred to the base model with this adapter; now they refer to the weights in the same folder.
        replace(heads, model={"model": heads.model.get("model", ""), "weights": BESIDE}).write(folder / HEADS)


def _load_model_to_merge(subject: InspectedModel, base: CheckpointReader, options: MergeOptions) -> tuple[Any, Any]:
    """Load the trained model in float32, and its tokenizer."""
    if subject.kind == FULL:
        if options.reduce is None:
            raise UsageError(
                f"{subject.folder} is a complete model, which contains no adapter to merge",
                expected="an adapter, or --reduce-intruders",
            )
        loaded = load_language_model(subject.folder, BackendOptions(dtype="float32", device="cpu"))
        return loaded.model, loaded.tokenizer
    from rerank.finetune.inspection.peft_merging import merge_with_peft

    check_adapter_layers(CheckpointReader(subject.folder / "adapter_model.safetensors"), base)
    return merge_with_peft(subject)


def _merged_parameters_that_differ(model: Any, base: CheckpointReader) -> Iterator[tuple[str, Any, Tensor]]:
    """Yield (name, parameter, base weight) for all parameters that differ from the base model."""
    for name, parameter in model.named_parameters():
        stored = base.find(name)
        weight = base.read(stored) if stored is not None else None
        if weight is not None and weight.shape == parameter.shape and not parameter.data.equal(weight):
            yield name, parameter, weight


def _reduce_intruder_dimensions(name: str, parameter: Any, weight: Tensor, options: MergeOptions) -> IntruderReduction:
    """Reduce the intruder dimensions of one parameter in place."""
    factor = 1.0 if options.reduce is None else options.reduce
    before, after = weight.to(options.device), parameter.data.to(options.device)
    reduced, count, left = spectra.shrink_intruder_dimensions(
        before, after, factor, top=options.top, epsilon=options.epsilon
    )
    parameter.data.copy_(reduced)
    return IntruderReduction(name=name.removesuffix(".weight"), before=count, after=left)


def _dtype_of_merged_weights(base: Path, name: str) -> Any:
    """Return the torch data type in which the merged weights are written, according to the options."""
    import torch
    import transformers

    if name == "auto":
        with quiet_transformers(), named_loading_errors(base):
            dtype = transformers.AutoConfig.from_pretrained(base).dtype
        return dtype if isinstance(dtype, torch.dtype) else torch.float32
    return getattr(torch, name)

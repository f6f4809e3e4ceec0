"""A trained adapter turned into a model of its own, with its intruders made smaller where that is asked for.

PEFT merges; the reduction is exact here, as a merged model has room for any rank. PEFT's own
``reduce_intruder_dimension`` (0.21) writes a second adapter, whose rank cuts part of what it has computed away.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rerank.errors import UsageError, shorten
from rerank.finetune.inspection import spectra
from rerank.finetune.inspection.checkpoints import Checkpoint
from rerank.finetune.inspection.deltas import check_places
from rerank.finetune.inspection.folders import check_new, new_folder
from rerank.finetune.inspection.subject import FULL, Subject
from rerank.judges.attention.heads import BESIDE, read_heads
from rerank.lm.loading import load, named_errors, quiet
from rerank.models.trained import HEADS, PROMPT, SETTINGS
from rerank.tasks import DTYPES, BackendOptions

if TYPE_CHECKING:
    from torch import Tensor

#: Written beside the weights: what was merged. Not part of what tells models apart.
MARKER = "rerank-merge.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Merging:
    """How to merge.

    Attributes:
        reduce: What intruders' singular values are multiplied by, from 0 (they go) to 1; None leaves them alone.
        top: How many singular vectors are looked at for intruders.
        epsilon: Below that absolute cosine to all old directions, a new one is an intruder.
        dtype: Number type of the written weights; ``auto`` is that of the untrained model.
        device: Where decompositions are made.

    Raises:
        UsageError: A value out of range.
    """

    reduce: float | None = None
    top: int = 10
    epsilon: float = 0.5
    dtype: str = "auto"
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.reduce is not None and not 0 <= self.reduce <= 1:
            raise UsageError(
                f"Intruders multiplied by {self.reduce}", expected="a factor from 0 (they go) to 1 (they stay)"
            )
        if self.top < 1 or not 0 < self.epsilon <= 1:
            raise UsageError(f"top={self.top}, epsilon={self.epsilon}", expected="1 or more, and a cosine up to 1")
        if self.dtype not in DTYPES:
            raise UsageError(f"Dtype {shorten(self.dtype)}", expected=f"one of: {', '.join(DTYPES)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduced:
    """Intruders of one matrix, before and after.

    Attributes:
        name: Its module.
        before: Intruders among the first singular vectors.
        after: Likewise, once they were made smaller.
    """

    name: str
    before: int
    after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """What was written.

    Attributes:
        out: The folder.
        dtype: Number type of its weights.
        changed: Matrices and vectors that differ from the untrained model's.
        rounded: Norm of what rounding to ``dtype`` took or added, over the norm of the whole change: where it comes
            near 1, little of the training is left. None where nothing changed.
        reduced: The changed matrices, where intruders were looked for.
    """

    out: Path
    dtype: str
    changed: int
    rounded: float | None
    reduced: tuple[Reduced, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """What ``rerank merge --format json`` prints."""
        return {
            "out": str(self.out),
            "dtype": self.dtype,
            "changed": self.changed,
            "rounded": self.rounded,
            "matrices": [asdict(row) for row in self.reduced],
            "intruders": sum(row.before for row in self.reduced),
            "intruders_after": sum(row.after for row in self.reduced),
        }


def merge(subject: Subject, out: Path, merging: Merging | None = None) -> Merged:
    """Write a model folder that holds what the adapter computes: config, safetensors, tokenizer.

    Weights are merged in float32 and rounded once. It needs the untrained model in float32 in memory. What an adapter
    of `rerank train` says of its use (method, prompt, limits, heads) goes along, so that ``--model FOLDER`` ranks as
    the adapter did.

    Args:
        subject: An adapter, or a whole model whose intruders are to be reduced.
        out: A new folder.
        merging: How.

    Raises:
        UsageError: An adapter that cannot be merged, a whole model without a reduction, or a folder that is there.
        RerankError: What loading and writing raise.
    """
    merging = merging or Merging()
    check_new(out)
    base = Checkpoint(subject.base)
    model, tokenizer = _loaded(subject, base, merging)
    dtype = _dtype(subject.base, merging.dtype)
    rows: list[Reduced] = []
    squares = [0.0, 0.0]
    changed = 0
    for name, parameter, weight in _differing(model, base):
        changed += 1
        if merging.reduce is not None and parameter.ndim == 2:
            rows.append(_reduce(name, parameter, weight, merging))
        squares[0] += float((parameter.data - parameter.data.to(dtype).float()).norm()) ** 2
        squares[1] += float((parameter.data - weight).norm()) ** 2
    with quiet(), new_folder(out) as made:
        model.to(dtype).save_pretrained(made)
        tokenizer.save_pretrained(made)
        said = {"base": str(subject.base), "trained": str(subject.folder), **asdict(merging)}
        (made / MARKER).write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
        _carry_use(subject.folder, made)
    return Merged(
        out=out,
        dtype=str(dtype).removeprefix("torch."),
        changed=changed,
        rounded=math.sqrt(squares[0] / squares[1]) if squares[1] else None,
        reduced=tuple(rows),
    )


def _carry_use(trained: Path, made: Path) -> None:
    """Say in a model's folder how it is used, where the adapter's, or the unreduced model's, said so."""
    for name in (SETTINGS, PROMPT):
        if (trained / name).is_file():
            shutil.copyfile(trained / name, made / name)
    if (trained / HEADS).is_file():
        heads = read_heads(trained / HEADS)
        # Chosen for the untrained model and this adapter; now for the weights that they are in one folder with.
        replace(heads, model={"model": heads.model.get("model", ""), "weights": BESIDE}).write(made / HEADS)


def _loaded(subject: Subject, base: Checkpoint, merging: Merging) -> tuple[Any, Any]:
    """The trained model in float32, and its tokenizer."""
    if subject.kind == FULL:
        if merging.reduce is None:
            raise UsageError(
                f"{subject.folder} is a whole model: there is nothing to merge",
                expected="an adapter, or --reduce-intruders",
            )
        model, tokenizer, _ = load(subject.folder, BackendOptions(dtype="float32", device="cpu"))
        return model, tokenizer
    from rerank.finetune.inspection.peft_merging import merged

    check_places(Checkpoint(subject.folder / "adapter_model.safetensors"), base)
    return merged(subject)


def _differing(model: Any, base: Checkpoint) -> Iterator[tuple[str, Any, Tensor]]:
    """Parameters that are not what they were in the untrained model: name, parameter, weight before."""
    for name, parameter in model.named_parameters():
        stored = base.find(name)
        weight = base.read(stored) if stored is not None else None
        if weight is not None and weight.shape == parameter.shape and not parameter.data.equal(weight):
            yield name, parameter, weight


def _reduce(name: str, parameter: Any, weight: Tensor, merging: Merging) -> Reduced:
    """Make the intruders of one matrix smaller, in the model itself."""
    factor = 1.0 if merging.reduce is None else merging.reduce
    before, after = weight.to(merging.device), parameter.data.to(merging.device)
    found, had, left = spectra.shrink_intruders(before, after, factor, top=merging.top, epsilon=merging.epsilon)
    parameter.data.copy_(found)
    return Reduced(name=name.removesuffix(".weight"), before=had, after=left)


def _dtype(base: Path, asked: str) -> Any:
    """The number type to write."""
    import torch
    import transformers

    if asked == "auto":
        with quiet(), named_errors(base):
            found = transformers.AutoConfig.from_pretrained(base).dtype
        return found if isinstance(found, torch.dtype) else torch.float32
    return getattr(torch, asked)

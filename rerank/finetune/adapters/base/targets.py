"""Which matrices of a model are adapted, and with what rank. Knows the names of modules, and no method."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rerank.errors import UsageError, shorten

#: How many names of modules a message lists.
_SHOWN = 8
_NAMES = re.compile(r"[\w.,-]+")


@dataclass(frozen=True, kw_only=True)
class LinearTargets:
    """The linear layers that are adapted.

    Attributes:
        targets: ``all-linear`` (all but the output head), ``attention`` (those inside attention blocks), names of
            modules (``q_proj``, or ``self_attn.q_proj,mlp.up_proj``), or a regular expression for the full name.
        layers: Adapt only the first so many layers; None for all.

    Raises:
        UsageError: A number of layers below 1.
    """

    targets: str | tuple[str, ...] = "all-linear"
    layers: int | None = None

    def __post_init__(self) -> None:
        """Check the options; a subclass that has more of them checks these too."""
        if self.layers is not None:
            at_least("layers", self.layers, 1)

    def names(self, model: Any) -> list[str]:
        """Full names of the modules that are adapted, in the model's order.

        Args:
            model: An untouched model of transformers.

        Raises:
            UsageError: The model has no such module.
        """
        found = _linear(model)
        names = [name for name in found if self._wanted(name)]
        if not names:
            shown = sorted({name.rpartition(".")[2] for name in found})[:_SHOWN]
            raise UsageError(
                f"No linear layer of the model fits targets={shorten(self.targets)}, layers={self.layers}",
                expected=f"all-linear, attention, a regular expression, or names such as {', '.join(shown)}",
            )
        return names

    def shapes(self, model: Any) -> list[tuple[int, int]]:
        """(rows, columns) of the weight of every matrix that is adapted."""
        return [_shape(model.get_submodule(name)) for name in self.names(model)]

    def _wanted(self, name: str) -> bool:
        if self.layers is not None:
            layer = re.search(r"\.(\d+)\.", name)
            if layer is None or int(layer[1]) >= self.layers:
                return False
        if self.targets == "all-linear":
            return True
        if self.targets == "attention":
            return any("attn" in part or "attention" in part for part in name.split("."))
        if isinstance(self.targets, str) and not _NAMES.fullmatch(self.targets):
            return re.fullmatch(self.targets, name) is not None
        wanted = self.targets.split(",") if isinstance(self.targets, str) else self.targets
        return any(name == one or name.endswith(f".{one}") for one in wanted)


@dataclass(frozen=True, kw_only=True)
class LowRank(LinearTargets):
    """Pairs of factors, B (rows x r) and A (r x columns), with alpha / r times their product added to a matrix.

    Attributes:
        r: The rank of the product.
        alpha: What the product is multiplied by, times r.
        dropout: Share of the inputs to A that is dropped in training.
        rank_pattern: Module name -> rank, for every module that is adapted; none for those of rank 0. All keep the
            factor alpha / r, so that loaders that know one factor only, such as vLLM, compute the same.

    Raises:
        UsageError: A value out of its range.
    """

    r: int = 16
    alpha: int = 32
    dropout: float = 0.0
    rank_pattern: Mapping[str, int] | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        at_least("r", self.r, 1)
        at_least("alpha", self.alpha, 1)
        share("dropout", self.dropout)
        for name, rank in (self.rank_pattern or {}).items():
            at_least(f"rank_pattern[{name}]", rank, 0)

    def ranks(self, model: Any) -> dict[str, int]:
        """Module name -> rank, of those that are adapted.

        Raises:
            UsageError: The pattern is about other modules than the targets, or leaves none.
        """
        names = self.names(model)
        if self.rank_pattern is None:
            return dict.fromkeys(names, self.r)
        if wrong := set(names) ^ set(self.rank_pattern):
            raise UsageError(
                f"The pattern of ranks and the targets differ in {len(wrong)} modules, such as {min(wrong)}",
                expected="a rank for each target, and for nothing else",
            )
        ranks = {name: rank for name, rank in self.rank_pattern.items() if rank}
        if not ranks:
            raise UsageError("The pattern of ranks is 0 everywhere", expected="at least one matrix to adapt")
        return ranks

    def shapes(self, model: Any) -> list[tuple[int, int]]:
        """(rows, columns) of the weight of every matrix that is adapted, in the order of `rank_pattern` if given."""
        return [_shape(model.get_submodule(name)) for name in self.ranks(model)]

    def trainable(self, shapes: Sequence[tuple[int, int]]) -> int:
        """A matrix: r (rows + columns); ranks of a pattern are taken in its order."""
        return sum(r * (rows + columns) for r, (rows, columns) in zip(self._each(shapes), shapes, strict=True))

    def _each(self, shapes: Sequence[tuple[int, int]]) -> list[int]:
        if self.rank_pattern is None:
            return [self.r] * len(shapes)
        ranks = [rank for rank in self.rank_pattern.values() if rank]
        if len(ranks) != len(shapes):
            raise UsageError(
                f"The pattern of ranks adapts {len(ranks)} matrices", expected=f"{len(shapes)}, one for each shape"
            )
        return ranks


def at_least(option: str, value: float, least: float) -> None:
    """Refuse a value below the least one.

    Raises:
        UsageError: It is below.
    """
    if value < least:
        raise UsageError(f"{option}={value}", expected=f"at least {least}")


def share(option: str, value: float) -> None:
    """Refuse what is no share of something: below 0, or 1 and more.

    Raises:
        UsageError: It is no share.
    """
    if not 0 <= value < 1:
        raise UsageError(f"{option}={value}", expected="at least 0 and below 1")


def fits(option: str, ranks: Mapping[str, int], shapes: Sequence[tuple[int, int]]) -> None:
    """Refuse ranks that are larger than the smaller side of their matrix.

    Args:
        option: What the message calls the rank.
        ranks: Module name -> rank.
        shapes: (rows, columns) of these modules, in the same order.

    Raises:
        UsageError: One does not fit; the message names the matrix.
    """
    for (name, rank), (rows, columns) in zip(ranks.items(), shapes, strict=True):
        if rank > min(rows, columns):
            raise UsageError(
                f"{option} of {rank} is too much for {name}, which has {rows} x {columns} weights",
                expected=f"at most {min(rows, columns)}",
                remedy="Lower r, or leave the module out of targets",
            )


def _shape(module: Any) -> tuple[int, int]:
    # Not the weight's own shape: packed to four bits, it has another.
    return module.out_features, module.in_features


def _linear(model: Any) -> list[str]:
    import torch

    head = model.get_output_embeddings()
    return [
        name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and module is not head
    ]

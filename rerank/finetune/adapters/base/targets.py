"""Options that select the matrices to adapt and their ranks, and functions that check the options of adapters."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rerank.errors import UsageError, error_repr

#: Number of module names that a message lists.
_SHOWN = 8
#: Pattern of comma-separated module names; any other string is a regular expression.
_NAMES = re.compile(r"[\w.,-]+")


@dataclass(frozen=True, kw_only=True)
class LinearTargets:
    """Options that select the linear layers to adapt.

    Attributes:
        targets: ``all-linear`` (all linear layers except the output head), ``attention`` (linear layers inside
            attention blocks), names of modules (``q_proj``, or ``self_attn.q_proj,mlp.up_proj``), or a regular
            expression for the full name.
        layers: Adapt only the first N transformer layers; None for all.

    Raises:
        UsageError: The number of layers is below 1.
    """

    targets: str | tuple[str, ...] = "all-linear"
    layers: int | None = None

    def __post_init__(self) -> None:
        """Check the number of layers; subclasses call this method before they check their own options."""
        if self.layers is not None:
            require_adapter_option_at_least("layers", self.layers, 1)

    def module_names(self, model: Any) -> list[str]:
        """Return the full names of the modules that are adapted, in the model's order.

        Args:
            model: An unmodified model of transformers.

        Raises:
            UsageError: The options select no linear layer of the model.
        """
        candidates = _linear_target_names(model)
        names = [name for name in candidates if self.selects(name)]
        if not names:
            shown = sorted({name.rpartition(".")[2] for name in candidates})[:_SHOWN]
            raise UsageError(
                f"No linear layer of the model matches targets={error_repr(self.targets)}, layers={self.layers}",
                expected=f"all-linear, attention, a regular expression, or names such as {', '.join(shown)}",
            )
        return names

    def selects(self, name: str) -> bool:
        """Return whether a module with this full name is adapted."""
        if self.layers is not None:
            # The first number in a module's name is its layer, as in model.layers.3.self_attn.q_proj.
            layer = re.search(r"\.(\d+)\.", name)
            if layer is None or int(layer[1]) >= self.layers:
                return False
        if self.targets == "all-linear":
            return True
        if self.targets == "attention":
            return any("attn" in part or "attention" in part for part in name.split("."))
        if isinstance(self.targets, str) and not _NAMES.fullmatch(self.targets):
            return re.fullmatch(self.targets, name) is not None
        targets = self.targets.split(",") if isinstance(self.targets, str) else self.targets
        return any(name == target or name.endswith(f".{target}") for target in targets)

    def shapes(self, model: Any) -> list[tuple[int, int]]:
        """Return the shape (rows, columns) of the weight of every adapted matrix."""
        return [_shape_of_adapted_module(model.get_submodule(name)) for name in self.module_names(model)]


@dataclass(frozen=True, kw_only=True)
class LowRankTargets(LinearTargets):
    """Options of adapters that add a scaled product of factors B (rows x r) and A (r x columns) to each matrix.

    Attributes:
        r: Rank of the product.
        alpha: Numerator of the scaling factor alpha / r.
        dropout: Dropout probability of the inputs to A.
        rank_pattern: Mapping from module name to rank, with exactly the modules of ``targets``; modules of rank 0 are
            not adapted. All modules have the same scaling factor alpha / r, so that the adapter also works with loaders
            that support only a single factor, such as vLLM.

    Raises:
        UsageError: ``r`` or ``alpha`` is below 1, ``dropout`` is not in [0, 1), or a rank in ``rank_pattern`` is
            negative.
    """

    r: int = 16
    alpha: int = 32
    dropout: float = 0.0
    rank_pattern: Mapping[str, int] | None = None

    def __post_init__(self) -> None:
        """Check that ``r``, ``alpha``, ``dropout`` and the ranks in ``rank_pattern`` are in range."""
        super().__post_init__()
        require_adapter_option_at_least("r", self.r, 1)
        require_adapter_option_at_least("alpha", self.alpha, 1)
        require_adapter_fraction("dropout", self.dropout)
        for name, rank in (self.rank_pattern or {}).items():
            require_adapter_option_at_least(f"rank_pattern[{name}]", rank, 0)

    def ranks(self, model: Any) -> dict[str, int]:
        """Return a mapping from the name of each adapted module to its rank.

        Raises:
            UsageError: The rank pattern and the targets contain different modules, or all ranks are 0.
        """
        names = self.module_names(model)
        if self.rank_pattern is None:
            return dict.fromkeys(names, self.r)
        if wrong := set(names) ^ set(self.rank_pattern):
            raise UsageError(
                f"The rank pattern and the targets differ in {len(wrong)} modules, such as {min(wrong)}",
                expected="a rank for each target and for no other module",
            )
        ranks = {name: rank for name, rank in self.rank_pattern.items() if rank}
        if not ranks:
            raise UsageError(
                "The rank pattern is 0 for all modules", expected="at least one module with a rank above 0"
            )
        return ranks

    def shapes(self, model: Any) -> list[tuple[int, int]]:
        """Return the shape (rows, columns) of every adapted matrix, in the order of `rank_pattern` if it is set."""
        return [_shape_of_adapted_module(model.get_submodule(name)) for name in self.ranks(model)]

    def count_trainable(self, shapes: Sequence[tuple[int, int]]) -> int:
        """Return the number of trainable parameters: r (rows + columns) per matrix, where `rank_pattern` may set r."""
        return sum(r * (rows + columns) for r, (rows, columns) in zip(self._ranks_of(shapes), shapes, strict=True))

    def _ranks_of(self, shapes: Sequence[tuple[int, int]]) -> list[int]:
        if self.rank_pattern is None:
            return [self.r] * len(shapes)
        ranks = [rank for rank in self.rank_pattern.values() if rank]
        if len(ranks) != len(shapes):
            raise UsageError(f"The rank pattern adapts {len(ranks)} matrices", expected=f"{len(shapes)}, one per shape")
        return ranks


def require_adapter_option_at_least(option: str, value: float, minimum: float) -> None:
    """Check that an option is not below its minimum.

    Raises:
        UsageError: The value is below the minimum.
    """
    if value < minimum:
        raise UsageError(f"Option {option} is {value}", expected=f"at least {minimum}")


def require_adapter_fraction(option: str, value: float) -> None:
    """Check that an option is a fraction: at least 0 and below 1.

    Raises:
        UsageError: The value is not such a fraction.
    """
    if not 0 <= value < 1:
        raise UsageError(f"Option {option} is {value}", expected="at least 0 and below 1")


def require_ranks_fit(option: str, ranks: Mapping[str, int], shapes: Sequence[tuple[int, int]]) -> None:
    """Check that no rank exceeds the smaller side of its matrix.

    Args:
        option: Name of the rank, such as ``r``, for the error message.
        ranks: Rank per module name.
        shapes: Shapes (rows, columns) of these modules, in the same order.

    Raises:
        UsageError: A rank is too large; the message names the matrix.
    """
    for (name, rank), (rows, columns) in zip(ranks.items(), shapes, strict=True):
        if rank > min(rows, columns):
            raise UsageError(
                f"{option} = {rank} is too large for {name}, which has {rows} x {columns} weights",
                expected=f"at most {min(rows, columns)}",
                remedy="Lower r, or exclude the module from targets",
            )


def _shape_of_adapted_module(module: Any) -> tuple[int, int]:
    # The weight tensor is not used, because it has another shape if it is quantised.
    return module.out_features, module.in_features


def _linear_target_names(model: Any) -> list[str]:
    import torch

    head = model.get_output_embeddings()
    return [
        name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and module is not head
    ]

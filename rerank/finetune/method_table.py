"""Table of all training methods: available components, and papers that are not implemented.

The rows of components are created from their classes, so a new component is in the table as soon as it is registered.
Papers without a component are listed in ``methods.toml``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rerank.finetune.component_registry import ADAPTERS, CALLBACKS, LAYERS, LOSSES, OBJECTIVES, OPTIMIZERS, RANKS
from rerank.finetune.components import read_methods
from rerank.registry import Registry

#: Registries of each kind of method, in the order of the table.
KIND_REGISTRIES: Mapping[str, tuple[Registry, ...]] = {
    "adapter": (ADAPTERS,),
    "optimizer": (OPTIMIZERS,),
    "layers": (LAYERS,),
    "callback": (CALLBACKS,),
    "objective": (LOSSES, OBJECTIVES),
    "analysis": (RANKS,),
}
KEYS = ("name", "kind", "status", "stability", "summary", "paper", "differs", "reason")
STATUSES = ("available", "out-of-scope")
STABILITIES = ("stable", "experimental")
#: Common adapters, which come first in the table: all tools can load them, and they need no data and no further steps.
USUAL_ADAPTERS = ("lora", "dora", "rslora", "qlora", "full")


def describe_training_methods() -> list[dict[str, str]]:
    """Return one row per component, and one row per paper that is not implemented by a component.

    Rows are sorted by kind, status, stability and name; within a kind, `USUAL_ADAPTERS` come first.

    Returns:
        Rows with the keys ``name``, as used in recipes; ``kind``, a key of `KIND_REGISTRIES` (losses have the kind
        ``objective``, rank allocations the kind ``analysis``); ``status``, one of `STATUSES`; ``stability``, one of
        `STABILITIES`, empty if the method is not implemented; ``summary``, a description in one line, with the kind of
        trained parameters for adapters; ``paper``, the publication, empty for common knowledge; ``differs``, a
        description of how the implementation differs from the publication, empty if it does not; and ``reason``, the
        reason why the method is not implemented and the name of the closest method, empty if the method is available.
    """
    rows = []
    for kind, registries in KIND_REGISTRIES.items():
        for name, component in training_components_of_kind(kind).items():
            row = {key: str(getattr(component, key, "")) for key in ("summary", "paper", "differs")}
            # The kind of trained parameters determines the possible optimizers. That of `peft` depends on its options.
            if isinstance(shape := getattr(component, "shape", None), str):
                row["summary"] += f" (trains: {shape})"
            is_experimental = any(registry.is_experimental(name) for registry in registries)
            stability = "experimental" if is_experimental else "stable"
            rows.append({"name": name, "kind": kind, "status": "available", "stability": stability, **row})
    known = {(row["name"], row["kind"]) for row in rows}
    for paper in read_methods()["papers"]:
        # If a paper in the file has a component by now, the component describes it.
        if (paper["name"], paper["kind"]) not in known:
            rows.append({"stability": "stable" if paper["status"] == "available" else "", **paper})
    return sorted(({key: row.get(key, "") for key in KEYS} for row in rows), key=_order)


def _order(row: Mapping[str, str]) -> tuple[Any, ...]:
    rank = USUAL_ADAPTERS.index(row["name"]) if row["name"] in USUAL_ADAPTERS else len(USUAL_ADAPTERS)
    is_experimental = row["stability"] == "experimental"
    return list(KIND_REGISTRIES).index(row["kind"]), row["status"], is_experimental, rank, row["name"]


def training_components_of_kind(kind: str) -> dict[str, Any]:
    """Return the components of one kind that can be loaded, as a mapping from the name in recipes to the class."""
    return {
        name.replace("_", "-"): component
        for registry in KIND_REGISTRIES[kind]
        for name, component in registry.usable().items()
    }

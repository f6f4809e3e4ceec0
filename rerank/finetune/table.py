"""Every method of training, and every paper that was looked at for one, in one table: what there is and what is not.

Rows of parts come from their cards, so a new part is in the table by being in its room. Rows of what no room holds are
in ``papers.toml``. Knows names and cards, not what the parts do; nothing heavy is imported.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from rerank.finetune.recipe import ADAPTERS, CALLBACKS, LAYERS, LOSSES, OBJECTIVES, OPTIMIZERS, RANKS
from rerank.registry import Registry

#: Kind -> the rooms whose parts are of it, in the order of the table.
ROOMS: Mapping[str, tuple[Registry, ...]] = {
    "adapter": (ADAPTERS,),
    "optimizer": (OPTIMIZERS,),
    "layers": (LAYERS,),
    "callback": (CALLBACKS,),
    "objective": (LOSSES, OBJECTIVES),
    "analysis": (RANKS,),
}
KEYS = ("name", "kind", "status", "summary", "paper", "reason")
STATUSES = ("available", "out-of-scope")


def describe_training() -> list[dict[str, str]]:
    """A row for every part and every paper.

    Returns:
        By kind, what is available first, then by name. ``name`` as a recipe has it; ``kind`` of `ROOMS`: losses are
        objectives, and ways of choosing ranks are analysis; ``status`` of `STATUSES`; ``summary`` one line, of an
        adapter with what it trains; ``paper`` where it was published, empty for common knowledge; ``reason`` why it
        is not here and what comes nearest, empty if it is here.
    """
    parts = [_of_part(name, kind, part) for kind in ROOMS for name, part in parts_of(kind).items()]
    known = {(row["name"], row["kind"]) for row in parts}
    # What was out of scope and has become a part since is what the part says.
    papers = [row for row in _papers() if (row["name"], row["kind"]) not in known]
    kinds = list(ROOMS)
    return sorted([*parts, *papers], key=lambda row: (kinds.index(row["kind"]), row["status"], row["name"]))


def parts_of(kind: str) -> dict[str, Any]:
    """The parts of a kind that load: name, as a recipe has it, -> class."""
    return {name.replace("_", "-"): part for room in ROOMS[kind] for name, part in room.usable().items()}


def _of_part(name: str, kind: str, part: Any) -> dict[str, str]:
    summary, paper = str(getattr(part, "summary", "")), str(getattr(part, "paper", ""))
    if shape := getattr(part, "shape", ""):  # which decides the optimizers that fit
        summary += f" (trains: {shape})"
    return _row(name=name, kind=kind, status="available", summary=summary, paper=paper)


def _papers() -> list[dict[str, str]]:
    text = files("rerank.finetune").joinpath("papers.toml").read_text(encoding="utf-8")
    return [_row(**entry) for entry in tomllib.loads(text)["papers"]]


def _row(*, name: str, kind: str, status: str, summary: str, paper: str, reason: str = "") -> dict[str, str]:
    return dict(zip(KEYS, (name, kind, status, summary, paper, reason), strict=True))

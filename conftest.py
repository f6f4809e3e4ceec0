"""What pytest collects where: modules that need torch or vLLM at their tops are left alone where these are missing."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

_IMPORT = re.compile(r"^(?:import|from) ([\w.]+)(?: import (\w+))?", re.M)
_ROOT = Path(__file__).parent
_ROOMS = (_ROOT / "rerank/backends", _ROOT / "rerank/finetune")
_IMPORTS = {
    path: {name for found in _IMPORT.findall(path.read_text(encoding="utf-8")) for name in (found[0], ".".join(found))}
    for path in (
        *(path for room in _ROOMS for path in room.rglob("_*.py")),
        *(path for path in (_ROOT / "tests/finetune").glob("*.py") if not path.name.startswith("test_")),
    )
}


def _unusable() -> set[Path]:
    """The modules that import what is not installed, and those that import these."""
    lacking = {name for name in ("torch", "transformers", "tokenizers", "peft", "trl", "vllm") if not find_spec(name)}
    while True:
        found = {p for p, names in _IMPORTS.items() if lacking & {*names, *(name.split(".")[0] for name in names)}}
        more = {".".join(path.relative_to(_ROOT).with_suffix("").parts) for path in found} - lacking
        if not more:
            return found
        lacking |= more


collect_ignore = sorted(map(str, _unusable()))

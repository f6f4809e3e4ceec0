"""Which modules pytest leaves out: those that need torch or vLLM at import time where these are not installed."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

_IMPORT = re.compile(r"^(?:import|from) ([\w.]+)(?: import (\w+))?", re.M)
_ROOT = Path(__file__).parent
_IMPORTS = {
    path: {name for found in _IMPORT.findall(path.read_text(encoding="utf-8")) for name in (found[0], ".".join(found))}
    for path in (
        *(_ROOT / "rerank").rglob("*.py"),
        *(path for path in (_ROOT / "tests/finetune").glob("*.py") if not path.name.startswith("test_")),
    )
}


def _unusable() -> set[Path]:
    """Return the modules that import a package which is not installed, and the modules that import these."""
    missing = {name for name in ("torch", "transformers", "tokenizers", "peft", "trl", "vllm") if not find_spec(name)}
    while True:
        paths = {p for p, names in _IMPORTS.items() if missing & {*names, *(name.split(".")[0] for name in names)}}
        modules = {".".join(path.relative_to(_ROOT).with_suffix("").parts) for path in paths}
        modules = {name.removesuffix(".__init__") for name in modules} - missing
        if not modules:
            return paths
        missing |= modules


collect_ignore = sorted(map(str, _unusable()))

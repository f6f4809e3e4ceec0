"""Whether vLLM takes a LoRA adapter, found out before it is handed over: what it refuses would end its engine.

Knows the settings that PEFT writes; reads no weights.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rerank.errors import DataError, UsageError

#: Ranks that vLLM makes room for; an adapter gets the next one above its own.
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)

#: Ways to begin the training that leave the base model as it is, so that the adapter alone says what was learned.
_PLAIN_STARTS = frozenset({"gaussian", "eva", "orthogonal", "mica", "lora_ga"})


def room_for(folder: Path) -> int:
    """The rank to make room for.

    Args:
        folder: Holds ``adapter_config.json``.

    Raises:
        DataError: The file cannot be read, or lacks a rank.
        UsageError: vLLM does not do what the adapter asks for.
    """
    path = folder / "adapter_config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text("utf-8"))
        rank = max([int(config["r"]), *map(int, (config.get("rank_pattern") or {}).values())])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{str(path)!r} does not describe a LoRA adapter: {error!r}", expected="what PEFT's save_pretrained writes"
        ) from error
    refused = [what for what, found in _not_done(config) if found]
    if not 1 <= rank <= RANKS[-1]:
        refused.append(f"rank {rank} (1 to {RANKS[-1]} are possible)")
    if refused:
        raise UsageError(
            f"Adapter {str(folder)!r} has what vLLM does not do: {', '.join(refused)}",
            expected="a plain or rank-stabilised LoRA adapter",
            remedy="Merge it into its model and name the merged folder, or use --model hf:NAME",
        )
    return next(size for size in RANKS if size >= rank)


def _not_done(config: dict[str, Any]) -> list[tuple[str, bool]]:
    """What an adapter can ask for in vain: how it is called, and whether this one does."""
    start = config.get("init_lora_weights", True)
    changes = isinstance(start, str) and start.lower() not in _PLAIN_STARTS
    return [
        (f"the type {config.get('peft_type')}", config.get("peft_type") != "LORA"),
        ("DoRA", bool(config.get("use_dora"))),
        ("modules_to_save, layers trained whole", bool(config.get("modules_to_save"))),
        ("trained biases", config.get("bias", "none") != "none" or bool(config.get("lora_bias"))),
        (f"init_lora_weights={start!r}, which changes the model", changes),
        ("aLoRA", bool(config.get("alora_invocation_tokens"))),
        ("layer_replication", bool(config.get("layer_replication"))),
        ("block-diagonal LoRA", bool(config.get("use_bdlora"))),
        ("QALoRA", bool(config.get("use_qalora"))),
        ("trained token embeddings", bool(config.get("trainable_token_indices"))),
    ]

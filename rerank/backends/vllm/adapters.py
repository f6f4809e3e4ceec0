"""Check LoRA adapters for vLLM, since an adapter that vLLM does not support would stop its engine.

Only the settings that PEFT writes are read, not the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rerank.errors import DataError, UsageError
from rerank.io.settings_files import read_json_object

#: Values to which vLLM's maximum rank can be set; the smallest sufficient value is used.
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)

#: Initialisations that do not change the base model, so that the adapter contains everything that was learned.
_PLAIN_INITIALISATIONS = frozenset({"gaussian", "eva", "orthogonal", "mica", "lora_ga"})


def required_rank(folder: Path) -> int:
    """Return the value, one of `RANKS`, to which vLLM's maximum rank must be set for the adapter in a folder."""
    path = folder / "adapter_config.json"
    config = read_json_object(path, "configuration of the adapter", expected="a file written by PEFT")
    try:
        rank = max([int(config["r"]), *map(int, (config.get("rank_pattern") or {}).values())])
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise DataError(
            f"{str(path)!r} does not describe a LoRA adapter: {error!r}",
            expected="a file written by save_pretrained of PEFT",
        ) from error
    unsupported = unsupported_features(config)
    if not 1 <= rank <= RANKS[-1]:
        unsupported.append(f"rank {rank} (1 to {RANKS[-1]} are possible)")
    if unsupported:
        raise UsageError(
            f"Adapter {str(folder)!r} uses features that vLLM does not support: {', '.join(unsupported)}",
            expected="a plain or rank-stabilised LoRA adapter",
            remedy="Merge the adapter into its model and use the merged folder, or use --model hf:NAME",
        )
    return next(size for size in RANKS if size >= rank)


def unsupported_features(config: Mapping[str, Any]) -> list[str]:
    """Return the names of the features that vLLM does not support, given the content of ``adapter_config.json``."""
    initialisation = config.get("init_lora_weights", True)
    changes_base = isinstance(initialisation, str) and initialisation.lower() not in _PLAIN_INITIALISATIONS
    features = [
        (f"the type {config.get('peft_type')}", config.get("peft_type") != "LORA"),
        ("DoRA", bool(config.get("use_dora"))),
        ("modules_to_save, layers trained whole", bool(config.get("modules_to_save"))),
        ("trained biases", config.get("bias", "none") != "none" or bool(config.get("lora_bias"))),
        (f"init_lora_weights={initialisation!r}, which changes the model", changes_base),
        ("aLoRA", bool(config.get("alora_invocation_tokens"))),
        ("layer_replication", bool(config.get("layer_replication"))),
        ("block-diagonal LoRA", bool(config.get("use_bdlora"))),
        ("QALoRA", bool(config.get("use_qalora"))),
        ("trained token embeddings", bool(config.get("trainable_token_indices"))),
    ]
    return [feature for feature, is_used in features if is_used]

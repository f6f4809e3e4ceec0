"""The memory that a model needs for inference, computed from its configuration, and batches that fit into it.

The weights are counted on torch's meta device, which allocates nothing. Torch is imported on use.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import SimpleNamespace
from typing import Any

from rerank.errors import ensure, error_repr
from rerank.io.settings_files import try_read_json_object
from rerank.lm.jobs import Job
from rerank.lm.loading import free_memory_of_gpu, named_loading_errors, pick_dtype, quiet_transformers, require_torch
from rerank.lm.model_files import ModelFiles
from rerank.lm.tokenizers import HfTokens, stated_context_size
from rerank.tasks import BackendOptions, GenerationTask, LikelihoodTask, PermutationTask

#: Maximum number of prompts or pairs per batch on an accelerator. Larger batches of short texts are not faster there.
MOST_ROWS = 256
#: Default maximum number of characters of the prompts in a batch on an accelerator, about 160,000 tokens: the replies
#: that an interrupted run loses.
MOST_CHARACTERS = 640_000
#: Fraction of the free memory that is planned with. The rest is for masks of padded batches, buffers of kernels, and
#: gaps between the blocks of torch's allocator.
USABLE = 0.9
#: Limit of the prefix cache (`rerank.lm.prefix_cache.DEFAULT_LIMIT`), which is set aside.
_PREFIXES = 1 << 30
_VALUE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
#: Bits per weight of a typical 4-bit checkpoint: a float16 scale and a zero point per 128 weights.
_FOUR_BITS = 4 + 20 / 128
_GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """The memory that a model needs, in bytes, where b is the number of bytes per value of ``dtype``.

    - ``weights`` are b per parameter. In a quantised checkpoint, matrices of linear layers have the bits that its
      configuration states, plus the scales and zero points of their groups.
    - ``cache`` is 2 b x key-value heads x head size per token and layer with full attention (Pope et al. 2023, arXiv
      2211.05102, section 2.1), also for the cross-attention of an encoder-decoder model. A layer with compressed keys
      and values (MLA, DeepSeek-V2, arXiv 2405.04434, equation 9) keeps b x (latent size + RoPE head size).
    - ``window_cache`` is the same for layers with a sliding window; they keep at most ``window`` tokens.
    - ``activations`` is b x (4 w + max(3 f, 6 (q + k))) per token, for the layer that is being computed: w is the
      hidden size, f the size of the feed-forward network (of all experts of a token), q and k those of queries and
      keys. Without rotary positions, as in BERT, it is max(2 f, 3 (q + k)), since queries and keys are not rotated,
      and feed-forward networks have no gate; 5 f if GELU takes several steps. An upper estimate of what tests measure
      on meta tensors; attention kernels keep no attention matrix.
    - ``logits`` is 12 x vocabulary per position that needs logits: slices in float32, the whole, and its softmax.
    """

    dtype: str
    parameters: int  # number of parameters
    matrices: int  # number of parameters that a quantised checkpoint stores with fewer bits
    weights: int
    cache: int
    window_cache: int
    window: int
    activations: int
    logits: int
    context_size: int | None  # in tokens; None if the model states none
    notes: tuple[str, ...] = ()  # what the plan does not know about this model

    @property
    def per_token(self) -> int:
        """Bytes per token of a batch of prompts that are not longer than the sliding window."""
        return self.cache + self.window_cache + self.activations

    @property
    def tokens_per_position(self) -> int:
        """Number of tokens of a batch that need as much memory as the logits of one position."""
        return -(-self.logits // self.per_token)

    @property
    def four_bit_weights(self) -> int:
        """Bytes of the weights if linear layers had 4 bits per weight, in groups of 128."""
        return _count_bytes(self.parameters, self.matrices, _FOUR_BITS, self.dtype)

    def batch_tokens(self, free: int) -> int:
        """Return the largest batch in padded tokens, in thousands of 1,024, that fits in ``free`` bytes; 0 if none."""
        available = int(USABLE * free) - _PREFIXES - MOST_ROWS * self.logits
        return max(0, available // self.per_token // 1024 * 1024)

    def longest_list(self, free: int) -> int:
        """Return the number of tokens of the longest prompt, with its reply, that fits in ``free`` bytes."""
        available = max(0, int(USABLE * free) - self.logits)
        tokens = available // self.per_token
        if tokens > self.window:  # the layers with a window do not keep more
            tokens = (available - self.window * self.window_cache) // (self.cache + self.activations)
        return min(tokens, self.context_size or tokens)

    def advise(self, memory: int) -> list[str]:
        """Return what to change if the model, or a prompt as long as its context, does not fit in ``memory`` bytes."""
        longest, advice = self.longest_list(memory - self.weights), []
        if longest >= (self.context_size or 1024):
            return []
        if self.dtype == "float32":
            advice.append(f"--dtype bfloat16 halves the weights to {gib(self.weights // 2)} and the cache")
        if self.four_bit_weights < 0.8 * self.weights:
            advice.append(f"a checkpoint with 4 bits per weight (GPTQ, AWQ) needs {gib(self.four_bit_weights)}")
        if longest >= 1024:
            advice.append(f"--context-size {longest // 1024 * 1024} keeps prompts within the memory")
            advice.append("--method sliding, first or pointwise needs shorter prompts than fullrank")
        else:
            advice.append("a smaller model, a larger GPU, or --device-map auto for several GPUs")
        return advice


def plan_memory(files: ModelFiles, dtype: str, *, code: bool = False) -> MemoryPlan:
    """Plan the memory of a model from its ``config.json``; with ``code``, its own code may be run."""
    torch, transformers = require_torch()
    with quiet_transformers(), named_loading_errors(files):
        config = transformers.AutoConfig.from_pretrained(files.folder, trust_remote_code=code)
        model = make_empty_model(config, files.classes, code=code)
    head = model.get_output_embeddings()
    quantised = getattr(config, "quantization_config", None) or {}
    quantised = quantised if isinstance(quantised, dict) else quantised.to_dict()
    names = [str(name) for key in _KEPT for name in quantised.get(key) or ()]
    kept = [name.removeprefix("re:") if name.startswith("re:") else re.escape(name) for name in names]
    matrices = {
        id(weight): weight.numel()
        for name, module in model.named_modules()
        if module is not head and not any(re.search(part, name) for part in kept)
        for weight in module.parameters(recurse=False)
        if weight.ndim == 3 or (weight.ndim == 2 and isinstance(module, torch.nn.Linear))  # 3: all experts of a layer
    }
    parameters = sum(weight.numel() for weight in model.parameters())
    bits = bits_per_weight(quantised)
    notes = (
        [] if bits or not quantised else [f"the size of {quantised.get('quant_method')} weights; {dtype} is assumed"]
    )
    if model.config._attn_implementation == "eager":
        notes.append(f"the attention matrices of {type(model).__name__}, which grow with the square of the length")
    stated = try_read_json_object(files.folder / "config.json")
    if not {"hidden_size", "d_model", "n_embd", "dim", "text_config"} & stated.keys():
        notes.append(
            f"the sizes of this model, which config.json does not state; {type(config).__name__}'s are assumed"
        )
    if type(model).__name__ not in files.classes:
        notes.append(f"the class {' or '.join(files.classes) or 'of the model'}; {type(model).__name__} is assumed")
    size = sum(matrices.values())
    weights = _count_bytes(parameters, size, bits or 8.0 * _VALUE_BYTES[dtype], dtype)
    return plan_tokens(config, dtype, parameters=parameters, matrices=size, weights=weights, notes=notes)


def plan_tokens(
    config: Any, dtype: str, *, parameters: int = 0, matrices: int = 0, weights: int = 0, notes: Sequence[str] = ()
) -> MemoryPlan:
    """Plan the memory per token from a configuration of transformers; without the numbers of weights, these are 0."""
    from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

    text, size = config.get_text_config(decoder=True), _VALUE_BYTES.get(dtype, 2)
    width, heads = text.hidden_size, getattr(text, "num_attention_heads", 1)  # recurrent models have no heads
    keys = getattr(text, "num_key_value_heads", None) or heads
    head = getattr(text, "head_dim", None) or width // heads
    inner = next((n for n in (getattr(text, name, None) for name in _INNER) if n), 4 * width)
    # The experts that process a token, and the shared one, each with its own input and output.
    experts = next((n for n in (getattr(text, name, None) for name in _EXPERTS) if n), 0)
    if experts:
        inner = max(inner, (experts + 1) * ((getattr(text, "moe_intermediate_size", None) or inner) + width))
    rotary = any(getattr(text, name, None) for name in ("rope_parameters", "rope_theta", "rotary_dim"))
    copies = (3, 6) if rotary or getattr(text, "is_gated_act", False) else (2, 3)
    if {getattr(text, name, "") for name in _ACTIVATIONS} & {"gelu_new", "gelu_fast"}:
        copies = (5, copies[1])
    kept = 2 * keys * head
    query, key = heads * head, keys * head
    if latent := getattr(text, "kv_lora_rank", None):
        kept = latent + text.qk_rope_head_dim
        query = key = heads * (text.qk_nope_head_dim + text.qk_rope_head_dim)
    notes = [*notes]
    layers = DynamicCache(config=text).layers if _caches(config) else []
    windows = [layer for layer in layers if type(layer) is DynamicSlidingWindowLayer]
    full = [layer for layer in layers if type(layer) is DynamicLayer]
    if rest := len(layers) - len(windows) - len(full):
        notes.append(f"the recurrent state of {rest} layers, whose size does not depend on the length of a prompt")
    if getattr(text, "relative_attention_num_buckets", None):
        notes.append("the relative positions of all pairs of tokens, which grow with the square of the length")
    if experts:
        notes.append("the buffers of the kernel that computes experts")
    if config is not text and hasattr(config, "vision_config"):
        notes.append("the tokens and activations of pictures")
    return MemoryPlan(
        dtype=dtype,
        parameters=parameters,
        matrices=matrices,
        weights=weights,
        cache=size * kept * (getattr(config, "num_decoder_layers", None) or len(full)),
        window_cache=size * kept * len(windows),
        window=max((layer.sliding_window for layer in windows), default=0),
        activations=size * (4 * width + max(copies[0] * inner, copies[1] * (query + key))),
        logits=12 * text.vocab_size,
        context_size=stated_context_size(SimpleNamespace(config=config), None),
        notes=tuple(notes),
    )


#: Names of the size of the feed-forward network, and of the number of experts per token, in configurations.
_INNER = ("intermediate_size", "d_ff", "ffn_dim", "n_inner")
_EXPERTS = ("num_experts_per_tok", "num_experts_per_token", "experts_per_token", "moe_topk")
#: Names of the activation function of the feed-forward network in configurations.
_ACTIVATIONS = ("hidden_act", "activation_function", "dense_act_fn")
#: Names of the list of modules that a quantised checkpoint keeps as they were.
_KEPT = ("modules_to_not_convert", "llm_int8_skip_modules", "ignored_layers", "ignore")


def _caches(config: Any) -> bool:
    """Return whether the model keeps keys and values; encoders such as BERT do not."""
    generates = str(next(iter(config.architectures or ()), "")).endswith(("ForCausalLM", "LMHeadModel"))
    is_decoder = getattr(config, "use_cache", False) and getattr(config, "is_decoder", True)
    return bool(generates or is_decoder or config.is_encoder_decoder or hasattr(config, "text_config"))


def make_empty_model(config: Any, classes: Sequence[str], *, auto: str = "AutoModel", code: bool = False) -> Any:
    """Build a model on torch's meta device, which allocates no memory for the weights.

    Its class is the first of ``classes`` that transformers contains, or else that which its class ``auto`` chooses, by
    default the model without a head.
    """
    from transformers.initialization import no_init_weights

    torch, transformers = require_torch()
    known = next((found for name in classes if (found := getattr(transformers, name, None)) is not None), None)
    with torch.device("meta"), no_init_weights():
        model = known(config) if known else getattr(transformers, auto).from_config(config, trust_remote_code=code)
    model.tie_weights()  # which building a model without initial weights omits
    return model


def bits_per_weight(quantised: Mapping[str, Any]) -> float | None:
    """Return the bits per weight of a ``quantization_config``, with scales; None if its method is not known.

    GPTQ (Frantar et al. 2023, arXiv 2210.17323) and AWQ (Lin et al. 2024, arXiv 2306.00978) keep a float16 scale and a
    zero point per group. Bitsandbytes keeps a float32 maximum per 64 weights in 4 bits, or 0.127 bits with double
    quantisation (Dettmers et al. 2023, arXiv 2305.14314, section 3), MXFP4 an 8-bit scale per 32 weights (OCP
    Microscaling Formats 1.0), and FP8 a float32 scale per block.
    """
    method, bits = quantised.get("quant_method", ""), quantised.get("bits") or quantised.get("w_bit")
    if method in ("gptq", "awq") and bits:
        group = quantised.get("group_size") or quantised.get("q_group_size") or 128
        return float(bits) + ((16 + bits) / group if group > 0 else 0)
    if method == "bitsandbytes" or "load_in_4bit" in quantised:
        if quantised.get("load_in_4bit"):
            return 4.127 if quantised.get("bnb_4bit_use_double_quant") else 4.5
        return 8.0
    if method == "compressed-tensors":
        groups = [group.get("weights") or {} for group in (quantised.get("config_groups") or {}).values()]
        found = [float(group["num_bits"]) + 16 / (group.get("group_size") or 1 << 20) for group in groups if group]
        return max(found, default=None)
    if method == "mxfp4":
        return 4.25
    if method in ("fp8", "fbgemm_fp8"):
        rows, columns = quantised.get("weight_block_size") or (1, 1 << 10)
        return 8 + 32 / (rows * columns)
    return None


def _count_bytes(parameters: int, matrices: int, bits: float, dtype: str) -> int:
    return int(matrices * bits / 8) + (parameters - matrices) * _VALUE_BYTES[dtype]


def free_memory(device: str) -> int | None:
    """Return the free bytes of a GPU, with those that torch holds and does not use; None for other devices."""
    kind = device.partition(":")[0]
    if kind not in ("cuda", "mps"):
        return None
    torch, _ = require_torch()
    if kind == "cuda":
        free = free_memory_of_gpu(int(device.partition(":")[2] or 0))
        if not torch.cuda.is_initialized():
            return free
        return free + int(torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())


def choose_batch_tokens(options: BackendOptions, device: str, plan: Callable[[], MemoryPlan]) -> int | None:
    """Return the maximum number of padded tokens per batch on a GPU; None for no maximum.

    There is none on a CPU, with an explicit batch size, and in deterministic runs. ``plan`` is called only if it is
    needed; its weights are those that are not in memory yet.
    """
    if options.deterministic or options.batch_size or (free := free_memory(device)) is None:
        return None
    return max(1, (found := plan()).batch_tokens(free - found.weights))


def padded_lengths(jobs: Sequence[Job], tokens: HfTokens, plan: MemoryPlan) -> list[int]:
    """Return the memory that each job needs, as a number of tokens: prompt, reply, and positions that need logits."""
    lengths = []
    for job in jobs:
        length, task = len(job.prompt), job.task
        if isinstance(task, GenerationTask | PermutationTask):
            length += job.sampling.thinking + job.sampling.max_tokens
        elif isinstance(task, LikelihoodTask):  # of each token of its text
            length += max(tokens.lengths(list(task.continuations)), default=0) * plan.tokens_per_position
        lengths.append(length)
    return lengths


def plan_devices(files: ModelFiles, dtype: str, sizes: Sequence[str] = ()) -> dict[str, Any]:
    """Plan a model on GPUs of these sizes, such as ``24GB``, or on the devices of this machine.

    The result has ``model``, ``parameters``, ``context_size``, ``window``, ``not_counted``, and ``devices``, a list of
    rows. Sizes are in bytes, the longest list and the batch in tokens; the batch is None on a CPU, where prompts are
    counted. ``change`` says what to change if the context does not fit.
    """
    sized = [(size, parse_memory_size(size)) for size in sizes]
    plans: dict[str, MemoryPlan] = {}
    rows = []
    for device, memory in sized or list_devices():
        # A GPU that is only named is assumed to compute in bfloat16.
        picked = ("bfloat16" if dtype == "auto" else dtype) if sized else pick_dtype(dtype, device)
        plan = plans[picked] = plans.get(picked) or plan_memory(files, picked)
        free = memory - plan.weights
        rows.append(
            {
                "device": device,
                "memory": memory,
                "dtype": picked,
                "weights": plan.weights,
                "cache_per_1000_tokens": 1000 * (plan.cache + plan.window_cache),
                "activations_per_1000_tokens": 1000 * plan.activations,
                "batch_rows": None if device == "cpu" else MOST_ROWS,
                "batch_tokens": None if device == "cpu" else plan.batch_tokens(free),
                "longest_list": plan.longest_list(free),
                "fits": plan.longest_list(free) > 0,
                "change": plan.advise(memory),
            }
        )
    return {
        "model": str(files),
        "parameters": plan.parameters,
        "context_size": plan.context_size,
        "window": plan.window,
        "not_counted": list(plan.notes),
        "devices": rows,
    }


def list_devices() -> list[tuple[str, int]]:
    """Return the devices of this machine, GPUs first, each with its free memory in bytes."""
    torch, _ = require_torch()
    names = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    names += ["mps"] * torch.backends.mps.is_available()
    psutil: Any = import_module("psutil")  # a dependency of accelerate
    return [*((name, free_memory(name) or 0) for name in names), ("cpu", psutil.virtual_memory().available)]


def describe_devices() -> list[dict[str, Any]]:
    """Return the GPUs of this machine: name, bytes of memory, compute capability and version of CUDA or ROCm."""
    torch, _ = require_torch()
    if not torch.cuda.is_available():
        is_apple = torch.backends.mps.is_available()
        return [{"name": "mps", "memory": torch.mps.recommended_max_memory()}] if is_apple else []
    found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    driver = torch.version.cuda or f"ROCm {torch.version.hip}"
    return [
        {"name": gpu.name, "memory": gpu.total_memory, "capability": f"{gpu.major}.{gpu.minor}", "cuda": driver}
        for gpu in found
    ]


def parse_memory_size(text: str) -> int:
    """Return the bytes of a size such as ``24GB``, where 1 GB is 1 GiB, as in the names of GPUs."""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?) ?(?:G|GB|GiB)?", text.strip(), flags=re.IGNORECASE)
    size = int(float(found[1]) * _GIB) if found else 0
    ensure(
        size,
        f"{error_repr(text)} is not a size of GPU memory",
        expected="a number of GB above 0, such as 24GB or 80",
        remedy="Write --gpu 24GB; repeat the option for several sizes",
    )
    return size


def gib(size: int) -> str:
    """Format a number of bytes in GiB, with three digits.

    >>> gib(16_381_470_720)
    '15.3 GiB'
    """
    return f"{size / _GIB:.3g} GiB"


def split_into_batches(lengths: Sequence[int], *, rows: int, tokens: int | None) -> Iterator[slice]:
    """Yield the slices of ``lengths`` that form batches; lengths in decreasing order need the least padding.

    A batch has at most ``rows`` rows, and its number of rows times its longest length is at most ``tokens`` (no limit
    if None), unless it has one row.
    """
    start = longest = 0
    for index, length in enumerate(lengths):
        longest, count = max(longest, length), index - start
        if count and (count == rows or (tokens is not None and (count + 1) * longest > tokens)):
            yield slice(start, index)
            start, longest = index, length
    if lengths:
        yield slice(start, len(lengths))

"""Load local models, tokenizers and adapters with transformers and PEFT, or describe models without their weights.

Importing torch and loading weights takes seconds. Counting tokens or reading a finished run requires neither, so torch
is imported only when it is needed.
"""

import logging
import math
import os
import platform
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from ctypes import CDLL, Structure, byref, c_int, c_uint, c_ulonglong, c_void_p
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from threading import RLock, get_ident
from types import ModuleType, SimpleNamespace
from typing import Any

from rerank.errors import BackendError, DataError, MissingPrerequisiteError, MissingResourceError, UsageError, ensure
from rerank.installation import check_modules, importing
from rerank.io.model_base import hash_file_contents_of_model
from rerank.io.settings_files import try_read_json_object
from rerank.lm.model_files import ModelFiles, cached_snapshot, locate_model, remedy_for_class
from rerank.lm.model_process import parallel_arguments
from rerank.lm.tokenizers import HfTokens, stated_context_size
from rerank.tasks import BackendOptions, resolve_task_context_size

_log = logging.getLogger(__name__)

#: Flags of x86 processors that multiply bfloat16 matrices in hardware.
_BF16_FLAGS = frozenset({"amx_bf16", "avx512_bf16"})
_CPUINFO = Path("/proc/cpuinfo")


def require_torch() -> tuple[ModuleType, ModuleType]:
    """Import and return torch and transformers."""
    # Otherwise, transformers may load weights from a stranger's pull request on the hub (``refs/pr/1``), or ask a
    # service to convert pickled weights, for a model without safetensors.
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "true")
    with importing("A local model needs torch with transformers", "hf"):
        import torch
        import transformers
    return torch, transformers


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Suppress progress bars and log messages of transformers inside the block; restore its settings afterwards."""
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # These warnings concern our code, which calls transformers, and not the users of our code.
            warnings.filterwarnings("ignore", category=FutureWarning)
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def pick_device(asked: str) -> str:
    """Return the name of the device to use; ``auto`` selects the first available of CUDA, Apple's GPU and the CPU."""
    if asked in ("auto", "cpu") and "torch" not in sys.modules and _is_cpu_only_torch():
        return "cpu"
    torch, _ = require_torch()
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if asked == "auto":
        return next(name for name, present in there.items() if present)
    kind, _, index = asked.partition(":")
    few = kind == "cuda" and index.isdigit() and int(index) >= torch.cuda.device_count()
    if not there.get(kind, False) or few or (index and not index.isdigit()):
        remedy = "Omit --device to use the best device of this machine"
        if kind == "cuda" and not there["cuda"]:
            if torch.version.cuda or torch.version.hip:
                remedy += ", or check the driver (nvidia-smi) and CUDA_VISIBLE_DEVICES: torch finds no GPU"
            else:
                remedy += (
                    f", or install torch for your GPU (https://pytorch.org/get-started/locally): torch "
                    f"{torch.__version__} is a build for CPUs only"
                )
        raise UsageError(
            f"Device {asked!r} is unknown or not available",
            expected=f"one of: auto, {', '.join(name for name, present in there.items() if present)}",
            remedy=remedy,
        )
    return asked


def _is_cpu_only_torch() -> bool:
    """Return whether the installed torch supports only CPUs, without importing torch, which takes seconds."""
    spec = find_spec("torch") if sys.platform != "darwin" else None  # torch for macOS may support the GPU
    if spec is None or not spec.origin:
        return False
    try:
        version = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    except OSError:
        return False
    kinds = dict(re.findall(r"^(cuda|hip|xpu)\b[^=\n]*=\s*(\S+)", version, flags=re.MULTILINE))
    return kinds.get("cuda") == "None" and set(kinds.values()) == {"None"}


def pick_dtype(asked: str, device: str, *, training: bool = False) -> str:
    """Return the data type to use; ``auto`` selects bfloat16 on hardware that supports it efficiently.

    Other NVIDIA GPUs, those before Ampere, get float16, and other devices float32. ``training`` in ``auto`` is in
    float32 in place of float16, which would need scaled losses, and on Apple GPUs, on which it was never tried.
    """
    if asked != "auto":
        return asked
    fast, other = False, "float32"
    if device.startswith("cuda"):
        torch, _ = require_torch()
        fast = bool(torch.version.hip) or _compute_capability(int(device.partition(":")[2] or 0)) >= (8, 0)
        other = "float32" if training else "float16"
    elif device.startswith("mps"):
        fast = not training and int(platform.mac_ver()[0].partition(".")[0] or 0) >= 14
    elif device == "cpu":
        fast = bool(_BF16_FLAGS & processor_flags())
    return "bfloat16" if fast else other


def _open_gpu(index: int) -> tuple[Any, Any] | None:
    """Open a GPU that CUDA would give an index with NVML, the library of NVIDIA's driver; None if that fails.

    Torch would initialise CUDA to say the same: this takes memory of a GPU that a worker may need, and processes that
    are forked afterwards cannot use a GPU. The result is the library and its handle of the GPU.
    """
    visible, handle = os.environ.get("CUDA_VISIBLE_DEVICES"), c_void_p()
    with suppress(OSError, AttributeError, IndexError):  # no library or function, or fewer devices
        name = visible.split(",")[index].strip() if visible else str(index)
        nvml = CDLL("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")
        by_index, by_uuid = nvml.nvmlDeviceGetHandleByIndex_v2, nvml.nvmlDeviceGetHandleByUUID
        if nvml.nvmlInit_v2():
            return None
        if name.isdigit():
            # NVML counts in the order of the bus, and CUDA from the fastest GPU on, which differs if GPUs do.
            in_order = os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID" or _are_alike(nvml)
            failed = not in_order or by_index(int(name), byref(handle))
        else:
            failed = by_uuid(name.encode(), byref(handle))
        if not failed:
            return nvml, handle
    return None


def _are_alike(nvml: Any) -> bool:
    count, handle, major, minor = c_uint(), c_void_p(), c_int(), c_int()
    nvml.nvmlDeviceGetCount_v2(byref(count))
    found = set()
    for index in range(count.value):
        nvml.nvmlDeviceGetHandleByIndex_v2(index, byref(handle))
        nvml.nvmlDeviceGetCudaComputeCapability(handle, byref(major), byref(minor))
        found.add((major.value, minor.value))
    return len(found) == 1


def _compute_capability(index: int) -> tuple[int, int]:
    """Return the compute capability of an NVIDIA GPU, such as (8, 0) for Ampere; torch is asked if NVML fails."""
    major, minor = c_int(), c_int()
    if gpu := _open_gpu(index):
        nvml, handle = gpu
        if not nvml.nvmlDeviceGetCudaComputeCapability(handle, byref(major), byref(minor)):
            return major.value, minor.value
    capability: tuple[int, int] = require_torch()[0].cuda.get_device_capability(index)
    return capability


class _NvmlMemory(Structure):
    """nvmlMemory_t: bytes of a GPU."""

    _fields_ = (("total", c_ulonglong), ("free", c_ulonglong), ("used", c_ulonglong))


#: Bytes that CUDA takes when a process first uses a GPU, for its context and kernels: 300 to 550 MiB are reported
#: (github.com/pytorch/pytorch, issues 81257, 107667 and 109888).
CUDA_CONTEXT = 512 << 20


def free_memory_of_gpu(index: int) -> int:
    """Return the bytes of an NVIDIA or AMD GPU that are free for tensors.

    Torch is asked if it has initialised CUDA, or if NVML fails; then the context of this process is in use already.
    Before, it is subtracted.
    """
    torch, _ = require_torch()
    if not torch.cuda.is_initialized() and not torch.version.hip and (gpu := _open_gpu(index)):
        nvml, handle = gpu
        memory = _NvmlMemory()
        if not nvml.nvmlDeviceGetMemoryInfo(handle, byref(memory)):
            return max(0, int(memory.free) - CUDA_CONTEXT)
    return int(torch.cuda.mem_get_info(index)[0])


@cache
def processor_flags() -> frozenset[str]:
    """Return the feature flags of the processor; empty if the system does not list them."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line for line in lines if line.startswith("flags")), "").split())


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A language model in memory."""

    model: Any  # the model in evaluation mode, on its device
    tokenizer: Any  # its tokenizer, or its processor if it accepts images
    identity: dict[str, str]  # its identity (`make_identity`)
    files: ModelFiles  # the files from which it was loaded


#: Classes of transformers that load a language model and its tokenizer.
LANGUAGE = ("AutoModelForCausalLM", "AutoTokenizer")


def load_language_model(
    name: str | Path,
    options: BackendOptions,
    classes: tuple[str, str] = LANGUAGE,
    *,
    tokenizer: Any = None,
    empty: bool = False,
) -> LoadedModel:
    """Load a model from a folder or the hub, with these classes of transformers; no ``tokenizer`` to load it, too.

    If ``empty``, the weights are on torch's meta device: they are not read, and take no memory.
    """
    device = pick_device(options.device)
    place = "meta" if empty else options.device_map or device
    placement: dict[str, Any] = {"device_map": place} | attention_arguments(options)
    if options.device_map and options.device != "auto":
        raise UsageError(
            f"--device-map {options.device_map} and --device {options.device} exclude each other",
            expected="only one of them, since a device map distributes a model over all devices",
        )
    if options.device_map == "tp":
        placement = parallel_arguments() | attention_arguments(options)
    dtype = pick_dtype(options.dtype, device)
    files = locate_files(name, options)
    check_mergeable(files, options, dtype)
    if classes == LANGUAGE:
        files.check_generates()
    _, transformers = require_torch()
    code = {"trust_remote_code": options.trust_remote_code}
    with quiet_transformers():
        with named_loading_errors(files, next(iter(placement.values()))):
            if tokenizer is None:
                _require_sentencepiece(files.folder)
                tokenizer = getattr(transformers, classes[1]).from_pretrained(files.folder, **code)
            with complete_weights(files):
                model = getattr(transformers, classes[0]).from_pretrained(
                    files.folder, dtype=dtype, use_safetensors=True, **placement, **code
                )
        model = model.eval()
        check_finite_weights(model, f"Model {str(files)!r}")
        if options.adapter:
            cast, merge = is_cast(options, dtype), options.merge_adapter
            model = attach_adapter(model, Path(options.adapter), cast=cast, merge=merge)
        identity = make_identity(files, options, dtype)
    return LoadedModel(model=model, tokenizer=tokenizer, identity=identity, files=files)


def attention_arguments(options: BackendOptions) -> dict[str, str]:
    """Return the arguments of ``from_pretrained`` for the attention function; none if transformers decides."""
    return {} if options.attention == "auto" else {"attn_implementation": options.attention}


def locate_files(name: str | Path, options: BackendOptions, *, weights: bool = True) -> ModelFiles:
    """Return the local files of a model (`locate_model`) at the revision, and with the code, that the options name."""
    return locate_model(name, options.revision or "", weights=weights, code=options.trust_remote_code)


def make_identity(files: ModelFiles, options: BackendOptions, dtype: str) -> dict[str, str]:
    """Return the identity of a local model that `load_language_model` loads.

    Its keys are ``model``; ``weights`` (hash of a folder) or ``revision`` (commit on the hub); ``dtype``;
    ``attention``, if it is not ``auto``; ``adapter`` (hash of its folder), if there is an adapter; ``adapter_dtype``,
    if the adapter is cast; and ``merge_adapter``, if it is merged into 16-bit weights. Without ``adapter_dtype``, the
    adapter is in float32, as in all runs before this option existed.
    """
    identity = {**files.identity, "dtype": dtype}
    if options.attention != "auto":
        identity["attention"] = options.attention
    if options.adapter:
        identity["adapter"] = hash_file_contents_of_model(Path(options.adapter))
        if is_cast(options, dtype):
            identity["adapter_dtype"] = dtype
        if options.merge_adapter and dtype != "float32":
            identity["merge_adapter"] = "true"
    return identity


#: Only one thread at a time may replace the method that loads weights.
_checking = RLock()


@contextmanager
def complete_weights(files: ModelFiles, *, unused: Callable[[str], bool] = lambda weight: False) -> Iterator[None]:
    """Refuse a model that is loaded in the block if its checkpoint lacks weights, which would be random.

    Weights that are tied to others, and those that transformers does not store, are not missing. The method of
    transformers is replaced inside the block, because sentence-transformers calls it without asking what was missing.
    """
    base: Any = require_torch()[1].PreTrainedModel
    thread = get_ident()

    def from_pretrained(cls: type, /, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
        if get_ident() != thread:  # other threads may load models of their own
            return load(cls, *args, output_loading_info=output_loading_info, **kwargs)
        model, info = load(cls, *args, output_loading_info=True, **kwargs, ignore_mismatched_sizes=True)
        _check_depth(model, info["unexpected_keys"], files)
        for weight, saved, configured in sorted(info["mismatched_keys"]):
            raise DataError(
                f"Model {str(files)!r} has the weight {weight} of shape {tuple(saved)}",
                expected=f"{tuple(configured)}, as config.json says",
                remedy="Download or save the model again",
            )
        missing = sorted(weight for weight in info["missing_keys"] if not unused(weight))
        if missing:
            stated = getattr(model.config, "architectures", None) or ()
            found = (
                f"Model {str(files)!r} lacks weights of the class {cls.__name__}, which would be random: "
                f"{', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}"
            )
            if cls.__name__ in stated:
                expected, remedy = "a checkpoint with all weights", "Download or save the model again"
                raise DataError(found, expected=expected, remedy=remedy)
            expected = f"to be opened as {' or '.join(stated)}" if stated else "a checkpoint with all weights"
            raise UsageError(found, expected=expected, remedy=remedy_for_class(stated))
        return (model, info) if output_loading_info else model

    with _checking:
        load = base.from_pretrained.__func__  # inside the lock: outside, it may be that of another block
        base.from_pretrained = classmethod(from_pretrained)
        try:
            yield
        finally:
            base.from_pretrained = classmethod(load)


def _check_depth(model: Any, unexpected: Iterable[str], files: ModelFiles) -> None:
    """Warn if the checkpoint has more layers than the configuration, and refuse a model without layers."""
    from torch.nn import ModuleList

    lists = {f".{name}": len(module) for name, module in model.named_modules() if isinstance(module, ModuleList)}
    for weight in sorted(unexpected):
        for number in re.finditer(r"\.(\d+)\.", weight):
            before = f".{weight[: number.start()]}"  # with a prefix that the model lacks, or without one that it has
            names = [name for name in lists if before.endswith(name) or name.endswith(before)]
            if not names or int(number[1]) < (depth := lists[max(names, key=len)]):
                continue
            found = f"Model {str(files)!r} has {depth} layers in config.json, but its weights have more: {weight}"
            if not depth:
                raise DataError(found, remedy="Check num_hidden_layers in config.json, or download the model again")
            _log.warning("%s is not used", found)
            return


def check_finite_weights(model: Any, what: str) -> None:
    """Refuse a model with a weight that is not finite, whose scores would be undefined; messages begin with ``what``.

    Weights on no device (offloaded to disk) and those of less than 16 bits, which are quantised, are not checked.
    """
    for name, weight in model.named_parameters():
        # this process's part of a weight that is split
        local = (weight.to_local() if hasattr(weight, "to_local") else weight).detach()
        if local.is_meta or not local.is_floating_point() or local.itemsize < 2 or not local.numel():
            continue
        # Both are NaN if any number is, and reading a weight takes a fiftieth of the time of torch.isfinite.
        if not all(math.isfinite(bound) for bound in local.aminmax()):
            raise DataError(
                f"{what} has a weight that is not finite in {str(local.dtype).removeprefix('torch.')}: {name}",
                expected="weights that are numbers",
                remedy="Pass --dtype float32, whose range is larger than that of float16; if this is refused, too, "
                "download or save the weights again",
            )


def is_of_bypassed_pooler(weight: str, files: ModelFiles) -> bool:
    """Return whether a weight is of the pooler of an encoder such as BERT, whose output no module uses.

    Many embedding models are saved without it, since sentence-transformers pools the last hidden states instead.
    """
    settings = "".join(path.read_text("utf-8", "replace") for path in files.folder.rglob("sentence_*_config.json"))
    return weight.startswith("pooler.") and "pooler_output" not in settings


@contextmanager
def named_loading_errors(name: str | Path | ModelFiles, where: object = "") -> Iterator[None]:
    """Convert errors of libraries while a model is loaded, and tried, from files of others to errors of this project.

    The libraries check few of the values in these files, so that a wrong one may lead to any ordinary exception.
    """
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, KeyError) as error:
        if "trust_remote_code" in str(error):
            raise UsageError(
                f"Model {str(name)!r} needs code from its own files, which was not run",
                expected="a model of a class that transformers contains, or --trust-remote-code",
                remedy="Read the .py files of the model, then pass --trust-remote-code, with --revision COMMIT for a "
                "model on the hub",
            ) from error
        first = next(iter(str(error).splitlines()), type(error).__name__)
        is_unknown = "does not recognize this architecture" in str(error)
        raise MissingResourceError(
            f"Model {str(name)!r} cannot be loaded: {first}",
            expected="a folder with config.json, safetensors weights and a tokenizer, or the id of such a model on the "
            "hub",
            remedy="Run: pip install -U transformers; the model may be newer"
            if is_unknown
            else "Check the files of the model, or download it again",
        ) from error
    except ImportError as error:
        raise MissingPrerequisiteError(
            f"Model {str(name)!r} needs a package that is not installed: {' '.join(str(error).split())}",
            remedy="Omit --attention, or install its package, such as flash-attn for flash_attention_2 on an NVIDIA GPU"
            if "flash" in str(error).lower()
            else "Install it with pip",
        ) from error
    except SafetensorError as error:
        raise DataError(
            f"The weights of model {str(name)!r} are damaged: {error}", remedy="Delete the model and download it again"
        ) from error
    except RuntimeError as error:
        if "loading state_dict" in str(error):  # of a module of sentence-transformers, such as a head
            raise DataError(
                f"The weights of model {str(name)!r} do not fit its configuration: {' '.join(str(error).split())}",
                remedy="Download or save the model again",
            ) from error
        raise BackendError(
            f"Model {str(name)!r} cannot be loaded on {where}: {' '.join(str(error).split())}"
        ) from error
    except Exception as error:
        # Tokenizers in Rust raise nothing more specific than Exception.
        wrong = (TypeError, AttributeError, IndexError, ArithmeticError, AssertionError, StrictDataclassError)
        if type(error) is not Exception and not isinstance(error, wrong):
            raise
        said = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise DataError(
            f"Model {str(name)!r} has a file with a wrong value: {said}",
            expected="files as transformers or sentence-transformers saved them",
            remedy="Check config.json and the other .json files of the model, or download it again",
        ) from error


#: Names of the generic tokenizer class, which needs no file other than ``tokenizer.json``.
_GENERIC_TOKENIZERS = frozenset({"TokenizersBackend", "PreTrainedTokenizerFast"})
#: Model types for which ``AutoTokenizer`` (which imports torch) does not replace a generic tokenizer by another class.
_PLAIN_TYPES = frozenset({"llama"})


@dataclass(frozen=True, kw_only=True)
class ModelDescription:
    """The properties of a language model that are known before its weights are loaded."""

    #: The files of the model; if it is on the hub, its weights may not have been downloaded yet.
    files: ModelFiles
    options: BackendOptions  # options for loading the model; the revision is the commit
    identity: dict[str, str]  # the identity that the loaded model will have
    device: str  # the device to which the model will be loaded
    config: Any  # the config of the model, or an object with the same ``max_position_embeddings``

    @cached_property
    def tokens(self) -> HfTokens:
        tokenizer = load_tokenizer(self.files.folder, self.options)
        stated = stated_context_size(SimpleNamespace(config=self.config), tokenizer)
        size = resolve_task_context_size(stated, self.options, self.identity["model"])
        return HfTokens(tokenizer, context_size=size)


def describe_files(name: str | Path, options: BackendOptions) -> ModelDescription | None:
    """Describe a model that `load_language_model` would load; None if a device map or its own code require loading."""
    if options.device_map or options.trust_remote_code:
        return None
    check_modules("A local model", ("torch", "transformers", *(["peft"] if options.adapter else [])), "hf")
    device = pick_device(options.device)
    files = locate_files(name, options, weights=False)
    files.check_generates()
    options = options.model_copy(update={"revision": files.commit or options.revision})
    config: Any = try_read_json_object(files.folder / "config.json")
    if isinstance(config.get("max_position_embeddings"), int) and "text_config" not in config:
        config = SimpleNamespace(max_position_embeddings=config["max_position_embeddings"])
    else:
        with quiet_transformers(), named_loading_errors(files):
            config = require_torch()[1].AutoConfig.from_pretrained(files.folder, trust_remote_code=False)
    dtype = pick_dtype(options.dtype, device)
    check_mergeable(files, options, dtype)
    identity = make_identity(files, options, dtype)
    if limit := stated_context_size(SimpleNamespace(config=config), None):
        resolve_task_context_size(limit, options, identity["model"])  # reports early if the context is too long
    return ModelDescription(files=files, options=options, identity=identity, device=device, config=config)


def load_tokenizer(folder: Path, options: BackendOptions) -> Any:
    """Load the tokenizer that ``AutoTokenizer`` would load, without importing torch if its class is certain."""
    settings = try_read_json_object(folder / "tokenizer_config.json")
    is_generic = settings.get("tokenizer_class") in _GENERIC_TOKENIZERS and "auto_map" not in settings
    is_plain = try_read_json_object(folder / "config.json").get("model_type") in _PLAIN_TYPES
    with quiet_transformers(), named_loading_errors(folder):
        if is_generic and is_plain and (folder / "tokenizer.json").is_file():
            from transformers import PreTrainedTokenizerFast

            return PreTrainedTokenizerFast.from_pretrained(folder)
        _require_sentencepiece(folder)
        code = options.trust_remote_code
        return getattr(require_torch()[1], LANGUAGE[1]).from_pretrained(folder, trust_remote_code=code)


def _require_sentencepiece(folder: Path) -> None:
    """Check that a tokenizer in the format of sentencepiece can be read; transformers would ask for tiktoken."""
    if not (folder / "tokenizer.json").is_file() and any(folder.glob("*.model")):
        check_modules(f"The tokenizer of model {str(cached_snapshot(folder))!r}", ("sentencepiece",), "hf")


def check_folder(folder: Path) -> None:
    """Check that a folder contains a PEFT adapter in safetensors; loading pickled weights can run code."""
    missing = [name for name in ("adapter_config.json", "adapter_model.safetensors") if not (folder / name).is_file()]
    if missing and (folder / "config.json").is_file() and "adapter_config.json" in missing:
        raise UsageError(
            f"Adapter folder {str(folder)!r} contains a model", expected="an adapter", remedy="Name it with --model"
        )
    if missing:
        raise MissingResourceError(
            f"Adapter folder {str(folder)!r} lacks {' and '.join(missing)}",
            expected="the files that save_pretrained of PEFT writes",
            remedy="Complete an interrupted training with rerank train --resume, and convert pickled adapters (.bin), "
            "which can run code, to safetensors",
        )


def check_weight_files(folder: Path) -> None:
    """Check that the weights in a folder are complete: the size of each file matches its header."""
    from safetensors import SafetensorError, safe_open

    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="numpy"):
                pass
        except (SafetensorError, OSError) as error:
            raise DataError(
                f"The weights {str(path)!r} are damaged: {error}", remedy="Download, copy or save them again"
            ) from error


def is_cast(options: BackendOptions, dtype: str) -> bool:
    """Return whether an adapter should be cast to the data type of its model.

    Only LoRA adapters are cast, and only if the model is not in float32. Other kinds of adapters, such as DoRA and
    orthogonal adapters, compute norms or inverses of their weights, for which half precision is not accurate
    enough.
    """
    return dtype != "float32" and options.adapter_dtype != "float32" and _is_lora(Path(options.adapter or ""))


def _is_lora(folder: Path) -> bool:
    config = try_read_json_object(folder / "adapter_config.json")  # damaged files are reported when it is attached
    return config.get("peft_type") == "LORA" and not config.get("use_dora")


def check_mergeable(files: ModelFiles, options: BackendOptions, dtype: str) -> None:
    """Check that the adapter can be merged into the model if the options demand this."""
    if not options.merge_adapter:
        return
    remedy = "Omit --merge-adapter"
    if not options.adapter:
        raise UsageError("--merge-adapter is given without an adapter", expected="--adapter", remedy=remedy)
    check_folder(Path(options.adapter))
    quantised = "quantization_config" in try_read_json_object(files.folder / "config.json")
    ensure(
        not quantised and (dtype == "float32" or _is_lora(Path(options.adapter))),
        "--merge-adapter is given, but "
        + (f"the weights of {str(files)!r} are quantised" if quantised else f"{options.adapter!r} is no plain LoRA"),
        expected="weights that are not quantised, and in 16 bits a LoRA without DoRA",
        remedy=f"{remedy}; the adapter is then attached",
    )


def attach_adapter(model: Any, folder: Path, *, cast: bool = False, merge: bool = False) -> Any:
    """Attach an adapter to a model and return the model. In float32, the adapter is merged, since merging is exact.

    By default, PEFT computes low-rank adapters in float32. In a model in bfloat16, each adapted matrix then has to
    convert its input to float32 and its output back. To avoid this, the adapter is cast to the data type of the model
    (docs/decisions/0014-adapters-in-the-dtype-of-the-model.md). With ``merge``, it is merged in 16 bits, too: the sums
    are computed in float32, and rounded once.
    """
    with importing(f"Adapter {str(folder)!r} needs peft", "hf"):
        import peft
    import torch

    check_folder(folder)
    check_weight_files(folder)
    with _named_errors(folder):
        wrapped = peft.PeftModel.from_pretrained(model, str(folder))
    check_finite_weights(wrapped, f"Adapter {str(folder)!r}")  # the weights of the model were checked before
    if any(config.is_prompt_learning for config in wrapped.peft_config.values()):
        raise UsageError(
            f"Adapter {str(folder)!r} is a learned prompt", expected="an adapter that changes weights, such as LoRA"
        )
    if merge or model.dtype == torch.float32:
        from peft.tuners.tuners_utils import BaseTunerLayer

        untie_head(wrapped)
        with _named_errors(folder), torch.no_grad():
            for layer in wrapped.modules() if model.dtype != torch.float32 else ():
                if isinstance(layer, BaseTunerLayer):  # PEFT alone would round the change, and then the sum
                    base: Any = layer.get_base_layer()
                    dtype = next(base.parameters()).dtype
                    base.float()
                    layer.merge()
                    base.to(dtype)
            warnings.filterwarnings("ignore", "All adapters are already merged|Already following adapters")
            return wrapped.merge_and_unload().eval()
    if cast:
        from peft.tuners.lora import LoraLayer

        for layer in wrapped.modules():
            if isinstance(layer, LoraLayer):
                for name in layer.adapter_layer_names:  # the modules with the factors of matrices and embeddings
                    getattr(layer, name).to(model.dtype)
    return wrapped.get_base_model().eval()


@contextmanager
def _named_errors(folder: Path) -> Iterator[None]:
    """Convert errors of PEFT about an adapter to a `UsageError`, and warnings of missing weights to a `DataError`."""
    ordinary = (OSError, ValueError, LookupError, RuntimeError, TypeError, AttributeError, ArithmeticError, ImportError)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Found missing adapter keys|Adapter name '", UserWarning)
            yield
    except UserWarning as error:  # the missing weights of the adapter would be those of a new one
        raise DataError(
            f"Adapter {str(folder)!r} is incomplete: {' '.join(str(error).split())[:200]}",
            expected="all weights that its configuration names",
            remedy="Download or save the adapter again",
        ) from error
    except ordinary as error:
        raise UsageError(
            f"Adapter {str(folder)!r} does not fit the model: {error}",
            expected="an adapter that was trained on this model",
        ) from error


def untie_head(wrapped: Any) -> None:
    """Untie the output head from the token embeddings if one of them is adapted and both share one tensor.

    If they remained tied, merging an adapter into one of the two layers would also change the other.
    """
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    model: Any = wrapped.get_base_model()
    first, last = model.get_input_embeddings(), model.get_output_embeddings()
    if not any(isinstance(layer, BaseTunerLayer) for layer in (first, last)):
        return
    first, last = (getattr(layer, "base_layer", layer) for layer in (first, last))
    if first.weight is last.weight:
        last.weight = torch.nn.Parameter(last.weight.detach().clone())
        model.config.tie_word_embeddings = False

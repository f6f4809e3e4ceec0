"""Name or folder -> model, tokenizer and what tells them from others. Imports torch and transformers when called."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from rerank.errors import BackendError, DataError, MissingPrerequisiteError, MissingResourceError, UsageError
from rerank.io.model_hash import folder_hash
from rerank.lm.tensor_parallel import placement as tensor_parallel
from rerank.models.trained import shipped
from rerank.tasks import BackendOptions

#: Flags of x86 processors that multiply bfloat16 matrices in hardware.
_BF16_FLAGS = frozenset({"amx_bf16", "avx512_bf16"})
_CPUINFO = Path("/proc/cpuinfo")


def require_torch() -> tuple[ModuleType, ModuleType]:
    """Import torch and transformers.

    Raises:
        MissingPrerequisiteError: One of them does not import; the cause is kept.
    """
    try:
        import torch
        import transformers
    except ImportError as error:
        raise MissingPrerequisiteError(
            f"A local model needs torch and transformers, and they do not import: {error}",
            remedy="Run: pip install 'listrank[hf]'",
        ) from error
    return torch, transformers


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' progress bars and hints off the terminal, and leave its settings as they were."""
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # These concern those who call transformers, not those who call us.
            warnings.filterwarnings("ignore", category=FutureWarning)
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def pick_device(asked: str) -> str:
    """The device for ``asked``; ``auto`` is CUDA, else Apple's GPU, else the CPU.

    Raises:
        UsageError: The device is unknown or not there.
    """
    torch, _ = require_torch()
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if asked == "auto":
        return next(name for name, present in there.items() if present)
    kind, _, index = asked.partition(":")
    few = kind == "cuda" and index.isdigit() and int(index) >= torch.cuda.device_count()
    if not there.get(kind, False) or few or (index and not index.isdigit()):
        raise UsageError(
            f"Device {asked!r}",
            expected=f"one of: auto, {', '.join(name for name, present in there.items() if present)}",
            remedy="Leave --device out to take the best that this machine has",
        )
    return asked


def pick_dtype(asked: str, device: str) -> str:
    """The number format for ``asked``; ``auto`` is bfloat16 where the device is fast with it, else float32."""
    if asked != "auto":
        return asked
    torch, _ = require_torch()
    if device.startswith("cuda"):
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = device == "cpu" and bool(_BF16_FLAGS & cpu_flags())
    return "bfloat16" if fast else "float32"


@cache
def cpu_flags() -> frozenset[str]:
    """What the processor says it can do; empty where the system does not tell."""
    try:
        lines = _CPUINFO.read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line for line in lines if line.startswith("flags")), "").split())


#: Classes of transformers that open a language model: its weights, and what turns texts into token ids.
LANGUAGE = ("AutoModelForCausalLM", "AutoTokenizer")


def load(
    name: str | Path, options: BackendOptions, classes: tuple[str, str] = LANGUAGE
) -> tuple[Any, Any, dict[str, str]]:
    """Load a model from a folder or the hub.

    Args:
        name: Which.
        options: How.
        classes: Classes of transformers that open it.

    Returns:
        The model in evaluation mode on its device, its tokenizer (or processor), and the identity: ``model``,
        ``weights`` (hash of a folder) or ``revision`` (commit on the hub), ``dtype``, and ``adapter`` if there is one.

    Raises:
        MissingResourceError: It cannot be found or read.
        MissingPrerequisiteError: It needs a package that is not installed.
        DataError: Its weights are damaged.
        BackendError: It does not fit into memory.
        UsageError: An option that does not fit this machine or model.
    """
    device = pick_device(options.device)
    placement = _placement(options)
    dtype = pick_dtype(options.dtype, device)
    folder = Path(name) if Path(name).is_dir() else None
    with quiet():
        model, tokenizer = _parts(name, options, dtype, placement or {"device_map": device}, classes)
        identity = {"model": folder.name if folder else str(name)}
        if folder:
            identity["weights"] = folder_hash(folder)
        else:
            identity["revision"] = str(getattr(model.config, "_commit_hash", None) or options.revision)
        identity["dtype"] = dtype
        if options.adapter:
            model, identity["adapter"] = _with_adapter(model, options.adapter)
    return model, tokenizer, identity


def _placement(options: BackendOptions) -> dict[str, Any]:
    """Where transformers is to put a model that is spread over devices; empty for one device.

    Raises:
        UsageError: A device is named too, or there is a single process to split matrices over.
    """
    if not options.device_map:
        return {}
    if options.device != "auto":
        raise UsageError(
            f"--device-map {options.device_map} with --device {options.device}",
            expected="one of both: a device map spreads a model over all devices",
        )
    return tensor_parallel() if options.device_map == "tp" else {"device_map": options.device_map}


def _parts(
    name: str | Path, options: BackendOptions, dtype: str, placement: dict[str, Any], classes: tuple[str, str]
) -> tuple[Any, Any]:
    """Model and tokenizer."""
    _, transformers = require_torch()
    origin = origin_of(name, options)
    with named_errors(name, next(iter(placement.values()), options.device)):
        tokenizer = getattr(transformers, classes[1]).from_pretrained(name, **origin)
        model = getattr(transformers, classes[0]).from_pretrained(
            name, dtype=dtype, use_safetensors=True, **placement, **origin
        )
        return model.eval(), tokenizer


def origin_of(name: str | Path, options: BackendOptions) -> dict[str, Any]:
    """What ``from_pretrained`` is told of where a model comes from; a folder has no revisions."""
    origin: dict[str, Any] = {"trust_remote_code": options.trust_remote_code}
    if options.revision and not Path(name).is_dir():
        origin["revision"] = options.revision
    return origin


@contextmanager
def named_errors(name: str | Path, where: object = "") -> Iterator[None]:
    """Whatever can go wrong with strangers' files becomes an error of ours.

    Args:
        name: What is loaded.
        where: Onto which device, for messages.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, KeyError) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise MissingResourceError(
            f"Model {str(name)!r} cannot be loaded: {first}",
            expected="a folder with config.json, safetensors weights and a tokenizer, or such an id on the hub",
            remedy="Check the name; for an id on the hub, check the network",
        ) from error
    except ImportError as error:
        raise MissingPrerequisiteError(
            f"Model {str(name)!r} needs a package that is not installed: {' '.join(str(error).split())}",
            remedy="Install it with pip",
        ) from error
    except SafetensorError as error:
        raise DataError(
            f"The weights of model {str(name)!r} are damaged: {error}", remedy="Remove the model and get it again"
        ) from error
    except RuntimeError as error:
        raise BackendError(f"Model {str(name)!r} does not load on {where}: {error}") from error


def _with_adapter(model: Any, adapter: str) -> tuple[Any, str]:
    """Attach a PEFT adapter; in float32 it is merged, since nothing is lost there. Returns model and hash."""
    try:
        import peft
    except ImportError as error:
        raise MissingPrerequisiteError(
            f"Adapter {adapter!r} needs peft, and it does not import: {error}",
            remedy="Run: pip install 'listrank[hf]'",
        ) from error
    import torch

    folder = adapter_folder(adapter)
    try:
        wrapped = peft.PeftModel.from_pretrained(model, str(folder))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UsageError(
            f"Adapter {adapter!r} does not fit the model: {error}", expected="an adapter that was trained on this model"
        ) from error
    if any(config.is_prompt_learning for config in wrapped.peft_config.values()):
        raise UsageError(f"Adapter {adapter!r} is a learned prompt", expected="one that changes weights, such as LoRA")
    if model.dtype == torch.float32:
        untie(wrapped)
        return wrapped.merge_and_unload().eval(), folder_hash(folder)
    return wrapped.get_base_model().eval(), folder_hash(folder)


def untie(wrapped: Any) -> None:
    """Give the last matrix weights of its own where it or the embeddings are adapted and both are one tensor.

    Merging an adapter of one of them would change the other as well, which the adapter itself does not.
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


def _check_hub_id(name: str) -> None:
    """Refuse a name that is no folder and can be no id on the hub: nobody is to wait for the network over a typo."""
    if Path(name).expanduser().is_file():
        raise MissingResourceError(f"Adapter {name!r} is a file", expected="the folder that holds it")
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise MissingResourceError(
            f"There is no adapter folder {name!r}",
            expected=f"a folder, an id owner/name on the hub, or one that comes along: {', '.join(shipped())}",
        )


def adapter_folder(adapter: str) -> Path:
    """Where an adapter lies: one that comes with the package, a folder, or what the hub has under that id.

    Raises:
        MissingResourceError: There is none, or it lacks a file.
    """
    folder = shipped().get(adapter, Path(adapter))
    if not folder.is_dir():
        _check_hub_id(adapter)
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(adapter, allow_patterns=["*.json", "*.safetensors", "*.yaml"]))
        except (OSError, ValueError) as error:
            raise MissingResourceError(
                f"Adapter {adapter!r} is no folder and cannot be had from the hub: {error}",
                expected="a folder with adapter_config.json and adapter_model.safetensors, or such an id on the hub",
            ) from error
    lacking = [name for name in ("adapter_config.json", "adapter_model.safetensors") if not (folder / name).is_file()]
    if lacking:
        raise MissingResourceError(
            f"Adapter folder {adapter!r} lacks {' and '.join(lacking)}",
            expected="what save_pretrained of PEFT writes",
            remedy="Pickled adapters (.bin) are not read: they can run code",
        )
    return folder

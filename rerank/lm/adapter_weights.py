"""Check, attach and cast PEFT adapters of local models. Torch and PEFT are imported when a function is called.

By default, PEFT computes low-rank adapters in float32. If the model is in bfloat16, each adapted matrix then has to
convert its input to float32 and its output back to bfloat16. To avoid this, the adapter is cast to the data type of the
model (docs/decisions/0014-adapters-in-the-dtype-of-the-model.md).
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rerank.errors import DataError, MissingPrerequisiteError, MissingResourceError, UsageError
from rerank.tasks import BackendOptions


def check_folder(folder: Path) -> None:
    """Check that a folder contains a PEFT adapter in the safetensors format.

    Pickled weights are not accepted, because loading them can run code.
    """
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
    orthogonal adapters, compute norms or inverses of their weights, for which half precision is not accurate enough.

    Args:
        options: Backend options. Only ``adapter`` and ``adapter_dtype`` have an effect.
    """
    if dtype == "float32" or options.adapter_dtype == "float32":
        return False
    try:
        config = json.loads((Path(options.adapter or "") / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # reported when the adapter is attached
        return False
    return isinstance(config, dict) and config.get("peft_type") == "LORA" and not config.get("use_dora")


def attach_adapter(model: Any, folder: Path, *, cast: bool = False) -> Any:
    """Attach an adapter to a model and return the model. In float32, the adapter is merged, since merging is exact."""
    try:
        import peft
    except ImportError as error:
        raise MissingPrerequisiteError(
            f"Adapter {str(folder)!r} needs peft, but importing it failed: {error}",
            remedy="Run: pip install 'listrank[hf]'",
        ) from error
    import torch

    check_folder(folder)
    check_weight_files(folder)
    with _named_errors(folder):
        wrapped = peft.PeftModel.from_pretrained(model, str(folder))
    if any(config.is_prompt_learning for config in wrapped.peft_config.values()):
        raise UsageError(
            f"Adapter {str(folder)!r} is a learned prompt", expected="an adapter that changes weights, such as LoRA"
        )
    if model.dtype == torch.float32:
        untie_head(wrapped)
        with _named_errors(folder):
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

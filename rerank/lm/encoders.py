"""Loading and running encoders of sentence-transformers: dense, sparse and multi-vector models."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

from rerank.errors import BackendError, MissingPrerequisiteError
from rerank.installation import install_command
from rerank.io.model_base import hash_encoder_folder
from rerank.lm.loading import (
    complete_weights,
    is_of_bypassed_pooler,
    named_loading_errors,
    pick_device,
    pick_dtype,
    quiet_transformers,
)
from rerank.lm.model_files import ModelFiles
from rerank.lm.model_process import require_model_process

T = TypeVar("T")

#: Lone surrogates, which collections may contain and tokenizers do not accept.
_SURROGATE = re.compile("[\ud800-\udfff]")
#: The names under which models store their prompts, in the order in which sentence-transformers looks them up.
_PROMPT_NAMES = {"query": ("query",), "document": ("document", "passage", "corpus")}


class LoadingOptions(Protocol):
    """Options for loading a model, as first stages and backends have them."""

    @property
    def dtype(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def trust_remote_code(self) -> bool: ...


def require_sentence_transformers(what: str, *, extra: str) -> Any:
    """Import sentence-transformers, which ``what`` needs and an extra installs, and return it."""
    with quiet_transformers():
        try:
            import sentence_transformers
        except ImportError as error:
            raise MissingPrerequisiteError(
                f"{what} needs sentence-transformers, and importing it failed: {error}",
                remedy=f"Run: {install_command(extra)}",
            ) from error
    return sentence_transformers


def load_model(kind: str, files: ModelFiles, options: LoadingOptions) -> tuple[Any, dict[str, str]]:
    """Load a model with one of the classes of sentence-transformers, and return it with its identity."""
    import sentence_transformers

    files.check_tokenizer()
    device = pick_device(options.device)
    dtype = pick_dtype(options.dtype, device)
    with (
        quiet_transformers(),
        named_loading_errors(files, device),
        complete_weights(files, unused=partial(is_of_bypassed_pooler, files=files)),
    ):
        model = getattr(sentence_transformers, kind)(
            str(files.folder),
            device=device,
            # safetensors only: loading pickled weights can run code
            model_kwargs={"dtype": dtype, "use_safetensors": True},
            trust_remote_code=options.trust_remote_code,
        ).eval()
    return model, {**encoder_identity(files), "dtype": dtype}


def encoder_identity(files: ModelFiles) -> dict[str, str]:
    """Return the identity of an encoder: the name and commit on the hub, or a hash of its folders."""
    return files.identity if files.commit else {"weights": hash_encoder_folder(files.folder)}


def resolve_prompt(model: Any, prompt: str, kind: str) -> str:
    """Return the text put before queries or documents; for ``auto``, the prompt saved with the model."""
    if prompt != "auto":
        return "" if prompt == "none" else prompt
    prompts: Mapping[str, str] = getattr(model, "prompts", None) or {}
    names = (*_PROMPT_NAMES[kind], str(getattr(model, "default_prompt_name", "")))
    return next((prompts[name] for name in names if name in prompts), "")


def encode_in_batch(encode: Callable[[list[str], int], T], texts: Sequence[str]) -> T:
    """Encode texts in one batch, or in smaller batches if memory runs out; lone surrogates are replaced by U+FFFD."""
    clean = [_SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text) for text in texts]
    return run_halving_batches(lambda size: encode(clean, size), len(clean), "texts")


def run_halving_batches(run: Callable[[int], T], count: int, what: str) -> T:
    """Run a model over ``count`` inputs as one batch, and halve the batch size while memory runs out."""
    from rerank.lm.decoding import is_out_of_memory

    require_model_process()
    size = count
    while True:
        try:
            with quiet_transformers():
                return run(size)
        except (RuntimeError, ValueError, MemoryError) as error:
            if size <= 1 or not is_out_of_memory(error):
                raise BackendError(f"The model failed on {count} {what}: {error}") from error
            size //= 2

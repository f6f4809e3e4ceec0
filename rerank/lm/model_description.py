"""Describe local models without loading their weights: identity, device, token counter and context size.

Importing torch and loading weights takes seconds. Counting tokens or reading a finished run requires neither. Torch is
imported only if the files of the model do not contain the necessary information.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rerank.errors import MissingPrerequisiteError
from rerank.io.settings_files import try_read_json_object
from rerank.lm.loading import (
    LANGUAGE,
    locate_files,
    make_identity,
    named_loading_errors,
    pick_device,
    pick_dtype,
    quiet_transformers,
    require_torch,
)
from rerank.lm.model_files import ModelFiles
from rerank.lm.tokenizers import HfTokens, stated_context_size
from rerank.tasks import BackendOptions, resolve_task_context_size

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
        """The token counter; the tokenizer is loaded at the first access."""
        tokenizer = load_tokenizer(self.files.folder, self.options)
        stated = stated_context_size(SimpleNamespace(config=self.config), tokenizer)
        size = resolve_task_context_size(stated, self.options, self.identity["model"])
        return HfTokens(tokenizer, context_size=size)


def describe_files(name: str | Path, options: BackendOptions) -> ModelDescription | None:
    """Describe a language model that `rerank.lm.loading.load_language_model` would load.

    Returns:
        The description; None if the model must be loaded first, because of a device map or its own code.
    """
    if options.device_map or options.trust_remote_code:
        return None
    for package in ("torch", "transformers", *(["peft"] if options.adapter else [])):
        if find_spec(package) is None:
            raise MissingPrerequisiteError(
                f"A local model needs {package}, which is not installed", remedy="Run: pip install 'listrank[hf]'"
            )
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
    identity = make_identity(files, options, pick_dtype(options.dtype, device))
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
        code = options.trust_remote_code
        return getattr(require_torch()[1], LANGUAGE[1]).from_pretrained(folder, trust_remote_code=code)

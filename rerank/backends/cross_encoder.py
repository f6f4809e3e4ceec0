"""The backend ``cross_encoder``: scores query-passage pairs with sentence-transformers.

The first turn of a prompt is the query, and each further turn is a passage. Sentence-transformers, torch and
transformers are imported when a model is loaded, not when this module is imported.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rerank.errors import BackendError, MissingPrerequisiteError, UsageError
from rerank.lm.loading import (
    complete_weights,
    is_of_bypassed_pooler,
    locate_files,
    named_loading_errors,
    pick_device,
    pick_dtype,
    quiet_transformers,
)
from rerank.lm.model_files import ModelFiles
from rerank.lm.model_process import LocalModel, require_model_process
from rerank.lm.tokenizers import HfTokens
from rerank.prompts.base import Prompt, TokenCounter
from rerank.tasks import (
    BackendOptions,
    CrossEncoderTask,
    Reply,
    Request,
    resolve_task_context_size,
)

#: Default number of pairs per batch.
DEFAULT_BATCH = 32
#: Tokenizers without a length limit state a limit far above this number.
_NO_LIMIT = 10**9
_ARCHITECTURE = "ForSequenceClassification"
#: Ends of the class names of models that generate text.
_GENERATIVE = ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")


class PairTokens(HfTokens):
    """A token counter for a cross-encoder, whose input is a pair of query and passage with special tokens.

    Args:
        tokenizer: The tokenizer.
        context_size: Maximum number of tokens of one pair.
        special_tokens: Number of tokens of a pair in addition to its two texts.
    """

    def __init__(self, tokenizer: Any, *, context_size: int, special_tokens: int) -> None:
        """Store the number of special tokens."""
        super().__init__(tokenizer, context_size=context_size)
        self._special_tokens = special_tokens

    def pairs(self, prompt: Prompt) -> list[int]:
        """Return the number of tokens of each pair of a prompt; a query alone is paired with an empty passage."""
        query, *passages = self.lengths([message.content for message in prompt])
        return [query + passage + self._special_tokens for passage in passages or [0]]

    def count(self, prompt: Prompt) -> int:
        """Return the number of tokens of all query-passage pairs of a prompt together."""
        return sum(self.pairs(prompt)) if prompt else 0


class CrossEncoder(LocalModel):
    """A backend that runs a cross-encoder of sentence-transformers.

    Scores are logits without the sigmoid that many models apply: it does not change the order, but its rounding makes
    very relevant passages tie. For a model with two labels (irrelevant, relevant), the score is the log odds of the
    second label, logit 2 - logit 1.

    Texts are not truncated: a request with a pair longer than the context gets a reply with ``finish="error"``.

    Args:
        model: ``sentence_transformers.CrossEncoder``, on its device.
        identity: Name, hash or revision, and dtype of the model.
        options: Backend options, of which batch size (in pairs) and context size are used; None for the defaults.
    """

    tasks = frozenset({CrossEncoderTask})
    #: One request at a time, since each request already contains a list of pairs.
    batch_size = 1

    def __init__(self, model: Any, *, identity: Mapping[str, str], options: BackendOptions | None = None) -> None:
        """Wrap a model that is already loaded. To load a model by name, use `load`."""
        require_model_process()
        options = options or BackendOptions()
        name = identity.get("model", "")
        if model.num_labels > 2:
            raise UsageError(
                f"Model {name!r} has {model.num_labels} labels",
                expected="a single label, or two labels (irrelevant, relevant)",
            )
        self._model = model
        self._identity = dict(identity)
        self._lock = threading.Lock()
        self._pairs_per_batch = options.batch_size or DEFAULT_BATCH
        stated = model.max_seq_length if 0 < (model.max_seq_length or 0) < _NO_LIMIT else None
        size = resolve_task_context_size(stated, options, name)
        self._tokens = PairTokens(
            model.tokenizer, context_size=size, special_tokens=_count_cross_encoder_special_tokens(model)
        )

    @classmethod
    def load(cls, name: str | Path, options: BackendOptions | None = None) -> CrossEncoder:
        """Load a model from a folder or from the hub; only safetensors weights are read.

        Args:
            name: A folder written by ``save_pretrained``, or an id on the hub.
            options: Options for loading and running the model; None for the defaults.
        """
        options = options or BackendOptions()
        for value, flag in ((options.adapter, "--adapter"), (options.device_map, "--device-map")):
            if value:
                raise UsageError(
                    f"{flag} is {value}, but the model is a cross-encoder",
                    expected="no adapter and no device map, but one device",
                )
        files = locate_files(name, options)
        model, identity = load_cross_encoder_model(files, options)
        backend = cls(model, identity=identity, options=options)
        backend.set_source(files, options)
        return backend

    @property
    def model(self) -> Any:
        """The model, a ``sentence_transformers.CrossEncoder``."""
        return self._model

    @property
    def identity(self) -> Mapping[str, str]:
        """Name, hash or revision, and dtype of the model."""
        return self._identity

    @property
    def tokens(self) -> TokenCounter:
        """The token counter. It counts the tokens of all pairs of a prompt; the context size limits each pair."""
        return self._tokens

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """Return the replies to all requests, in order, with one score per passage."""
        require_model_process()
        with self._lock:
            return [self._reply(request) for request in requests]

    def _reply(self, request: Request) -> Reply:
        started = time.perf_counter()
        if not isinstance(request.task, CrossEncoderTask):
            task = type(request.task).__name__
            return Reply(finish="error", error=f"A cross-encoder scores pairs; it does not support {task}")
        query, *passages = [message.content for message in request.prompt]
        lengths = self._tokens.pairs(request.prompt)
        if max(lengths) > self._tokens.context_size:
            error = f"A pair has {max(lengths)} tokens, but the context holds at most {self._tokens.context_size}"
            return Reply(tokens_in=sum(lengths), finish="error", error=error)
        scores = self._scores([(query, passage) for passage in passages])
        if scores is None:
            return Reply(
                tokens_in=sum(lengths), finish="error", error=f"Out of memory on one pair of {max(lengths)} tokens"
            )
        return Reply(scores=scores, tokens_in=sum(lengths), seconds=time.perf_counter() - started)

    def _scores(self, pairs: Sequence[tuple[str, str]]) -> tuple[float, ...] | None:
        """Return one logit per pair; None if a single pair does not fit into memory."""
        from rerank.lm.decoding import is_out_of_memory

        if not pairs:
            return ()
        size = self._pairs_per_batch
        while size:
            try:
                with quiet_transformers():
                    logits = self._model.predict(list(pairs), batch_size=size, show_progress_bar=False)
            except (RuntimeError, ValueError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise BackendError(f"The model failed on {len(pairs)} pairs: {error}") from error
                size //= 2
            else:
                # Shape (pairs,) for one label; (pairs, 2) for irrelevant and relevant, where the score is the log odds.
                rows = logits[:, 1] - logits[:, 0] if logits.ndim == 2 else logits
                return tuple(map(float, rows))
        return None


def load_cross_encoder_model(
    files: ModelFiles, options: BackendOptions, *, new_head: bool = False
) -> tuple[Any, dict[str, str]]:
    """Load a ``sentence_transformers.CrossEncoder``, and return it with its identity.

    Args:
        files: The files of the model.
        options: Options for loading the model.
        new_head: Whether to load encoders without a classification head as well, and add a randomly initialized head
            with one label, which has to be trained.
    """
    device = pick_device(options.device)
    dtype = pick_dtype(options.dtype, device)
    with quiet_transformers():
        _require_cross_encoder_backend()
    with quiet_transformers(), named_loading_errors(files, device):
        model = _open_cross_encoder(files, options, device=device, dtype=dtype, new_head=new_head)
    return model, {**files.identity, "dtype": dtype}


def _open_cross_encoder(
    files: ModelFiles, options: BackendOptions, *, device: str, dtype: str, new_head: bool = False
) -> Any:
    """Load the model; raise `UsageError` if it has no classification head, unless ``new_head`` adds one."""
    import sentence_transformers
    import torch
    import transformers

    classes: list[str] = []
    if not files.is_library_cross_encoder:
        code = {"trust_remote_code": options.trust_remote_code}
        classes = transformers.AutoConfig.from_pretrained(files.folder, **code).architectures or []
    has_head = files.is_library_cross_encoder or any(name.endswith(_ARCHITECTURE) for name in classes)
    is_generative = any(name.endswith(_GENERATIVE) for name in classes)
    if not has_head and (is_generative or not new_head):
        raise UsageError(
            f"Model {str(files)!r} is a {' or '.join(classes) or 'model of unknown class'}",
            expected=f"a cross-encoder, whose class ends with {_ARCHITECTURE}"
            + (", or an encoder such as BERT" if new_head else ""),
            remedy="Use a cross-encoder; to score documents one by one with a language model, use --method pointwise",
        )
    files.check_tokenizer()

    def unused(weight: str) -> bool:
        """Return whether a weight is of a new head, which is to be trained, or of a pooler that modules bypass."""
        return not has_head or (files.is_library_cross_encoder and is_of_bypassed_pooler(weight, files))

    with complete_weights(files, unused=unused):
        return sentence_transformers.CrossEncoder(
            str(files.folder),
            device=device,
            activation_fn=torch.nn.Identity(),
            model_kwargs={"dtype": dtype, "use_safetensors": True},
            trust_remote_code=options.trust_remote_code,
        )


def _require_cross_encoder_backend() -> None:
    """Check that sentence-transformers can be imported."""
    try:
        import sentence_transformers  # noqa: F401
    except ImportError as error:
        raise MissingPrerequisiteError(
            f"A cross-encoder needs sentence-transformers, and importing it failed: {error}",
            remedy="Run: pip install 'listrank[cross-encoder]'",
        ) from error


def _count_cross_encoder_special_tokens(model: Any) -> int:
    """Return the number of tokens that are added to a pair of texts: separators and the model's default instruction."""
    pair = ["a", "b"]
    instruction = (getattr(model, "prompts", None) or {}).get(getattr(model, "default_prompt_name", None))
    whole = len(model.preprocess([tuple(pair)], prompt=instruction)["input_ids"][0])
    return whole - sum(len(ids) for ids in model.tokenizer(pair, add_special_tokens=False)["input_ids"])

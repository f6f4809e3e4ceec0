"""The backend ``cross_encoder``: scores query-passage pairs with sentence-transformers."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast

from rerank.errors import UsageError, ensure
from rerank.lm import loading
from rerank.lm.encoders import require_sentence_transformers
from rerank.lm.memory import MOST_ROWS, choose_batch_tokens, plan_tokens, split_into_batches
from rerank.lm.model_files import ModelFiles, locate_model
from rerank.lm.model_process import LocalModel, check_scores, require_model_process
from rerank.lm.out_of_memory import BatchLimit, run_batches
from rerank.lm.tokenizers import HfTokens
from rerank.prompts.base import Prompt, TokenCounter
from rerank.registry import plugin_name
from rerank.tasks import BackendOptions, CrossEncoderTask, Reply, Request, resolve_task_context_size
from rerank.tasks.interruption import raise_if_interrupted

#: Default number of pairs per batch on a CPU. On a GPU, batches are limited by their tokens (`choose_batch_tokens`).
DEFAULT_BATCH = 32
#: Tokenizers without a length limit state a limit far above this number.
_NO_LIMIT = 10**9
_ARCHITECTURE = "ForSequenceClassification"
_LABELS = "a single label, or two labels (irrelevant, relevant)"
#: Ends of the class names of models that generate text.
_GENERATIVE = ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")


class PairTokens(HfTokens):
    """A token counter for pairs of query and passage with special tokens; the context size is that of one pair."""

    def __init__(self, tokenizer: Any, *, context_size: int, special_tokens: int) -> None:
        super().__init__(tokenizer, context_size=context_size)
        self._special_tokens = special_tokens

    def pairs(self, prompt: Prompt) -> list[int]:
        """Return the number of tokens of each pair of a prompt; a query alone is paired with an empty passage."""
        query, *passages = self.lengths([message.content for message in prompt])
        return [query + passage + self._special_tokens for passage in passages or [0]]

    def count(self, prompt: Prompt) -> int:
        return sum(self.pairs(prompt)) if prompt else 0


class PassageScorer(LocalModel):
    """Base class of local rerankers, which score the passages of a query, one request at a time.

    The first turn of a prompt is the query, and each further turn is a passage. Texts are not truncated: a request with
    a pair longer than the context gets a reply with ``finish="error"``. Subclasses set the token counter.
    """

    tasks = frozenset({CrossEncoderTask})
    batch_size = 1  # each request already contains a list of pairs
    #: It counts the tokens of all pairs of a prompt; the context size limits each pair.
    tokens: TokenCounter
    model: Any

    def __init__(self, model: Any, identity: Mapping[str, str]) -> None:
        require_model_process()
        self.model = model
        self.identity: dict[str, str] = dict(identity)
        self._limit = BatchLimit()
        self._lock = threading.Lock()

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        require_model_process()
        replies = []
        with self._lock:
            for request in requests:
                started = time.perf_counter()
                if isinstance(request.task, CrossEncoderTask):
                    reply = self.score(request.prompt)
                    check_scores(reply.scores)
                    replies.append(replace(reply, seconds=time.perf_counter() - started))
                else:
                    task, name = type(request.task).__name__, plugin_name(type(self))
                    error = f"The backend {name} scores pairs of query and passage; it does not support {task}"
                    replies.append(Reply(finish="error", error=error))
        return replies

    def score(self, prompt: Prompt) -> Reply:
        """Return the reply to one request, with one score per passage."""
        raise NotImplementedError


def check_single_device(options: BackendOptions, what: str) -> None:
    """Check that neither an adapter nor a device map is set for a model; ``what`` says what it is, for the message."""
    for value, flag in ((options.adapter, "--adapter"), (options.device_map, "--device-map")):
        ensure(not value, f"{flag} is {value}, but {what}", expected="no adapter and no device map, but one device")


B = TypeVar("B", bound=LocalModel)


def load_own_class(
    kind: Callable[..., B], name: str | Path, options: BackendOptions | None, load: Callable[..., tuple[Any, Any]]
) -> B:
    """Return the backend for a model whose class ``load`` builds, since transformers lacks it.

    ``load`` returns the model, and its tokenizer or processor; no code of the model's repository is run.
    """
    options = options or BackendOptions()
    check_single_device(options, f"the backend is {plugin_name(cast(type, kind))}")
    device = loading.pick_device(options.device)
    dtype = loading.pick_dtype(options.dtype, device)
    files = locate_model(name, options.revision or "")
    with loading.quiet_transformers(), loading.named_loading_errors(files, device):
        model, tokenizer = load(files, device=device, dtype=dtype, **loading.attention_arguments(options))
    loading.check_finite_weights(model, f"Model {str(files)!r}")
    with loading.named_loading_errors(files, options.device):
        backend = kind(model, tokenizer, identity=loading.make_identity(files, options, dtype), options=options)
    backend.set_source(files, options)
    return backend


class CrossEncoder(PassageScorer):
    """A backend that runs a cross-encoder of sentence-transformers (``model``, on its device).

    Scores are logits without the sigmoid that many models apply: it does not change the order, but its rounding
    makes very relevant passages tie. For a model with two labels (irrelevant, relevant), the score is the log odds
    of the second label, logit 2 - logit 1. Only the options batch size (in pairs) and context size have an effect.
    """

    takes_attention = True

    def __init__(self, model: Any, *, identity: Mapping[str, str], options: BackendOptions | None = None) -> None:
        super().__init__(model, identity)
        options = options or BackendOptions()
        name = identity.get("model", "")
        ensure(model.num_labels <= 2, f"Model {name!r} has {model.num_labels} labels", expected=_LABELS)
        config, dtype = model.config, identity.get("dtype", "float32")
        self.batch_tokens = choose_batch_tokens(options, str(model.device), lambda: plan_tokens(config, dtype))
        self.pairs_per_batch = options.batch_size or (DEFAULT_BATCH if self.batch_tokens is None else MOST_ROWS)
        stated = model.max_seq_length if 0 < (model.max_seq_length or 0) < _NO_LIMIT else None
        size = resolve_task_context_size(stated, options, name)
        self.has_pair_template = "message" in getattr(model[0], "modality_config", ())
        # The tokens that are added to a pair of texts: separators and the model's default instruction.
        instruction = (getattr(model, "prompts", None) or {}).get(getattr(model, "default_prompt_name", None))
        whole = len(model.preprocess([("a", "b")], prompt=instruction)["input_ids"][0])
        special = whole - sum(map(len, model.tokenizer(["a", "b"], add_special_tokens=False)["input_ids"]))
        self.tokens: PairTokens = PairTokens(model.tokenizer, context_size=size, special_tokens=special)

    @classmethod
    def load(cls, name: str | Path, options: BackendOptions | None = None) -> CrossEncoder:
        options = options or BackendOptions()
        check_single_device(options, "the model is a cross-encoder")
        files = loading.locate_files(name, options)
        model, identity = load_cross_encoder_model(files, options)
        with loading.named_loading_errors(files, options.device):
            backend = cls(model, identity=identity, options=options)
        backend.set_source(files, options)
        return backend

    def set_batching(self, batch_size: int, *, reuse: bool, tokens: int | None = None) -> None:
        if self.batch_tokens is not None:  # a run that recorded no tokens had smaller batches
            self.batch_tokens, self.pairs_per_batch = tokens, DEFAULT_BATCH if tokens is None else MOST_ROWS

    def score(self, prompt: Prompt) -> Reply:
        """Return the reply to one request; if memory runs out, the batches of pairs are halved."""
        query, *passages = [message.content for message in prompt]
        lengths = self.tokens.pairs(prompt)
        if max(lengths) > self.tokens.context_size:
            error = f"A pair has {max(lengths)} tokens, but the context holds at most {self.tokens.context_size}"
            return Reply(tokens_in=sum(lengths), finish="error", error=error)
        # The batches that sentence-transformers would form.
        sizes = [len(passage) for passage in passages] if self.batch_tokens is None else lengths
        order = sorted(range(len(passages)), key=lambda index: -sizes[index])
        scores = [0.0] * len(passages)
        rows = self.pairs_per_batch or DEFAULT_BATCH
        for piece in split_into_batches([sizes[index] for index in order], rows=rows, tokens=self.batch_tokens):
            for batch, logits in run_batches(
                order[piece],
                lambda batch: self._predict([(query, passages[index]) for index in batch]),
                length=lengths.__getitem__,
                limit=self._limit,
                what="pairs",
            ):
                if logits is None:
                    error = f"Out of memory on one pair of {lengths[batch[0]]} tokens: {self._limit.reason}"
                    return Reply(tokens_in=sum(lengths), finish="error", error=error)
                # (pairs, 1) for one label; (pairs, 2) for irrelevant and relevant, where the score is the log odds.
                table = logits.reshape(len(batch), -1)
                values = table[:, 1] - table[:, 0] if table.shape[1] == 2 else table[:, 0]
                for index, value in zip(batch, values.tolist(), strict=True):
                    scores[index] = value
        return Reply(scores=tuple(scores), tokens_in=sum(lengths))

    def _predict(self, pairs: list[tuple[str, str]]) -> Any:
        """Return the logits of a batch of pairs. Deadlines and cancellations are noticed before each batch."""
        raise_if_interrupted()
        with loading.quiet_transformers():
            return self.model.predict(pairs, batch_size=len(pairs), show_progress_bar=False)


def load_cross_encoder_model(
    files: ModelFiles, options: BackendOptions, *, new_head: bool = False
) -> tuple[Any, dict[str, str]]:
    """Load a ``sentence_transformers.CrossEncoder``, and return it with its identity.

    With ``new_head``, encoders without a classification head get a random one with one label, which has to be trained.
    """
    device = loading.pick_device(options.device)
    dtype = loading.pick_dtype(options.dtype, device)
    sentence_transformers = require_sentence_transformers("A cross-encoder", extra="cross-encoder")
    torch, transformers = loading.require_torch()
    library = files.is_library_cross_encoder
    with loading.quiet_transformers(), loading.named_loading_errors(files, device):
        classes: list[str] = []
        if library:
            files.check_modules(code=options.trust_remote_code)
        else:
            code = {"trust_remote_code": options.trust_remote_code}
            classes = transformers.AutoConfig.from_pretrained(files.folder, **code).architectures or []
        is_generative = any(name.endswith(_GENERATIVE) for name in classes)
        has_head = library or any(name.endswith(_ARCHITECTURE) for name in classes)
        if not new_head:  # the loader itself finds out whether weights of a class that is not stated are missing
            has_head = has_head or not classes or classes[0].endswith("ForCausalLM")
        if not has_head and (is_generative or not new_head):
            raise UsageError(
                f"Model {str(files)!r} is a {' or '.join(classes) or 'model of unknown class'}",
                expected=f"a cross-encoder, whose class ends with {_ARCHITECTURE}"
                + (", or an encoder such as BERT" if new_head else ""),
                remedy="Use a cross-encoder; to score documents one by one with a language model, use "
                "--method pointwise",
            )
        if is_generative and not library and not new_head:
            warnings.warn(
                f"{files} is a language model: sentence-transformers compares its logits of yes and no after query and "
                "passage, which means something only if the model was trained for it; else use --method pointwise",
                stacklevel=2,
            )
        files.check_tokenizer()

        def unused(weight: str) -> bool:
            """Return whether a weight is of a new head, which is to be trained, or of a pooler that modules bypass."""
            return not has_head or (library and loading.is_of_bypassed_pooler(weight, files))

        with loading.complete_weights(files, unused=unused):
            model = sentence_transformers.CrossEncoder(
                str(files.folder),
                device=device,
                activation_fn=torch.nn.Identity(),
                model_kwargs={"dtype": dtype, "use_safetensors": True} | loading.attention_arguments(options),
                trust_remote_code=options.trust_remote_code,
            )
        loading.check_finite_weights(model, f"Model {str(files)!r}")
        _prepare_pairs(model)
        if not new_head:
            _check_heads(model, files)
    return model, loading.make_identity(files, options, dtype)


def _prepare_pairs(model: Any) -> None:
    """Read pairs as pairs if the chat template has no place for them, and pad if there is no token for padding.

    Both are left over in classifiers that were made of language models.
    """
    modalities = getattr(model[0], "modality_config", {})
    if {"message", "text"} <= modalities.keys() and model[0].input_formatter.pair_roles_failure({}):
        del modalities["message"]
    tokenizer = model.tokenizer
    if tokenizer.pad_token is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token
    if getattr(model.config, "pad_token_id", None) is None:
        model.config.pad_token_id = tokenizer.pad_token_id


def _check_heads(model: Any, files: ModelFiles) -> None:
    """Check that the modules of a model compute one or two scores per pair, which only a forward pass can tell."""
    try:
        labels = model.predict([("a", "b")], show_progress_bar=False, convert_to_tensor=True)[0].numel()
    except KeyError as error:
        raise UsageError(
            f"Model {str(files)!r} has no module that computes scores: its output lacks {error}",
            expected="a head, such as a dense layer whose output is named scores",
        ) from error
    ensure(labels <= 2, f"Model {str(files)!r} has {labels} labels", expected=_LABELS)
    marks = [getattr(model[-1], f"{answer}_token_id", None) for answer in ("true", "false")]
    ensure(
        marks[0] is None or marks[0] != marks[1],
        f"The tokenizer of {str(files)!r} lacks the tokens yes and no, whose logits are compared",
        expected="a language model whose tokenizer has both",
        remedy="Use --method pointwise, whose prompt names other words",
    )

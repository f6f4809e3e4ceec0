"""Cross-encoders through sentence-transformers: a score for every pair of query and passage, nothing written.

The first turn of a request's prompt is the query, each further turn a passage. Knows no judge and no window.
Sentence-transformers, torch and transformers are imported when a model is loaded, not when this module is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from rerank.errors import BackendError, MissingPrerequisiteError, UsageError
from rerank.io.model_hash import folder_hash
from rerank.lm.loading import named_errors, origin_of, pick_device, pick_dtype, quiet
from rerank.lm.tokenizers import HfTokens
from rerank.prompts.base import Prompt, TokenCounter
from rerank.tasks import BackendOptions, CrossEncoderTask, Reply, Request, context_of

#: Pairs scored together where nobody says how many.
DEFAULT_BATCH = 32
#: What tokenizers say when they know of no limit is far above this.
_NO_LIMIT = 10**9
_KIND = "ForSequenceClassification"


class PairTokens(HfTokens):
    """How a cross-encoder counts: every passage is read together with the query, between the marks of a pair.

    Args:
        tokenizer: The tokenizer.
        context_size: Tokens of one pair.
        marks: Tokens of a pair beyond its two texts.
    """

    def __init__(self, tokenizer: Any, *, context_size: int, marks: int) -> None:
        """Keep the numbers."""
        super().__init__(tokenizer, context_size=context_size)
        self._marks = marks

    def pairs(self, prompt: Prompt) -> list[int]:
        """Tokens of each pair of a prompt; a lone first turn is a pair with an empty passage."""
        query, *passages = self.lengths([message.content for message in prompt])
        return [query + passage + self._marks for passage in passages or [0]]

    def count(self, prompt: Prompt) -> int:
        """Tokens of all pairs together."""
        return sum(self.pairs(prompt)) if prompt else 0


class CrossEncoder:
    """A cross-encoder of sentence-transformers as a backend.

    Scores are logits, without the sigmoid that many models add: it changes no order, and makes equal what is very
    relevant. A model with two labels (irrelevant, relevant) is scored by the log odds of the second, logit 2 - logit 1.

    No text is cut here: a request with a pair that is longer than the context is a reply with ``finish="error"``.

    Args:
        model: ``sentence_transformers.CrossEncoder``, on its device.
        identity: What tells this model from others.
        options: Batch (pairs scored together) and context size are used; None takes the defaults.

    Raises:
        UsageError: The model has more than two labels, or its context is not stated by it and not given.
    """

    answers: ClassVar[frozenset[type[Any]]] = frozenset({CrossEncoderTask})
    costs_money = False
    #: A request is a whole list of pairs already.
    batch_size = 1

    def __init__(self, model: Any, *, identity: Mapping[str, str], options: BackendOptions | None = None) -> None:
        """Wrap what is loaded; see `load`."""
        options = options or BackendOptions()
        name = identity.get("model", "")
        if model.num_labels > 2:
            raise UsageError(
                f"Model {name!r} has {model.num_labels} labels",
                expected="one that scores relevance: a single label, or irrelevant and relevant",
            )
        self._model = model
        self._identity = dict(identity)
        self._turn = threading.Lock()
        self._pairs = options.batch_size or DEFAULT_BATCH
        stated = model.max_seq_length if 0 < (model.max_seq_length or 0) < _NO_LIMIT else None
        size = context_of(stated, options, name)
        self._tokens = PairTokens(model.tokenizer, context_size=size, marks=_marks(model))

    @classmethod
    def load(cls, name: str | Path, options: BackendOptions | None = None) -> CrossEncoder:
        """Load a model from a folder or from the hub; weights as safetensors only.

        Args:
            name: A folder that ``save_pretrained`` wrote, or an id on the hub.
            options: How to load and run it.

        Raises:
            MissingPrerequisiteError: Sentence-transformers is not installed.
            MissingResourceError: There is no such model.
            UsageError: It is no cross-encoder, or an option does not fit this machine or kind of model.
            DataError: Its weights are damaged.
        """
        options = options or BackendOptions()
        for given, flag in ((options.adapter, "--adapter"), (options.device_map, "--device-map")):
            if given:
                raise UsageError(
                    f"{flag} {given} with a cross-encoder", expected="neither: it is loaded whole, onto one device"
                )
        device = pick_device(options.device)
        dtype = pick_dtype(options.dtype, device)
        with quiet():
            _require()
        with quiet(), named_errors(name, device):
            model = _open(name, options, device=device, dtype=dtype)
        folder = Path(name) if Path(name).is_dir() else None
        commit = str(getattr(model.config, "_commit_hash", None) or options.revision)
        origin = {"weights": folder_hash(folder)} if folder else {"revision": commit}
        identity = {"model": folder.name if folder else str(name), **origin, "dtype": dtype}
        return cls(model, identity=identity, options=options)

    @property
    def identity(self) -> Mapping[str, str]:
        """Name, hash or revision, dtype."""
        return self._identity

    @property
    def tokens(self) -> TokenCounter:
        """How the model counts: a prompt's tokens are those of all its pairs, its context is that of one pair."""
        return self._tokens

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """Score all requests, in order.

        Raises:
            BackendError: The model fails for another reason than memory.
        """
        with self._turn:
            return [self._answer(request) for request in requests]

    def _answer(self, request: Request) -> Reply:
        started = time.perf_counter()
        if not isinstance(request.task, CrossEncoderTask):
            task = type(request.task).__name__.lower()
            return Reply(finish="error", error=f"A cross-encoder scores pairs, and cannot {task}")
        query, *passages = [message.content for message in request.prompt]
        lengths = self._tokens.pairs(request.prompt)
        if max(lengths) > self._tokens.context_size:
            error = f"A pair has {max(lengths)} tokens, and the context holds {self._tokens.context_size}"
            return Reply(tokens_in=sum(lengths), finish="error", error=error)
        scores = self._scores([(query, passage) for passage in passages])
        if scores is None:
            return Reply(tokens_in=sum(lengths), finish="error", error=f"Out of memory on one pair of {max(lengths)}")
        return Reply(scores=scores, tokens_in=sum(lengths), seconds=time.perf_counter() - started)

    def _scores(self, pairs: Sequence[tuple[str, str]]) -> tuple[float, ...] | None:
        """A logit a pair; None if not even one pair at a time fits into memory."""
        from rerank.lm.decoding import is_out_of_memory

        if not pairs:
            return ()
        size = self._pairs
        while size:
            try:
                with quiet():
                    logits = self._model.predict(list(pairs), batch_size=size, show_progress_bar=False)
            except (RuntimeError, ValueError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise BackendError(f"The model failed on {len(pairs)} pairs: {error}") from error
                size //= 2
            else:
                rows = logits[:, 1] - logits[:, 0] if logits.ndim == 2 else logits
                return tuple(map(float, rows))
        return None


def _open(name: str | Path, options: BackendOptions, *, device: str, dtype: str) -> Any:
    """The model of sentence-transformers. Anything but a classifier would be given a head of random numbers."""
    import sentence_transformers
    import torch
    import transformers

    origin = origin_of(name, options)
    kinds = transformers.AutoConfig.from_pretrained(name, **origin).architectures or []
    if not any(kind.endswith(_KIND) for kind in kinds):
        raise UsageError(
            f"Model {str(name)!r} is a {' or '.join(kinds) or 'model of no stated class'}",
            expected=f"a cross-encoder, of a class ...{_KIND}",
            remedy="Name one with --model; language models score documents one by one with --method pointwise",
        )
    return sentence_transformers.CrossEncoder(
        str(name),
        device=device,
        activation_fn=torch.nn.Identity(),
        model_kwargs={"dtype": dtype, "use_safetensors": True},
        **origin,
    )


def _require() -> None:
    """Check that sentence-transformers is there.

    Raises:
        MissingPrerequisiteError: It does not import.
    """
    try:
        import sentence_transformers  # noqa: F401
    except ImportError as error:
        raise MissingPrerequisiteError(
            f"A cross-encoder needs sentence-transformers, and it does not import: {error}",
            remedy="Run: pip install 'listrank[cross-encoder]'",
        ) from error


def _marks(model: Any) -> int:
    """Tokens of a pair beyond its two texts: separators, and an instruction that the model was saved with."""
    pair = ["a", "b"]
    instruction = (getattr(model, "prompts", None) or {}).get(getattr(model, "default_prompt_name", None))
    whole = len(model.preprocess([tuple(pair)], prompt=instruction)["input_ids"][0])
    return whole - sum(len(ids) for ids in model.tokenizer(pair, add_special_tokens=False)["input_ids"])

"""Loading and running encoders of sentence-transformers: dense, sparse and multi-vector models."""

import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

from rerank.errors import BackendError, UsageError, error_repr
from rerank.installation import importing
from rerank.io.model_base import MODULES, hash_encoder_folder
from rerank.io.settings_files import try_read_json_object
from rerank.lm import loading
from rerank.lm.model_files import ModelFiles
from rerank.lm.model_process import require_model_process
from rerank.lm.out_of_memory import BatchLimit, run_batches
from rerank.tasks.interruption import raise_if_interrupted

_log = logging.getLogger(__name__)

T = TypeVar("T")
Item = TypeVar("Item")

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
    with loading.quiet_transformers(), importing(f"{what} needs sentence-transformers", extra):
        import sentence_transformers
    return sentence_transformers


def load_model(kind: str, files: ModelFiles, options: LoadingOptions) -> tuple[Any, dict[str, str]]:
    """Load a model with one of the classes of sentence-transformers, and return it with its identity."""
    import sentence_transformers

    files.check_tokenizer()
    files.check_module_files(code=options.trust_remote_code)
    saved = try_read_json_object(files.folder / "config_sentence_transformers.json").get("model_type", kind)
    if saved != kind and kind == "SentenceTransformer":  # the library would drop the modules after the transformer
        raise UsageError(
            f"Model {str(files)!r} was saved as {error_repr(saved)}",
            expected="an embedding model of sentence-transformers' class SentenceTransformer",
            remedy="Use a SPLADE model as sparse:NAME, and a cross-encoder or multi-vector model with --model",
        )
    device = loading.pick_device(options.device)
    dtype = loading.pick_dtype(options.dtype, device)
    with (
        loading.quiet_transformers(),
        loading.named_loading_errors(files, device),
        loading.complete_weights(files, unused=partial(loading.is_of_bypassed_pooler, files=files)),
    ):
        model = getattr(sentence_transformers, kind)(
            str(files.folder),
            device=device,
            # safetensors only: loading pickled weights can run code
            model_kwargs={"dtype": dtype, "use_safetensors": True},
            trust_remote_code=options.trust_remote_code,
        ).eval()
    loading.check_finite_weights(model, f"Model {str(files)!r}")
    if kind == "SentenceTransformer" and not (files.folder / MODULES).is_file():
        made = " and ".join(" ".join(str(module).split()) for module in list(model)[1:])
        _log.warning("%s has no %s, which says how a text's vector is computed: %s is used", files, MODULES, made)
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


def encode_in_batch(encode: Callable[[list[str]], T], texts: Sequence[str], limit: BatchLimit) -> list[T]:
    """Encode texts in one batch, or in smaller batches if memory runs out, and return the result of each batch.

    Lone surrogates are replaced by U+FFFD.
    """
    clean = [_SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text) for text in texts]
    return encode_batches(encode, clean, limit, what="texts", length=len)


def encode_batches(
    encode: Callable[[list[Item]], T],
    items: Sequence[Item],
    limit: BatchLimit,
    *,
    what: str,
    length: Callable[[Item], int],
) -> list[T]:
    """Encode items like `encode_in_batch`; a `BackendError` with the cause `MemoryError` says that one does not fit."""
    require_model_process()
    results = []
    with loading.quiet_transformers():
        for _, found in run_batches(items, lambda batch: encode(list(batch)), length=length, limit=limit, what=what):
            if found is None:
                message = f"Out of memory on one of {len(items)} {what} alone: {limit.reason}"
                raise BackendError(message) from MemoryError(limit.reason)
            results.append(found)
    return results


class MaxSimScorer:
    """A MultiVectorEncoder of sentence-transformers with its prompts, which scores texts by MaxSim.

    The score of a text is the sum over the query's tokens of the largest inner product with a token of the text,
    s(q, d) = sum_i max_j q_i . d_j (Khattab and Zaharia, SIGIR 2020, arXiv 2004.12832, equation 3). For models that
    were trained with the mean over the query's tokens instead of the sum, the score is this mean.
    """

    def __init__(
        self, model: Any, *, batch_size: int, query_prompt: str = "auto", passage_prompt: str = "auto"
    ) -> None:
        self.model = model
        self._batch_size, self._limit = batch_size, BatchLimit()
        self.query_prompt = resolve_prompt(model, query_prompt, "query")
        self.passage_prompt = resolve_prompt(model, passage_prompt, "document")

    def score(self, query: str, texts: Sequence[str]) -> list[float]:
        """Return the score of each text for a query.

        Texts that are longer than the model's limit are truncated by sentence-transformers. Equal texts are scored only
        once and so have equal scores, although the other texts of a batch affect the last digits of a score. A text of
        which the model keeps no token receives the lowest score of the other texts, or 0 if there are none.
        """
        # Longest texts first: batches need little padding, and if memory runs out, it does so at the start.
        distinct = sorted(set(texts), key=lambda text: (-len(text), text))
        vectors = self._encode("query", [query], self.query_prompt)
        scores: dict[str, float] = {}
        for start in range(0, len(distinct), self._batch_size):
            raise_if_interrupted()
            batch = distinct[start : start + self._batch_size]
            rows = self._encode("document", batch, self.passage_prompt)
            kept = [(text, row) for text, row in zip(batch, rows, strict=True) if len(row)]
            if kept:
                values = self.model.similarity(vectors, [row for _, row in kept])[0].tolist()
                scores |= dict(zip((text for text, _ in kept), values, strict=True))
        if not all(map(math.isfinite, scores.values())):
            raise BackendError("The model returned a score that is not finite", remedy="Try dtype=float32")
        lowest = min(scores.values(), default=0.0)
        return [scores.get(text, lowest) for text in texts]

    def _encode(self, side: str, texts: Sequence[str], prompt: str) -> list[Any]:
        """Return one tensor of shape (tokens, dimensions) per text."""
        encode = getattr(self.model, f"encode_{side}")

        def run(batch: list[str]) -> list[Any]:
            return list(encode(batch, prompt=prompt, batch_size=len(batch), show_progress_bar=False))

        return [row for rows in encode_in_batch(run, texts, self._limit) for row in rows]


def load_multi_vector_model(files: ModelFiles, options: LoadingOptions) -> tuple[Any, dict[str, str]]:
    """Load a MultiVectorEncoder, and return it with its identity, which includes the folders of all its modules."""
    model, identity = load_model("MultiVectorEncoder", files, options)
    if not files.is_multi_vector:
        raise UsageError(
            f"{str(files)!r} is not a multi-vector model: the library would add a projection with random weights",
            expected="a model of sentence-transformers' class MultiVectorEncoder, such as a ColBERT model",
            remedy="For an embedding model, use --first-stage dense:MODEL",
        )
    return model, identity

"""Text -> embeddings with a sentence-transformers model, and what tells one model from another.

What models of any kind share is here too: how they are found, loaded, asked and told apart. Torch, transformers and
sentence-transformers are imported when a model is loaded. Knows no index and no collection.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from rerank.errors import BackendError, MissingPrerequisiteError, UsageError
from rerank.io.model_hash import folder_hash
from rerank.lm.loading import named_errors, origin_of, pick_device, pick_dtype, quiet
from rerank.models import MODELS, resolve
from rerank.tasks import BackendOptions

if TYPE_CHECKING:
    from rerank.retrieval.dense import Dense

Floats = NDArray[np.float32]
T = TypeVar("T")

#: Half a surrogate pair, which collections may hold and tokenizers do not take.
_LONE = re.compile("[\ud800-\udfff]")
_MODULES, _ROUTES = "modules.json", "router_config.json"
#: The names under which models keep their prompts, in the order in which sentence-transformers looks.
_PROMPT_NAMES = {"query": ("query",), "document": ("document", "passage", "corpus")}


class ModelOptions(Protocol):
    """What a model is loaded by; see `rerank.retrieval.dense.Dense`."""

    @property
    def model(self) -> str:
        """Name, folder or hub id."""

    @property
    def dtype(self) -> str:
        """Number format, or ``auto``."""

    @property
    def device(self) -> str:
        """Device, or ``auto``."""

    @property
    def revision(self) -> str:
        """Branch, tag or commit on the hub; may be empty."""

    @property
    def trust_remote_code(self) -> bool:
        """Whether a model's own code is run."""


class Encoder(Protocol):
    """Something that embeds; a fake in tests."""

    @property
    def identity(self) -> Mapping[str, str]:
        """What the embeddings of passages depend on, apart from the passages."""

    @property
    def query_prompt(self) -> str:
        """What is set before every query."""

    @property
    def size(self) -> int:
        """Numbers in an embedding."""

    def queries(self, texts: Sequence[str]) -> Floats:
        """Embed queries, each for itself: shape (texts, size), float32."""

    def passages(self, texts: Sequence[str]) -> Floats:
        """Embed passages together: shape (texts, size), float32."""


class SentenceEncoder:
    """A sentence-transformers model with its prompts.

    Vectors are cut to ``dim`` first and normalised then, so that a cut vector has length 1 again.
    """

    def __init__(self, model: Any, options: Dense, *, identity: Mapping[str, str]) -> None:
        """Wrap what is loaded; see `load_encoder`.

        Raises:
            UsageError: The model has fewer dimensions than are asked for.
        """
        self._model = model
        self._normalise = options.normalise
        self._dim: int | None = None
        self.query_prompt = prompt_of(model, options.query_prompt, "query")
        self._passage_prompt = prompt_of(model, options.passage_prompt, "document")
        whole = self.passages(["a"]).shape[1]
        if options.dim > whole:
            raise UsageError(
                f"Dense retrieval with dim={options.dim}", expected=f"at most {whole}, which is what the model gives"
            )
        self._dim = self.size = options.dim or whole
        self.identity = {
            **identity,
            "passage_prompt": self._passage_prompt,
            "normalise": str(self._normalise),
            "dim": str(self.size),
        }

    def queries(self, texts: Sequence[str]) -> Floats:
        """Embed queries one by one: what stands beside a text in a batch changes the last digits of its vector.

        Raises:
            BackendError: The model fails, or gives numbers that are not finite.
        """
        rows = [self._encode(self._model.encode_query, [text], self.query_prompt) for text in texts]
        return np.concatenate(rows) if rows else np.empty((0, self.size), dtype=np.float32)

    def passages(self, texts: Sequence[str]) -> Floats:
        """Embed passages in one batch, in smaller ones where memory does not hold it.

        Raises:
            BackendError: The model fails, or gives numbers that are not finite.
        """
        return self._encode(self._model.encode_document, texts, self._passage_prompt)

    def _encode(self, encode: Callable[..., Any], texts: Sequence[str], prompt: str) -> Floats:
        def embed(given: list[str], size: int) -> Floats:
            rows = encode(given, prompt=prompt, batch_size=size, show_progress_bar=False)
            return np.asarray(rows, dtype=np.float32)

        return self._finished(encoded(embed, texts))

    def _finished(self, rows: Floats) -> Floats:
        rows = rows[:, : self._dim]
        if not np.isfinite(rows).all():
            raise BackendError("The model gave an embedding that is not finite", remedy="Try dtype=float32")
        if self._normalise:
            lengths = np.linalg.norm(rows, axis=1, keepdims=True)
            rows = rows / np.maximum(lengths, np.finfo(np.float32).tiny)
        return np.ascontiguousarray(rows, dtype=np.float32)


def encoded(encode: Callable[[list[str], int], T], texts: Sequence[str]) -> T:
    """Encode texts in one batch, in smaller ones where memory does not hold it.

    Args:
        encode: Texts and how many to take at a time -> their rows.
        texts: The texts.

    Raises:
        BackendError: The model fails.
    """
    given = [_LONE.sub("\N{REPLACEMENT CHARACTER}", text) for text in texts]
    return halving(lambda size: encode(given, size), len(given), "texts")


def halving(run: Callable[[int], T], count: int, what: str) -> T:
    """Run a model over ``count`` things together, over fewer at a time where memory does not hold them.

    Args:
        run: How many to take at a time -> the result.
        count: How many there are.
        what: What they are, for messages.

    Raises:
        BackendError: The model fails.
    """
    from rerank.lm.decoding import is_out_of_memory

    size = count
    while True:
        try:
            with quiet():
                return run(size)
        except (RuntimeError, ValueError, MemoryError) as error:
            if size <= 1 or not is_out_of_memory(error):
                raise BackendError(f"The model failed on {count} {what}: {error}") from error
            size //= 2


def load_encoder(options: Dense) -> SentenceEncoder:
    """Load the model that the options name, from a folder or the hub.

    Raises:
        MissingPrerequisiteError: The extra ``dense`` is not installed.
        MissingResourceError: There is no such model, or it was not pulled.
        UsageError: It is a language model, or an option does not fit this machine or model.
        UnknownNameError: It is no known name, folder or hub id.
        DataError: Its weights are damaged, or pickled.
    """
    name = locate(options.model)
    require()
    model, identity = load_model("SentenceTransformer", name, options)
    return SentenceEncoder(model, options, identity=identity)


def load_model(kind: str, name: Path | str, options: ModelOptions) -> tuple[Any, dict[str, str]]:
    """Load a model of one of sentence-transformers' classes; return it with what tells it from others.

    Args:
        kind: The class.
        name: What `locate` returned.
        options: How.

    Raises:
        MissingResourceError: There is no such model, or it was not pulled.
        UsageError: An option does not fit this machine.
        DataError: Its weights are damaged, or pickled.
    """
    import sentence_transformers

    given = BackendOptions(revision=options.revision, trust_remote_code=options.trust_remote_code)
    device = pick_device(options.device)
    dtype = pick_dtype(options.dtype, device)
    with quiet(), named_errors(name, device):
        model = getattr(sentence_transformers, kind)(
            str(name),
            device=device,
            model_kwargs={"dtype": dtype, "use_safetensors": True},
            **origin_of(name, given),
        ).eval()
    return model, {**_origin(name, model, options), "dtype": dtype}


def require(*, stage: str = "dense", faiss: bool = True, sentences: bool = True) -> None:
    """Check that everything is there before hours are spent.

    Args:
        stage: The first stage, which is also the name of its extra.
        faiss: Whether it needs faiss.
        sentences: Whether it needs sentence-transformers.

    Raises:
        MissingPrerequisiteError: A part of the extra does not import.
    """
    names = ["torch", "transformers", *(["faiss"] if faiss else []), *(["sentence_transformers"] if sentences else [])]
    try:
        for name in names[:2]:
            importlib.import_module(name)
        with quiet():
            for name in names[2:]:
                importlib.import_module(name)
    except ImportError as error:
        raise MissingPrerequisiteError(
            f"The first stage {stage!r} needs {', '.join(names)}, and they do not all import: {error}",
            remedy=f"Run: pip install 'listrank[{stage}]'",
        ) from error


def model_hash(folder: Path) -> str:
    """Hex SHA-256 of a model's folder and the sub-folders that belong to it (pooling, layers, a router's routes)."""
    names = {"", *_listed(folder / _MODULES, lambda modules: [module.get("path", "") for module in modules])}
    for name in sorted(names):
        parts = _listed(folder / name / _ROUTES, lambda routes: routes["types"])
        names |= {f"{name}/{part}".strip("/") for part in parts}
    lines = [f"{name}\0{folder_hash(folder / name)}\n" for name in sorted(names) if (folder / name).is_dir()]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _listed(file: Path, names: Callable[[Any], Iterable[Any]]) -> list[str]:
    return [str(name) for name in names(json.loads(file.read_text("utf-8")))] if file.is_file() else []


def locate(name: str, *, kind: str = "embedding") -> Path | str:
    """The folder or hub id. A folder with ``modules.json`` may keep its weights in sub-folders.

    Raises:
        UsageError: It is a known model of another kind.
        MissingResourceError: There is no such folder, or the model was not pulled.
        UnknownNameError: It is no known name, folder or hub id.
    """
    if name in MODELS and (found := MODELS[name].kind) != kind:
        known = next((card.name for card in MODELS.values() if card.kind == kind), "")
        raise UsageError(
            f"{name!r} is {'a language' if found != 'embedding' else 'an embedding'} model",
            expected=f"{'an' if kind[0] in 'aeiou' else 'a'} {kind} model" + (f", such as {known}" if known else ""),
        )
    folder = Path(name).expanduser()
    return folder if name not in MODELS and (folder / _MODULES).is_file() else resolve(name)


def _origin(name: Path | str, model: Any, options: ModelOptions) -> dict[str, str]:
    """Hash of a folder, wherever it lies; name and commit of a model on the hub."""
    if isinstance(name, Path):
        return {"weights": model_hash(name)}
    config = getattr(getattr(model[0], "auto_model", None), "config", None)
    return {"model": name, "revision": str(getattr(config, "_commit_hash", None) or options.revision)}


def prompt_of(model: Any, asked: str, kind: str) -> str:
    """The text before queries or documents: as asked, or for ``auto`` what the model was saved with."""
    if asked != "auto":
        return "" if asked == "none" else asked
    prompts: Mapping[str, str] = getattr(model, "prompts", None) or {}
    names = (*_PROMPT_NAMES[kind], str(getattr(model, "default_prompt_name", "")))
    return next((prompts[name] for name in names if name in prompts), "")

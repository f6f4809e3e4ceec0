"""An encoder of pictures and texts in one vector space, with a model of transformers such as CLIP or SigLIP.

Torch and transformers are imported when a model is loaded.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rerank.errors import BackendError, UsageError
from rerank.indexing.text_encoder import (
    Floats,
    ModelOptions,
    encode_texts_in_batch,
    encode_vectors_halving_batches,
    encoder_identity,
    locate_encoder,
    require_encoder_packages,
)
from rerank.io.pictures import UNREADABLE, open_picture, require_pillow
from rerank.lm.loading import complete_weights, named_loading_errors, pick_device, pick_dtype, quiet_transformers


class ImageEncoderOptions(ModelOptions, Protocol):
    """Protocol of the options that `load_image_encoder` reads."""

    @property
    def query_prompt(self) -> str:
        """Text put before every query."""


class ImageEncoder:
    """An encoder of queries and pictures: a model with a text tower and an image tower, and its processor.

    Vectors have length 1, so that inner products are cosines.

    Args:
        model: The model, in evaluation mode on its device.
        processor: The processor of the model.
        identity: Keys and values that identify the model, such as a hash of its weights.
        query_prompt: Text put before every query.

    Attributes:
        identity: Everything that picture embeddings depend on, apart from the pictures.
        query_prompt: Text put before every query.
        size: Dimension of the embeddings.
    """

    def __init__(self, model: Any, processor: Any, *, identity: Mapping[str, str], query_prompt: str = "") -> None:
        """Wrap a model that is already loaded, for example by `load_image_encoder`."""
        parts = ((model, "get_text_features"), (model, "get_image_features"), (processor, "image_processor"))
        if lacking := [name for owner, name in parts if not hasattr(owner, name)]:
            raise UsageError(
                f"A model of the class {type(model).__name__} has no {' and no '.join(lacking)}",
                expected="a model that embeds texts and pictures, such as CLIP or SigLIP, with its processor",
            )
        self._model, self._processor = model, processor
        self.query_prompt = query_prompt
        self._max_tokens = _max_tokens_of_image_retriever(model)
        # Pillow and torchvision resize slightly differently, and transformers uses the one that is installed.
        self.identity = {**identity, "processor": type(processor.image_processor).__name__}
        self.size = int(self._texts(["a"]).shape[1])

    def queries(self, texts: Sequence[str]) -> Floats:
        """Embed queries one at a time; queries longer than the model's context are truncated with a warning."""
        prompted = [self.query_prompt + text for text in texts]
        with quiet_transformers():
            lengths = [len(self._processor.tokenizer(text)["input_ids"]) for text in prompted]
        if cut := sum(length > self._max_tokens for length in lengths):
            warnings.warn(
                f"{cut} of {len(texts)} queries are truncated to the model's context of {self._max_tokens} tokens",
                stacklevel=2,
            )
        rows = [encode_texts_in_batch(lambda batch, _: self._texts(batch), [text]) for text in prompted]
        return np.concatenate(rows) if rows else np.empty((0, self.size), dtype=np.float32)

    def passages(self, texts: Sequence[str]) -> Floats:
        """Embed the pictures at these paths in one batch; the row of an unreadable picture is all zeros."""
        readable = []
        for index, path in enumerate(texts):
            try:
                readable.append((index, open_picture(path)))
            except UNREADABLE:  # the retriever warns about rows of zeros, with this error
                continue
        rows = np.zeros((len(texts), self.size), dtype=np.float32)
        if readable:
            pictures = [picture for _, picture in readable]
            embeddings = encode_vectors_halving_batches(
                lambda size: self._pictures(pictures, size), len(pictures), "pictures"
            )
            rows[[index for index, _ in readable]] = embeddings
        return rows

    def _texts(self, texts: Sequence[str]) -> Floats:
        """Return the embeddings of texts, of shape (texts, size)."""
        # SigLIP was trained on texts padded to its full context, without an attention mask.
        padding = "max_length" if self._model.config.model_type.startswith("siglip") else True
        inputs = self._processor.tokenizer(
            list(texts), padding=padding, truncation=True, max_length=self._max_tokens, return_tensors="pt"
        )
        return self._features(self._model.get_text_features, inputs)

    def _pictures(self, pictures: Sequence[Any], size: int) -> Floats:
        parts = []
        for start in range(0, len(pictures), size):
            inputs = self._processor.image_processor(images=list(pictures[start : start + size]), return_tensors="pt")
            parts.append(self._features(self._model.get_image_features, inputs))
        return np.concatenate(parts)

    def _features(self, embed: Callable[..., Any], inputs: Any) -> Floats:
        import torch

        with torch.inference_mode():
            moved = {name: self._to_model(value) for name, value in inputs.items()}
            out = embed(**moved)
        rows = getattr(out, "pooler_output", out).float().cpu().numpy()
        if not np.isfinite(rows).all():
            raise BackendError("The model returned an embedding that is not finite", remedy="Try dtype=float32")
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        return np.ascontiguousarray(rows / np.maximum(lengths, np.finfo(np.float32).tiny), dtype=np.float32)

    def _to_model(self, value: Any) -> Any:
        dtype = self._model.dtype if value.is_floating_point() else None
        return value.to(self._model.device, dtype)


def load_image_encoder(name: Path | str, options: ImageEncoderOptions) -> ImageEncoder:
    """Load a model from a folder or the hub, with weights in safetensors files only.

    Args:
        name: The folder, or ``owner/model`` on the hub.
        options: Options for loading the model: revision, device, data type and query prompt.
    """
    require_image_retrieval_packages()
    import transformers

    files, code = locate_encoder(name, options), {"trust_remote_code": options.trust_remote_code}
    device = pick_device(options.device)
    dtype = pick_dtype(options.dtype, device)
    with quiet_transformers(), named_loading_errors(files, device):
        with complete_weights(files):
            model = transformers.AutoModel.from_pretrained(files.folder, dtype=dtype, use_safetensors=True, **code)
        processor = transformers.AutoProcessor.from_pretrained(files.folder, **code)  # type: ignore[no-untyped-call]
        model = model.to(device).eval()
    return ImageEncoder(
        model, processor, identity={**encoder_identity(files), "dtype": dtype}, query_prompt=options.query_prompt
    )


def require_image_retrieval_packages() -> None:
    """Check that the packages of the extra ``images`` can be imported."""
    require_pillow()
    require_encoder_packages(stage="images", sentences=False)


def _max_tokens_of_image_retriever(model: Any) -> int:
    """Return the context size of the text tower in tokens."""
    text = getattr(model.config, "text_config", model.config)
    return int(getattr(text, "max_position_embeddings", None) or 77)

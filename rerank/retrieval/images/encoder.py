"""Pictures and texts -> embeddings in one space, with a model of transformers such as CLIP or SigLIP.

Torch and transformers are imported when a model is loaded. Knows no index and no collection.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rerank.errors import BackendError, UsageError
from rerank.indexing.text_encoder import Floats, encoded, halving, locate, model_hash, require
from rerank.io.pictures import UNREADABLE, open_picture, require_pillow
from rerank.lm.loading import named_errors, origin_of, pick_device, pick_dtype, quiet
from rerank.tasks import BackendOptions

if TYPE_CHECKING:
    from rerank.retrieval.images import Images


class ImageEncoder:
    """A model with one tower for texts and one for pictures, and the processor that feeds both.

    Vectors have length 1, so that inner products are cosines.

    Args:
        model: In evaluation mode on its device.
        processor: Its processor.
        identity: What tells the model from others.
        query_prompt: Text set before every query.

    Attributes:
        identity: What the embeddings of pictures depend on.
        query_prompt: Text set before every query.
        size: Numbers in an embedding.

    Raises:
        UsageError: The model does not embed both texts and pictures.
    """

    def __init__(self, model: Any, processor: Any, *, identity: Mapping[str, str], query_prompt: str = "") -> None:
        """Wrap what is loaded; see `load_image_encoder`."""
        parts = ((model, "get_text_features"), (model, "get_image_features"), (processor, "image_processor"))
        if lacking := [name for owner, name in parts if not hasattr(owner, name)]:
            raise UsageError(
                f"A model of the class {type(model).__name__} has no {' and no '.join(lacking)}",
                expected="one that embeds texts and pictures, such as CLIP or SigLIP, with its processor",
            )
        self._model, self._processor = model, processor
        self.query_prompt = query_prompt
        self._room = _room(model)
        # Pillow and torchvision shrink pictures a little differently, and transformers takes what is installed.
        self.identity = {**identity, "processor": type(processor.image_processor).__name__}
        self.size = int(self._texts(["a"]).shape[1])

    def queries(self, texts: Sequence[str]) -> Floats:
        """Embed queries one by one; what does not fit the model's context is cut off, and a warning says so.

        Raises:
            BackendError: The model fails, or gives numbers that are not finite.
        """
        prompted = [self.query_prompt + text for text in texts]
        with quiet():
            lengths = [len(self._processor.tokenizer(text)["input_ids"]) for text in prompted]
        if cut := sum(length > self._room for length in lengths):
            warnings.warn(
                f"{cut} of {len(texts)} queries are longer than the {self._room} tokens that the model reads and are "
                "cut at their end",
                stacklevel=2,
            )
        rows = [encoded(lambda given, _: self._texts(given), [text]) for text in prompted]
        return np.concatenate(rows) if rows else np.empty((0, self.size), dtype=np.float32)

    def passages(self, texts: Sequence[str]) -> Floats:
        """Embed pictures, given by their paths, in one batch; a row of zeros for each that cannot be read.

        Raises:
            BackendError: The model fails, or gives numbers that are not finite.
        """
        found = []
        for at, path in enumerate(texts):
            try:
                found.append((at, open_picture(path)))
            except UNREADABLE:  # who searches counts the zeros and says so, with this error for the first of them
                continue
        rows = np.zeros((len(texts), self.size), dtype=np.float32)
        if found:
            pictures = [picture for _, picture in found]
            rows[[at for at, _ in found]] = halving(lambda size: self._pictures(pictures, size), len(found), "pictures")
        return rows

    def _texts(self, texts: Sequence[str]) -> Floats:
        # SigLIP was trained on texts that are padded to its whole context, and reads no mask.
        padding = "max_length" if self._model.config.model_type.startswith("siglip") else True
        inputs = self._processor.tokenizer(
            list(texts), padding=padding, truncation=True, max_length=self._room, return_tensors="pt"
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
            moved = {name: self._moved(value) for name, value in inputs.items()}
            out = embed(**moved)
        rows = getattr(out, "pooler_output", out).float().cpu().numpy()
        if not np.isfinite(rows).all():
            raise BackendError("The model gave an embedding that is not finite", remedy="Try dtype=float32")
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        return np.ascontiguousarray(rows / np.maximum(lengths, np.finfo(np.float32).tiny), dtype=np.float32)

    def _moved(self, value: Any) -> Any:
        dtype = self._model.dtype if value.is_floating_point() else None
        return value.to(self._model.device, dtype)


def load_image_encoder(options: Images) -> ImageEncoder:
    """Load the model that the options name, from a folder or the hub; weights as safetensors only.

    Raises:
        MissingPrerequisiteError: The extra ``images`` is not installed.
        MissingResourceError: There is no such model.
        UsageError: It is of another kind, or an option does not fit this machine.
        UnknownNameError: It is no known name, folder or hub id.
        DataError: Its weights are damaged, or pickled.
    """
    name = locate(options.model, kind="picture")
    require_images()
    import transformers

    origin = origin_of(name, BackendOptions(revision=options.revision, trust_remote_code=options.trust_remote_code))
    device = pick_device(options.device)
    dtype = pick_dtype(options.dtype, device)
    with quiet(), named_errors(name, device):
        model = transformers.AutoModel.from_pretrained(name, dtype=dtype, use_safetensors=True, **origin)
        processor = transformers.AutoProcessor.from_pretrained(name, **origin)  # type: ignore[no-untyped-call]
        model = model.to(device).eval()
    if isinstance(name, Path):
        identity = {"weights": model_hash(name)}
    else:
        revision = str(getattr(model.config, "_commit_hash", None) or options.revision)
        identity = {"model": name, "revision": revision}
    return ImageEncoder(model, processor, identity={**identity, "dtype": dtype}, query_prompt=options.query_prompt)


def require_images() -> None:
    """Check that everything is there before hours are spent.

    Raises:
        MissingPrerequisiteError: A part of the extra ``images`` does not import.
    """
    require_pillow()
    require(stage="images", sentences=False)


def _room(model: Any) -> int:
    """Tokens that the model's tower for texts reads."""
    text = getattr(model.config, "text_config", model.config)
    return int(getattr(text, "max_position_embeddings", None) or 77)

"""An encoder of pictures and texts in one vector space, with a model of transformers such as CLIP or SigLIP."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rerank.errors import BackendError, DataError, MissingResourceError, UsageError
from rerank.indexing.text_encoder import Encoder, Floats, locate_encoder, require_encoder_packages, unit_rows
from rerank.indexing.vector_index import Positions, Searcher
from rerank.io.file_hashes import file_hash
from rerank.io.pictures import UNREADABLE, open_picture, require_pillow
from rerank.io.sealed_folders import storage_errors
from rerank.lm.encoders import encode_batches, encode_in_batch, encoder_identity
from rerank.lm.loading import (
    check_finite_weights,
    complete_weights,
    named_loading_errors,
    pick_device,
    pick_dtype,
    quiet_transformers,
)
from rerank.lm.out_of_memory import BatchLimit

if TYPE_CHECKING:
    from rerank.retrieval.images import Images


class ImageEncoder:
    """An encoder of queries and pictures with the two towers of a model; vectors have length 1."""

    def __init__(self, model: Any, processor: Any, *, identity: Mapping[str, str], query_prompt: str = "") -> None:
        parts = ((model, "get_text_features"), (model, "get_image_features"), (processor, "image_processor"))
        if lacking := [name for owner, name in parts if not hasattr(owner, name)]:
            raise UsageError(
                f"A model of the class {type(model).__name__} has no {' and no '.join(lacking)}",
                expected="a model that embeds texts and pictures, such as CLIP or SigLIP, with its processor",
            )
        self._model, self._processor = model, processor
        self._query_prompt, self.query_identity = query_prompt, {"query_prompt": query_prompt}
        self._max_tokens = _max_tokens(model)
        self._limit = BatchLimit()  # of pictures
        # Pillow and torchvision resize slightly differently, and transformers uses the one that is installed.
        self.identity = {**identity, "processor": type(processor.image_processor).__name__}
        self.size = int(self._texts(["a"]).shape[1])

    def queries(self, texts: Sequence[str]) -> Floats:
        """Embed queries one at a time; queries longer than the model's context are truncated with a warning."""
        prompted = [self._query_prompt + text for text in texts]
        with quiet_transformers():
            lengths = [len(self._processor.tokenizer(text)["input_ids"]) for text in prompted]
        if cut := sum(length > self._max_tokens for length in lengths):
            warnings.warn(
                f"{cut} of {len(texts)} queries are truncated to the model's context of {self._max_tokens} tokens",
                stacklevel=2,
            )
        rows = [row for text in prompted for row in encode_in_batch(self._texts, [text], BatchLimit())]
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
            found = encode_batches(self._pictures, pictures, self._limit, what="pictures", length=lambda _: 1)
            rows[[index for index, _ in readable]] = np.concatenate(found)
        return rows

    def _texts(self, texts: Sequence[str]) -> Floats:
        # SigLIP was trained on texts padded to its full context, without an attention mask.
        padding = "max_length" if self._model.config.model_type.startswith("siglip") else True
        inputs = self._processor.tokenizer(
            list(texts), padding=padding, truncation=True, max_length=self._max_tokens, return_tensors="pt"
        )
        return self._features(self._model.get_text_features, inputs)

    def _pictures(self, pictures: list[Any]) -> Floats:
        inputs = self._processor.image_processor(images=pictures, return_tensors="pt")
        return self._features(self._model.get_image_features, inputs)

    def _features(self, embed: Callable[..., Any], inputs: Any) -> Floats:
        import torch

        with torch.inference_mode():
            dtype, device = self._model.dtype, self._model.device
            out = embed(**{k: v.to(device, dtype if v.is_floating_point() else None) for k, v in inputs.items()})
        rows = getattr(out, "pooler_output", out).float().cpu().numpy()
        if not np.isfinite(rows).all():
            raise BackendError("The model returned an embedding that is not finite", remedy="Try dtype=float32")
        return unit_rows(rows)


def load_image_encoder(name: Path | str, options: Images) -> ImageEncoder:
    """Load a model from a folder or the hub, with weights in safetensors files only."""
    require_packages()
    import transformers

    files, code = locate_encoder(name, options), {"trust_remote_code": options.trust_remote_code}
    device = pick_device(options.device)
    dtype = pick_dtype(options.dtype, device)
    with quiet_transformers(), named_loading_errors(files, device):
        with complete_weights(files):
            model = transformers.AutoModel.from_pretrained(files.folder, dtype=dtype, use_safetensors=True, **code)
        processor = transformers.AutoProcessor.from_pretrained(files.folder, **code)  # type: ignore[no-untyped-call]
        model = model.to(device).eval()
    check_finite_weights(model, f"Model {str(files)!r}")
    identity = {**encoder_identity(files), "dtype": dtype}
    with named_loading_errors(files, device):
        return ImageEncoder(model, processor, identity=identity, query_prompt=options.query_prompt)


def require_packages() -> None:
    """Check that the packages of the extra ``images`` can be imported."""
    require_pillow()
    require_encoder_packages(stage="images", sentences=False)


def _max_tokens(model: Any) -> int:
    if (size := getattr(getattr(model.config, "text_config", model.config), "max_position_embeddings", None)) is None:
        raise UsageError(
            f"A model of the class {type(model).__name__} does not state its context size",
            expected="max_position_embeddings in its config",
        )
    return int(size)


class PrecomputedEmbeddings:
    """An encoder whose document embeddings are rows of a file, scaled to length 1.

    ``embeddings`` is an .npy file of shape (documents, size), float16 or float32; it is memory-mapped. ``ids`` is a
    text file with the document id of each row on a line, or an .npy file; about a hundred bytes per id stay in memory.
    """

    def __init__(self, embeddings: str, ids: str, encoder: Encoder) -> None:
        self._path = Path(embeddings).expanduser()
        self._rows = rows = _load_array(self._path)
        if not isinstance(rows, np.ndarray) or rows.ndim != 2 or rows.dtype not in (np.float16, np.float32):
            kind = f"{rows.dtype} of shape {rows.shape}" if isinstance(rows, np.ndarray) else "an archive"
            raise DataError(f"{self._path} contains {kind}", expected="float16 or float32 of shape (documents, size)")
        names = _load_ids(Path(ids).expanduser())
        if len(names) != len(self._rows):
            raise DataError(f"{ids} lists {len(names)} documents, but {embeddings} has {len(self._rows)} rows")
        self._rows_by_id = {name: row for row, name in enumerate(names)}
        if len(self._rows_by_id) < len(names):
            raise DataError(f"{ids} lists a document twice", expected="each id once")
        self.size = self._rows.shape[1]
        if self.size != encoder.size:
            raise UsageError(
                f"{embeddings} has embeddings of dimension {self.size}, but the model has dimension {encoder.size}",
                expected="the model that computed the embeddings",
            )
        self._encoder, self.query_identity = encoder, encoder.query_identity
        content = hashlib.sha256(file_hash(self._path).encode())
        content.update("\n".join(names).encode("utf-8", "surrogatepass"))
        self.identity: Mapping[str, str] = {"embeddings": content.hexdigest()}

    def queries(self, texts: Sequence[str]) -> Floats:
        return self._encoder.queries(texts)

    def passages(self, texts: Sequence[str]) -> Floats:
        """Return the rows of the documents with these ids; the row of an id without an embedding is all zeros."""
        sources = [self._rows_by_id.get(name, -1) for name in texts]
        rows = np.zeros((len(texts), self.size), dtype=np.float32)
        known = [index for index, source in enumerate(sources) if source >= 0]
        rows[known] = self._rows[[sources[index] for index in known]]
        if not np.isfinite(rows).all():
            bad = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
            raise DataError(f"Row {sources[bad]} of {self._path} (document {texts[bad]!r}) has a non-finite value")
        return unit_rows(rows)


def _load_array(path: Path) -> Any:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise MissingResourceError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, EOFError) as error:
        raise DataError(f"{path} is not an .npy file: {error}", expected="a file written by numpy.save") from error


def _load_ids(path: Path) -> list[str]:
    if path.suffix == ".npy":
        ids = _load_array(path)
        if not isinstance(ids, np.ndarray) or ids.ndim != 1 or ids.dtype.kind not in "iuU":
            raise DataError(f"{path} is not a list of ids", expected="whole numbers or strings, one per row")
        return [str(value) for value in ids.tolist()]
    try:
        return [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise MissingResourceError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not a text file: {error}", expected="one id per line, or an .npy file") from error


#: Score of documents without a vector, below every cosine.
BELOW = np.float32(-2.0)
#: Number of rows that are checked at a time.
_CHUNK = 50_000


def save_documents_without_vector(matrix: Floats, path: Path) -> None:
    """Save the positions of the rows of the embedding matrix that contain only zeros, in ascending order."""
    parts = [
        np.flatnonzero(~matrix[start : start + _CHUNK].any(axis=1)) + start for start in range(0, len(matrix), _CHUNK)
    ]
    with storage_errors(path.parent):
        np.save(path, np.concatenate(parts).astype(np.int64), allow_pickle=False)


def read_documents_without_vector(path: Path, documents: int) -> Positions:
    """Load the positions that `save_documents_without_vector` saved."""
    positions: Positions = np.load(path, allow_pickle=False)
    valid = positions.ndim == 1 and positions.dtype == np.int64
    if not valid or (len(positions) and not 0 <= positions[0] <= positions[-1] < documents):
        raise ValueError(f"{path.name} does not contain valid positions in a collection of {documents} documents")
    return positions


def rank_documents_without_vector_last(search: Searcher, unseen: Positions, documents: int) -> Searcher:
    """Wrap a search function so that documents without a vector come last, all with the same score below all cosines.

    ``search`` returns documents without a vector with a cosine of 0, or omits them.
    """
    if not len(unseen):
        return search

    def search_all(queries: Floats, depth: int) -> tuple[Floats, Positions]:
        scores = np.full((len(queries), depth), -np.inf, dtype=np.float32)
        positions = np.full((len(queries), depth), -1, dtype=np.int64)
        needed, below = min(depth, documents - len(unseen)), np.full(len(unseen), BELOW, dtype=np.float32)
        for index, (row, hits) in enumerate(zip(*search(queries, depth), strict=True)):
            while (
                len(hits) < documents and _with_vector(hits, unseen).sum() < needed
            ):  # search deeper, for this query only
                (row,), (hits,) = search(queries[index][None], min(documents, 2 * len(hits)))
            seen = _with_vector(hits, unseen)
            top_scores, top = np.concatenate([row[seen], below])[:depth], np.concatenate([hits[seen], unseen])[:depth]
            scores[index, : len(top_scores)], positions[index, : len(top)] = top_scores, top
        return scores, positions

    return search_all


def _with_vector(positions: Positions, unseen: Positions) -> NDArray[np.bool_]:
    return (positions >= 0) & ~np.isin(positions, unseen)

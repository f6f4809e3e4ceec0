"""An encoder that reads precomputed picture embeddings from an .npy file, whose rows are looked up by document id."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rerank.errors import DataError, MissingResourceError, UsageError
from rerank.indexing.text_encoder import Encoder, Floats
from rerank.io.file_hashes import file_hash


class PrecomputedEmbeddings:
    """An encoder whose document embeddings are rows of a file, scaled to length 1.

    The file is memory-mapped; the ids are kept in memory, about a hundred bytes each.

    Args:
        embeddings: Path of an .npy file with an array of shape (documents, size), float16 or float32.
        ids: Path of a file with the document ids in the order of the rows: a text file with one id per line, or an
            .npy file.
        encoder: The encoder of the queries.

    Attributes:
        identity: Mapping with a hash of the ids and all rows.
        query_prompt: The query prompt of the encoder.
        size: Dimension of the embeddings.
    """

    def __init__(self, embeddings: str, ids: str, encoder: Encoder) -> None:
        """Memory-map the rows and read the ids."""
        self._path = Path(embeddings).expanduser()
        self._rows = _load_precomputed_vectors(self._path)
        names = _load_precomputed_ids(Path(ids).expanduser())
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
        self._encoder, self.query_prompt = encoder, encoder.query_prompt
        self.identity: Mapping[str, str] = {"embeddings": _image_retriever_digest(self._path, names)}

    def queries(self, texts: Sequence[str]) -> Floats:
        """Embed queries with the wrapped encoder."""
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
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        return np.asarray(rows / np.maximum(lengths, np.finfo(np.float32).tiny), dtype=np.float32)


def _load_precomputed_array(path: Path) -> Any:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise MissingResourceError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, EOFError) as error:
        raise DataError(f"{path} is not an .npy file: {error}", expected="a file written by numpy.save") from error


def _load_precomputed_vectors(path: Path) -> Any:
    matrix = _load_precomputed_array(path)
    if not isinstance(matrix, np.ndarray) or matrix.ndim != 2 or matrix.dtype not in (np.float16, np.float32):
        kind = f"{matrix.dtype} of shape {matrix.shape}" if isinstance(matrix, np.ndarray) else "an archive"
        raise DataError(f"{path} contains {kind}", expected="float16 or float32 of shape (documents, size)")
    return matrix


def _load_precomputed_ids(path: Path) -> list[str]:
    if path.suffix == ".npy":
        ids = _load_precomputed_array(path)
        if not isinstance(ids, np.ndarray) or ids.ndim != 1 or ids.dtype.kind not in "iuU":
            raise DataError(f"{path} is not a list of ids", expected="whole numbers or strings, one per row")
        return [str(value) for value in ids.tolist()]
    try:
        return [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise MissingResourceError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not a text file: {error}", expected="one id per line, or an .npy file") from error


def _image_retriever_digest(rows: Path, names: Sequence[str]) -> str:
    whole = hashlib.sha256(file_hash(rows).encode())
    whole.update("\n".join(names).encode("utf-8", "surrogatepass"))
    return whole.hexdigest()

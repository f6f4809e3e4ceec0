"""Embeddings of pictures that others made, as an encoder: rows of an .npy file, found by document id.

Knows no model; queries are embedded by the one that made the file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rerank.errors import DataError, MissingResourceError, UsageError
from rerank.indexing.text_encoder import Encoder, Floats
from rerank.io.file_hashes import file_hash


class Precomputed:
    """Rows of a file as the embeddings of documents, brought to length 1.

    The file is memory-mapped; the ids are held in memory, some hundred bytes each.

    Args:
        embeddings: The .npy file: shape (documents, size), float16 or float32.
        ids: The documents' ids in the order of the rows: lines of a text file, or an .npy file.
        encoder: What embeds the queries.

    Attributes:
        identity: A hash of the ids and of all rows.
        query_prompt: That of the encoder.
        size: Numbers in an embedding.

    Raises:
        MissingResourceError: A file is not there.
        DataError: A file is of another form, or the two do not fit together.
        UsageError: The embeddings have another size than those of the encoder.
    """

    def __init__(self, embeddings: str, ids: str, encoder: Encoder) -> None:
        """Map the rows and read the ids."""
        self._path = Path(embeddings).expanduser()
        self._rows = _matrix(self._path)
        names = _ids(Path(ids).expanduser())
        if len(names) != len(self._rows):
            raise DataError(f"{ids} names {len(names)} documents, and {embeddings} has {len(self._rows)} rows")
        self._places = {name: at for at, name in enumerate(names)}
        if len(self._places) < len(names):
            raise DataError(f"{ids} names a document twice", expected="each id once")
        self.size = self._rows.shape[1]
        if self.size != encoder.size:
            raise UsageError(
                f"{embeddings} has embeddings of {self.size} numbers, and those of the model have {encoder.size}",
                expected="the model that made them",
            )
        self._encoder, self.query_prompt = encoder, encoder.query_prompt
        self.identity: Mapping[str, str] = {"embeddings": _digest(self._path, names)}

    def queries(self, texts: Sequence[str]) -> Floats:
        """Embed queries with the model."""
        return self._encoder.queries(texts)

    def passages(self, texts: Sequence[str]) -> Floats:
        """The rows of documents, given by their ids; a row of zeros where there is none.

        Raises:
            DataError: A row has a number that is not finite.
        """
        places = [self._places.get(name, -1) for name in texts]
        rows = np.zeros((len(texts), self.size), dtype=np.float32)
        found = [at for at, place in enumerate(places) if place >= 0]
        rows[found] = self._rows[[places[at] for at in found]]
        if not np.isfinite(rows).all():
            bad = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
            raise DataError(f"Row {places[bad]} of {self._path}, of document {texts[bad]!r}, is not finite")
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        return np.asarray(rows / np.maximum(lengths, np.finfo(np.float32).tiny), dtype=np.float32)


def _load(path: Path) -> Any:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise MissingResourceError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, EOFError) as error:
        raise DataError(f"{path} is no .npy file: {error}", expected="what numpy.save writes") from error


def _matrix(path: Path) -> Any:
    found = _load(path)
    if not isinstance(found, np.ndarray) or found.ndim != 2 or found.dtype not in (np.float16, np.float32):
        kind = f"{found.dtype} of shape {found.shape}" if isinstance(found, np.ndarray) else "an archive"
        raise DataError(f"{path} holds {kind}", expected="float16 or float32 of shape (documents, size)")
    return found


def _ids(path: Path) -> list[str]:
    if path.suffix == ".npy":
        found = _load(path)
        if not isinstance(found, np.ndarray) or found.ndim != 1 or found.dtype.kind not in "iuU":
            raise DataError(f"{path} holds no list of ids", expected="whole numbers or texts, one for each row")
        return [str(one) for one in found.tolist()]
    try:
        return [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise MissingResourceError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text: {error}", expected="one id on each line, or an .npy file") from error


def _digest(rows: Path, names: Sequence[str]) -> str:
    whole = hashlib.sha256(file_hash(rows).encode())
    whole.update("\n".join(names).encode("utf-8", "surrogatepass"))
    return whole.hexdigest()

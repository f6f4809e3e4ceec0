"""Reader of individual tensors in the safetensors files of a model. The model itself is not built."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rerank.errors import DataError
from rerank.io.settings_files import read_json_object

if TYPE_CHECKING:
    from torch import Tensor

#: Names of the output matrix; many models share it with the embeddings and do not store it.
_HEADS = ("lm_head.weight", "embed_out.weight")
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight")
#: Prefixes of tensor names; the files of some models omit them.
_PREFIXES = ("model.", "transformer.", "gpt_neox.")


class CheckpointReader:
    """Reader of the tensors of a model; values are returned in float32.

    Args:
        folder: A model folder with one or several safetensors files, or one such file.
    """

    def __init__(self, folder: Path) -> None:
        """Read the headers of the safetensors files, which contain the names of the tensors."""
        self.folder = folder
        files = map(_open_inspected_checkpoint_file, _checkpoint_files(folder))
        self._files = {name: file for file in files for name in file.keys()}  # noqa: SIM118

    def __iter__(self) -> Iterator[str]:
        """Yield the names of all stored tensors in alphabetical order."""
        return iter(sorted(self._files))

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor without reading it."""
        return tuple(self._files[name].get_slice(name).get_shape())

    def dtype(self, name: str) -> Any:
        """Return the stored data type of a tensor."""
        with _inspected_checkpoint_read_errors(self.folder):
            return self._files[name].get_slice(name)[:0].dtype

    def find(self, name: str) -> str | None:
        """Return the name under which a tensor is stored, or None if it is not stored.

        The stored name may have a model prefix that ``name`` lacks, or may lack the model prefix of ``name``. For an
        output matrix that is shared with the embeddings, the name of the embeddings is returned.
        """
        stored = [spelling for spelling in _spellings_of_inspected_tensor(name) if spelling in self._files]
        if not stored and name.endswith(_HEADS):
            stored = [embedding for embedding in self if embedding.endswith(_EMBEDDINGS)]
        return stored[0] if stored else None

    def has(self, prefix: str) -> bool:
        """Return whether the name of any tensor starts with ``prefix``, with or without a model prefix before it."""
        return any(
            name.startswith(spelling) for spelling in _spellings_of_inspected_tensor(prefix) for name in self._files
        )

    def read(self, name: str) -> Tensor:
        """Read a tensor, in float32."""
        with _inspected_checkpoint_read_errors(self.folder):
            tensor: Tensor = self._files[name].get_tensor(name)
        if not tensor.is_floating_point():
            raise DataError(
                f"{name} in {self.folder} has the data type {tensor.dtype}",
                expected="floating-point weights, since quantised weights cannot be inspected",
                remedy="Pass the folder of the model before quantisation",
            )
        return tensor.float()


def _spellings_of_inspected_tensor(name: str) -> list[str]:
    """Return the names under which a tensor may be stored: its name, with and without model prefixes."""
    without = [name.removeprefix(prefix) for prefix in _PREFIXES if name.startswith(prefix)]
    return [name, *(prefix + name for prefix in _PREFIXES), *without]


def _checkpoint_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a model; if the model has an index, only the files in the index.

    Other files in the folder may contain a second copy of the weights.
    """
    if folder.is_file():
        return [folder]
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        whole = folder / "model.safetensors"
        return [whole] if whole.is_file() else sorted(folder.glob("*.safetensors"))
    try:
        names = sorted(set(read_json_object(index, "index of weights")["weight_map"].values()))
    except (KeyError, AttributeError, TypeError) as error:
        raise DataError(
            f"{index} is not a valid index of weights: {error!r}", remedy="Download the model again"
        ) from error
    missing = [name for name in names if not (folder / str(name)).is_file()]
    if missing:
        raise DataError(
            f"{index} lists the file {missing[0]!r}, which does not exist", remedy="Download the model again"
        )
    return [folder / name for name in names]


def _open_inspected_checkpoint_file(path: Path) -> Any:
    """Open a safetensors file as a memory map."""
    from safetensors import safe_open

    with _inspected_checkpoint_read_errors(path):
        return safe_open(path, framework="pt")


@contextmanager
def _inspected_checkpoint_read_errors(path: Path) -> Iterator[None]:
    """Convert errors that occur while a file is read into a `DataError`."""
    from safetensors import SafetensorError

    try:
        yield
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}", remedy="Download or save the model again") from error

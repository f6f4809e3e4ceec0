"""The tensors of a model's folder by name, read from its safetensors one at a time. Builds no model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rerank.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

#: The last matrix of a model, which many share with the first and then do not store.
_HEADS = ("lm_head.weight", "embed_out.weight")
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight")
#: What a model's parts are called as a whole; files of some models leave it out.
_PREFIXES = ("model.", "transformer.", "gpt_neox.")


class Checkpoint:
    """Reads tensors of a model's folder, in float32.

    Args:
        folder: A folder that `rerank.models.resolve` accepts: safetensors, whole or in parts; or one such file.

    Raises:
        DataError: The files are damaged, or their index names one that is not there.
    """

    def __init__(self, folder: Path) -> None:
        """Read the headers."""
        self.folder = folder
        self._files = {name: file for file in map(_opened, _files(folder)) for name in file.keys()}  # noqa: SIM118

    def __iter__(self) -> Iterator[str]:
        """The names, in a fixed order."""
        return iter(sorted(self._files))

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it."""
        return tuple(self._files[name].get_slice(name).get_shape())

    def dtype(self, name: str) -> Any:
        """The number type of a tensor as it is stored."""
        with _named(self.folder):
            return self._files[name].get_slice(name)[:0].dtype

    def find(self, name: str) -> str | None:
        """The name under which a tensor is stored; None if it is not.

        A model's prefix may be missing or added, and a head that is shared with the embeddings is found as these.
        """
        found = [one for one in _spellings(name) if one in self._files]
        if not found and name.endswith(_HEADS):
            found = [one for one in self if one.endswith(_EMBEDDINGS)]
        return found[0] if found else None

    def has(self, prefix: str) -> bool:
        """Whether the name of any tensor begins so, a model's prefix missing or added."""
        return any(name.startswith(one) for one in _spellings(prefix) for name in self._files)

    def read(self, name: str) -> Tensor:
        """A stored tensor, in float32.

        Raises:
            DataError: It is damaged, or made of whole numbers, as quantised weights are.
        """
        with _named(self.folder):
            found: Tensor = self._files[name].get_tensor(name)
        if not found.is_floating_point():
            raise DataError(
                f"{name} in {self.folder} is of {found.dtype}",
                expected="floating-point weights: changes of quantised ones are not looked at",
                remedy="Name the model that it was quantised from",
            )
        return found.float()


def _spellings(name: str) -> list[str]:
    """A name with and without a model's prefix."""
    without = [name.removeprefix(prefix) for prefix in _PREFIXES if name.startswith(prefix)]
    return [name, *(prefix + name for prefix in _PREFIXES), *without]


def _files(folder: Path) -> list[Path]:
    """The files that hold the model; beside an index, others may hold a second copy."""
    if folder.is_file():
        return [folder]
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        whole = folder / "model.safetensors"
        return [whole] if whole.is_file() else sorted(folder.glob("*.safetensors"))
    try:
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise DataError(f"{index} is no index of weights: {error!r}", remedy="Get the model again") from error
    lacking = [name for name in names if not (folder / str(name)).is_file()]
    if lacking:
        raise DataError(f"{index} names {lacking[0]!r}, which is not there", remedy="Get the model again")
    return [folder / name for name in names]


def _opened(path: Path) -> Any:
    """A file that is mapped into memory, not read."""
    from safetensors import safe_open

    with _named(path):
        return safe_open(path, framework="pt")


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """What is wrong with a file becomes an error of ours."""
    from safetensors import SafetensorError

    try:
        yield
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}", remedy="Get or write the model again") from error

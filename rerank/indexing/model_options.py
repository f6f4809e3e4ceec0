"""Options shared by first stages: those for loading a model, and for encoding texts with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Options for loading the model of a first stage.

    Attributes:
        dtype: Data type of the model: ``float32``, ``bfloat16``, ``float16``, or ``auto``, which depends on the
            hardware. Vectors are always saved as float32.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, or ``auto``, which selects the first accelerator, or the CPU if
            there is none.
        revision: Branch, tag or commit on the hub; empty for the default branch.
        trust_remote_code: Whether to run Python code that comes with the model.
    """

    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    device: str = "auto"
    revision: str = ""
    trust_remote_code: bool = False


@dataclass(frozen=True, kw_only=True)
class EncoderOptions(ModelOptions):
    """Options of a model that embeds texts.

    Attributes:
        query_prompt: Text put before every query; ``auto`` for the prompt saved with the model, ``none`` for no prompt.
        normalise: Whether to scale vectors to length 1, so that scores are cosines instead of inner products.
        dim: Number of leading dimensions to keep, for Matryoshka models (Kusupati et al., NeurIPS 2022); 0 to keep all.
    """

    query_prompt: str = "auto"
    normalise: bool = True
    dim: int = 0

    @property
    def passage_prompt(self) -> str:
        """Text put before every document; ``none`` if only queries are encoded."""
        return "none"

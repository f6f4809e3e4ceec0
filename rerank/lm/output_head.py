"""A model's last matrix: in float32 whatever the model's own number type, and only the rows that are asked for.

In bfloat16, logits near 20 are steps of 1/8, so that many identifiers would tie; and a vocabulary of 50,000 or more is
most of the work of a short step, of which a choice among ten tokens needs ten rows. What the model does to logits
afterwards (caps, factors) follows suit. Imports torch at its top, so it is imported only when a model is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from rerank.lm.tensor_parallel import is_split

#: Rows that are made float32 at a time.
_SLICE = 1 << 14


class Head:
    """Changes the last matrix of a model while a ``with`` block runs.

    One that is quantised, split, put away or wrapped stays as it is: only the layer itself can multiply by it.

    Args:
        model: The model.

    Attributes:
        only: Tokens whose logits are wanted; None for the whole vocabulary.
    """

    def __init__(self, model: Any) -> None:
        self._layer = model.get_output_embeddings()
        self._plain = _is_plain(self._layer) and not is_split(model)
        self.only: list[int] | None = None

    def __enter__(self) -> Head:
        if self._plain:
            self._layer.forward = self._product
        return self

    def __exit__(self, *_: object) -> None:
        if self._plain:
            del self._layer.forward

    def of(self, logits: Tensor, tokens: Sequence[int]) -> Tensor:
        """The logits of some of the tokens that were asked for.

        Args:
            logits: (tokens asked for,) or, where the matrix stayed as it is, (vocabulary,).
            tokens: Some of `only`.
        """
        if self._plain and self.only is not None:
            place = {token: at for at, token in enumerate(self.only)}
            return logits[[place[token] for token in tokens]]
        return logits[list(tokens)]

    def _product(self, hidden: Tensor) -> Tensor:
        weight, bias = self._layer.weight, self._layer.bias
        hidden = hidden.to(weight.device, torch.float32)
        if self.only is not None:
            weight, bias = weight[self.only], None if bias is None else bias[self.only]
        out = torch.cat([linear(hidden, part.float()) for part in weight.split(_SLICE)], dim=-1)
        return out if bias is None else out + bias.float()


def _is_plain(layer: Any) -> bool:
    if type(layer) is not torch.nn.Linear or type(layer.weight) is not torch.nn.Parameter or "forward" in vars(layer):
        return False
    return layer.weight.dtype in (torch.float32, torch.bfloat16, torch.float16) and layer.weight.device.type != "meta"

"""A meter that reports how many tokens a model has processed, to show progress within a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

#: Function that is called with a number of tokens; a token that has passed half of the layers counts as half a token.
OnTokens = Callable[[float], None]


class TokenMeter:
    """A meter that reports how many tokens a causal language model has processed, layer by layer.

    Attributes:
        on_tokens: Function that is called after each layer with the number of tokens divided by the number of layers,
            so that the sum over a forward pass is its number of tokens; None to report nothing.
    """

    def __init__(self, model: Any) -> None:
        """Add hooks to the layers of a model.

        The layers are the first list of modules whose length is the number of layers in the config of the model.
        """
        from torch.nn import ModuleList

        self.on_tokens: OnTokens | None = None
        count = model.config.get_text_config().num_hidden_layers
        lists = (module for module in model.modules() if isinstance(module, ModuleList) and len(module) == count)
        for layer in next(lists, ()):
            layer.register_forward_hook(lambda layer, inputs, output: self._report(inputs, 1 / count))

    def _report(self, inputs: tuple[Any, ...], share: float) -> None:
        if self.on_tokens is not None and inputs:
            self.on_tokens(inputs[0].shape[:-1].numel() * share)

"""How many tokens a model has processed, reported while it processes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

#: A function that is called with a number of tokens; half of the layers count as half a token.
OnTokens = Callable[[float], None]


class TokenMeter:
    """Reports the tokens that pass through the layers of a causal language model.

    Attributes:
        on_tokens: The function to which tokens are reported; None for none.
    """

    def __init__(self, model: Any) -> None:
        """Watch the layers of a model: the first list of modules that has as many as the configuration states."""
        from torch.nn import ModuleList

        self.on_tokens: OnTokens | None = None
        count = model.config.get_text_config().num_hidden_layers
        lists = (module for module in model.modules() if isinstance(module, ModuleList) and len(module) == count)
        for layer in next(lists, ()):
            layer.register_forward_hook(lambda layer, inputs, output: self._report(inputs, 1 / count))

    def _report(self, inputs: tuple[Any, ...], share: float) -> None:
        if self.on_tokens is not None and inputs:
            self.on_tokens(inputs[0].shape[:-1].numel() * share)

"""A forward pass that works with different model classes and versions of transformers."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any


def call_forward(model: Any, *, cache: Any = None, **arguments: Any) -> Any:
    """Call a model with only the arguments that its ``forward`` accepts.

    Some models do not accept ``position_ids`` or ``logits_to_keep``.

    Args:
        cache: The KV cache of the tokens processed so far; None to start without one.
        arguments: Arguments for the model's ``forward``; those that it does not accept are dropped.
    """
    names = _parameters(type(model).forward)
    accepted = {name: value for name, value in arguments.items() if name in names}
    return model(**accepted, **({} if cache is None else {kv_cache_argument_name(model): cache}))


def kv_cache_of_output(model: Any, output: Any) -> Any:
    """Return the KV cache that a forward pass returned; None if it did not return one."""
    return getattr(output, kv_cache_argument_name(model), None)


def kv_cache_argument_name(model: Any) -> str:
    """Return the name of the KV cache argument of a model, which depends on the version of transformers."""
    return "cache" if "cache" in _parameters(type(model).forward) else "past_key_values"


@lru_cache(maxsize=64)
def _parameters(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


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

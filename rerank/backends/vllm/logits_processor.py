"""The logits processor inside vLLM's engine, which restricts each request to the tokens that its grammar allows.

Imports torch and vLLM at import time, so only vLLM imports it. An exception in here would stop the engine; grammars are
therefore validated before a request is accepted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

from rerank.backends.vllm.grammar import KEY, parse_grammar
from rerank.errors import UsageError


class GrammarProcessor(AdapterLogitsProcessor):  # type: ignore[misc, unused-ignore]
    """A logits processor that applies the grammar of each request; requests without a grammar are not changed."""

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Check that the request contains a valid grammar, if any.

        Raises:
            ValueError: The grammar is invalid.
        """
        data = (sampling_params.extra_args or {}).get(KEY)
        try:
            if data is not None:
                parse_grammar(data)([])
        except (KeyError, TypeError, ValueError, AttributeError, UsageError) as error:
            raise ValueError(f"extra_args[{KEY!r}] is not a valid grammar: {error!r}") from error

    def is_argmax_invariant(self) -> bool:
        """Return false: the most likely token may not be allowed."""
        return False

    def new_req_logits_processor(
        self, params: SamplingParams
    ) -> Callable[[Sequence[int], torch.Tensor], torch.Tensor] | None:
        """Return the logits processor of a request that enters the batch or returns to it."""
        data = (params.extra_args or {}).get(KEY)
        if data is None:
            return None
        next_tokens = parse_grammar(data)

        def restrict(generated: Sequence[int], logits: torch.Tensor) -> torch.Tensor:
            allowed = torch.tensor(next_tokens(generated), device=logits.device)
            values = logits[allowed]
            return logits.fill_(-torch.inf).index_copy_(0, allowed, values)

        return restrict

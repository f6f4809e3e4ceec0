"""The logits processor inside vLLM's engine, which restricts each request to the tokens that its grammar allows.

Imports torch and vLLM at import time, so only vLLM imports this module. An exception here would stop the engine, so
grammars are validated before a request is accepted.
"""

from __future__ import annotations

import torch
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

from rerank.backends.vllm.grammar import KEY, Grammar, mask_logits, parse_grammar
from rerank.errors import UsageError


class GrammarProcessor(AdapterLogitsProcessor):  # type: ignore[misc, unused-ignore]
    """A logits processor that applies the grammar of each request; requests without a grammar are not changed."""

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        data = (sampling_params.extra_args or {}).get(KEY)
        try:
            if data is not None:
                parse_grammar(data)([])
        except (KeyError, TypeError, ValueError, AttributeError, UsageError) as error:
            raise ValueError(f"extra_args[{KEY!r}] is not a valid grammar: {error!r}") from error

    def is_argmax_invariant(self) -> bool:
        """Return false: the most likely token may change, since it may not be allowed."""
        return False

    def new_req_logits_processor(self, params: SamplingParams) -> Grammar | None:
        """Return the grammar of a request that enters the batch or returns to it; None if the request has none.

        The base class stores the grammar in ``req_info`` under the row of the request, with the tokens
        generated so far as its argument, and moves the grammar when requests change rows.
        """
        data = (params.extra_args or {}).get(KEY)
        return None if data is None else parse_grammar(data)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Restrict the logits of all requests with a grammar, in place; ``logits`` has the shape (rows, vocabulary)."""
        return mask_logits(logits, {row: allowed() for row, allowed in self.req_info.items()})

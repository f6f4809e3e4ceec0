"""The processor of logits that runs inside vLLM's engine: it leaves each request the tokens that its grammar allows.

Imports torch and vLLM at its top, so it is imported only by vLLM. Knows nothing of identifiers; see
`rerank.backends.vllm.grammar`. An exception in here would end the engine, so what a request carries is tried out
before the request is let in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

from rerank.backends.vllm.grammar import KEY, grammar
from rerank.errors import UsageError


class ChainProcessor(AdapterLogitsProcessor):  # type: ignore[misc, unused-ignore]
    """Forbids what a request's grammar does not allow; requests without one are left alone."""

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Refuse a request whose data make no grammar.

        Raises:
            ValueError: They do not.
        """
        data = (sampling_params.extra_args or {}).get(KEY)
        try:
            if data is not None:
                grammar(data)([])
        except (KeyError, TypeError, ValueError, AttributeError, UsageError) as error:
            raise ValueError(f"extra_args[{KEY!r}] makes no grammar: {error!r}") from error

    def is_argmax_invariant(self) -> bool:
        """No: the likeliest token may be one that is not allowed."""
        return False

    def new_req_logits_processor(
        self, params: SamplingParams
    ) -> Callable[[Sequence[int], torch.Tensor], torch.Tensor] | None:
        """What is to be done to the logits of a request that enters the batch, or comes back to it."""
        data = (params.extra_args or {}).get(KEY)
        if data is None:
            return None
        ways_on = grammar(data)

        def only_allowed(written: Sequence[int], logits: torch.Tensor) -> torch.Tensor:
            ways = torch.tensor(ways_on(written), device=logits.device)
            kept = logits[ways]
            return logits.fill_(-torch.inf).index_copy_(0, ways, kept)

        return only_allowed

"""Constrained decoding of permutations that skips forced tokens.

The output equals greedy decoding under the grammar of `rerank.lm.permutation_grammar`, but needs fewer forward passes.
Tokens that the grammar forces are appended without a forward pass and are processed together with the next chosen
token. Inputs are token ids. Imports torch at import time.

Each identifier of a permutation gets the log-probability log P(identifier | prompt, identifiers before it). P is the
distribution from which constrained decoding at temperature 1 samples: a softmax over the allowed tokens at each choice,
and probability 1 for forced tokens. If an identifier involves several choices, their log-probabilities are added.

P sums to 1 over the unused identifiers. The last identifier of a complete permutation therefore has log-probability 0,
and the sum over all identifiers is the log-probability of the permutation. No additional computation is needed, since
the logits are computed for each choice anyway. (An alternative would be to restrict the model's distribution over whole
texts to the allowed texts. This would require the logits of forced tokens and of all branches that are not taken.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from rerank.lm.decoding import add_noise
from rerank.lm.forward_pass import OutputHead, call_forward, make_kv_cache, temporary_settings
from rerank.lm.grouped_attention import has_full_attention, packs_rows
from rerank.lm.model_process import check_scores
from rerank.lm.permutation_grammar import GrammarState, PermutationGrammar
from rerank.lm.prefix_cache import CachedPrefix, compute_packed_logits, merge_prefixes
from rerank.tasks import Sampling


@dataclass
class DecodingRow:
    """A row of a batch: one permutation that is being decoded."""

    prompt: Sequence[int]  # token ids of the prompt
    state: GrammarState
    sampling: Sampling  # the sampling settings
    generator: torch.Generator  # the random number generator of this row
    tokens: list[int] = field(default_factory=list)  # token ids of the permutation so far
    #: Log-probability of each complete identifier given the identifiers before it, at temperature 1.
    log_probs: list[float] = field(default_factory=list)
    #: The cached prefix of the prompt, shorter than the prompt.
    prefix: CachedPrefix = field(default_factory=CachedPrefix)
    steps: int = 0  # number of forward passes after the prefill
    _open_log_prob: float = 0.0

    def begin(self) -> list[int]:
        """Return the tokens of the first forward pass: the prompt and forced tokens; empty if every token is forced."""
        self.tokens = self.state.push_forced()
        self._close_identifiers()
        return [] if self.state.is_complete else [*self.prompt, *self.tokens]

    def choose(self, logits: torch.Tensor) -> list[int]:
        """Append the best or a sampled allowed token (ties: the lowest id) and the forced tokens after it.

        ``logits`` are those of the allowed tokens. The result are the tokens of the next pass; empty if the
        permutation is complete.
        """
        # The allowed tokens are in ascending order and argmax takes the first maximum, so the lowest id wins a tie.
        best = int(add_noise(logits, self.sampling, self.generator).argmax())
        token = self.state.allowed()[best]
        self._open_log_prob += float(logits.float().log_softmax(dim=-1)[best])
        check_scores([self._open_log_prob], "logits")
        self.state.push(token)
        new = [token, *self.state.push_forced()]
        self.tokens += new
        self._close_identifiers()
        return [] if self.state.is_complete else new

    def _close_identifiers(self) -> None:
        """Store the log-probability of each newly completed identifier.

        If several identifiers were completed at once, all after the first one are forced and get log-probability 0.
        """
        while len(self.log_probs) < len(self.state.order):
            self.log_probs.append(self._open_log_prob)
            self._open_log_prob = 0.0


def decode_permutations(
    model: Any,
    prompts: Sequence[Sequence[int]],
    grammars: Sequence[PermutationGrammar],
    samplings: Sequence[Sampling],
    seeds: Sequence[int],
    *,
    prefixes: Sequence[CachedPrefix] = (),
) -> list[DecodingRow]:
    """Generate one permutation per prompt, and return the rows.

    Rows are decoded in one batch: the pending tokens of each row are padded on the left to the same length, and
    positions count real tokens only. Models with sliding windows or recurrent layers cannot ignore padding between
    tokens, so their rows are decoded one by one. ``prefixes`` are the cached prefixes, each shorter than its
    prompt.
    """
    cached = prefixes or [CachedPrefix()] * len(prompts)
    rows = [
        DecodingRow(prompt, grammar.start(), sampling, torch.Generator().manual_seed(seed), prefix=prefix)
        for prompt, grammar, sampling, seed, prefix in zip(prompts, grammars, samplings, seeds, cached, strict=True)
    ]
    batches = [rows] if has_full_attention(model.config) else [[row] for row in rows]
    with temporary_settings(model) as grouped, OutputHead(model) as head:
        for batch in batches:
            _decode_batch(model, batch, head, packed=grouped)
    return rows


def _decode_batch(model: Any, rows: Sequence[DecodingRow], head: OutputHead, *, packed: bool) -> None:
    pending = [row.begin() for row in rows]
    if not any(pending):
        return
    # Enough for the longest permutation. A step is as wide as the row with the most pending tokens, so rows may cause
    # padding in other rows, up to the sum of their lengths; the cache then grows.
    capacity = max(map(len, pending)) + max(row.state.grammar.max_tokens for row in rows)
    reader = _BlockRunner(model, len(rows), make_kv_cache(model.config, capacity))
    # A row without a choice has no tokens to process.
    prefixes = [row.prefix if block else CachedPrefix() for row, block in zip(rows, pending, strict=True)]
    while any(pending):
        allowed = [row.state.allowed() for row in rows]
        # All rows share the head, so it computes the logits of all tokens that any row may generate next.
        head.token_ids = sorted({token for tokens in allowed for token in tokens})
        if reader.passes == 0 and any(prefix.length for prefix in prefixes):
            logits = reader.read_prompts(pending, prefixes, packed=packed)
        else:
            logits = reader.read(pending)  # (rows, len(head.token_ids))
        for index, row in enumerate(rows):
            if pending[index]:
                # The first pass is the prefill and does not count.
                row.steps += reader.passes > 1
                pending[index] = row.choose(head.select(logits[index], allowed[index]))


class _BlockRunner:
    """A runner of forward passes on blocks of tokens, on top of a KV cache, which is empty at first."""

    def __init__(self, model: Any, rows: int, cache: Any) -> None:
        self._model, self._cache = model, cache
        self._mask = torch.zeros(rows, 0, dtype=torch.long)
        self.passes = 0

    def read_prompts(
        self, prompts: Sequence[Sequence[int]], prefixes: Sequence[CachedPrefix], *, packed: bool
    ) -> torch.Tensor:
        """Process the first block of each row without its cached prefix, and return logits as `read` does.

        Blocks include their prefixes; both are empty if the row has no choice.
        """
        rests = [prompt[prefix.length :] for prompt, prefix in zip(prompts, prefixes, strict=True)]
        if not packed or not packs_rows(self._model, [len(rest) for rest in rests]):
            width = max(prefix.length for prefix in prefixes)
            merge_prefixes(prefixes, self._cache)
            self._mask = torch.tensor([[1] * p.length + [0] * (width - p.length) for p in prefixes])
            return self.read(rests)
        width = max(map(len, prompts))
        last = [int(len(prompt) > 0) for prompt in prompts]
        logits = compute_packed_logits(self._model, prompts, prefixes, last, self._cache)
        self._mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        self.passes += 1
        size = max(row.shape[1] for row in logits)
        # An empty block has no logits. Its row is filled with zeros, which are never used.
        return torch.cat([row if len(row) else row.new_zeros(1, size) for row in logits]).cpu()

    def read(self, blocks: Sequence[Sequence[int]]) -> torch.Tensor:
        """Process one block per row and return the logits after its last token, of shape (rows, tokens of the head).

        An empty block is filled with padding, which is masked in all later passes.
        """
        width = max(map(len, blocks))
        # Shape (rows, width) each: ids padded on the left, and 1 for real tokens.
        ids = torch.tensor([[0] * (width - len(block)) + list(block) for block in blocks])
        new = torch.tensor([[0] * (width - len(block)) + [1] * len(block) for block in blocks])
        # RoPE position of a token = number of real tokens before it; padding is not counted.
        positions = (self._mask.sum(dim=1, keepdim=True) + new.cumsum(dim=1) - 1).clamp(min=0)
        # Shape (rows, cached + new tokens): padding of earlier blocks remains masked.
        self._mask = torch.cat([self._mask, new], dim=1)
        device = self._model.device
        output = call_forward(
            self._model,
            cache=self._cache,
            input_ids=ids.to(device),
            # Without padding there is no mask: then none has to be read back from an accelerator.
            attention_mask=None if bool(self._mask.all()) else self._mask.to(device),
            position_ids=positions.to(device),
            use_cache=True,
            logits_to_keep=1,
        )
        self.passes += 1
        return output.logits[:, -1].float().cpu()  # type: ignore[no-any-return]

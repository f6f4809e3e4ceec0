"""In-context re-ranking (ICR): score passages by the attention that they receive from the end of the prompt.

The attention from a content-free null query is subtracted for calibration.

Source: Chen, Gutiérrez and Su, ICLR 2025, arXiv 2410.02642, equations 1 and 2. The passages are prefilled once with the
fast kernel. The real and the null query are then processed on top of the same KV cache, and attention weights are
computed for their tokens only. Imports torch at import time.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import takewhile
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from rerank.errors import UsageError, ensure
from rerank.lm import grouped_attention
from rerank.lm.forward_pass import call_forward, make_kv_cache, restore_kv_cache, snapshot_kv_cache, temporary_settings
from rerank.lm.grouped_attention import supports_grouped_attention
from rerank.lm.model_process import is_split
from rerank.lm.tokenizers import HfTokens, PromptSpans, locate_passage_tokens, locate_tokens
from rerank.prompts.base import Prompt
from rerank.tasks import AttentionTask, Reply
from rerank.tasks.kinds import format_token_positions

#: Maximum number of tokens directly before the tails in which prompts may differ, since a token can span the boundary.
_BOUNDARY = 8

#: Prefill block size in tokens. It limits the activations of a layer, which use the most memory after the KV cache.
_PREFILL_BLOCK = 2048
#: The same on an accelerator, which has more memory and needs more tokens to be busy.
_ACCELERATOR_PREFILL_BLOCK = 1 << 14

#: Relative difference up to which two attention sums count as equal, because of float32 rounding.
_ROUNDING = 1e-5


def score_with_attention(model: Any, tokens: HfTokens, prompt: Prompt, task: AttentionTask) -> Reply:
    """Score the passages of a prompt by the attention that they receive.

    The reply has one score per passage; with ``per_head``, one per layer, head and passage; with ``per_token``, one per
    token. Its text describes their order: with ``per_head``, the numbers of layers and heads, such as ``30x9``; with
    ``per_token``, the positions of the tokens (`rerank.tasks.kinds`); otherwise it is empty.
    """
    if is_split(model):
        raise UsageError(
            "The attention of a model whose weight matrices are split over processes is not available",
            expected="all heads of a layer in one process",
            remedy="Use --device-map auto",
        )
    prompts = [locate_passage_tokens(tokens, prompt, task.spans, task.tail)]
    if task.null:
        prompts.append(locate_passage_tokens(tokens, task.null, task.spans, task.tail))
    attention, length = _read_attention(model, prompts, task), len(prompts[0].ids)
    if task.per_head:
        per_head = attention[0] - attention[1] if task.null else attention[0]  # (layers, heads, passages)
        layers, head_count, _ = per_head.shape
        return Reply(text=f"{layers}x{head_count}", scores=tuple(per_head.flatten().tolist()), tokens_in=length)
    # For each prompt and passage, s_t of the passage's tokens: (tokens,). Equation 2 subtracts s_t of the null query.
    rows = [[row[span] for span in located.spans] for row, located in zip(attention, prompts, strict=True)]
    null_row = rows[1] if task.null else [torch.zeros_like(row) for row in rows[0]]
    if task.per_token:
        # c_t of equation 2 for every token of the passages.
        token_scores = [score for real, null in zip(rows[0], null_row, strict=True) for score in (real - null).tolist()]
        layout = format_token_positions(locate_tokens(tokens, prompt, prompts[0], task.spans))
        return Reply(text=layout, scores=tuple(token_scores), tokens_in=length)
    scores = [
        sum_calibrated(real, null, filtered=bool(task.null)) for real, null in zip(rows[0], null_row, strict=True)
    ]
    # Readouts of trained models multiply the score of a passage of n tokens by n^p; the paper has no such factor.
    if task.length_power:
        lengths = [max(1, span.stop - span.start) for span in prompts[0].spans]
        scores = [score * length**task.length_power for score, length in zip(scores, lengths, strict=True)]
    return Reply(scores=tuple(scores), tokens_in=length)


def sum_calibrated(real: torch.Tensor, null: torch.Tensor, *, filtered: bool = True) -> float:
    """Compute the score of one passage, S = sum_t c_t with c_t = s_t(query) - s_t(null query) (equation 2).

    Tokens t with c_t <= mean(c) - 2 sd(c) are excluded; sd is the unbiased standard deviation. Nothing is excluded
    if the passage has one token or sd is 0 up to float32 rounding. Both arguments, s_t, have the shape (tokens,).

    >>> sum_calibrated(torch.tensor([0.5, 0.25]), torch.tensor([0.25, 0.25]))
    0.25
    """
    # c_t, of shape (tokens,): differences of nearly equal float32 sums, so mean and deviation are computed in float64.
    c = (real - null).double()
    if filtered and len(c) > 1 and c.std() > _ROUNDING * real.abs().max():
        c = c[c > c.mean() - 2 * c.std()]
    return float(c.sum())


def select_heads(config: Any, task: AttentionTask) -> dict[int, tuple[int, ...]]:
    """Return the heads that a task uses, as a mapping from each layer to its heads."""
    layers, heads = config.num_hidden_layers, config.num_attention_heads
    first, last = task.layers or (0, layers - 1)
    absent = [(layer, head) for layer, head in task.heads if not (0 <= layer < layers and 0 <= head < heads)]
    if absent or not 0 <= first <= last < layers:
        subject = f"Heads {absent}" if absent else f"Layers {first} to {last}"
        raise UsageError(
            f"{subject} do not exist in a model with {layers} layers of {heads} heads",
            expected=f"layers from 0 to {layers - 1}, heads from 0 to {heads - 1}",
            remedy="Use a head list that was made for this model: rerank heads select",
        )
    candidates = task.heads or [(layer, head) for layer in range(layers) for head in range(heads)]
    selected: dict[int, tuple[int, ...]] = {}
    for layer, head in sorted(set(candidates)):
        if first <= layer <= last:
            selected[layer] = (*selected.get(layer, ()), head)
    if not selected:
        raise UsageError(
            f"No head in the head list is in layers {first} to {last}", remedy="Omit the layers or the head list"
        )
    return selected


def _read_attention(model: Any, prompts: Sequence[PromptSpans], task: AttentionTask) -> list[torch.Tensor]:
    """Return the attention that the tokens of each prompt receive from its tail (the final instruction with the query).

    The prompts differ only in their tails. The attention of a prompt is summed over layers and heads, of shape
    (tokens,); with ``per_head``, it is summed over the tokens of each passage, of shape (layers, heads, passages).
    """
    config = model.config.get_text_config()
    heads = select_heads(config, task)
    # Layers above the last one with a selected head are not computed.
    last, grouped = max(heads), supports_grouped_attention(model)
    head_weights = dict(zip(task.heads, task.weights, strict=True)) if task.weights else {}

    @lru_cache
    def heads_on(device: torch.device) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
        # Indices and factors of the heads of each layer: two transfers per device, as layers may be on several.
        pairs = [(head, head_weights.get((layer, head), 1.0)) for layer in heads for head in heads[layer]]
        counts = [len(layer_heads) for layer_heads in heads.values()]
        columns = (torch.tensor(column, device=device) for column in zip(*pairs, strict=True))
        indices, factors = (torch.split(column, counts) for column in columns)
        return dict(zip(heads, zip(indices, factors, strict=True), strict=True))

    # Length of the identical prefix of all prompts, up to the tails. Its keys and values are computed only once.
    equal = takewhile(lambda tokens: len(set(tokens)) == 1, zip(*(prompt.ids for prompt in prompts), strict=False))
    common = min(prompts[0].tail, sum(1 for _ in equal))
    if any(prompt.tail - common > _BOUNDARY for prompt in prompts):
        raise UsageError(
            "The prompt shows the query before the passages, so the null query cannot share their KV cache",
            expected="for calibration, a prompt with the query after the passages",
            remedy="Use --prompt icr_qa, or --method icr,calibrate=false",
        )
    cache = make_kv_cache(model.config, max(len(prompt.ids) for prompt in prompts))

    def run(ids: Sequence[int], capture: AttentionCapture) -> None:
        block = torch.tensor([list(ids)], device=model.device)
        with capture_attention(capture):
            call_forward(model, cache=cache, input_ids=block, use_cache=True, logits_to_keep=1)

    def read_tail(prompt: PromptSpans) -> torch.Tensor:
        length = len(prompt.ids)
        shape = (
            (config.num_hidden_layers, config.num_attention_heads, len(prompt.spans)) if task.per_head else (length,)
        )
        total = torch.zeros(shape, device=model.device)

        def add(layer: int, weights: torch.Tensor) -> None:
            # Equation 1: s_t = sum_l sum_h 1/|I_q| sum_{j in I_q} a^{l,h}_{j,t}. ``weights``, (heads, keys), is already
            # the mean over the tail tokens I_q. Keys outside a sliding window are missing on the left and add nothing.
            indices, factors = heads_on(weights.device)[layer]
            if len(indices) < len(weights):
                weights = weights[indices]
            if not task.per_head:
                total[length - weights.shape[1] :] += (factors @ weights).to(total.device)
                return
            # Shape (heads, tokens), padded on the left, since spans are counted from the first token of the prompt.
            padded = weights.new_zeros(weights.shape[0], length)
            padded[:, length - weights.shape[1] :] = weights
            sums = torch.stack([padded[:, span].sum(dim=1) for span in prompt.spans], dim=1)
            total[layer, heads_on(total.device)[layer][0]] = sums.to(total.device)

        skip = prompt.tail - common
        capture = AttentionCapture(last=last, grouped=grouped, skip=skip, heads=heads, on_weights=add)
        run(prompt.ids[common:], capture)
        return total

    AttentionInterface.register(NAME, capture_attention_forward)
    AttentionMaskInterface.register(NAME, make_capture_mask)
    with temporary_settings(model, attention=NAME):
        # Other kernels need a mask of quadratic size for later blocks, so the prefix is then a single block.
        block = _PREFILL_BLOCK if grouped_attention.on_cpu(model) else _ACCELERATOR_PREFILL_BLOCK
        step = block if grouped else max(1, common)
        for start in range(0, common, step):
            run(prompts[0].ids[start : min(common, start + step)], AttentionCapture(last=last, grouped=grouped))
        # Each prompt appends its own tail to the cache of the shared prefix, which is restored afterwards.
        state = snapshot_kv_cache(cache)
        results = []
        for prompt in prompts:
            results.append(read_tail(prompt))
            restore_kv_cache(cache, state)
    # One transfer per prompt, after the work for all of them was handed to the device.
    return [result.cpu() for result in results]


# Capture the attention weights of a few query tokens (of attention, not of a search) in a forward pass that ends after
# the last layer needed. This works for every model that uses transformers' attention interface.

#: Name under which the functions are registered in the attention interface of transformers.
NAME = "rerank_attention_weights"

#: Maximum number of float32 attention weights computed at a time, on a CPU and on an accelerator. They take 4 and
#: 64 MiB, and so does each intermediate result between scores and weights. 4 MiB fit in the cache of a CPU; on an
#: accelerator, each chunk starts about twelve kernels, so there are few chunks.
_CHUNK, _ACCELERATOR_CHUNK = 1 << 20, 1 << 24


class EndOfCapture(Exception):
    """Raised in the last layer that is needed, to end the forward pass."""


@dataclass(kw_only=True)
class AttentionCapture:
    """The layers, heads and query tokens whose attention weights a forward pass captures."""

    last: int  # index of the layer in which the forward pass ends
    grouped: bool  # whether `rerank.lm.grouped_attention` supports the model
    skip: int = 0  # number of the first tokens of the pass that are excluded from the mean
    #: Mapping from each layer to capture to its heads to use. If empty, the pass only fills the KV cache.
    heads: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    #: Function that is called with the index of a layer and the weights of all its heads, averaged over query tokens,
    #: of shape (heads, keys). In layers with a sliding window, the earliest keys may be missing.
    on_weights: Callable[[int, torch.Tensor], None] = lambda layer, weights: None


@dataclass(frozen=True, slots=True)
class _WeightFormula:
    """The function that converts attention scores to attention weights."""

    scale: float  # factor by which the scores are multiplied
    softcap: float | None  # the constant c in c tanh(score / c), as in Gemma 2; None for no softcap
    #: Scores, of shape (heads,), of a virtual key that receives weight but has no value, as in gpt-oss; None for no
    #: sinks.
    sinks: torch.Tensor | None

    def weights(self, scores: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """Return the weights, of shape (heads, queries, keys). With sinks, the weights of a query sum to less than 1.

        Scores, of the same shape and scaled, are overwritten; ``visible``, (1, queries, keys), is true if the
        query sees the key.
        """
        if self.softcap is not None:
            scores = scores.div_(self.softcap).tanh_().mul_(self.softcap)
        scores = scores.masked_fill_(~visible, -torch.inf)
        if self.sinks is None:
            return scores.softmax(dim=-1)
        # The sink is an additional column in the softmax and is dropped afterwards.
        column = self.sinks.float().view(-1, 1, 1).expand(-1, scores.shape[1], 1)
        return torch.cat([scores, column], dim=-1).softmax(dim=-1)[..., :-1]


_CAPTURE: ContextVar[AttentionCapture] = ContextVar("capture")


@contextmanager
def capture_attention(capture: AttentionCapture) -> Iterator[None]:
    """Capture attention weights in the forward pass inside the ``with`` block, and end the pass early."""
    token = _CAPTURE.set(capture)
    try:
        yield
    except EndOfCapture:
        return
    finally:
        _CAPTURE.reset(token)
    raise UsageError(
        f"The attention weights of layer {capture.last} of this model are not accessible",
        expected="a decoder whose layers use transformers' attention interface; recurrent layers (Mamba, linear "
        "attention), encoders and models with their own attention code do not",
        remedy="Use another model, or another method",
    )


def make_capture_mask(**arguments: Any) -> torch.Tensor | None:
    """Return the mask for `capture_attention_forward`. It is never None if weights are captured."""
    capture = _CAPTURE.get()
    if capture.grouped and not capture.heads:
        return grouped_attention.make_padding_mask(**arguments)
    # Weights are computed from the mask, so it must be explicit: with a KV cache, the first query sees many keys.
    mask: torch.Tensor | None = sdpa_mask(**arguments | {"allow_is_causal_skip": not capture.heads})
    return mask


def capture_attention_forward(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Compute attention for one prompt and capture weights, with the signature that transformers expects.

    Shapes are those of `rerank.lm.grouped_attention.grouped_attention_forward` for a batch of 1. Among the further
    arguments are ``softcap`` (Gemma 2) and ``s_aux`` (sinks of gpt-oss).
    """
    capture = _CAPTURE.get()
    ensure(
        kwargs.get("position_bias") is None,
        f"{type(module).__name__} adds position biases to its attention scores",
        expected="a model with rotary position embeddings",
        remedy="Use another model, or another method",
    )
    ensure(
        getattr(module, "is_causal", True) is not False,
        f"{type(module).__name__} also attends to later tokens",
        expected="a causal decoder",
        remedy="Use another model, or another method",
    )
    layer: int = module.layer_idx
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    formula = _WeightFormula(scale, kwargs.get("softcap"), kwargs.get("s_aux"))
    if capture.heads:
        # All heads are computed, because later layers need the output.
        out, weights = _in_chunks((query, key, value), attention_mask, formula, capture.skip)
        if layer in capture.heads:
            capture.on_weights(layer, weights)
    if layer == capture.last:
        raise EndOfCapture
    if capture.heads:
        return out.transpose(1, 2), None
    if capture.grouped:
        return grouped_attention.grouped_attention_forward(module, query, key, value, attention_mask, scaling, **kwargs)
    if formula.softcap is None and formula.sinks is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    # No standard kernel supports softcaps or sinks, so the output is computed here, and the weights are discarded.
    return _in_chunks((query, key, value), attention_mask, formula, None)[0].transpose(1, 2), None


def _in_chunks(
    states: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    mask: torch.Tensor | None,
    formula: _WeightFormula,
    skip: int | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute attention and its mean weights in float32, a chunk of query tokens at a time.

    The states are query, (1, heads, queries, head size), and key and value, (1, key-value heads, keys, head size).
    The mask, (1, 1, queries, keys), is true if a key is visible; None stands for causal attention without a KV
    cache. The first ``skip`` queries are excluded from the mean, which is not needed if this is None. The output
    has the shape (1, heads, queries, head size), and the weights, averaged over queries, (heads, keys).
    """
    query, key, value = states
    _, heads, length, size = query.shape
    # Grouped-query attention: a group is one key-value head, shared by heads / groups query heads.
    groups, keys = key.shape[1], key.shape[2]
    columns, values = key[0].float().transpose(1, 2), value[0]  # (groups, head size, keys), (groups, keys, head size)
    out = query.new_empty(1, heads, length, value.shape[-1])
    total = torch.zeros(heads, keys, device=query.device)
    # Queries per chunk: the number of entries of a (heads, chunk, keys) block of weights is limited.
    entries = _CHUNK if grouped_attention.on_cpu(query) else _ACCELERATOR_CHUNK
    step = max(1, entries // (heads * keys))
    for start in range(0, length, step):
        # Queries are scaled before the product, in float32: float16 scores could overflow.
        rows = query[0, :, start : start + step].float() * formula.scale
        # Heads of a group share its keys: (groups, heads per group * chunk, keys) -> (heads, chunk, keys).
        scores = torch.bmm(rows.reshape(groups, -1, size), columns).view(heads, -1, keys)
        # (1, chunk, keys): true for the keys that a query sees. Without a mask, query i sees the keys 0 to i.
        rows_of_chunk = scores.shape[1]
        visible = (
            torch.ones(1, rows_of_chunk, keys, dtype=torch.bool, device=query.device).tril(start)
            if mask is None
            else mask[0, :, start : start + rows_of_chunk]
        )
        weights = formula.weights(scores, visible)
        # The first ``skip`` queries are excluded; max(0, skip - start) of them are in this chunk.
        if skip is not None:
            total += weights[:, max(0, skip - start) :].sum(dim=1)
        # (groups, heads per group * chunk, keys): one product with the values per group.
        packed = weights.to(value.dtype).reshape(groups, -1, keys)
        out[0, :, start : start + step] = torch.bmm(packed, values).view(heads, -1, value.shape[-1])
    # 1/|I_q| sum over the tail I_q, the inner sum of equation 1 of ICR (arXiv 2410.02642).
    return out, total / max(1, length - (skip or 0))

"""In-context reranking: how much attention each passage gets from the end of a prompt, calibrated by a null query.

Source: Chen, Gutiérrez and Su, ICLR 2025, arXiv 2410.02642, equations 1 and 2 and its algorithm. Passages are read once
with the fast kernel; the real and the null query are read on top of the same keys and values, and the weights of their
own rows are all that is ever computed. Imports torch at its top, so it is imported only when a model is there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rerank.errors import UsageError
from rerank.lm import attention_weights
from rerank.lm.attention_weights import Watch, watching
from rerank.lm.cpu_attention import is_plain
from rerank.lm.forward_pass import forward
from rerank.lm.kv_cache import restore, roomy_cache, snapshot
from rerank.lm.passage_spans import Located, locate
from rerank.lm.temporary_settings import Borrowed
from rerank.lm.tensor_parallel import is_split
from rerank.lm.tokenizers import HfTokens
from rerank.prompts.base import Prompt
from rerank.tasks import AttentionTask

#: Tokens of the query's part that may stand before the first one that asks: a token that reaches over the border.
_BORDER = 8

#: Tokens that are read at a time: what a layer holds of them is most of the memory beside keys and values.
_PIECE = 2048

#: Tokens of equal attention differ by that share of it in float32.
_ROUNDING = 1e-5


@dataclass(frozen=True, slots=True)
class Seen:
    """What came of it.

    Attributes:
        scores: One number a passage; with ``per_head``, of every layer, of every head.
        tokens: Tokens of the prompt.
        shape: With ``per_head``, layers and heads, as ``30x9``; else empty.
    """

    scores: list[float]
    tokens: int
    shape: str = ""


def attend(model: Any, tokens: HfTokens, prompt: Prompt, task: AttentionTask) -> Seen:
    """Do one task.

    Args:
        model: A causal language model of transformers.
        tokens: Its tokenizer.
        prompt: The chat.
        task: What is wanted of it.

    Raises:
        UsageError: The model does not show its attention, or has not the layers or heads that were asked for.
    """
    if is_split(model):
        raise UsageError(
            "Attention of a model whose matrices are split over processes",
            expected="all heads of a layer in one process",
            remedy="Take --device-map auto",
        )
    wanted = chosen(model.config.get_text_config(), task)
    asked = [locate(tokens, prompt, task.spans, task.tail)]
    if task.null:
        asked.append(locate(tokens, task.null, task.spans, task.tail))
    counts = dict(zip(task.heads, task.weights, strict=True)) if task.weights else {}
    weights = _Reader(model, wanted, counts=counts, per_head=task.per_head).read(asked)
    if task.per_head:
        apart = weights[0] - weights[1] if task.null else weights[0]
        layers, heads, _ = apart.shape
        return Seen(apart.flatten().tolist(), len(asked[0].ids), f"{layers}x{heads}")
    rows = [[row[span] for span in found.spans] for row, found in zip(weights, asked, strict=True)]
    null = rows[1] if task.null else [torch.zeros_like(row) for row in rows[0]]
    scores = [relevance(real, without, filtered=bool(task.null)) for real, without in zip(rows[0], null, strict=True)]
    if task.length_power:
        lengths = [max(1, span.stop - span.start) for span in asked[0].spans]
        scores = [score * length**task.length_power for score, length in zip(scores, lengths, strict=True)]
    return Seen(scores, len(asked[0].ids))


def relevance(real: torch.Tensor, null: torch.Tensor, *, filtered: bool = True) -> float:
    """Score of one passage (equation 2): S = sum over its tokens t of c_t = s_t(query) - s_t(null query).

    Tokens with c_t <= mean(c) - 2 sd(c) are left out, sd with n - 1. All count where there is no sd (one token) or it
    is 0, up to what float32 rounds.

    Args:
        real: (tokens,) attention from the query.
        null: (tokens,) attention from the null query.
        filtered: Whether outliers are left out.

    >>> relevance(torch.tensor([0.5, 0.25]), torch.tensor([0.25, 0.25]))
    0.25
    """
    c = (real - null).double()
    if filtered and len(c) > 1 and c.std() > _ROUNDING * real.abs().max():
        c = c[c > c.mean() - 2 * c.std()]
    return float(c.sum())


def chosen(config: Any, task: AttentionTask) -> dict[int, tuple[int, ...]]:
    """Layer -> the heads of it that count.

    Raises:
        UsageError: The model has not these layers or heads, or none is left.
    """
    layers, heads = config.num_hidden_layers, config.num_attention_heads
    first, last = task.layers or (0, layers - 1)
    absent = [(layer, head) for layer, head in task.heads if not (0 <= layer < layers and 0 <= head < heads)]
    if absent or not 0 <= first <= last < layers:
        what = f"Heads {absent}" if absent else f"Layers {first} to {last}"
        raise UsageError(
            f"{what} of a model with {layers} layers of {heads} heads",
            expected=f"layers from 0 to {layers - 1}, heads from 0 to {heads - 1}",
            remedy="Use a head list that was made for this model: rerank heads select",
        )
    every = task.heads or [(layer, head) for layer in range(layers) for head in range(heads)]
    wanted: dict[int, tuple[int, ...]] = {}
    for layer, head in sorted(set(every)):
        if first <= layer <= last:
            wanted[layer] = (*wanted.get(layer, ()), head)
    if not wanted:
        raise UsageError(
            f"No head of the list lies in layers {first} to {last}", remedy="Leave the layers or the heads out"
        )
    return wanted


class _Reader:
    """Runs a model over prompts that begin alike and collects what their ends attend to.

    Args:
        model: The model.
        wanted: Layer -> heads that count.
        counts: (layer, head) -> how much it counts; 1 where it is not named.
        per_head: Collect by head and passage instead of by token.
    """

    def __init__(
        self,
        model: Any,
        wanted: dict[int, tuple[int, ...]],
        *,
        counts: Mapping[tuple[int, int], float],
        per_head: bool,
    ) -> None:
        self._model, self._wanted, self._per_head = model, wanted, per_head
        self._counts = {
            layer: torch.tensor([counts.get((layer, head), 1.0) for head in heads], device=model.device)
            for layer, heads in wanted.items()
        }
        self._last, self._plain = max(wanted), is_plain(model)

    def read(self, prompts: Sequence[Located]) -> list[torch.Tensor]:
        """Of each prompt: (tokens,) attention summed over layers and heads, or (layers, heads, passages).

        Raises:
            UsageError: The prompts differ before their tails.
        """
        common = min(prompts[0].tail, *(_alike(prompts[0].ids, other.ids) for other in prompts))
        if any(prompt.tail - common > _BORDER for prompt in prompts):
            raise UsageError(
                "The prompt shows the query before the passages, so that another query means to read them again",
                expected="a prompt with its query behind the passages, to calibrate by",
                remedy="Use --prompt icr_qa, or --method icr,calibrate=false",
            )
        attention_weights.register()
        cache = roomy_cache(self._model.config, max(len(prompt.ids) for prompt in prompts))
        with Borrowed(self._model, attention=attention_weights.NAME):
            step = _PIECE if self._plain else max(1, common)  # other kernels would need a mask of length squared
            for start in range(0, common, step):
                piece = prompts[0].ids[start : min(common, start + step)]
                self._run(piece, cache, Watch(last=self._last, plain=self._plain))
            kept = snapshot(cache)
            found = []
            for prompt in prompts:
                found.append(self._tail(prompt, common, cache))
                restore(cache, kept)
        return found

    def _tail(self, prompt: Located, common: int, cache: Any) -> torch.Tensor:
        length = len(prompt.ids)
        config = self._model.config.get_text_config()
        if self._per_head:
            total = torch.zeros(config.num_hidden_layers, config.num_attention_heads, len(prompt.spans))
        else:
            total = torch.zeros(length)

        def note(layer: int, weights: torch.Tensor) -> None:
            if not self._per_head:  # keys that a sliding layer has let go of get nothing
                total[length - weights.shape[1] :] += (self._counts[layer] @ weights).cpu()
                return
            whole = torch.zeros(weights.shape[0], length)
            whole[:, length - weights.shape[1] :] = weights.cpu()
            sums = [whole[:, span].sum(dim=1) for span in prompt.spans]
            total[layer, list(self._wanted[layer])] = torch.stack(sums, dim=1)

        watch = Watch(last=self._last, plain=self._plain, skip=prompt.tail - common, wanted=self._wanted, note=note)
        self._run(prompt.ids[common:], cache, watch)
        return total

    def _run(self, ids: Sequence[int], cache: Any, watch: Watch) -> None:
        block = torch.tensor([list(ids)], device=self._model.device)
        with watching(watch):
            forward(self._model, cache=cache, input_ids=block, use_cache=True, logits_to_keep=1)


def _alike(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two prompts have in common at their beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))

"""How a vision-language model does each kind of task: one request at a time, its pictures beside its token ids.

Positions are left to the model, as those of pictures have two dimensions. Imports torch at its top, so it is imported
only when a model is there. Knows no chat template.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from rerank.backends.vlm.tokens import VlmTokens
from rerank.lm.decoding import decode, eos_ids
from rerank.lm.forward_pass import forward
from rerank.lm.jobs import Job
from rerank.lm.local_tasks import _behind, _reply, chain_of, chain_text, written
from rerank.lm.output_head import Head
from rerank.lm.permutation_grammar import Chain, State
from rerank.lm.sampling import draw
from rerank.lm.temporary_settings import Borrowed
from rerank.tasks import ContinuationTask, GenerationTask, LikelihoodTask, PermutationTask, Reply, Sampling

#: Inputs as long as the prompt, and what they say of a token that is text.
_ALONG = {"attention_mask": 1, "mm_token_type_ids": 0, "token_type_ids": 0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Seeing(Job):
    """A job with what its processor made of it.

    Attributes:
        inputs: Tensors for the model, on its device.
    """

    inputs: Mapping[str, Any] = field(repr=False, compare=False)

    @property
    def beside(self) -> dict[str, Any]:
        """What goes with the token ids."""
        return {name: value for name, value in self.inputs.items() if name not in ("input_ids", "attention_mask")}


def _write(model: Any, tokens: VlmTokens, job: Seeing) -> Reply:
    (row,) = decode(model, [job.prompt], [job.sampling], [job.seed], seen=job.beside)
    return written(model, tokens, job, row)


def _weigh(model: Any, tokens: VlmTokens, job: Seeing) -> Reply:
    continuations = [_behind(tokens, job, text) for text in job.task.continuations]
    scores = weigh_seen(model, job.inputs, continuations)
    return replace(_reply(job, "", 0, steps=0), scores=tuple(scores))


def _permute(model: Any, tokens: VlmTokens, job: Seeing) -> Reply:
    state, count = permute_seen(model, job, chain_of(tokens, job))
    return _reply(job, chain_text(job.task, state.order), count, steps=count - 1)


#: Kind of task -> how it is done.
DO: dict[type[Any], Callable[[Any, VlmTokens, Seeing], Reply]] = {
    GenerationTask: _write,
    PermutationTask: _permute,
    ContinuationTask: _weigh,
    LikelihoodTask: _weigh,
}


def weigh_seen(model: Any, inputs: Mapping[str, Any], continuations: Sequence[Sequence[int]]) -> list[float]:
    """Natural-log probability of each continuation after a prompt with pictures.

    Continuations that share all tokens but their last share a forward pass; the last matrix product and the log-softmax
    are in float32 whatever the model's dtype.

    Args:
        model: A model of transformers that takes texts and pictures.
        inputs: What its processor made of the prompt, one row.
        continuations: Token ids. The empty one has probability 1.

    Returns:
        The sum over the tokens of log P(token | prompt, the tokens before it), one number a continuation.
    """
    known: dict[tuple[int, ...], torch.Tensor] = {}
    found = []
    with Borrowed(model), Head(model):
        for ids in continuations:
            before = tuple(ids[:-1])
            if ids and before not in known:
                out = forward(model, **_longer(inputs, before), use_cache=False, logits_to_keep=len(ids))
                known[before] = out.logits[0, -len(ids) :].float().log_softmax(dim=-1)
            found.append(float(known[before][range(len(ids)), list(ids)].sum()) if ids else 0.0)
    return found


def _longer(inputs: Mapping[str, Any], ids: Sequence[int]) -> dict[str, Any]:
    """The same inputs with more text behind them."""
    if not ids:
        return dict(inputs)
    prompt = inputs["input_ids"]
    longer = {**inputs, "input_ids": torch.cat([prompt, prompt.new_tensor([list(ids)])], dim=1)}
    for name, value in _ALONG.items():
        if name in inputs:
            more = inputs[name].new_full((1, len(ids)), value)
            longer[name] = torch.cat([inputs[name], more], dim=1)
    return longer


def permute_seen(model: Any, job: Seeing, chain: Chain) -> tuple[State, int]:
    """Write a chain of identifiers behind a prompt with pictures, each token among those that its grammar allows.

    Returns:
        The chain, complete, and how many tokens it took.
    """
    alone = chain.start()
    forced = alone.forced()
    if alone.done:  # a single identifier leaves nothing to ask
        return alone, len(forced)
    prompt = job.inputs["input_ids"]
    grammar = _Grammar(chain.start(), prompt.shape[1], job.sampling, job.seed)
    config = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=chain.longest, do_sample=False, use_cache=True, pad_token_id=(eos_ids(model) or [0])[0]
    )
    with Borrowed(model, config), Head(model):
        out = model.generate(
            **job.inputs,
            generation_config=config,
            logits_processor=LogitsProcessorList([grammar]),
            stopping_criteria=StoppingCriteriaList([_Done(grammar)]),
        )
    grammar.read(out)
    return grammar.state, out.shape[1] - prompt.shape[1]


class _Grammar(LogitsProcessor):
    """Leaves the tokens of one row to choose from that a chain allows next."""

    def __init__(self, state: State, width: int, sampling: Sampling, seed: int) -> None:
        self.state = state
        self._width, self._sampling = width, sampling
        self._chance = torch.Generator().manual_seed(seed)

    def read(self, input_ids: torch.Tensor) -> None:
        """Let the chain follow what was written since."""
        for token in input_ids[0, self._width :].tolist():
            self.state.push(token)
        self._width = input_ids.shape[1]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Change the (1, vocabulary) scores of the next token."""
        self.read(input_ids)
        allowed = list(self.state.allowed())
        left = torch.full_like(scores, -torch.inf)
        left[0, allowed] = draw(scores[0, allowed], self._sampling, self._chance)
        return left


class _Done(StoppingCriteria):
    """Ends the row when its chain is complete."""

    def __init__(self, grammar: _Grammar) -> None:
        self._grammar = grammar

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        """Whether it is."""
        self._grammar.read(input_ids)
        return torch.tensor([self._grammar.state.done], device=input_ids.device)

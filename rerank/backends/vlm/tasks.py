"""Execute tasks with a vision-language model, one request at a time.

The model computes the positions itself, since positions in pictures have more than one dimension. Imports torch at
import time.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from rerank.lm.decoding import add_noise, decode_continuations, end_of_sequence_tokens
from rerank.lm.forward_pass import OutputHead, call_forward, temporary_settings
from rerank.lm.jobs import Job
from rerank.lm.local_tasks import (
    format_permutation,
    make_decoding_reply,
    make_job_grammar,
    make_reply,
    tokenize_continuations,
)
from rerank.lm.permutation_grammar import GrammarState, PermutationGrammar
from rerank.lm.tokenizers import HfTokens
from rerank.tasks import ContinuationTask, GenerationTask, LikelihoodTask, PermutationTask, Reply, Sampling

#: Mapping from each model input with one value per token to its value for a text token.
_PER_TOKEN = {"attention_mask": 1, "mm_token_type_ids": 0, "token_type_ids": 0}


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureJob(Job):
    """A `Job` (tokenized request) with the model inputs of its prompt and pictures, on the model's device."""

    inputs: Mapping[str, Any] = field(repr=False, compare=False)

    @property
    def extra_inputs(self) -> dict[str, Any]:
        return {name: value for name, value in self.inputs.items() if name not in ("input_ids", "attention_mask")}


def _generate(model: Any, tokens: HfTokens, job: PictureJob) -> Reply:
    (row,) = decode_continuations(model, [job.prompt], [job.sampling], [job.seed], extra_inputs=job.extra_inputs)
    return make_decoding_reply(model, tokens, job, row)


def _score_continuations(model: Any, tokens: HfTokens, job: PictureJob) -> Reply:
    scores = compute_log_likelihoods(model, job.inputs, tokenize_continuations(tokens, job))
    return replace(make_reply(job, "", 0, steps=0), scores=tuple(scores))


def _permute(model: Any, tokens: HfTokens, job: PictureJob) -> Reply:
    state, count = decode_permutation(model, job, make_job_grammar(tokens, job))
    return make_reply(job, format_permutation(job.task, state.order), count, steps=count - 1)


#: Mapping from each class of tasks to the function that executes a job of this class.
TASK_RUNNERS: dict[type[Any], Callable[[Any, HfTokens, PictureJob], Reply]] = {
    GenerationTask: _generate,
    PermutationTask: _permute,
    ContinuationTask: _score_continuations,
    LikelihoodTask: _score_continuations,
}


def compute_log_likelihoods(
    model: Any, inputs: Mapping[str, Any], continuations: Sequence[Sequence[int]]
) -> list[float]:
    """Return log P(y | x) = sum_i log P(y_i | x, y_<i) of each continuation y, given a prompt x with pictures.

    Continuations that differ only in their last token share a forward pass. The output head and the log-softmax are
    in float32 for any data type of the model. The empty continuation has probability 1. The inputs are the
    processor's output for the prompt, with one row.
    """
    logs_after: dict[tuple[int, ...], torch.Tensor] = {}  # all tokens but the last -> (tokens, vocabulary)
    scores = []
    with temporary_settings(model), OutputHead(model):
        for ids in continuations:
            before = tuple(ids[:-1])
            if ids and before not in logs_after:
                output = call_forward(model, **append_tokens(inputs, before), use_cache=False, logits_to_keep=len(ids))
                logs_after[before] = output.logits[0, -len(ids) :].float().log_softmax(dim=-1)
            scores.append(float(logs_after[before][range(len(ids)), list(ids)].sum()) if ids else 0.0)
    return scores


def append_tokens(inputs: Mapping[str, Any], ids: Sequence[int]) -> dict[str, Any]:
    """Return the model inputs with text tokens appended; every input with one entry per token is extended."""
    if not ids:
        return dict(inputs)
    prompt = inputs["input_ids"]
    longer = {**inputs, "input_ids": torch.cat([prompt, prompt.new_tensor([list(ids)])], dim=1)}
    for name, value in _PER_TOKEN.items():
        if name in inputs:
            more = inputs[name].new_full((1, len(ids)), value)
            longer[name] = torch.cat([inputs[name], more], dim=1)
    return longer


def decode_permutation(model: Any, job: PictureJob, grammar: PermutationGrammar) -> tuple[GrammarState, int]:
    """Generate a permutation constrained by a grammar; return its state and the number of tokens of the reply."""
    state = grammar.start()
    forced = state.push_forced()
    if state.is_complete:  # a single identifier needs no model
        return state, len(forced)
    prompt = job.inputs["input_ids"]
    processor = _GrammarProcessor(grammar.start(), prompt.shape[1], job.sampling, job.seed)
    config = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=grammar.max_tokens,
        do_sample=False,
        use_cache=True,
        pad_token_id=(end_of_sequence_tokens(model) or [0])[0],
    )
    with temporary_settings(model, config), OutputHead(model):
        output = model.generate(
            **job.inputs,
            generation_config=config,
            logits_processor=LogitsProcessorList([processor]),
            stopping_criteria=StoppingCriteriaList([_CompleteCriteria(processor)]),
        )
    processor.update(output)
    return processor.state, output.shape[1] - prompt.shape[1]


class _GrammarProcessor(LogitsProcessor):
    """A logits processor that restricts one row to the tokens that the grammar allows next."""

    def __init__(self, state: GrammarState, width: int, sampling: Sampling, seed: int) -> None:
        self.state = state
        self._width, self._sampling = width, sampling
        self._generator = torch.Generator().manual_seed(seed)

    def update(self, input_ids: torch.Tensor) -> None:
        for token in input_ids[0, self._width :].tolist():
            self.state.push(token)
        self._width = input_ids.shape[1]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # (1, vocabulary)
        self.update(input_ids)
        allowed = list(self.state.allowed())
        restricted = torch.full_like(scores, -torch.inf)
        restricted[0, allowed] = add_noise(scores[0, allowed], self._sampling, self._generator)
        return restricted


class _CompleteCriteria(StoppingCriteria):
    """A stopping criterion that ends generation when the permutation is complete."""

    def __init__(self, processor: _GrammarProcessor) -> None:
        self._processor = processor

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        self._processor.update(input_ids)
        return torch.tensor([self._processor.state.is_complete], device=input_ids.device)

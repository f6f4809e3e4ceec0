"""Execute tasks with vLLM: convert jobs to engine requests, and the outputs of the engine to replies.

The engine is passed as a function, so this module does not import vLLM.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rerank.backends.vllm.grammar import forced_parameters, permutation_parameters
from rerank.lm.jobs import CLOSE, Job
from rerank.lm.joined_tokens import TokenIds
from rerank.lm.local_tasks import format_permutation, job_identifier_tokens, make_reply, tokenize_continuations
from rerank.lm.permutation_grammar import PermutationGrammar
from rerank.lm.tokenizers import HfTokens
from rerank.tasks import ContinuationTask, GenerationTask, LikelihoodTask, PermutationTask, Reply

#: Maximum number of tokens per engine request whose log-probabilities are requested.
NAMED = 128


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """A tokenized request to a vLLM engine."""

    prompt: Sequence[int]
    #: Fields of the request's ``SamplingParams``; the defaults are greedy decoding and no detokenization.
    parameters: Mapping[str, Any]


#: Function that runs requests and returns vLLM's ``CompletionOutput`` for each of them, in order.
RunEngine = Callable[[Sequence[EngineRequest]], list[Any]]


def _generate(run: RunEngine, tokens: HfTokens, jobs: Sequence[Job]) -> list[Reply]:
    requests = []
    for job in jobs:
        sampling = job.sampling
        limits = {"max_tokens": sampling.max_tokens, "min_tokens": min(sampling.min_tokens, sampling.max_tokens)}
        requests.append(EngineRequest(job.prompt, {**_sampling_parameters(job), **limits}))
    replies = []
    for job, output in zip(jobs, run(requests), strict=True):
        row, ended = list(output.token_ids), output.finish_reason == "stop"
        text = job.reply_prefix + tokens.text(row[:-1] if ended else row)
        # The prefill predicts the first token, so there is one step fewer; the end token counts but is not in the text.
        replies.append(make_reply(job, text, len(row), steps=len(row) - 1, ended=ended))
    return replies


def _permute(run: RunEngine, tokens: HfTokens, jobs: Sequence[Job]) -> list[Reply]:
    """Generate permutations. Tokens at their ends that the grammar determines are added without the engine."""
    pieces = [job_identifier_tokens(tokens, job) for job in jobs]
    states = [PermutationGrammar(*piece, j.task.count).start() for j, piece in zip(jobs, pieces, strict=True)]
    forced = [state.push_forced() for state in states]
    unfinished = [index for index, state in enumerate(states) if not state.is_complete]
    requests = []
    for index in unfinished:
        job = jobs[index]
        parameters = _sampling_parameters(job) | permutation_parameters(*pieces[index], job.task.count)
        requests.append(EngineRequest([*job.prompt, *forced[index]], parameters))
    rows = {index: list(output.token_ids) for index, output in zip(unfinished, run(requests), strict=True)}
    replies = []
    for index, (job, state) in enumerate(zip(jobs, states, strict=True)):
        count = len(forced[index])
        for token in rows.get(index, ()):
            if token not in state.allowed():  # the end token, which no identifier contains
                break
            state.push(token)
            count += 1
        count += len(state.push_forced())
        text = format_permutation(job.task, state.order)
        replies.append(make_reply(job, text, count, steps=len(rows.get(index, ())) - 1, ended=state.is_complete))
    return replies


def _score_continuations(run: RunEngine, tokens: HfTokens, jobs: Sequence[Job]) -> list[Reply]:
    """Compute log-probabilities of continuations.

    Continuations of one token are scored at the last position of the prompt. Longer continuations are generated under a
    grammar that allows nothing else, so their prompt is prefilled only once. (vLLM's prompt log-probabilities would
    bypass the prefix cache and prefill the prompt once per continuation.) The two kinds of requests never share a
    batch, because vLLM would then return the log-probabilities of wrong tokens.
    """
    continuations = [tokenize_continuations(tokens, job) for job in jobs]
    single = {index for index, texts in enumerate(continuations) if max(map(len, texts), default=0) <= 1}
    scores = _score_single_tokens(run, [(index, jobs[index].prompt, continuations[index]) for index in sorted(single)])
    longer = [(index, j.prompt, continuations[index]) for index, j in enumerate(jobs) if index not in single]
    scores |= _score_forced_tokens(run, longer)
    replies = []
    for index, (job, texts) in enumerate(zip(jobs, continuations, strict=True)):
        reply = make_reply(job, "", 0, steps=0)
        if all(text in scores[index] for text in texts):
            reply = replace(reply, scores=tuple(scores[index][text] for text in texts))
        else:
            error = "The prompt and a continuation together are longer than the context"
            reply = replace(reply, finish="error", error=error)
        replies.append(reply)
    return replies


#: Index of a job, its prompt and its continuations.
_Scored = tuple[int, Sequence[int], Sequence[TokenIds]]


def _score_single_tokens(run: RunEngine, prompts: Sequence[_Scored]) -> dict[int, dict[TokenIds, float]]:
    """Return, per job index, a mapping from each continuation of at most one token to its log-probability."""
    scores: dict[int, dict[TokenIds, float]] = {index: {(): 0.0} for index, _, _ in prompts}
    chunks: list[tuple[int, Sequence[int], list[int]]] = []
    for index, prompt, texts in prompts:
        ids = sorted({token for text in texts for token in text})
        chunks += [(index, prompt, ids[start : start + NAMED]) for start in range(0, len(ids), NAMED)]
    # vLLM pads shorter lists in a batch with token 0, so the log-probability of token 0 itself would be lost.
    width = max((len(ids) for _, _, ids in chunks), default=0)
    named = [{"max_tokens": 1, "logprob_token_ids": ids + ids[-1:] * (width - len(ids))} for _, _, ids in chunks]
    outputs = run([EngineRequest(prompt, fields) for (_, prompt, _), fields in zip(chunks, named, strict=True)])
    for (index, _, ids), output in zip(chunks, outputs, strict=True):
        scores[index] |= {(token,): float(output.logprobs[0][token].logprob) for token in ids}
    return scores


def _score_forced_tokens(run: RunEngine, prompts: Sequence[_Scored]) -> dict[int, dict[TokenIds, float]]:
    """Return, per job index, the sum of the tokens' log-probabilities of each continuation that fits in the context."""
    scores: dict[int, dict[TokenIds, float]] = {index: {(): 0.0} for index, _, _ in prompts}
    scored = [(index, prompt, text) for index, prompt, texts in prompts for text in dict.fromkeys(texts) if text]
    outputs = run([EngineRequest(prompt, forced_parameters(text)) for _, prompt, text in scored])
    for (index, _, text), output in zip(scored, outputs, strict=True):
        if tuple(output.token_ids) == text:
            steps = zip(text, output.logprobs, strict=True)
            scores[index][text] = sum(float(logprobs[token].logprob) for token, logprobs in steps)
    return scores


def generate_thoughts(run: RunEngine, jobs: Sequence[Job]) -> list[tuple[list[int], bool]]:
    """Continue the prompts of jobs up to the end of the thoughts; implements `rerank.lm.jobs.ThoughtGenerator`."""
    requests = []
    for job in jobs:
        limits = {"max_tokens": job.sampling.max_tokens, "stop": [CLOSE], "detokenize": True}
        requests.append(EngineRequest(job.prompt, {**_sampling_parameters(job), **limits}))
    return [(list(output.token_ids), output.finish_reason == "stop") for output in run(requests)]


#: Mapping from each class of tasks to the function that executes its jobs.
TASK_RUNNERS: dict[type[Any], Callable[[RunEngine, HfTokens, Sequence[Job]], list[Reply]]] = {
    GenerationTask: _generate,
    PermutationTask: _permute,
    ContinuationTask: _score_continuations,
    LikelihoodTask: _score_continuations,
}


def _sampling_parameters(job: Job) -> dict[str, Any]:
    """Return the fields of ``SamplingParams`` for temperature, top-p and seed; empty for greedy decoding."""
    sampling = job.sampling
    if sampling.temperature <= 0:
        return {}
    return {"temperature": sampling.temperature, "top_p": sampling.top_p, "seed": job.seed}

"""Execute tasks with vLLM: convert jobs to engine requests, and the outputs of the engine to replies.

The engine is passed as a function, so this module does not import vLLM.
"""

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from rerank.backends.vllm.engine import EngineRequest, RunEngine
from rerank.backends.vllm.grammar import NAMED, forced_parameters, named_parameters, permutation_parameters
from rerank.lm.jobs import CLOSE, Job, add_thought, open_thought
from rerank.lm.joined_tokens import TokenIds
from rerank.lm.local_tasks import format_permutation, job_identifier_tokens, make_reply, tokenize_continuations
from rerank.lm.permutation_grammar import PermutationGrammar
from rerank.lm.tokenizers import HfTokens
from rerank.tasks import ContinuationTask, GenerationTask, LikelihoodTask, LogitTask, PermutationTask, Reply


async def run_job(run: RunEngine, tokens: HfTokens, job: Job) -> Reply:
    """Return the reply to a job, after its thoughts have been generated if it has any."""
    if opened := open_thought(tokens, job):
        limits = {"max_tokens": opened.sampling.max_tokens, "stop": [CLOSE], "detokenize": True}
        (output,) = await run([EngineRequest(opened.prompt, {**_sampling_parameters(opened), **limits})])
        job = add_thought(tokens, job, opened, list(output.token_ids), output.finish_reason == "stop")
    return await TASK_RUNNERS[type(job.task)](run, tokens, job)


async def _generate(run: RunEngine, tokens: HfTokens, job: Job) -> Reply:
    sampling = job.sampling
    limits = {"max_tokens": sampling.max_tokens, "min_tokens": min(sampling.min_tokens, sampling.max_tokens)}
    (output,) = await run([EngineRequest(job.prompt, {**_sampling_parameters(job), **limits})])
    row, ended = list(output.token_ids), output.finish_reason == "stop"
    text = job.reply_prefix + tokens.text(row[:-1] if ended else row)
    # The prefill predicts the first token, so there is one step fewer; the end token counts but is not in the text.
    return make_reply(job, text, len(row), steps=len(row) - 1, ended=ended)


async def _permute(run: RunEngine, tokens: HfTokens, job: Job) -> Reply:
    """Generate a permutation. Tokens at its ends that the grammar determines are added without the engine."""
    pieces = job_identifier_tokens(tokens, job)
    state = PermutationGrammar(*pieces, job.task.count).start()
    forced = state.push_forced()
    row, count = [], len(forced)
    if not state.is_complete:
        parameters = _sampling_parameters(job) | permutation_parameters(*pieces, job.task.count)
        (output,) = await run([EngineRequest([*job.prompt, *forced], parameters)])
        row = list(output.token_ids)
    for token in row:
        if token not in state.allowed():  # the end token, which no identifier contains
            break
        state.push(token)
        count += 1
    count += len(state.push_forced())
    text = format_permutation(job.task, state.order)
    return make_reply(job, text, count, steps=len(row) - 1, ended=state.is_complete)


async def _score_continuations(run: RunEngine, tokens: HfTokens, job: Job) -> Reply:
    """Compute log-probabilities of continuations, or logits of words.

    Continuations of one token are scored at the last position of the prompt. Longer continuations are generated under a
    grammar that allows nothing else, so their prompt is prefilled only once. (vLLM's prompt log-probabilities would
    bypass the prefix cache and prefill the prompt once per continuation.)
    """
    as_logits, texts = type(job.task) is LogitTask, tokenize_continuations(tokens, job)
    reply = make_reply(job, "", 0, steps=0)
    if max(map(len, texts), default=0) <= 1:
        scores = await _score_single_tokens(run, job, texts, as_logits=as_logits)
    else:
        scores = await _score_forced_tokens(run, job, texts)
    if all(text in scores for text in texts):
        return replace(reply, scores=tuple(scores[text] for text in texts))
    return replace(reply, finish="error", error="The prompt and a continuation together are longer than the context")


async def _score_single_tokens(
    run: RunEngine, job: Job, texts: Sequence[TokenIds], *, as_logits: bool
) -> dict[TokenIds, float]:
    """Return a mapping from each continuation of at most one token to its log-probability or logit."""
    ids = sorted({token for text in texts for token in text})
    chunks = [ids[start : start + NAMED] for start in range(0, len(ids), NAMED)]
    outputs = await run([EngineRequest(job.prompt, named_parameters(chunk, as_logits=as_logits)) for chunk in chunks])
    scores: dict[TokenIds, float] = {(): 0.0}
    for chunk, output in zip(chunks, outputs, strict=True):
        best = output.logprobs[0]  # a token with a score of minus infinity is not better than those not allowed
        scores |= {(token,): float(best[token].logprob) if token in best else -math.inf for token in chunk}
    return scores


async def _score_forced_tokens(run: RunEngine, job: Job, texts: Sequence[TokenIds]) -> dict[TokenIds, float]:
    """Return the sum of the tokens' log-probabilities of each continuation that fits in the context."""
    scored = [text for text in dict.fromkeys(texts) if text]
    outputs = await run([EngineRequest(job.prompt, forced_parameters(text)) for text in scored])
    scores: dict[TokenIds, float] = {(): 0.0}
    for text, output in zip(scored, outputs, strict=True):
        if tuple(output.token_ids) == text:
            steps = zip(text, output.logprobs, strict=True)
            scores[text] = sum(float(logprobs[token].logprob) for token, logprobs in steps)
    return scores


#: Mapping from each class of tasks to the function that executes a job of this class.
TASK_RUNNERS: dict[type[Any], Callable[[RunEngine, HfTokens, Job], Awaitable[Reply]]] = {
    GenerationTask: _generate,
    PermutationTask: _permute,
    ContinuationTask: _score_continuations,
    LikelihoodTask: _score_continuations,
    LogitTask: _score_continuations,
}


def _sampling_parameters(job: Job) -> dict[str, Any]:
    sampling = job.sampling
    if sampling.temperature <= 0:
        return {}
    return {"temperature": sampling.temperature, "top_p": sampling.top_p, "seed": job.seed}

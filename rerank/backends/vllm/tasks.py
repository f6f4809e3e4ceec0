"""How vLLM does each kind of task: jobs in, what to ask the engine, and replies out of what it gave.

Knows tasks, tokens and texts. The engine is a function here, so this module imports no vLLM.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rerank.backends.vllm.grammar import chained, scripted
from rerank.lm.jobs import Job
from rerank.lm.local_tasks import _behind, _end, _pieces, _reply
from rerank.lm.permutation_grammar import Chain, Ids
from rerank.lm.thinking import CLOSE
from rerank.lm.tokenizers import HfTokens
from rerank.tasks import ContinuationTask, GenerationTask, LikelihoodTask, PermutationTask, Reply

#: The most tokens of which vLLM says the likelihood where they are named.
NAMED = 128


@dataclass(frozen=True, slots=True)
class Ask:
    """One request to the engine.

    Attributes:
        prompt: Token ids.
        fields: Fields of its ``SamplingParams``; left out, they mean greedy and no text.
    """

    prompt: Sequence[int]
    fields: Mapping[str, Any]


#: Requests -> vLLM's ``CompletionOutput`` for each, in order.
Run = Callable[[Sequence[Ask]], list[Any]]


def _write(run: Run, tokens: HfTokens, jobs: Sequence[Job]) -> list[Reply]:
    """Text, as it comes."""
    asked = [Ask(j.prompt, {**_chance(j), "max_tokens": j.sampling.max_tokens, "min_tokens": _least(j)}) for j in jobs]
    replies = []
    for job, out in zip(jobs, run(asked), strict=True):
        row, ended = list(out.token_ids), out.finish_reason == "stop"
        text = job.begun + tokens.text(row[:-1] if ended else row)
        replies.append(_reply(job, text, len(row), steps=len(row) - 1, ended=ended))
    return replies


def _permute(run: Run, tokens: HfTokens, jobs: Sequence[Job]) -> list[Reply]:
    """Chains of identifiers. What is forced at their beginnings and ends is not asked for."""
    parts = [_pieces(tokens, j.task.items, j.task.separator, _end(tokens, j), j.begun) for j in jobs]
    states = [Chain(*pieces, j.task.count).start() for j, pieces in zip(jobs, parts, strict=True)]
    begun = [state.forced() for state in states]
    open_ = [at for at, state in enumerate(states) if not state.done]
    asked = [
        Ask([*jobs[at].prompt, *begun[at]], _chance(jobs[at]) | chained(*parts[at], jobs[at].task.count))
        for at in open_
    ]
    rows = {at: list(out.token_ids) for at, out in zip(open_, run(asked), strict=True)}
    replies = []
    for at, (job, state) in enumerate(zip(jobs, states, strict=True)):
        written = len(begun[at])
        for token in rows.get(at, ()):
            if token not in state.allowed():  # the end, which no identifier has
                break
            state.push(token)
            written += 1
        written += len(state.forced())
        text = job.task.separator.join(job.task.items[item] for item in state.order)
        replies.append(_reply(job, text, written, steps=len(rows.get(at, ())) - 1, ended=state.done))
    return replies


def _weigh(run: Run, tokens: HfTokens, jobs: Sequence[Job]) -> list[Reply]:
    """Log-probabilities of continuations.

    Single tokens are read off the prompt's last position. Longer continuations are written under a grammar that leaves
    nothing else: their prompt is then read once for all of them, where vLLM's log-probabilities of prompts would read
    it for each, past its cache. The two never share a batch: vLLM would answer some with the others' tokens.
    """
    wanted = [[_behind(tokens, j, text) for text in j.task.continuations] for j in jobs]
    short = {at for at, texts in enumerate(wanted) if max(map(len, texts), default=0) <= 1}
    found = _named(run, [(at, jobs[at].prompt, wanted[at]) for at in sorted(short)])
    found |= _scripted(run, [(at, j.prompt, wanted[at]) for at, j in enumerate(jobs) if at not in short])
    replies = []
    for at, (job, texts) in enumerate(zip(jobs, wanted, strict=True)):
        reply = _reply(job, "", 0, steps=0)
        if all(text in found[at] for text in texts):
            reply = replace(reply, scores=tuple(found[at][text] for text in texts))
        else:
            reply = replace(reply, finish="error", error="The context has no room for prompt and continuation")
        replies.append(reply)
    return replies


_Question = tuple[int, Sequence[int], Sequence[Ids]]


def _named(run: Run, questions: Sequence[_Question]) -> dict[int, dict[Ids, float]]:
    """Likelihoods of single tokens, place -> token -> log-probability."""
    found: dict[int, dict[Ids, float]] = {at: {(): 0.0} for at, _, _ in questions}
    asked: list[tuple[int, Sequence[int], list[int]]] = []
    for at, prompt, texts in questions:
        ids = sorted({token for text in texts for token in text})
        asked += [(at, prompt, ids[start : start + NAMED]) for start in range(0, len(ids), NAMED)]
    # vLLM fills shorter lists of a batch up with token 0, whose own number would be lost.
    width = max((len(ids) for _, _, ids in asked), default=0)
    fields = [{"max_tokens": 1, "logprob_token_ids": ids + ids[-1:] * (width - len(ids))} for _, _, ids in asked]
    outs = run([Ask(prompt, named) for (_, prompt, _), named in zip(asked, fields, strict=True)])
    for (at, _, ids), out in zip(asked, outs, strict=True):
        found[at] |= {(token,): float(out.logprobs[0][token].logprob) for token in ids}
    return found


def _scripted(run: Run, questions: Sequence[_Question]) -> dict[int, dict[Ids, float]]:
    """Likelihoods of continuations of any length, place -> token ids -> sum of log-probabilities."""
    found: dict[int, dict[Ids, float]] = {at: {(): 0.0} for at, _, _ in questions}
    asked = [(at, prompt, text) for at, prompt, texts in questions for text in dict.fromkeys(texts) if text]
    outs = run([Ask(prompt, scripted(text)) for _, prompt, text in asked])
    for (at, _, text), out in zip(asked, outs, strict=True):
        if tuple(out.token_ids) == text:
            steps = zip(text, out.logprobs, strict=True)
            found[at][text] = sum(float(given[token].logprob) for token, given in steps)
    return found


def muse(run: Run, jobs: Sequence[Job]) -> list[tuple[list[int], bool]]:
    """Thoughts; see `rerank.lm.thinking`."""
    outs = run(
        [
            Ask(j.prompt, {**_chance(j), "max_tokens": j.sampling.max_tokens, "stop": [CLOSE], "detokenize": True})
            for j in jobs
        ]
    )
    return [(list(out.token_ids), out.finish_reason == "stop") for out in outs]


#: Kind of task -> how it is done.
DO: dict[type[Any], Callable[[Run, HfTokens, Sequence[Job]], list[Reply]]] = {
    GenerationTask: _write,
    PermutationTask: _permute,
    ContinuationTask: _weigh,
    LikelihoodTask: _weigh,
}


def _chance(job: Job) -> dict[str, Any]:
    """Fields that say how to choose; a greedy request needs none."""
    sampling = job.sampling
    if sampling.temperature <= 0:
        return {}
    return {"temperature": sampling.temperature, "top_p": sampling.top_p, "seed": job.seed}


def _least(job: Job) -> int:
    return min(job.sampling.min_tokens, job.sampling.max_tokens)

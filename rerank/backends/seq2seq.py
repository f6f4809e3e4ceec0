"""The backend ``seq2seq``: local encoder-decoder models such as T5, which score the first token of the answer.

Torch and transformers are imported when a model is loaded, not when this module is imported.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from rerank.backends.hf import Hf
from rerank.lm.jobs import Job
from rerank.lm.loading import quiet_transformers, require_torch
from rerank.tasks import ContinuationTask, Reply


class Seq2seq(Hf):
    """A backend that runs an encoder-decoder model of transformers.

    The encoder processes the prompt, and the decoder computes the distribution of the first token of the answer, as in
    monoT5 (Nogueira et al., EMNLP Findings 2020, arXiv 2003.06713). No text is generated.
    """

    tasks = frozenset({ContinuationTask})
    classes: ClassVar[tuple[str, str]] = ("AutoModelForSeq2SeqLM", "AutoTokenizer")

    def _run(self, jobs: list[Job]) -> list[Reply]:
        """Return the log-probability of each continuation as the first token that the decoder generates."""
        torch, _ = require_torch()
        if jobs[0].task_type not in self.tasks:
            error = f"The backend 'seq2seq' does not support {jobs[0].task_type.__name__}"
            return [Reply(finish="error", error=error) for _ in jobs]
        width, device = max(len(job.prompt) for job in jobs), self._model.device
        ids = torch.zeros((len(jobs), width), dtype=torch.long, device=device)
        mask = torch.zeros_like(ids)
        for row, job in enumerate(jobs):  # padded on the right; padding is masked
            ids[row, : len(job.prompt)] = torch.tensor(job.prompt)
            mask[row, : len(job.prompt)] = 1
        start = torch.full((len(jobs), 1), _decoder_start_token(self._model), device=device)
        with quiet_transformers(), torch.inference_mode():
            output = self._model(input_ids=ids, attention_mask=mask, decoder_input_ids=start)
        logs = output.logits[:, 0].float().log_softmax(dim=-1)  # (jobs, vocabulary)
        return [self._reply(job, row) for job, row in zip(jobs, logs, strict=True)]

    def _reply(self, job: Job, logs: Any) -> Reply:
        words = [self._tokens.plain(text) for text in job.task.continuations]
        reply = Reply(tokens_in=len(job.prompt))
        if any(len(word) != 1 for word in words):
            error = (
                f"Only single tokens can be scored, but {list(job.task.continuations)} have "
                f"{[len(word) for word in words]} tokens"
            )
            return replace(reply, finish="error", error=error)
        return replace(reply, scores=tuple(float(logs[word[0]]) for word in words))


def _decoder_start_token(model: Any) -> int:
    """Return the id of the decoder's start token.

    Older configurations of T5 do not state this token; their start token is the padding token.
    """
    start = getattr(model.generation_config, "decoder_start_token_id", None)
    return int(model.config.pad_token_id if start is None else start)

"""The backends ``seq2seq`` and ``fusion``: local encoder-decoder models such as T5."""

import time
from collections.abc import Sequence
from typing import Any, ClassVar

from rerank.backends.hf import Hf
from rerank.lm.jobs import Job
from rerank.lm.loading import quiet_transformers, require_torch
from rerank.lm.model_process import check_scores, require_model_process
from rerank.lm.out_of_memory import run_batches
from rerank.tasks import ContinuationTask, FusionTask, Reply, Request


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
        if type(jobs[0].task) not in self.tasks:
            error = f"The backend 'seq2seq' does not support {type(jobs[0].task).__name__}"
            return [Reply(finish="error", error=error) for _ in jobs]
        ids, mask = _pad([job.prompt for job in jobs], self.model.device)
        first = getattr(self.model.generation_config, "decoder_start_token_id", None)
        if first is None:  # older configurations of T5, whose start token is the padding token
            first = self.model.config.pad_token_id
        start = torch.full((len(jobs), 1), int(first), device=self.model.device)
        with quiet_transformers(), torch.inference_mode():
            output = self.model(input_ids=ids, attention_mask=mask, decoder_input_ids=start)
        replies = []
        # (jobs, vocabulary)
        for job, logs in zip(jobs, output.logits[:, 0].float().log_softmax(dim=-1), strict=True):
            words = [self.tokens.plain(text) for text in job.task.continuations]
            lengths, texts = [len(word) for word in words], list(job.task.continuations)
            if set(lengths) <= {1}:
                scores = tuple(float(logs[word[0]]) for word in words)
                replies.append(Reply(tokens_in=len(job.prompt), scores=scores))
            else:
                error = f"Only single tokens can be scored, but {texts} have {lengths} tokens"
                replies.append(Reply(tokens_in=len(job.prompt), finish="error", error=error))
        return replies


class Fusion(Hf):
    """A backend that runs an encoder-decoder model of transformers, which encodes each turn of a prompt separately.

    Fusion in the decoder (Izacard and Grave, EACL 2021, arXiv 2007.01282), as in LiT5. The weights are those of an
    ordinary T5; only the input of the decoder's cross-attention differs: the concatenated states of all texts. The
    context size limits each turn. Texts are not truncated: a request with a longer turn gets a reply with
    ``finish="error"``. Decoding is greedy.
    """

    tasks = frozenset({FusionTask})
    classes: ClassVar[tuple[str, str]] = ("AutoModelForSeq2SeqLM", "AutoTokenizer")

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        require_model_process()
        with self._lock:
            return [self._fuse(request) for request in requests]

    def _fuse(self, request: Request) -> Reply:
        if not isinstance(request.task, FusionTask):
            error = f"The backend 'fusion' does not support {type(request.task).__name__}"
            return Reply(finish="error", error=error)
        started = time.perf_counter()
        rows = self.tokens.encode([(turn,) for turn in request.prompt])
        longest, tokens = max(map(len, rows), default=0), sum(map(len, rows))
        if longest > self.tokens.context_size:
            error = f"A text has {longest} tokens, but the context holds at most {self.tokens.context_size}"
            return Reply(tokens_in=tokens, finish="error", error=error)
        (_, found), *_ = run_batches(
            [rows],
            lambda batch: self._decode(batch[0], request.sampling.max_tokens),
            length=lambda _: tokens,
            limit=self._limits[FusionTask],
            what="request",
        )
        ids = self._limits[FusionTask].reason if found is None else found
        if isinstance(ids, str):
            error = f"Out of memory on {len(rows)} texts with {tokens} tokens: {ids}"
            return Reply(tokens_in=tokens, finish="error", error=error)
        ended = ids[-1:] == [self.model.config.eos_token_id]
        return Reply(
            text=self.tokens.text(ids[:-1] if ended else ids),
            tokens_in=tokens,
            tokens_out=len(ids),
            steps=max(0, len(ids) - 1),
            seconds=time.perf_counter() - started,
            finish="stop" if ended else "length",
        )

    def _decode(self, rows: Sequence[Sequence[int]], max_tokens: int) -> list[int] | str:
        """Return the token ids that the decoder generates from the joined encoder states of a request's texts.

        If a single text does not fit in memory, return why: it says nothing about what the decoder can join.
        """
        torch, transformers = require_torch()
        ids, mask = _pad(rows, self.model.device)
        encoder = self.model.get_encoder()
        with quiet_transformers(), torch.inference_mode():
            parts = []
            for _, output in run_batches(
                range(len(rows)),
                lambda batch: encoder(input_ids=ids[list(batch)], attention_mask=mask[list(batch)]),
                length=lambda _: ids.shape[1],
                limit=self._limits[type(encoder)],
                what="texts",
            ):
                if output is None:
                    return self._limits[type(encoder)].reason
                parts.append(output.last_hidden_state)
            states = torch.cat(parts)
            check_scores(states.aminmax(), "hidden states")
            # (texts, width, size) -> (1, texts * width, size): the decoder attends to all texts at once.
            fused = transformers.modeling_outputs.BaseModelOutput(last_hidden_state=states.flatten(0, 1)[None])
            output = self.model.generate(
                encoder_outputs=fused, attention_mask=mask.flatten()[None], max_new_tokens=max_tokens, do_sample=False
            )
        written: list[int] = output[0].tolist()
        return written[1:]  # without the start token of the decoder


def _pad(rows: Sequence[Sequence[int]], device: Any) -> tuple[Any, Any]:
    """Return token ids, padded on the right, and a mask of the padding; both have the shape (rows, width)."""
    torch, _ = require_torch()
    ids = torch.zeros((len(rows), max(map(len, rows))), dtype=torch.long, device=device)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row)
        mask[index, : len(row)] = 1
    return ids, mask

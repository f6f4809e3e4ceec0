"""The backend ``fusion``: encoder-decoder models that encode several texts separately and generate one text (LiT5).

Source: fusion in the decoder, Izacard and Grave, EACL 2021, arXiv 2007.01282. The weights are those of an ordinary
T5; only the input of the decoder's cross-attention differs: the concatenated states of all texts.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import ClassVar

from rerank.backends.hf import Hf
from rerank.errors import BackendError
from rerank.lm.loading import quiet_transformers, require_torch
from rerank.lm.model_process import require_model_process
from rerank.tasks import FusionTask, Reply, Request


class Fusion(Hf):
    """A backend that runs an encoder-decoder model of transformers, which encodes each turn of a prompt separately.

    The context size limits each turn. Texts are not truncated: a request with a longer turn gets a reply with
    ``finish="error"``. Decoding is greedy.
    """

    tasks = frozenset({FusionTask})
    classes: ClassVar[tuple[str, str]] = ("AutoModelForSeq2SeqLM", "AutoTokenizer")

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """Return the replies to all requests, in order."""
        require_model_process()
        with self._lock:
            return [self._fuse(request) for request in requests]

    def _fuse(self, request: Request) -> Reply:
        from rerank.lm.decoding import is_out_of_memory

        if not isinstance(request.task, FusionTask):
            error = f"The backend 'fusion' does not support {type(request.task).__name__}"
            return Reply(finish="error", error=error)
        started = time.perf_counter()
        rows = self._tokens.encode([(turn,) for turn in request.prompt])
        longest, tokens = max(map(len, rows), default=0), sum(map(len, rows))
        if longest > self._tokens.context_size:
            error = f"A text has {longest} tokens, but the context holds at most {self._tokens.context_size}"
            return Reply(tokens_in=tokens, finish="error", error=error)
        try:
            ids = self._decode(rows, request.sampling.max_tokens)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise BackendError(f"The model failed on {len(rows)} texts: {error}") from error
            return Reply(
                tokens_in=tokens,
                finish="error",
                error=f"Out of memory on {len(rows)} texts of at most {longest} tokens",
            )
        ended = ids[-1:] == [self._model.config.eos_token_id]
        return Reply(
            text=self._tokens.text(ids[:-1] if ended else ids),
            tokens_in=tokens,
            tokens_out=len(ids),
            steps=max(0, len(ids) - 1),
            seconds=time.perf_counter() - started,
            finish="stop" if ended else "length",
        )

    def _decode(self, rows: Sequence[Sequence[int]], max_tokens: int) -> list[int]:
        """Return the token ids that the decoder generates from the joined encoder states of a request's texts."""
        torch, transformers = require_torch()
        width, device = max(map(len, rows)), self._model.device
        ids = torch.zeros((len(rows), width), dtype=torch.long, device=device)
        mask = torch.zeros_like(ids)
        for index, row in enumerate(rows):  # padded on the right; padding is masked
            ids[index, : len(row)] = torch.tensor(row)
            mask[index, : len(row)] = 1
        with quiet_transformers(), torch.inference_mode():
            states = self._model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
            # (texts, width, size) -> (1, texts * width, size): the decoder attends to all texts at once.
            fused = transformers.modeling_outputs.BaseModelOutput(last_hidden_state=states.flatten(0, 1)[None])
            output = self._model.generate(
                encoder_outputs=fused, attention_mask=mask.flatten()[None], max_new_tokens=max_tokens, do_sample=False
            )
        written: list[int] = output[0].tolist()
        return written[1:]  # without the start token of the decoder

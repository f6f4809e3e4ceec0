"""The backend ``jina_ranking``: scores all passages of a query in one forward pass of jina-reranker-v3.

Source: Wang, Li and Xiao 2025, arXiv 2509.25085 ("last but not late interaction"), and the authors' ``modeling.py``, of
which only the formula is used: no code of the model's repository is run. Each passage, and the query after the
passages, ends with a special token. The hidden states at these tokens are projected, and the score of a passage is the
cosine similarity of its vector and the query's vector. Torch and transformers are imported when a model is loaded.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rerank.backends.cross_encoder import PassageScorer, load_own_class
from rerank.errors import DataError, ensure
from rerank.lm.loading import complete_weights, quiet_transformers, require_torch
from rerank.lm.model_files import ModelFiles
from rerank.lm.out_of_memory import run_batches
from rerank.lm.tokenizers import HfTokens, stated_context_size
from rerank.prompts import load_prompt
from rerank.prompts.base import Prompt
from rerank.tasks import BackendOptions, Reply, resolve_task_context_size
from rerank.tasks.interruption import raise_if_interrupted

_log = logging.getLogger(__name__)

#: Maximum number of passages per forward pass, as in the authors' code.
DEFAULT_BLOCK = 125
_ARCHITECTURE = "JinaForRanking"
_PASSAGE_MARK, _QUERY_MARK = "<|embed_token|>", "<|rerank_token|>"
#: Dimension of the vectors that are compared.
_PROJECTED = 512


class RankingTokens(HfTokens):
    """A token counter for prompts whose first turn is the query; the context size is that of one forward pass."""

    def __init__(self, tokenizer: Any, *, context_size: int) -> None:
        super().__init__(tokenizer, context_size=context_size)
        none, one, two = self.lengths([render_ranking_prompt("", [""] * count) for count in (0, 1, 2)])
        #: Number of tokens around the query, and around each passage; the number of a passage may have three digits.
        self.fixed, self.per_passage = none, max(one - none, two - one) + 3

    def count(self, prompt: Prompt) -> int:
        """Return an upper bound of the number of tokens; the text contains the query twice, and each passage once."""
        if not prompt:
            return 0
        query, *passages = self.lengths([message.content for message in prompt])
        return self.fixed + 2 * query + sum(passages) + self.per_passage * max(1, len(passages))


#: Float32 vectors of a block of passages, of shape (passages, 512), and of the query, of shape (512,).
_Vectors = tuple[Any, Any]


class JinaRanking(PassageScorer):
    """A backend that runs jina-reranker-v3 and models of the same class, with attributes ``model`` and ``projector``.

    Passages that do not fit in one forward pass are divided into blocks. The query then has one vector per block.
    All passages are compared with the weighted mean of these vectors, where the weight of a block is the maximum
    over its passages of (1 + cosine) / 2, as in the authors' code. A block that does not fit in memory is divided,
    with a warning. Only the options batch size (passages per block) and context size have an effect.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, identity: Mapping[str, str], options: BackendOptions | None = None
    ) -> None:
        super().__init__(model, identity)
        options = options or BackendOptions()
        added = tokenizer.get_added_vocab()
        for mark in (_PASSAGE_MARK, _QUERY_MARK):
            ensure(
                mark in added,
                f"The tokenizer of {identity.get('model', '')!r} lacks the token {mark}",
                expected="the tokenizer of the model, which contains this special token",
                remedy="Download the model again",
                error=DataError,
            )
        self._marks = added[_PASSAGE_MARK], added[_QUERY_MARK]
        self._block = options.batch_size or DEFAULT_BLOCK
        if self._block != DEFAULT_BLOCK:  # passages in one forward pass affect each other's scores
            self.identity["passages_per_pass"] = str(self._block)
        self._has_warned = False
        stated = stated_context_size(model, tokenizer)
        size = resolve_task_context_size(stated, options, self.identity.get("model", ""))
        self.tokens: RankingTokens = RankingTokens(tokenizer, context_size=size)

    @classmethod
    def load(cls, name: str | Path, options: BackendOptions | None = None) -> JinaRanking:
        return load_own_class(cls, name, options, _load_model)

    def score(self, prompt: Prompt) -> Reply:
        if not prompt[1:]:
            return Reply(scores=())
        texts = [message.content for message in prompt]
        asked, *lengths = self.tokens.lengths(texts)
        around = self.tokens.fixed + 2 * asked
        longest = around + max(lengths) + self.tokens.per_passage
        if longest > self.tokens.context_size:
            error = f"A pair needs {longest} tokens, but the context holds at most {self.tokens.context_size}"
            return Reply(tokens_in=longest, finish="error", error=error)
        vectors, tokens = [], 0
        for block in self._blocks(lengths, self.tokens.context_size - around):
            for batch, found in run_batches(
                block,
                lambda batch: self._run_block(texts[0], [texts[1 + index] for index in batch]),
                length=lengths.__getitem__,
                limit=self._limit,
                what="passages",
            ):
                if found is None:
                    used = around + lengths[batch[0]] + self.tokens.per_passage
                    error = f"Out of memory on one passage, with {used} tokens: {self._limit.reason}"
                    return Reply(tokens_in=used, finish="error", error=error)
                if len(batch) < len(block) and not self._has_warned:
                    self._has_warned = True
                    _log.warning(
                        "Out of memory on %d passages in one forward pass, so smaller blocks are scored. Passages of a "
                        "block affect each other's scores: set a lower --batch-size to have the same blocks every time",
                        len(block),
                    )
                vectors.append(found[0])
                tokens += found[1]
        return Reply(scores=_combine_blocks(vectors), tokens_in=tokens)

    def _blocks(self, lengths: Sequence[int], available: int) -> Iterator[list[int]]:
        """Yield the indices of passages in blocks of at most ``_block`` passages and ``available`` tokens."""
        block: list[int] = []
        left = available
        for index, length in enumerate(lengths):
            needed = length + self.tokens.per_passage
            if block and (len(block) == self._block or needed > left):
                yield block
                block, left = [], available
            block.append(index)
            left -= needed
        if block:
            yield block

    def _run_block(self, query: str, passages: Sequence[str]) -> tuple[_Vectors, int]:
        torch, _ = require_torch()
        raise_if_interrupted()
        ids = self.tokens.ids(render_ranking_prompt(query, passages))
        row = torch.tensor([ids], device=self.model.device)
        with quiet_transformers(), torch.inference_mode():
            states = self.model.model(input_ids=row, use_cache=False).last_hidden_state[0]
            vectors, asked = (self.model.projector(states[row[0] == mark]).float() for mark in self._marks)
        return (vectors, asked[0]), len(ids)


def render_ranking_prompt(query: str, passages: Sequence[str]) -> str:
    """Render the input text of the model; special tokens that occur in the query or passages are escaped."""
    return load_prompt("jina_v3").render(query, passages)[0].content


def _combine_blocks(blocks: Sequence[_Vectors]) -> tuple[float, ...]:
    """Return the cosine similarity of each passage's vector to the weighted mean of the query's vectors."""
    torch, _ = require_torch()
    cosine = torch.nn.functional.cosine_similarity
    # A cosine does not depend on the length of a vector, so the weights need not be divided by their sum.
    query = sum((1 + cosine(passages, query[None]).max()) / 2 * query for passages, query in blocks)
    return tuple(cosine(torch.cat([passages for passages, _ in blocks]), query[None]).tolist())


def _load_model(files: ModelFiles, *, device: str, dtype: str) -> tuple[Any, Any]:
    torch, transformers = require_torch()
    files.check_class(_ARCHITECTURE, "jinaai/jina-reranker-v3")
    config = transformers.Qwen3Config.from_pretrained(files.folder, trust_remote_code=False)
    tokenizer = transformers.AutoTokenizer.from_pretrained(files.folder, trust_remote_code=False)

    base: Any = transformers.Qwen3PreTrainedModel

    class RankingModel(base):  # type: ignore[misc]
        """Qwen 3 without an output head, and the projector, with attribute names that match those of the weights."""

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            width = config.hidden_size
            self.model = transformers.Qwen3Model(config)
            self.projector = torch.nn.Sequential(
                torch.nn.Linear(width, width // 2, bias=False),
                torch.nn.ReLU(),
                torch.nn.Linear(width // 2, _PROJECTED, bias=False),
            )
            self.post_init()

    RankingModel.__name__ = _ARCHITECTURE  # that of the checkpoint, for the message about missing weights
    with complete_weights(files):
        model = RankingModel.from_pretrained(
            files.folder, config=config, dtype=dtype, use_safetensors=True, device_map=device
        )
    return model.eval(), tokenizer

"""The backend ``late_interaction``: scores passages by MaxSim with a multi-vector model, such as a ColBERT model."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rerank.backends.cross_encoder import DEFAULT_BATCH, PassageScorer, check_single_device
from rerank.errors import BackendError
from rerank.lm.encoders import MaxSimScorer, load_multi_vector_model, require_sentence_transformers
from rerank.lm.loading import locate_files, named_loading_errors
from rerank.lm.tokenizers import HfTokens
from rerank.prompts.base import Prompt
from rerank.tasks import BackendOptions, Reply, resolve_task_context_size

_log = logging.getLogger(__name__)


class DocumentTokens(HfTokens):
    """A token counter for prompts whose first turn is the query; the context size is that of one document."""

    def __init__(self, tokenizer: Any, *, context_size: int, special_tokens: int) -> None:
        super().__init__(tokenizer, context_size=context_size)
        self._special_tokens = special_tokens

    def documents(self, prompt: Prompt) -> list[int]:
        return [self._special_tokens + length for length in self.lengths([turn.content for turn in prompt[1:]])]

    def count(self, prompt: Prompt) -> int:
        """Return the number of tokens of all documents. A prompt of one turn has no query: the turn is a document."""
        return sum(self.documents(prompt if len(prompt) > 1 else (*prompt, *prompt)))


class LateInteraction(PassageScorer):
    """A backend that runs a multi-vector model of sentence-transformers; scores are those of `MaxSimScorer`.

    The query and each document are encoded alone, so that both have limits of their own. Only the options batch size
    (in documents) and context size (of a document) have an effect.
    """

    default_method = "late-interaction"
    reads_apart = True

    def __init__(self, model: Any, *, identity: Mapping[str, str], options: BackendOptions | None = None) -> None:
        super().__init__(model, identity)
        options = options or BackendOptions()
        self.scorer = MaxSimScorer(model, batch_size=options.batch_size or DEFAULT_BATCH)
        stated = getattr(model[0], "document_length", None) or model.max_seq_length
        size = resolve_task_context_size(stated, options, identity.get("model", ""))
        one = model.preprocess(["a"], prompt=self.scorer.passage_prompt, task="document")["input_ids"][0]
        special = len(one) - len(model.tokenizer("a", add_special_tokens=False)["input_ids"])
        self.tokens: DocumentTokens = DocumentTokens(model.tokenizer, context_size=size, special_tokens=special)
        expansion = getattr(model[0], "query_expansion", None) or {}
        is_fixed = expansion.get("strategy") == "fixed"  # all queries are padded or cut to this length
        limit = expansion["length"] if is_fixed else getattr(model[0], "query_length", None) or model.max_seq_length
        prompts = [self.scorer.query_prompt, self.scorer.passage_prompt]
        query_prompt, passage_prompt = map(len, model.tokenizer(prompts, add_special_tokens=False)["input_ids"])
        #: Number of tokens of a query that the model reads. Its special tokens are those of documents, except for the
        #: prompt.
        self.query_limit: int = (limit or size) - special - query_prompt + passage_prompt
        self._has_warned = False

    @classmethod
    def load(cls, name: str | Path, options: BackendOptions | None = None) -> LateInteraction:
        options = options or BackendOptions()
        check_single_device(options, "the model is a multi-vector model")
        require_sentence_transformers("A multi-vector model", extra="late-interaction")
        files = locate_files(name, options)
        model, identity = load_multi_vector_model(files, options)
        with named_loading_errors(files, options.device):
            backend = cls(model, identity={**files.identity, **identity}, options=options)
        backend.set_source(files, options)
        return backend

    def score(self, prompt: Prompt) -> Reply:
        query, *passages = [message.content for message in prompt]
        lengths = self.tokens.documents(prompt)
        (query_length,) = self.tokens.lengths([query])
        tokens = sum(lengths) + min(query_length, self.query_limit)
        if query_length > self.query_limit and not self._has_warned:
            self._has_warned = True
            _log.warning(
                "The model reads the first %d of the %d tokens of query %r; further long queries are not reported",
                self.query_limit,
                query_length,
                query[:50],
            )
        if max(lengths, default=0) > self.tokens.context_size:
            error = f"A document has {max(lengths)} tokens, but the model reads at most {self.tokens.context_size}"
            return Reply(tokens_in=tokens, finish="error", error=error)
        try:
            return Reply(scores=tuple(self.scorer.score(query, passages)), tokens_in=tokens)
        except BackendError as error:
            if not isinstance(error.__cause__, MemoryError):
                raise
            message = f"{error}; the longest document has {max(lengths)} tokens"
            return Reply(tokens_in=tokens, finish="error", error=message)

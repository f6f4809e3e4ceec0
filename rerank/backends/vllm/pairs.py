"""Pairs of query and passage for a cross-encoder that vLLM runs, tokenized as sentence-transformers does."""

from __future__ import annotations

from typing import Any

from rerank.backends.cross_encoder import PairTokens
from rerank.backends.vllm.engine import EngineRequest, RunEngine
from rerank.prompts.base import Prompt

#: Pairs that differ in one text; a chat template must distinguish them.
_PROBES = (("alpha", "bravo"), ("charlie", "bravo"), ("alpha", "foxtrot"))


class EnginePairs(PairTokens):
    """A token counter for pairs, which also tokenizes them, with the model's chat template if it is one for pairs."""

    def __init__(self, tokenizer: Any, *, context_size: int) -> None:
        super().__init__(tokenizer, context_size=context_size, special_tokens=0)
        self.has_template = tokenizer.chat_template is not None and self._renders_pairs()
        self._special_tokens = len(self.tokenize("a", "b")[0]) - sum(self.lengths(["a", "b"]))

    def tokenize(self, query: str, passage: str) -> tuple[list[int], int | None]:
        """Return the token ids of a pair, and the index of the first token of type 1; None if tokens have no types."""
        if self.has_template:
            encoded = self.tokenizer([self._render(query, passage)], add_special_tokens=False)
        else:
            encoded = self.tokenizer([query], [passage])  # lists, since an empty passage alone would count as none
        types = encoded.get("token_type_ids")
        return encoded["input_ids"][0], None if types is None else [*types[0], 1].index(1)

    def _render(self, query: str, passage: str) -> str:
        turns = [{"role": "query", "content": query}, {"role": "document", "content": passage}]
        return str(self.tokenizer.apply_chat_template(turns, tokenize=False))

    def _renders_pairs(self) -> bool:
        """Return whether the chat template shows both texts of a pair, by the rule of sentence-transformers."""
        try:
            return len({self._render(*pair) for pair in _PROBES}) == len(_PROBES)
        except Exception:  # noqa: BLE001 - templates raise errors of any class, such as for unknown roles
            return False


async def score_pairs(run: RunEngine, pairs: EnginePairs, prompt: Prompt) -> tuple[float, ...]:
    """Return a score per passage of a prompt: the logit or, with two labels, the difference of the logits."""
    query, *passages = [message.content for message in prompt]
    requests = []
    for passage in passages:
        ids, second = pairs.tokenize(query, passage)
        types = None if second is None else {"compressed_token_type_ids": second}
        requests.append(EngineRequest(ids, {"task": "classify", "use_activation": False, "extra_kwargs": types}))
    rows = [output.data.flatten().tolist() for output in await run(requests)]
    return tuple(row[1] - row[0] if len(row) == 2 else row[0] for row in rows)

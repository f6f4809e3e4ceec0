"""Counts kernels and transfers to the host with tensors that have no data; see kernels.py beside it."""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode

from rerank.backends.cross_encoder import CrossEncoder
from rerank.lm import icr_scoring
from rerank.lm.decoding import decode_permutations
from rerank.lm.log_likelihood import compute_log_likelihoods
from rerank.lm.permutation_grammar import PermutationGrammar
from rerank.lm.prefix_cache import PrefixCache
from rerank.lm.tokenizers import PromptSpans
from rerank.prompts.base import Message
from rerank.tasks import AttentionTask, BackendOptions, CrossEncoderTask, Request, Sampling

DEVICE = "meta"
#: Tokens of a list of 100 passages, of which the last ones are the final instruction with the query.
KEYS, TAIL = 9400, 96
#: Operations without a kernel that are not views by their schema.
FREE = ("empty", "new_empty", "detach", "lift_fresh", "_unsafe_view", "_reshape_alias", "_local_scalar_dense")
#: Operations that copy tensors. Writing new tokens into a preallocated cache is `copy_`, which copies no old ones.
COPIES = ("clone", "cat", "repeat", "_to_copy", "index", "index_select", "expand_copy", "constant_pad_nd")


class Counts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A dispatch mode that counts kernels, transfers and copied bytes, and the calls of fused attention."""

    def __init__(self, cache_layer: int, padded: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._padded = padded
        self._cache_layer = cache_layer  # number of entries of a layer's keys from which a copy counts as a clone
        self.kernels = self.transfers = self.clone_bytes = self.steps = 0
        self.attention: Counter[str] = Counter()
        self._fused = torch.nn.functional.scaled_dot_product_attention

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        settings = dict(kwargs or {})
        name = function.overloadpacket.__name__
        on_device = [value for value in _tensors(args) if value.device.type == DEVICE]
        if name == "_local_scalar_dense" and on_device:
            self.transfers += 1
            return not self._padded if on_device[0].dtype == torch.bool else 0  # "Is the mask 1 everywhere?"
        if name == "_to_copy" and on_device and torch.device(settings.get("device") or DEVICE).type != DEVICE:
            self.transfers += 1
            return torch.zeros(on_device[0].shape, dtype=settings.get("dtype") or on_device[0].dtype)
        if _is_composite(function):  # in inference mode, operations that consist of others arrive whole
            with self:
                return function.decompose(*args, **settings)
        result = function(*args, **settings)
        made = [value for value in _tensors((result,)) if value.device.type == DEVICE]
        is_view = any(
            value.alias_info is not None and not value.alias_info.is_write for value in function._schema.returns
        )
        if made and not is_view and not name.startswith(FREE):
            self.kernels += 1
            if name in COPIES and self._cache_layer and made[0].numel() >= self._cache_layer:
                self.clone_bytes += made[0].nbytes
        return result

    def attend(self, query: Any, key: Any, value: Any, attn_mask: Any = None, *rest: Any, **settings: Any) -> Any:
        if query.device.type != DEVICE:
            return self._fused(query, key, value, attn_mask, *rest, **settings)
        self.kernels += 1
        causal = settings.get("is_causal") or type(attn_mask).__name__ == "CausalBias"
        grouped = query.shape[1] == key.shape[1] or settings.get("enable_gqa")
        kind = "causal" if causal else "full" if attn_mask is None else "dense mask"
        self.attention[kind + (", grouped heads" if grouped and causal else "")] += 1
        return query.new_empty(*query.shape[:-1], value.shape[-1])


@cache
def _is_composite(function: Any) -> bool:
    return bool(function._can_decompose())


@contextmanager
def counted(cache_layer: int = 0, *, padded: bool = False) -> Iterator[Counts]:
    """Count inside the ``with`` block; ``padded`` says that masks are not 1 everywhere, since they have no data."""
    counts = Counts(cache_layer, padded)
    with mock.patch.object(torch.nn.functional, "scaled_dot_product_attention", counts.attend), counts:
        yield counts


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def make_language_model(layers: int = 32) -> Any:
    """Return a model without data that has the shapes of Llama-3.1-8B."""
    config: Any = transformers.LlamaConfig(
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        vocab_size=128256,
        max_position_embeddings=131072,
    )
    with torch.device(DEVICE):
        model: Any = transformers.LlamaForCausalLM(config)
    return model.to(torch.bfloat16).eval()


def make_prompt(length: int, seed: int = 0, prefix: int = 0) -> list[int]:
    """Return random tokens, the first of which do not depend on the seed."""
    draw, shared = random.Random(seed), random.Random(-1)
    return [shared.randrange(1000, 90000) for _ in range(prefix)] + [
        draw.randrange(90000) for _ in range(length - prefix)
    ]


def count_icr(model: Any, passages: int = 100) -> dict[str, Any]:
    """Count the attention weights of one tail, and a whole list."""
    width = (KEYS - TAIL - 40) // passages
    spans = tuple(slice(40 + at * width, 40 + (at + 1) * width) for at in range(passages))
    prompts = [
        PromptSpans(ids=(*make_prompt(KEYS - TAIL), *make_prompt(TAIL, seed)), spans=spans, tail=KEYS - TAIL)
        for seed in (1, 2)
    ]
    task = AttentionTask(spans=tuple((span.start, span.stop) for span in spans), tail=KEYS - TAIL)
    tail = 0
    plain = icr_scoring.capture_attention_forward

    def capture(*args: Any, **settings: Any) -> Any:
        nonlocal tail
        before = counts.kernels
        try:
            return plain(*args, **settings)
        finally:
            if icr_scoring._CAPTURE.get().heads:
                tail += counts.kernels - before

    with mock.patch.object(icr_scoring, "capture_attention_forward", capture):
        with counted() as counts:
            icr_scoring._read_attention(model, prompts[:1], task)
        alone = {"kernels": tail, "transfers": counts.transfers}
        prefill = dict(counts.attention)
        with counted() as counts:
            icr_scoring._read_attention(model, prompts, task)
    return {**alone, "list": {"kernels": counts.kernels, "transfers": counts.transfers}, "prefill": prefill}


def make_grammar(count: int) -> PermutationGrammar:
    """Return the grammar of permutations of ``[1]``, ``[2]`` and so on, in the way of Llama's tokenizer."""
    # A number of up to three digits is one token; so are " >" and " [" and "]".
    first = [(58, 1000 + number, 60) for number in range(count)]
    return PermutationGrammar(first, [(871, 510, *tokens[1:]) for tokens in first], count)


def decode(
    model: Any, prompts: Sequence[Sequence[int]], count: int, cache: PrefixCache | None = None, end: int = 0
) -> Counts:
    """Count what decoding permutations of ``count`` passages takes."""
    with counted():
        prefixes = cache.load(prompts, [(end,)] * len(prompts)) if cache else ()
    entries = len(prompts) * min(map(len, prompts)) * 8 * 128
    with counted(entries, padded=len(set(map(len, prompts))) > 1) as counts:
        rows = decode_permutations(
            model,
            prompts,
            [make_grammar(count)] * len(prompts),
            [Sampling(max_tokens=1)] * len(prompts),
            [0] * len(prompts),
            prefixes=prefixes,
        )
    counts.steps = rows[0].steps
    return counts


def count_steps(model: Any, prompts: Sequence[Sequence[int]], **prefix: Any) -> tuple[Counts, dict[str, float]]:
    """Return the counts of the prefill, and the mean of the steps after it."""
    # A permutation of two passages has one choice, which the prefill makes.
    prefill, whole = (decode(model, prompts, count, **prefix) for count in (2, 12))
    steps = whole.steps - prefill.steps
    names = ("kernels", "transfers", "clone_bytes")
    return prefill, {name: round((getattr(whole, name) - getattr(prefill, name)) / steps, 2) for name in names}


def count_fullrank(model: Any) -> dict[str, Any]:
    """Count one list, and a batch of 16 lists of different lengths."""
    lengths = [KEYS - 20 * row for row in range(16)]
    one, step = count_steps(model, [make_prompt(KEYS)])
    cached, _ = count_steps(model, [make_prompt(KEYS, 1, 100)], cache=PrefixCache(model), end=100)
    batch, batch_step = count_steps(model, [make_prompt(length, length) for length in lengths])
    prefills = {"list": one, "prefix": cached, "batch": batch}
    return {
        "fullrank_prefill": {name: {"kernels": c.kernels, "transfers": c.transfers} for name, c in prefills.items()},
        "fullrank_step": step,
        "fullrank_batch_step": batch_step
        | {"cache_bytes": 2 * 2 * model.config.num_hidden_layers * 8 * 128 * sum(lengths)},
        "prefill": {name: counts.attention for name, counts in prefills.items()},
    }


def count_scores(
    model: Any, prompts: Sequence[list[int]], texts: Sequence[list[int]], prefix: int, *, as_logits: bool = False
) -> dict[str, int]:
    """Count log-likelihoods or logits in batches of 16, on top of a prefix that is computed before."""
    cache, kernels, transfers = PrefixCache(model), 0, 0
    for start in range(0, len(prompts), 16):
        batch = prompts[start : start + 16]
        with counted():
            prefixes = cache.load(batch, [(prefix,)] * len(batch)) if prefix else ()
        with counted(padded=len(set(map(len, batch))) > 1) as counts:
            compute_log_likelihoods(model, batch, [texts] * len(batch), prefixes=prefixes, as_logits=as_logits)
        kernels, transfers = kernels + counts.kernels, transfers + counts.transfers
    return {"kernels": kernels, "transfers": transfers}


def count_cross_encoder(pairs: int = 100) -> dict[str, int]:
    """Count a list of pairs; widths are small, since the counts do not depend on them."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *(f"w{number}" for number in range(50))]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    settings: Any = {"num_labels": 1}
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=48,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=64,
        **settings,
    )
    draw = random.Random(0)
    texts = [" ".join(draw.choices(words[4:], k=draw.randint(20, 90))) for _ in range(pairs)]
    prompt = tuple(Message("user", text) for text in ("w1 w2 w3", *texts))
    with tempfile.TemporaryDirectory() as folder:
        transformers.BertForSequenceClassification(config).save_pretrained(folder)
        transformers.PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
            tokenizer_object=tokenizer,
            pad_token="[PAD]",
            cls_token="[CLS]",
            sep_token="[SEP]",
            unk_token="[UNK]",
            model_max_length=512,
        ).save_pretrained(folder)
        backend = CrossEncoder.load(Path(folder), BackendOptions(device="cpu", dtype="float32"))
    backend.model.to(DEVICE)
    with counted(padded=True) as counts:
        (reply,) = backend.generate([Request(prompt=prompt, sampling=Sampling(max_tokens=0), task=CrossEncoderTask())])
    if reply.error:
        raise SystemExit(reply.error)
    return {"kernels": counts.kernels, "transfers": counts.transfers}


def count_all(model: Any) -> dict[str, Any]:
    """Return all counts."""
    query = [list(range(100, 112))]
    letters = [[32 + number] for number in range(20)]
    pointwise = [make_prompt(160 + seed % 7, seed, 64) for seed in range(100)]
    icr = count_icr(model)
    fullrank = count_fullrank(model)
    prefill = fullrank.pop("prefill") | {"icr": icr.pop("prefill")}
    lists = [prefill[name] for name in ("list", "prefix", "icr")]
    return {
        "icr": icr,
        **fullrank,
        "likelihood": count_scores(model, pointwise, query, 64),
        "logits": count_scores(model, [make_prompt(2000)], letters, 0, as_logits=True),
        "cross_encoder": count_cross_encoder(),
        "clone_bytes_per_step": fullrank["fullrank_batch_step"]["clone_bytes"],
        "flash_possible": not any("dense" in kind or kind == "causal" for calls in lists for kind in calls),
        "prefill": prefill,
    }

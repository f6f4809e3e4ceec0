"""Forgetting caused by training: changes in the likelihood of general texts and in the completion of simple sentences.

The same texts and sentences are used before and after training, so that paired tests can be used. The sentences and
some of the texts are in ``general.toml``; the other texts are docstrings of Python's standard library.
"""

from __future__ import annotations

import gc
import math
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any

import numpy as np

from rerank.collections.pydoc import Pydoc
from rerank.errors import BackendError, UsageError
from rerank.evaluation.significance import open_significance_test
from rerank.finetune.inspection.inspected_model import FULL, InspectedModel
from rerank.lm.loading import load_language_model, quiet_transformers
from rerank.lm.permutation_grammar import tokenize_text_after
from rerank.lm.tokenizers import stated_context_size
from rerank.tasks import BackendOptions

#: Minimum number of characters of a docstring; docstrings of at least this length are sampled at equal intervals.
_LONG = 400
#: Logarithm of the highest perplexity that is reported; a broken model can exceed the range of a float.
_HIGHEST = 700.0
#: Number of sequences per batch.
_BATCH = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class SentenceItem:
    """A sentence with several possible endings.

    Attributes:
        kind: Kind of knowledge that the sentence tests, such as ``fact`` or ``word``.
        start: Start of the sentence.
        ends: Possible endings; the first one is correct.
    """

    kind: str
    start: str
    ends: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgettingMaterial:
    """Texts and sentences for measuring forgetting.

    Attributes:
        texts: Pairs of source (``own`` or ``pydoc``) and text.
        items: Sentences with endings.
        tokens: Maximum number of tokens per text.
    """

    texts: tuple[tuple[str, str], ...]
    items: tuple[SentenceItem, ...]
    tokens: int = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredLikelihoods:
    """Log-likelihoods of a model, in natural logarithms.

    Attributes:
        texts: Per text, the log-likelihood given its first token, and the number of tokens without the first one.
        items: Log-likelihood of each ending of each sentence.
    """

    texts: tuple[tuple[float, int], ...]
    items: tuple[tuple[float, ...], ...]

    @property
    def margins(self) -> list[float]:
        """Per sentence, the log-likelihood of the correct ending minus that of the likeliest wrong ending.

        It is positive if the model completes the sentence correctly.
        """
        return [right - max(wrong) for right, *wrong in self.items]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextComparison:
    """Comparison of the likelihoods of texts from one source.

    Attributes:
        source: Source of the texts: ``own`` or ``pydoc``.
        texts: Number of texts.
        tokens: Total number of tokens.
        before: Perplexity before training: exp of the mean negative log-likelihood per token.
        after: Perplexity after training.
        difference: Log-likelihood per token after training minus before training, averaged over texts; a negative value
            means forgetting.
        p: Two-sided p-value of the paired t-test over texts.
    """

    source: str
    texts: int
    tokens: int
    before: float
    after: float
    difference: float
    p: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SentenceComparison:
    """Comparison of sentence completion before and after training, for one kind of sentences or for all.

    Attributes:
        kind: Kind of the sentences, or ``all``.
        items: Number of sentences.
        before: Number completed correctly before training.
        after: Number completed correctly after training.
        lost: Number of sentences completed correctly only before training.
        gained: Number of sentences completed correctly only after training.
        difference: Mean change of `MeasuredLikelihoods.margins`, in natural logarithms.
        p: Two-sided p-value of the sign test over lost and gained sentences (McNemar's exact test).
        p_margin: Two-sided p-value of the paired t-test over margins.
    """

    kind: str
    items: int
    before: int
    after: int
    lost: int
    gained: int
    difference: float
    p: float
    p_margin: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgettingReport:
    """Comparisons of texts and of sentences.

    Attributes:
        texts: One comparison per source.
        items: One comparison per kind of sentences, and one for all.
    """

    texts: tuple[TextComparison, ...]
    items: tuple[SentenceComparison, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the value of ``forgetting`` in ``rerank inspect --forgetting --format json``."""
        return {"texts": [asdict(row) for row in self.texts], "items": [asdict(row) for row in self.items]}


def load_forgetting_material(docs: int = 48) -> ForgettingMaterial:
    """Load the shipped texts and sentences, and ``docs`` docstrings of the standard library.

    Raises:
        MissingResourceError: The source files of the standard library are not installed.
    """
    shipped = tomllib.loads(files("rerank.finetune.inspection").joinpath("general.toml").read_text("utf-8"))
    long = [doc for doc in Pydoc().docs() if len(doc.text) >= _LONG]
    sample = [long[index * len(long) // docs] for index in range(min(docs, len(long)))]
    return ForgettingMaterial(
        texts=(
            *(("own", text["words"]) for text in shipped["text"]),
            *(("pydoc", f"{doc.title}\n{doc.text}") for doc in sample),
        ),
        items=tuple(SentenceItem(kind=i["kind"], start=i["start"], ends=tuple(i["ends"])) for i in shipped["item"]),
    )


def measure_forgetting_likelihoods(
    model: Any, tokenizer: Any, material: ForgettingMaterial, *, advance: Callable[[int], None] | None = None
) -> MeasuredLikelihoods:
    """Compute the log-likelihoods of texts and endings.

    Args:
        model: A causal language model of transformers, in evaluation mode.
        tokenizer: Its tokenizer.
        material: Texts and sentences.
        advance: Called after each batch with the number of texts and sentences in it.

    Raises:
        BackendError: A log-likelihood is not finite.
    """
    limit = min(material.tokens, stated_context_size(model, tokenizer) or material.tokens)
    rows = [_tokenize_forgetting_material(tokenizer, text)[:limit] for _, text in material.texts]
    prompts = [row[:1] for row in rows] + [
        _tokenize_forgetting_material(tokenizer, item.start) for item in material.items
    ]
    texts = [[row[1:]] for row in rows] + [
        _ending_ids_of_forgetting_sentence(tokenizer, item) for item in material.items
    ]
    likelihoods: list[list[float]] = [[] for _ in prompts]
    # Longest first, so that the sequences of a batch have similar lengths.
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]) - len(texts[index][0]))
    for start in range(0, len(order), _BATCH):
        batch = order[start : start + _BATCH]
        values = _forgetting_log_likelihoods(
            model, [prompts[index] for index in batch], [texts[index] for index in batch]
        )
        for index, row in zip(batch, values, strict=True):
            if not all(map(math.isfinite, row)):
                raise BackendError(
                    f"The log-likelihoods {row} of the model are not all finite",
                    remedy="Use float32, or train with a lower learning rate",
                )
            likelihoods[index] = row
        if advance is not None:
            advance(len(batch))
    n_texts = len(rows)
    return MeasuredLikelihoods(
        texts=tuple((row[0], len(ids) - 1) for row, ids in zip(likelihoods[:n_texts], rows, strict=True)),
        items=tuple(map(tuple, likelihoods[n_texts:])),
    )


def compare_forgetting_likelihoods(
    before: MeasuredLikelihoods, after: MeasuredLikelihoods, material: ForgettingMaterial
) -> ForgettingReport:
    """Compare the likelihoods that two models assign to the same texts and sentences.

    Args:
        before: Likelihoods of the untrained model.
        after: Likelihoods of the trained model.
        material: Texts and sentences that were measured with both models.
    """
    sources = dict.fromkeys(source for source, _ in material.texts)
    kinds = dict.fromkeys(item.kind for item in material.items)
    # A text of a single token has no likelihood.
    measured = [(index, source) for index, (source, _) in enumerate(material.texts) if before.texts[index][1]]
    of_source = {name: [index for index, source in measured if source == name] for name in sources}
    of_kind = {name: [index for index, item in enumerate(material.items) if item.kind == name] for name in kinds}
    return ForgettingReport(
        texts=tuple(
            _compare_forgotten_texts(name, indices, before, after) for name, indices in of_source.items() if indices
        ),
        items=(
            *(_compare_forgotten_sentences(name, indices, before, after) for name, indices in of_kind.items()),
            _compare_forgotten_sentences("all", list(range(len(material.items))), before, after),
        ),
    )


def measure_forgetting(
    subject: InspectedModel, options: BackendOptions | None = None, *, advance: Callable[[int], None] | None = None
) -> ForgettingReport:
    """Measure forgetting: load the untrained and the trained model one after the other, and compare their likelihoods.

    Args:
        subject: The trained adapter or model.
        options: Device and data type; must not name an adapter.
        advance: Called after each batch with the number of texts and sentences in it; the total is
            ``2 * count_forgetting_items()``.

    Raises:
        UsageError: The options name an adapter.
        BackendError: A log-likelihood is not finite.
        RerankError: A model cannot be loaded.
    """
    options = options or BackendOptions()
    if options.adapter:
        raise UsageError(
            f"The options name the adapter {options.adapter!r}, and {subject.folder} is measured",
            expected="options without an adapter",
        )
    material = load_forgetting_material()
    results = []
    for after in (False, True):
        adapted = after and subject.kind != FULL
        loading = BackendOptions(
            dtype=options.dtype, device=options.device, adapter=str(subject.folder) if adapted else ""
        )
        model, tokenizer, _ = load_language_model(subject.folder if after and not adapted else subject.base, loading)
        results.append(measure_forgetting_likelihoods(model, tokenizer, material, advance=advance))
        del model
        gc.collect()  # models contain reference cycles, and the next one needs the memory
    return compare_forgetting_likelihoods(results[0], results[1], material)


def count_forgetting_items() -> int:
    """Return the total number of texts and sentences with which forgetting is measured."""
    material = load_forgetting_material()
    return len(material.texts) + len(material.items)


def _forgetting_log_likelihoods(
    model: Any, prompts: Sequence[Sequence[int]], texts: Sequence[Sequence[Sequence[int]]]
) -> list[list[float]]:
    from rerank.lm.log_likelihood import compute_log_likelihoods

    with quiet_transformers():
        return compute_log_likelihoods(model, prompts, texts)


def _tokenize_forgetting_material(tokenizer: Any, text: str) -> list[int]:
    """Return token ids, starting with the begin-of-text token if the tokenizer adds one."""
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    first: list[int] = tokenizer(text)["input_ids"][:1]
    return [*first, *ids] if first == [tokenizer.bos_token_id] != ids[:1] else ids


def _ending_ids_of_forgetting_sentence(tokenizer: Any, item: SentenceItem) -> list[Sequence[int]]:
    """Return the token ids of the endings of a sentence."""

    def plain(text: str) -> tuple[int, ...]:
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])

    return [tokenize_text_after(plain, item.start, f" {end}") for end in item.ends]


def _compare_forgotten_texts(
    source: str, indices: Sequence[int], before: MeasuredLikelihoods, after: MeasuredLikelihoods
) -> TextComparison:
    tokens = [before.texts[index][1] for index in indices]
    sums = [[side.texts[index][0] for index in indices] for side in (before, after)]
    # (texts, 2) log-likelihood per token before and after training
    means = np.array([[total / n for total in side] for side, n in zip(zip(*sums, strict=True), tokens, strict=True)])
    perplexities = [math.exp(min(_HIGHEST, -math.fsum(side) / sum(tokens))) for side in sums]
    return TextComparison(
        source=source,
        texts=len(indices),
        tokens=sum(tokens),
        before=perplexities[0],
        after=perplexities[1],
        difference=float((means[:, 1] - means[:, 0]).mean()),
        p=float(open_significance_test("t").p_values(means)[0]),
    )


def _compare_forgotten_sentences(
    kind: str, indices: Sequence[int], before: MeasuredLikelihoods, after: MeasuredLikelihoods
) -> SentenceComparison:
    margins = np.array([[before.margins[index], after.margins[index]] for index in indices])
    correct = (margins > 0).astype(float)  # (sentences, 2)
    return SentenceComparison(
        kind=kind,
        items=len(indices),
        before=int(correct[:, 0].sum()),
        after=int(correct[:, 1].sum()),
        lost=int((correct[:, 0] > correct[:, 1]).sum()),
        gained=int((correct[:, 0] < correct[:, 1]).sum()),
        difference=float((margins[:, 1] - margins[:, 0]).mean()),
        p=float(open_significance_test("sign").p_values(correct)[0]),
        p_margin=float(open_significance_test("t").p_values(margins)[0]),
    )

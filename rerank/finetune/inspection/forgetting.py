"""What a model unlearned: how well it predicts general text, and whether it still finishes simple sentences rightly.

The same texts and sentences before and after, so both are compared pair by pair. Knows models only as something that
weighs continuations (`rerank.lm.log_likelihood.weigh`); the texts are in ``general.toml`` and in the docstrings of
Python's standard library.
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
from rerank.evaluation.significance import open_test
from rerank.finetune.inspection.subject import FULL, Subject
from rerank.lm.loading import load, quiet
from rerank.lm.permutation_grammar import behind
from rerank.lm.tokenizers import context_size
from rerank.tasks import BackendOptions

#: Docstrings are taken evenly from those of at least so many characters.
_LONG = 400
#: The logarithm of the highest perplexity that is told; a broken model can pass what a float holds.
_HIGHEST = 700.0
#: Rows that a model reads at a time.
_BATCH = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A sentence to finish.

    Attributes:
        kind: What it asks about.
        start: Its beginning.
        ends: How it may go on; the first is right.
    """

    kind: str
    start: str
    ends: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What is asked of a model.

    Attributes:
        texts: Source (``own``, ``pydoc``) and text.
        items: Sentences to finish.
        tokens: How many tokens of a text are read at most.
    """

    texts: tuple[tuple[str, str], ...]
    items: tuple[Item, ...]
    tokens: int = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """What a model answered.

    Attributes:
        texts: Natural-log likelihood of each text, given its first token, and how many tokens that is of.
        items: Log-likelihood of each ending of each sentence.
    """

    texts: tuple[tuple[float, int], ...]
    items: tuple[tuple[float, ...], ...]

    @property
    def margins(self) -> list[float]:
        """How much likelier the right ending is than the best wrong one, in natural logs; above 0 is right."""
        return [right - max(wrong) for right, *wrong in self.items]


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """Prediction of texts of one source.

    Attributes:
        source: Which.
        texts: How many.
        tokens: Of all of them.
        before: Perplexity, exp of the mean negative log-likelihood of a token.
        after: Likewise.
        difference: Log-likelihood of a token after less before, the mean over texts; below 0 is forgetting.
        p: Two-sided, of the paired t-test over texts.
    """

    source: str
    texts: int
    tokens: int
    before: float
    after: float
    difference: float
    p: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Items:
    """Sentences finished rightly, of one kind or of all.

    Attributes:
        kind: Which.
        items: How many.
        before: Of these, finished rightly.
        after: Likewise.
        lost: Right before and wrong after.
        gained: The other way round.
        difference: Mean change of the right ending's margin, in natural logs.
        p: Two-sided: the sign test over those that were lost or gained (McNemar's exact test).
        p_margin: Two-sided, of the paired t-test over margins.
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
class Forgetting:
    """Both, before and after."""

    texts: tuple[Texts, ...]
    items: tuple[Items, ...]

    def to_dict(self) -> dict[str, Any]:
        """What ``rerank inspect --forgetting --format json`` prints under ``forgetting``."""
        return {"texts": [asdict(row) for row in self.texts], "items": [asdict(row) for row in self.items]}


def material(docs: int = 48) -> Material:
    """The shipped texts and sentences, and ``docs`` docstrings of this interpreter's library.

    Raises:
        MissingResourceError: The interpreter has no source files of its library.
    """
    shipped = tomllib.loads(files("rerank.finetune.inspection").joinpath("general.toml").read_text("utf-8"))
    long = [doc for doc in Pydoc().docs() if len(doc.text) >= _LONG]
    taken = [long[place * len(long) // docs] for place in range(min(docs, len(long)))]
    return Material(
        texts=(
            *(("own", text["words"]) for text in shipped["text"]),
            *(("pydoc", f"{doc.title}\n{doc.text}") for doc in taken),
        ),
        items=tuple(Item(kind=i["kind"], start=i["start"], ends=tuple(i["ends"])) for i in shipped["item"]),
    )


def examine(model: Any, tokenizer: Any, asked: Material, *, advance: Callable[[int], None] | None = None) -> Examined:
    """Ask a model.

    Args:
        model: A causal language model of transformers, in evaluation mode.
        tokenizer: Its tokenizer.
        asked: What.
        advance: Told how many more texts and sentences are done.

    Raises:
        BackendError: It answers with numbers that are not finite.
    """
    limit = min(asked.tokens, context_size(model, tokenizer) or asked.tokens)
    rows = [_ids(tokenizer, text)[:limit] for _, text in asked.texts]
    prompts = [row[:1] for row in rows] + [_ids(tokenizer, item.start) for item in asked.items]
    texts = [[row[1:]] for row in rows] + [_endings(tokenizer, item) for item in asked.items]
    found: list[list[float]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda at: -len(prompts[at]) - len(texts[at][0]))
    for start in range(0, len(order), _BATCH):
        part = order[start : start + _BATCH]
        for at, row in zip(part, _weigh(model, [prompts[at] for at in part], [texts[at] for at in part]), strict=True):
            if not all(map(math.isfinite, row)):
                raise BackendError(
                    "The model's answers are not finite numbers", remedy="Try float32, or train with a lower rate"
                )
            found[at] = row
        if advance is not None:
            advance(len(part))
    many = len(rows)
    return Examined(
        texts=tuple((row[0], len(ids) - 1) for row, ids in zip(found[:many], rows, strict=True)),
        items=tuple(map(tuple, found[many:])),
    )


def compare(before: Examined, after: Examined, asked: Material) -> Forgetting:
    """Set two answers to the same questions beside each other.

    Args:
        before: Of the untrained model.
        after: Of the trained one.
        asked: What both were asked.
    """
    sources = dict.fromkeys(source for source, _ in asked.texts)
    kinds = dict.fromkeys(item.kind for item in asked.items)
    read = [(at, source) for at, (source, _) in enumerate(asked.texts) if before.texts[at][1]]  # a lone token has none
    of_source = {name: [at for at, source in read if source == name] for name in sources}
    of_kind = {name: [at for at, item in enumerate(asked.items) if item.kind == name] for name in kinds}
    return Forgetting(
        texts=tuple(_texts(name, places, before, after) for name, places in of_source.items() if places),
        items=(
            *(_items(name, places, before, after) for name, places in of_kind.items()),
            _items("all", list(range(len(asked.items))), before, after),
        ),
    )


def measure_forgetting(
    subject: Subject, options: BackendOptions | None = None, *, advance: Callable[[int], None] | None = None
) -> Forgetting:
    """Ask the untrained and the trained model, one after the other, as a run would load them.

    Args:
        subject: The adapter or model.
        options: Device and number type, and no adapter.
        advance: Told how many more texts and sentences are done, of twice `count`.

    Raises:
        UsageError: The options name an adapter too.
        BackendError: A model gives numbers that are not finite.
        RerankError: What loading a model raises.
    """
    options = options or BackendOptions()
    if options.adapter:
        raise UsageError(f"Adapter {options.adapter!r} beside {subject.folder}", expected="one of them")
    asked = material()
    answers = []
    for after in (False, True):
        adapted = after and subject.kind != FULL
        how = BackendOptions(dtype=options.dtype, device=options.device, adapter=str(subject.folder) if adapted else "")
        model, tokenizer, _ = load(subject.folder if after and not adapted else subject.base, how)
        answers.append(examine(model, tokenizer, asked, advance=advance))
        del model
        gc.collect()  # a model is full of circles, and the next one needs the room
    return compare(answers[0], answers[1], asked)


def count() -> int:
    """How many texts and sentences a model is asked."""
    asked = material()
    return len(asked.texts) + len(asked.items)


def _weigh(model: Any, prompts: Sequence[Sequence[int]], texts: Sequence[Sequence[Sequence[int]]]) -> list[list[float]]:
    from rerank.lm.log_likelihood import weigh

    with quiet():
        return weigh(model, prompts, texts)


def _ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids, behind the token that begins a text where the tokenizer has it so."""
    found: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    begun: list[int] = tokenizer(text)["input_ids"][:1]
    return [*begun, *found] if begun == [tokenizer.bos_token_id] != found[:1] else found


def _endings(tokenizer: Any, item: Item) -> list[Sequence[int]]:
    """Token ids of the ways to go on."""

    def plain(text: str) -> tuple[int, ...]:
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])

    return [behind(plain, item.start, f" {end}") for end in item.ends]


def _texts(source: str, places: Sequence[int], before: Examined, after: Examined) -> Texts:
    tokens = [before.texts[at][1] for at in places]
    sums = [[who.texts[at][0] for at in places] for who in (before, after)]
    means = np.array(
        [[total / many for total in side] for side, many in zip(zip(*sums, strict=True), tokens, strict=True)]
    )
    perplexities = [math.exp(min(_HIGHEST, -math.fsum(side) / sum(tokens))) for side in sums]
    return Texts(
        source=source,
        texts=len(places),
        tokens=sum(tokens),
        before=perplexities[0],
        after=perplexities[1],
        difference=float((means[:, 1] - means[:, 0]).mean()),
        p=float(open_test("t").p_values(means)[0]),
    )


def _items(kind: str, places: Sequence[int], before: Examined, after: Examined) -> Items:
    margins = np.array([[before.margins[at], after.margins[at]] for at in places])
    right = (margins > 0).astype(float)
    return Items(
        kind=kind,
        items=len(places),
        before=int(right[:, 0].sum()),
        after=int(right[:, 1].sum()),
        lost=int((right[:, 0] > right[:, 1]).sum()),
        gained=int((right[:, 0] < right[:, 1]).sum()),
        difference=float((margins[:, 1] - margins[:, 0]).mean()),
        p=float(open_test("sign").p_values(right)[0]),
        p_margin=float(open_test("t").p_values(margins)[0]),
    )

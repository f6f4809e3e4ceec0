"""A tiny model on disk with its tokenizer, training lists over invented texts, and recipes. Needs torch."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rerank.finetune.recipe import Recipe
from tests.finetune.tiny import tiny_model

WORDS = ("wing", "lift", "heat", "flow", "shock", "layer", "plate", "cone", "jet", "tail")


def byte_tokenizer(*, digits: bool = True, merges: tuple[str, ...] = (), across: bool = False) -> Any:
    """A byte-level tokenizer with the merges that are asked for.

    Args:
        digits: Whether digits stay apart.
        merges: What is joined.
        across: Whether words and marks may be joined too.
    """
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: at for at, letter in enumerate(letters)}
    pairs = [tuple(merge.split(" ")) for merge in merges]
    for left, right in pairs:
        vocabulary.setdefault(left + right, len(vocabulary))
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))  # type: ignore[arg-type]
    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not across)]
    )
    raw.decoder = decoders.ByteLevel()
    made: Any = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=raw, eos_token="</s>", pad_token="<pad>"
    )
    made.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}<assistant>"
    return made


def word_tokenizer() -> Any:
    """A tokenizer whose tokens are runs of letters, of digits and single marks: numbers stay whole."""
    names = [*"[]>.,:?!<>()'-", *WORDS, *map(str, range(200)), "[UNK]", "</s>"]
    raw = Tokenizer(
        models.WordLevel(vocab={name: at for at, name in enumerate(dict.fromkeys(names))}, unk_token="[UNK]")
    )
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"\d+|[a-zA-Z]+|."), "isolated")]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=raw, eos_token="</s>", unk_token="[UNK]"
    )


def model_folder(folder: Path, *, layers: int = 3, **options: Any) -> Path:
    """A random Llama with a byte-level tokenizer, saved."""
    tokenizer = byte_tokenizer()
    model = tiny_model(layers=layers, vocabulary=len(tokenizer), max_position_embeddings=4096, **options)
    model.config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def collection_folder(folder: Path, *, queries: int = 6, documents: int = 8, seed: int = 0) -> Path:
    """A collection in our own form with judgments, and `labels.jsonl` beside it: a teacher's lists over its documents.

    A document is the better the more words it shares with the query.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(seed)
    docs, asked, judged, labels = [], [], [], []
    for q in range(queries):
        words = chance.sample(WORDS, 3)
        asked.append({"id": f"q{q}", "text": " ".join(words)})
        scores = {}
        for d in range(documents):
            shared = chance.sample(words, d % 4)
            name = f"q{q}d{d}"
            text = " ".join([*shared, *chance.choices([w for w in WORDS if w not in words], k=5 - len(shared))])
            docs.append({"id": name, "title": "", "text": text})
            scores[name] = float(len(shared))
            if shared:
                judged.append(f"q{q} 0 {name} {len(shared)}")
        initial = chance.sample(list(scores), documents)
        final = sorted(initial, key=lambda name: -scores[name])
        labels.append(
            {"qid": f"q{q}", "initial_list": initial, "final_list": final, "scores": [scores[name] for name in initial]}
        )
    for name, rows in (("docs", docs), ("queries", asked), ("labels", labels)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "qrels.txt").write_text("\n".join(judged) + "\n", encoding="utf-8")
    return folder


def recipe(model: Path, collection: Path, **changes: Any) -> Recipe:
    """A recipe of a few steps; tables given as keywords are merged into it."""
    values: dict[str, Any] = {
        "model": str(model),
        "seed": 3,
        "data": {"lists": [str(collection / "labels.jsonl")], "collection": f"jsonl:{collection}", "documents": 5},
        "method": {"method": "fullrank", "prompt": "listwise", "max_passage_tokens": 60, "min_passage_tokens": 1},
        "losses": [{"name": "importance"}],
        "adapter": {"name": "lora", "r": 4},
        "optimizer": {"name": "adamw", "lr": 1e-3},
        "training": {"steps": 4, "accumulation": 2, "save_every": 2, "log_every": 1, "dtype": "float32"},
    }
    for key, value in changes.items():
        another = isinstance(value, dict) and value.get("name", values.get(key, {}).get("name")) != values.get(
            key, {}
        ).get("name")
        values[key] = {**({} if another else values.get(key, {})), **value} if isinstance(value, dict) else value
    return Recipe.make(values)


#: A recipe's tables for a judge that reads attention, in one layer of three.
ATTENTION = {
    "method": {"method": "full:attention,calibrate=false", "prompt": "icr_ie"},
    "losses": [{"name": "distill", "on": "log-attention"}],
    "readout": {"layers": "1-1"},
}

#: A recipe's tables for the query likelihood judge, with a loss on scores and one on the best document's query.
LIKELIHOOD = {
    "method": {"method": "qlm", "prompt": "query_likelihood"},
    "losses": [{"name": "distill"}, {"name": "lm", "weight": 0.2}],
    "data": {"documents": 5, "best": 2, "hard": 1},
}


def validation(collection: Path, **more: Any) -> dict[str, Any]:
    """A recipe's table of a validation on a few queries."""
    return {"collection": f"jsonl:{collection}", "depth": 6, "max_queries": 4, "every": 2, **more}

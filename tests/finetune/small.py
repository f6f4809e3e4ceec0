"""A tiny model on disk with its tokenizer, training lists over invented texts, and recipes. Needs torch."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rerank.finetune.recipe import Recipe
from rerank.finetune.trainer.training import train_adapter
from rerank.finetune.trainer.training_folder import list_checkpoints
from tests.finetune.tiny import tiny_model

#: Makes a recipe from changed tables.
RecipeOf = Callable[..., Recipe]
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


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return set(one) == set(other) and all(torch.equal(value, other[name]) for name, value in one.items())


def metrics(folder: Path, key: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if key in line]


def losses(folder: Path) -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in metrics(folder, "loss")]


def values(folder: Path, key: str) -> list[float]:
    return [line[key] for line in metrics(folder, key)]


def stopped_and_gone_on_with(asked: Recipe, folder: Path, *, after: int = 3) -> None:
    """Train in one go, and in two with an end in between; hold one against the other."""
    train_adapter(asked, folder / "whole", device="cpu")

    class Stopped(Exception):
        """The process ends here."""

    steps: list[int] = []

    def end(more: int) -> None:
        steps.append(more)
        if len(steps) == after:
            raise Stopped

    with pytest.raises(Stopped):
        train_adapter(asked, folder / "parts", device="cpu", progress=lambda *_: nullcontext(end))
    assert list_checkpoints(folder / "parts"), "there is nothing to go on from"
    train_adapter(asked, folder / "parts", device="cpu", resume=True)
    assert losses(folder / "parts") == losses(folder / "whole")
    saved = {path.name for path in (folder / "whole").glob("*.safetensors")}
    assert saved
    for name in saved:
        assert same(load_file(folder / "parts" / name), load_file(folder / "whole" / name))


def killed_and_gone_on_with(asked: Recipe, tmp_path: Path, file: str) -> None:
    """Kill a training after its second checkpoint, go on with it, and hold it against one that was not killed."""
    train_adapter(asked, tmp_path / "whole", device="cpu")
    code = f"""
from pathlib import Path
from rerank.finetune.recipe import Recipe
from rerank.finetune.trainer.training import train_adapter
import json
train_adapter(Recipe.make(json.loads({asked.model_dump_json()!r})), Path({str(tmp_path / "killed")!r}), device="cpu")
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while len(list_checkpoints(tmp_path / "killed")) < 2 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "rerank.json").exists()
    train_adapter(asked, tmp_path / "killed", device="cpu", resume=True)
    assert same(*(load_file(tmp_path / name / file) for name in ("killed", "whole")))
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")

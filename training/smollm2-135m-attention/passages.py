"""Write the texts that the shipped adapter is trained on: passages about WordNet's nouns, and questions about them.

Both are written by SmolLM2-135M-Instruct (Apache-2.0), which is told a noun, its gloss (WordNet 3.0, WordNet licence:
free to use, copy and distribute) and what to write about. They are fluent and often wrong, which does no harm here:
a teacher says how near a passage is to a question, and neither is ever shown as true.

    python training/smollm2-135m-attention/passages.py --wordnet /usr/share/wordnet --topics 3000 --out passages.jsonl

One JSON object a line: id, topic, gloss, text, question. A second call with the same --out goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rerank.models import resolve_model_name

ASPECTS = (
    *("what it is", "what it is used for", "how it works", "its history and where it comes from", "its main kinds"),
    *("what causes it and what it leads to", "what it costs and what that depends on", "how people deal with it"),
    *("where it is found", "a fact about it that few people know", "how it is made or comes about", "an example of it"),
)
#: Written by hand: what people type, in the forms that they type it in.
EXAMPLES = """Text: Tap water is cheap to drink, but a softener that takes the lime out of it costs between 500 and \
2,500 dollars, depending on its size, and has to be filled with salt every few weeks.
Query: how much does a water softener cost

Text: A lighthouse keeper lived beside the tower, trimmed the wicks, wound the clockwork and kept a log of the \
weather. Almost all lights have run without keepers since the 1990s.
Query: what did lighthouse keepers do

Text: The tendon swells when it is strained again and again, as by runners who add too many miles at a time. Rest, ice \
and slow stretching are the usual treatment.
Query: causes of a swollen tendon

Text: Gouda is a mild yellow cheese from cow's milk, named after the Dutch town on whose market it was sold.
Query: gouda cheese definition

Text: """
BATCH = 48


def nouns(folder: Path, seed: int, count: int) -> list[tuple[str, str]]:
    """(noun, gloss) pairs, each noun once, drawn evenly from WordNet's lexicographer files."""
    kinds: dict[str, list[tuple[str, str]]] = {}
    for line in (folder / "data.noun").read_text(encoding="utf-8").splitlines():
        if line.startswith(" "):
            continue
        head, _, gloss = line.partition(" | ")
        fields = head.split()
        noun = fields[4].replace("_", " ")
        if len(noun) > 2 and not any(letter.isdigit() for letter in noun):
            kinds.setdefault(fields[1], []).append((noun, gloss.partition(";")[0].strip()))
    chance = random.Random(seed)
    pools = [chance.sample(kinds[kind], len(kinds[kind])) for kind in sorted(kinds)]
    found: dict[str, str] = {}
    while len(found) < count and any(pools):
        for pool in pools:
            if pool and len(found) < count:
                noun, gloss = pool.pop()
                found.setdefault(noun, gloss)
    return list(found.items())


class Writer:
    """The model, asked for many texts at a time."""

    def __init__(self, seed: int) -> None:
        folder = str(resolve_model_name("smollm2-135m"))
        self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
        self.model.train(False)
        torch.manual_seed(seed)

    def reply(self, asked: list[str], length: int, temperature: float) -> list[str]:
        chats = [[{"role": "user", "content": text}] for text in asked]
        prompts: Any = self.tokenizer.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)
        return self.go_on(prompts, length, temperature)

    def go_on(self, texts: list[str], length: int, temperature: float) -> list[str]:
        rows = self.tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        with torch.inference_mode():
            out = self.model.generate(
                **rows, max_new_tokens=length, do_sample=True, temperature=temperature, top_p=0.95,
                pad_token_id=self.tokenizer.eos_token_id,
            )  # fmt: skip
        return self.tokenizer.batch_decode(out[:, rows["input_ids"].shape[1] :], skip_special_tokens=True)


def whole_sentences(text: str) -> str:
    """The text up to its last full stop, on one line."""
    line = " ".join(text.split())
    return line[: line.rfind(".") + 1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--wordnet", type=Path, required=True)
    parser.add_argument("--topics", type=int, default=3000)
    parser.add_argument("--aspects", type=int, default=2)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    chance = random.Random(given.seed)
    plan = [
        (f"{at}-{n}", noun, gloss, aspect)
        for at, (noun, gloss) in enumerate(nouns(given.wordnet, given.seed, given.topics))
        for n, aspect in enumerate(chance.sample(ASPECTS, given.aspects))
    ]
    done = {json.loads(line)["id"] for line in given.out.open(encoding="utf-8")} if given.out.exists() else set()
    todo = [one for one in plan if one[0] not in done]
    write = Writer(given.seed + len(done))
    began = time.monotonic()
    with given.out.open("a", encoding="utf-8") as file:
        for start in range(0, len(todo), BATCH):
            part = todo[start : start + BATCH]
            asked = [
                f"Write two or three plain sentences about: {noun} ({gloss}). Say {aspect}. No title, no list."
                for _, noun, gloss, aspect in part
            ]
            texts = [whole_sentences(text) for text in write.reply(asked, 80, 0.8)]
            begun = [f"{EXAMPLES}{text}\nQuery:" for text in texts]
            questions = [text.strip().partition("\n")[0] for text in write.go_on(begun, 16, 0.7)]
            for (name, noun, gloss, aspect), text, question in zip(part, texts, questions, strict=True):
                row = {"id": name, "topic": noun, "gloss": gloss, "aspect": aspect, "text": text, "question": question}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
            print(f"{start + len(part)} of {len(todo)}, {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()

"""Write a collection with queries: SmolLM2-135M-Instruct continues worked examples with a query for each passage.

    python write_queries.py --corpus work/corpus --out work/queries --count 1600 --against cranfield:FOLDER

Writes the replies to ``replies.jsonl`` as they come, and a collection of the queries whose passage BM25 ranks among its
first 20 (docs.jsonl, queries.jsonl), as ``rerank label queries`` does, in a quarter of the CPU time, since it
computes the examples once and stops at the end of a line. Queries that are near-duplicates of a query of ``--against``
are left out, as ``rerank label split --drop-leaks`` does. A second call with the same --out continues the first.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import random
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from rerank.collections import open_collection
from rerank.finetune.labels.splits import find_query_leaks
from rerank.lm.loading import pick_dtype
from rerank.models import resolve_model_name
from rerank.retrieval import open_first_stage
from rerank.types import Document, Query

#: Written by hand: forms in which people search. None is a query of a test collection.
EXAMPLES = """Text: Tap water is cheap to drink, but a softener that takes the lime out of it costs between 500 and \
2,500 dollars, depending on its size, and has to be filled with salt every few weeks.
Query: how much does a water softener cost

Text: A lighthouse keeper lived beside the tower, trimmed the wicks, wound the clockwork and kept a log of the weather.
Query: what did lighthouse keepers do

Text: The bending of a clamped steel plate under uniform pressure is computed with finite differences, and compared \
with measurements on specimens of three thicknesses.
Query: how far do clamped steel plates of different thickness bend under pressure

Text: Gouda is a mild yellow cheese from cow's milk, named after the Dutch town on whose market it was sold.
Query: gouda cheese definition

"""
BATCH, LONGEST, WITHIN = 32, 20, 20


class Writer:
    """The model, with the KV cache of the examples."""

    def __init__(self) -> None:
        folder = str(resolve_model_name("smollm2-135m"))
        self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self.tokenizer.pad_token = self.tokenizer.eos_token
        dtype = getattr(torch, pick_dtype("auto", "cpu"))
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        self.model.train(False)
        self.prefix = self.tokenizer(EXAMPLES, return_tensors="pt", add_special_tokens=False)["input_ids"]
        self.cache = DynamicCache(config=self.model.config)
        with torch.inference_mode():
            self.model(input_ids=self.prefix, cache=self.cache, use_cache=True)
        (self.newline,) = self.tokenizer.encode("\n", add_special_tokens=False)

    def queries(self, texts: Sequence[str], seed: int, temperature: float) -> list[str]:
        """Return one query per text."""
        torch.manual_seed(seed)
        asked = [f"Text: {text}\nQuery:" for text in texts]
        rows = self.tokenizer(asked, return_tensors="pt", padding=True, add_special_tokens=False)
        ids = torch.cat([self.prefix.expand(len(texts), -1), rows["input_ids"]], dim=1)
        mask = torch.cat([torch.ones_like(self.prefix).expand(len(texts), -1), rows["attention_mask"]], dim=1)
        cache = copy.deepcopy(self.cache)
        cache.batch_repeat_interleave(len(texts))
        with torch.inference_mode():
            out = self.model.generate(
                input_ids=ids, attention_mask=mask, cache=cache, max_new_tokens=LONGEST, do_sample=True,
                temperature=temperature, top_p=0.95, pad_token_id=self.tokenizer.eos_token_id,
                eos_token_id=[self.newline, self.tokenizer.eos_token_id],
            )  # fmt: skip
        replies = self.tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)
        return [reply.strip().partition("\n")[0].strip() for reply in replies]


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the complete lines of a JSON lines file; empty if it does not exist."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def write_replies(docs: Sequence[Document], path: Path, seed: int, temperature: float) -> None:
    """Append the queries of the documents that the file lacks."""
    rows = read_rows(path)
    draft = path.with_suffix(".new")
    draft.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    os.replace(draft, path)
    done = {row["doc"] for row in rows}
    batches = [docs[start : start + BATCH] for start in range(0, len(docs), BATCH)]
    open_batches = [(number, batch) for number, batch in enumerate(batches) if any(doc.id not in done for doc in batch)]
    writer = Writer() if open_batches else None
    began = time.process_time()
    for number, batch in open_batches:
        assert writer is not None
        texts = [doc.text for doc in batch]
        with path.open("a", encoding="utf-8") as file:
            for doc, query in zip(batch, writer.queries(texts, seed + number, temperature), strict=True):
                if doc.id not in done:
                    file.write(json.dumps({"doc": doc.id, "query": query}) + "\n")
        print(f"{number + 1} of {len(batches)} batches, {time.process_time() - began:.0f} CPU s", flush=True)


def usable_queries(rows: Sequence[dict[str, str]]) -> list[Query]:
    """Return the queries of 2 to 20 words, in lower case, each text once; the id is that of the passage."""
    found: dict[str, Query] = {}
    for row in rows:
        text = re.sub(r"\s+", " ", row["query"]).strip(" \"'?.:").lower()
        if 2 <= len(text.split()) <= 20 and re.search(r"[a-z]{3}", text):
            found.setdefault(text, Query(id=row["doc"], text=text))
    return list(found.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, required=True, help="passages; more continue the same random order")
    parser.add_argument("--against", action="append", default=[], help="collection of test queries; repeatable")
    parser.add_argument("--temperature", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args()
    collection = open_collection(f"jsonl:{given.corpus}")
    docs = list(collection.docs())
    random.Random(given.seed).shuffle(docs)
    given.out.mkdir(parents=True, exist_ok=True)
    write_replies(docs[: given.count], given.out / "replies.jsonl", given.seed, given.temperature)
    queries = usable_queries(read_rows(given.out / "replies.jsonl"))
    run = open_first_stage("bm25", collection).search(queries, WITHIN)
    found = [query for query in queries if query.id in run[query.id].doc_ids]
    tested = {name: {query.id: query.text for query in open_collection(name).queries()} for name in given.against}
    leaks = find_query_leaks({query.id: query.text for query in found}, tested)
    leaked = {leak.train for leak in leaks}
    found = [query for query in found if query.id not in leaked]
    shutil.copy(given.corpus / "docs.jsonl", given.out / "docs.jsonl")
    with (given.out / "queries.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"id": query.id, "text": query.text}) + "\n" for query in found)
    print(f"{given.count} passages, {len(queries)} queries, {len(found)} of them find their passage", flush=True)
    print(f"left out as near-duplicates of test queries: {[(leak.train_text, leak.test_text) for leak in leaks]}")


if __name__ == "__main__":
    main()

"""Train an adapter for a few steps, and rerank with it.

python train_an_adapter.py

Four steps, each on one list, show the way and do not make a better model; training/ has recipes that were measured.
"""

import json
from pathlib import Path

from rerank import Reranker, open_collection, open_first_stage
from rerank.finetune.recipe import Recipe
from rerank.finetune.trainer.training import train_adapter

# The labels: BM25's first documents of eight questions, and the grades that they should be sorted by.
# `rerank label make` writes such files from embeddings, runs, judgments or another model.
collection = open_collection("pydoc")
search = open_first_stage("bm25", collection) % 4
qrels = collection.qrels()
with Path("labels.jsonl").open("w", encoding="utf-8") as file:
    for ranking in search(collection.queries()[:8]).values():
        scores = [qrels[ranking.query.id].get(doc, 0) for doc in ranking.doc_ids]
        best_first = sorted(range(len(scores)), key=lambda position: -scores[position])
        row = {"qid": ranking.query.id, "query": ranking.query.text, "teacher": "qrels", "scores": scores}
        row |= {"initial_list": ranking.doc_ids, "final_list": [ranking.doc_ids[n] for n in best_first]}
        print(json.dumps(row), file=file)

# The recipe, which is usually a TOML file for `rerank train`. The method decides what the loss reads: here, the
# likelihood of the query given each document, as in reranking afterwards.
recipe = Recipe.make(
    {
        "model": "smollm2-135m",
        "data": {"lists": ["labels.jsonl"], "collection": "pydoc", "documents": 4},
        "method": {"method": "qlm", "max_passage_tokens": 48},
        "losses": [{"name": "ranknet", "on": "logits"}],
        "adapter": {"name": "lora", "r": 8, "targets": "attention"},
        "training": {"steps": 4, "accumulation": 1, "log_every": 1},
    }
)
result = train_adapter(recipe, Path("adapter"), resume=True)
print(f"{result.steps} steps, {result.trainable:,} parameters trained, loss {result.loss:.3f}")

# The folder knows the base model, the method and the prompt.
reranker = Reranker.from_pretrained(adapter="adapter")
documents = ["random.shuffle puts a list in random order.", "sorted returns a new sorted list."]
for hit in reranker.rank("how do I sort a list", documents):
    print(hit.rank, hit.text)

"""Rerank lists with the bi-encoder all-MiniLM-L6-v2, and fuse the result with the lists; write two runs with cards.

    python eval/leaderboard/minilm_runs.py --lists retrieve_results_dl19.json.gz --out runs/

A document's score is the cosine of its embedding and that of the query, of at most 256 tokens each. The fusion adds
reciprocal ranks (k = 60) of the lists and of the cosines. The cards hold the tokens that the encoder read.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from sentence_transformers import SentenceTransformer

from rerank.collections.requests import Requests
from rerank.io.run_files import write_run
from rerank.models import resolve_model_name
from rerank.retrieval.hybrid import reciprocal_rank_fusion
from rerank.types import Ranking, Run

MODEL = "all-minilm-l6-v2"
CARD = """name = "{name}"
group = "listrank"
first_stage = "BM25"
before = "BM25"
depth = 100
model = "all-MiniLM-L6-v2"
method = "{method}"
parameters = 22.7e6
weights = "open"
year = 2021
tokens = {tokens}
source = "eval/leaderboard/record.sh of listrank"
licence = "Apache-2.0"
"""


def main() -> None:
    """Write ``minilm.run.gz`` and ``minilm-rrf.run.gz`` with their cards."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lists", required=True, help="candidate lists with passage text (requests format)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    encoder = SentenceTransformer(str(resolve_model_name(MODEL)), device="cpu")
    start, tokens = time.process_time(), 0
    cosines, fused = [], []
    for ranking in Requests(options.lists).candidates().values():
        texts = [ranking.query.text, *(doc.full_text for doc in ranking.docs)]
        tokens += int(encoder.tokenize(texts)["attention_mask"].sum())
        query, *vectors = encoder.encode(texts, normalize_embeddings=True)
        scored = Ranking.from_scores(
            ranking.query, [(doc, float(vector @ query)) for doc, vector in zip(ranking.docs, vectors, strict=True)]
        )
        one, other = reciprocal_rank_fusion(ranking), reciprocal_rank_fusion(scored)
        cosines.append(scored)
        fused.append(Ranking.from_scores(ranking.query, [(doc, one[doc.id] + other[doc.id]) for doc in ranking.docs]))
    print(f"{len(cosines)} queries, {tokens} tokens, {time.process_time() - start:.0f} CPU seconds")
    for stem, name, method, rankings in (
        ("minilm", "all-MiniLM-L6-v2", "bi-encoder, cosine", cosines),
        ("minilm-rrf", "BM25 + all-MiniLM-L6-v2", "reciprocal rank fusion of both lists", fused),
    ):
        write_run(Run(rankings, name=stem), options.out / f"{stem}.run.gz")
        card = CARD.format(name=name, method=method, tokens=tokens)
        (options.out / f"{stem}.toml").write_text(card, encoding="utf-8")


if __name__ == "__main__":
    main()

"""How many calls every method makes for one list of 100 documents, as the call log counts them.

    python benchmarks/calls.py [--documents 100]

The answers of the model decide how many calls some methods need, so the fake that knows the judgments and the one that
turns every window round are both asked; `batches` are the lists of requests that reach the backend, which is how often
a query has to wait. `at_most` is the method's own formula. Methods that need a list of heads make the calls of `icr`.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from counting import counted

from rerank.collections import open_collection
from rerank.methods import count_requests_of_method, method_names, open_method
from rerank.models import open_model_backend
from rerank.retrieval import open_first_stage


def main() -> None:
    """Count, print one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=100)
    options = parser.parse_args()
    collection = open_collection("pydoc")
    query = collection.queries()[0]
    ranking = open_first_stage("bm25", collection).search([query], options.documents)[query.id]
    rows = {}
    for method in sorted(
        name for name in method_names() if name not in ("core", "qrhead") and not name.endswith("-images")
    ):
        row: dict[str, Any] = {"at_most": count_requests_of_method(open_method(method), len(ranking))}
        for fake in ("perfect", "reversed"):
            backend = open_model_backend(f"fake:{fake}", qrels=collection.qrels())
            row[fake], row[f"batches_{fake}"] = counted(method, backend, [ranking])
        rows[method] = row
    print(json.dumps({"documents": len(ranking), "calls": rows}))


if __name__ == "__main__":
    main()

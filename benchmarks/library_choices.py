"""Our own code against the library that could replace it, for five parts of the project.

    python benchmarks/library_choices.py [--only bm25,http] [--documents 20000,100000] [--repeat 5]

| question | our code | library |
| --- | --- | --- |
| `bm25` | the BM25 index, built in blocks on disk | bm25s' own builder |
| `http` | JSON over httpx2, with retries | the openai SDK (not in any extra: `pip install openai`) |
| `plot` | effectiveness against cost, as SVG in the page | matplotlib (extra `plots`); plotly if it is installed |
| `power` | power of the paired t-test | statsmodels (extra `dev`) |
| `measures` | measures under many sets of judgments at once | ir_measures, pytrec_eval |

Each question runs in a new process, and each BM25 index is built in one of its own, since peak memory is compared.
Times are CPU time, medians of `--repeat` repetitions, and the sides take turns. Import times exclude those of an empty
Python. `added` counts the packages and megabytes that a library adds to the base installation. A question whose library
is missing is skipped, with a message. docs/decisions/0011-own-code-or-a-library.md discusses the figures.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from typing import Any

from libraries.processes import Settings, in_new_process

#: Name of a question -> module in `libraries`.
QUESTIONS = {
    "bm25": "bm25_index",
    "http": "http_client",
    "plot": "pictures",
    "power": "t_test_power",
    "measures": "judgment_sets",
}


def main() -> None:
    """Answer the chosen questions one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(QUESTIONS), help="questions to answer, joined by commas")
    parser.add_argument("--documents", default="20000,100000", help="sizes of the BM25 collections")
    parser.add_argument("--repeat", type=int, default=5, help="repetitions of each timing")
    options = parser.parse_args()
    names = options.only.split(",")
    if unknown := [name for name in names if name not in QUESTIONS]:
        parser.error(f"unknown question {unknown[0]!r}; expected some of {', '.join(QUESTIONS)}")
    settings = Settings(documents=tuple(map(int, options.documents.split(","))), repeat=options.repeat)
    answers: dict[str, Any] = {"cores": os.cpu_count()}
    for name in names:
        try:
            answers[name] = in_new_process(answer, QUESTIONS[name], settings)
        except ModuleNotFoundError as error:
            print(f"{name} is skipped: {error}. Install it to answer this question", file=sys.stderr)
            answers[name] = None
            continue
        print(json.dumps({name: answers[name]}, indent=1), file=sys.stderr, flush=True)
    print(json.dumps(answers))


def answer(module: str, settings: Settings) -> dict[str, Any]:
    """Import the module of a question, and with it the library, and measure."""
    measured: dict[str, Any] = importlib.import_module(f"libraries.{module}").measure(settings)
    return measured


if __name__ == "__main__":
    main()

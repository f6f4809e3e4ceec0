"""Let a language model grade documents, and check its grades against those of people before anybody uses them.

python judge_with_a_model.py                      six queries that come with the example
python judge_with_a_model.py jsonl:FOLDER MODEL   a folder with docs.jsonl, queries.jsonl and the grades in qrels.txt
"""

import json
import sys
from pathlib import Path

from rerank import open_collection
from rerank.adjudication import AssessorPanel
from rerank.adjudication.judging import Grader
from rerank.collections.base import fetch_documents
from rerank.models import open_model_backend
from rerank.prompts import load_prompt
from rerank.types import Window

# Query, a passage that answers it (grade 3), one on its topic (1), and one about something else (0). In your own
# data, the grades are those of people.
SAMPLE = [
    ("how long to knead dough", "Knead the dough for ten minutes.", "Dough is made of flour.", "Bees make honey."),
    ("who wrote Faust", "Goethe wrote the play Faust.", "Faust is played in theatres.", "Boil the eggs."),
    ("what do bees make", "Bees make honey and wax.", "Bees live in hives.", "Trains have doors."),
    ("why is the sky blue", "Air scatters blue light most.", "The sky is grey today.", "Knead the dough."),
    ("how hot is boiling water", "Water boils at 100 degrees.", "Water is wet.", "Faust is a play."),
    ("when do trains run at night", "Trains run hourly until 4 am.", "Trains are on time.", "The sky is blue."),
]
match sys.argv[1:]:
    case [selector, model]:
        pass
    case []:
        selector, model = "jsonl:judged", "smollm2-135m"
        folder = Path("judged")
        folder.mkdir(exist_ok=True)
        rows = [{"id": f"d{q}{n}", "text": text} for q, row in enumerate(SAMPLE) for n, text in enumerate(row[1:])]
        (folder / "docs.jsonl").write_text("\n".join(map(json.dumps, rows)))
        topics = [{"id": f"q{q}", "text": row[0]} for q, row in enumerate(SAMPLE)]
        (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, topics)))
        lines = [f"q{q} 0 d{q}{n} {grade}" for q in range(len(SAMPLE)) for n, grade in enumerate((3, 1, 0))]
        (folder / "qrels.txt").write_text("\n".join(lines))
    case _:
        sys.exit(__doc__)

collection = open_collection(selector)
people = collection.qrels()
# One prompt per document. `rerank qrels judge` does the same for a pool of runs, and can be interrupted.
backend = open_model_backend(model)
grader = Grader(backend=backend, template=load_prompt("grade"))
grades: dict[str, dict[str, int]] = {}
for query in collection.queries():
    docs = fetch_documents(collection, people[query.id])
    replies = backend.generate(grader.make_requests(Window(query, tuple(docs.values()))))
    read = {doc: grader.read(reply).grade for doc, reply in zip(docs, replies, strict=True)}
    grades[query.id] = {doc: grade for doc, grade in read.items() if grade is not None}  # None: no grade in the reply
    print(query.text, grades[query.id])

# Kappa is 1 for perfect agreement and 0 for that of chance. Its interval is over queries.
pair = AssessorPanel.from_qrels({"people": people, model: grades}).to_dict()["pairs"][0]
kappa, interval = pair["kappa_quadratic"], pair["kappa_quadratic_interval"]
if kappa is None:
    sys.exit("There is no kappa: all grades are the same.")
low, high = interval or (kappa, kappa)  # no interval: the value is the same without any one of the queries
print(f"weighted kappa of people and {model}: {kappa:.2f} [{low:.2f}, {high:.2f}]")
print("use it with care" if low > 0 else "no better than chance on this sample: do not use its grades")

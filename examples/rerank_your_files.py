"""Search the text files of a folder, and rerank what the search finds.

python rerank_your_files.py                           four small files that come with the example
python rerank_your_files.py FOLDER "your question"    the .txt and .md files of a folder
"""

import sys
from pathlib import Path

from rerank import InMemoryCorpus, Query, Reranker, open_first_stage

SAMPLE = {
    "bread.txt": "Bread: knead the dough for ten minutes and let it rise in a warm place for an hour.",
    "pancakes.txt": "Pancakes: the dough must not be kneaded for long, or pancakes get tough.\n\n"
    "How long they have to be in the pan depends on the pan.",
    "pizza.txt": "Pizza: mix the dough in the evening and bake it the day after.",
    "soup.txt": "Soup: cut leeks and potatoes, and let them simmer for half an hour.",
}
QUESTION = "how long does bread dough have to rise"

match sys.argv[1:]:
    case []:
        files, question = SAMPLE, QUESTION
    case [folder, question]:
        paths = [path for path in sorted(Path(folder).rglob("*")) if path.suffix in (".txt", ".md")]
        files = {str(path): path.read_text("utf-8", errors="replace") for path in paths}
    case _:
        sys.exit(__doc__)

# A paragraph is a document: the model reads the beginning of a long text only.
paragraphs = [
    {"id": f"{name}:{number}", "text": text.strip()}
    for name, content in files.items()
    for number, text in enumerate(content.split("\n\n"), start=1)
    if text.strip()
]

if not paragraphs:
    sys.exit(f"No text in .txt or .md files of {sys.argv[1]!r}; pass a folder that has some")

# BM25 finds up to 20 paragraphs, and the model reranks them. >> joins the two; % N keeps the first N.
search = open_first_stage("bm25", InMemoryCorpus(paragraphs)) % 20
pipeline = search >> Reranker.from_pretrained("smollm2-135m") % 3

query = Query(id="q", text=question)
for title, run in (("BM25", search([query])), ("reranked", pipeline([query]))):
    print(f"{title}:")
    for rank, document in enumerate(run["q"].docs[:3], start=1):
        print(f"  {rank}. {document.id:14} {document.text[:70]}")

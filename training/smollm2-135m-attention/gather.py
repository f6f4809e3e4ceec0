"""Turn free texts into collections with queries, in BEIR's layout, for `rerank label` to make training lists from.

    python training/smollm2-135m-attention/gather.py --out collections/ --passages passages.jsonl \\
        --foldoc /usr/share/dictd --wordnet /usr/share/wordnet --cranfield FOLDER --vaswani FOLDER

Whatever is not given is left out. Texts and terms: passages written by SmolLM2-135M-Instruct (Apache-2.0) about nouns
of WordNet 3.0 (WordNet licence); FOLDOC (GNU FDL 1.1 or later); Cranfield and Vaswani (distributed freely for
research); the documentation of Python's standard library (PSF licence), which needs no path. No query here was written
by a person who looked for something, and no judgment is read.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
from collections.abc import Iterable
from pathlib import Path

from rerank.collections import open_collection

#: What people type when they look a thing up.
FORMS = (
    *("what is {}", "what is {}", "{}", "{} definition", "{} meaning", "what does {} mean", "define {}"),
    *("how does {} work", "what is {} used for", "examples of {}", "who uses {}", "where does {} come from"),
)
Docs = dict[str, dict[str, str]]
Queries = list[tuple[str, str]]


def write(folder: Path, docs: Docs, queries: Queries, limit: int, chance: random.Random) -> None:
    """corpus.jsonl and queries.jsonl; queries are drawn where there are more than the limit."""
    folder.mkdir(parents=True, exist_ok=True)
    chosen = queries if len(queries) <= limit else chance.sample(queries, limit)
    with (folder / "corpus.jsonl").open("w", encoding="utf-8") as file:
        for name, doc in docs.items():
            file.write(json.dumps({"_id": name, **doc}, ensure_ascii=False) + "\n")
    with (folder / "queries.jsonl").open("w", encoding="utf-8") as file:
        for name, text in chosen:
            file.write(json.dumps({"_id": name, "text": text}, ensure_ascii=False) + "\n")
    print(f"{folder.name}: {len(docs)} documents, {len(chosen)} queries")


def written(path: Path) -> tuple[Docs, Queries]:
    """Passages of the language model, each with its question; questions that say nothing are left out."""
    rows = [json.loads(line) for line in path.open(encoding="utf-8")]
    rows = [row for row in rows if len(row["text"].split()) > 12]
    docs = {row["id"]: {"title": "", "text": row["text"]} for row in rows}
    seen: set[str] = set()
    queries = []
    for row in rows:
        question = row["question"].lower().rstrip(" ?.")
        if 2 <= len(question.split()) <= 12 and question not in seen and re.fullmatch(r"[\w' ,()$%-]+", question):
            seen.add(question)
            queries.append((row["id"], question))
    return docs, queries


def foldoc(folder: Path, chance: random.Random) -> tuple[Docs, Queries]:
    """Entries of the dictionary of computing, looked up by their headwords."""
    text = gzip.decompress((folder / "foldoc.dict.dz").read_bytes()).decode("utf-8", "replace")
    docs: Docs = {}
    queries = []
    for at, entry in enumerate(re.split(r"\n(?=\S[^\n]*\n\n   )", text)):
        head, _, body = entry.partition("\n")
        body = re.sub(r"<[a-z, -]+>|[{}]|\(\d{4}-\d\d-\d\d\)|\[[^\]]*\?\]", "", body)
        words = body.split()
        if len(words) < 15 or len(head) > 60:
            continue
        docs[f"f{at}"] = {"title": "", "text": f"{head.strip()}: {' '.join(words[:150])}"}
        queries.append((f"f{at}", chance.choice(FORMS).format(head.strip().lower())))
    return docs, queries


def glosses(folder: Path, chance: random.Random) -> tuple[Docs, Queries]:
    """WordNet's nouns with gloss and examples, looked up by the noun."""
    docs: Docs = {}
    queries = []
    for line in (folder / "data.noun").read_text(encoding="utf-8").splitlines():
        head, _, gloss = line.partition(" | ")
        if line.startswith(" ") or len(gloss.split()) < 8:
            continue
        fields = head.split()
        nouns = [fields[4 + 2 * n].replace("_", " ") for n in range(int(fields[3], 16))]
        docs[f"w{fields[0]}"] = {"title": "", "text": f"{', '.join(nouns)}: {gloss.strip()}"}
        form = chance.choice(FORMS)
        queries.append((f"w{fields[0]}", form.format(nouns[0].lower())))
    return docs, queries


def abstracts(selector: str, prefix: str) -> tuple[Docs, Queries]:
    """Documents without their titles, or without their first sentence where they have none; those are the queries."""
    docs: Docs = {}
    queries = []
    for doc in open_collection(selector).docs():
        title, text = doc.title.strip(" ."), " ".join(doc.text.split())
        if title:
            text = re.sub(rf"^{re.escape(' '.join(title.split()))}\s*\.?\s*", "", text)
        else:
            title, _, text = text.partition(". ") if ". " in text else (" ".join(text.split()[:8]), "", text)
        if len(text.split()) < 8:
            continue
        docs[f"{prefix}{doc.id}"] = {"title": "", "text": text}
        if 3 <= len(title.split()) <= 25:
            queries.append((f"{prefix}{doc.id}", " ".join(title.split())))
    return docs, queries


def library() -> tuple[Docs, Queries]:
    """Python's documentation: what a thing does, in its first line, is the query, and is cut from every document."""
    docs: Docs = {}
    queries = []
    for doc in open_collection("pydoc").docs():
        first, _, rest = doc.text.partition("\n")
        first, rest = " ".join(first.split()).rstrip("."), " ".join(rest.split())
        if len(rest.split()) < 12 or not 3 <= len(first.split()) <= 16:
            continue
        docs[f"p{doc.id}"] = {"title": doc.title, "text": rest}
        queries.append((f"p{doc.id}", first.lower()))
    return docs, queries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--passages", type=Path)
    for name in ("foldoc", "wordnet", "cranfield", "vaswani"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args()
    chance = random.Random(given.seed)
    made: Iterable[tuple[str, tuple[Docs, Queries], int]] = (
        *((("written", written(given.passages), 2000),) if given.passages else ()),
        *((("foldoc", foldoc(given.foldoc, chance), 700),) if given.foldoc else ()),
        *((("glosses", glosses(given.wordnet, chance), 700),) if given.wordnet else ()),
        *((("cranfield", abstracts(f"cranfield:{given.cranfield}", "c"), 800),) if given.cranfield else ()),
        *((("vaswani", abstracts(f"trec,docs={given.vaswani}/doc-text.trec.gz", "v"), 500),) if given.vaswani else ()),
        ("pydoc", library(), 400),
    )
    for name, (docs, queries), limit in made:
        write(given.out / name, docs, queries, limit, chance)


if __name__ == "__main__":
    main()

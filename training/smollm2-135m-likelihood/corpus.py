"""Write one collection of passages from the packages of sources.toml.

    python corpus.py --packages work/packages --out work/corpus

The folder is opened as ``jsonl:work/corpus``. It contains docs.jsonl and counts.json (source -> licence, passages).
"""

from __future__ import annotations

import argparse
import fnmatch
import gzip
import io
import json
import random
import re
import subprocess
import tarfile
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from rerank.collections import open_collection

#: Words per passage. MS MARCO's passages have 56 on average; the trained method shows at most 100 tokens.
FEWEST, MOST = 20, 75
#: Digits of the offsets in the index of a dictionary (base 64).
DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
#: Pronunciations, etymologies, sources and marks of links in dictionary entries.
MARKS = re.compile(r"\\[^\\\n]{1,60}\\|\[[^\]]*\]|[{}<>]|\(\d{4}-\d\d-\d\d\)")
Passage = tuple[str, str]  # title and text


class Paragraphs(HTMLParser):
    """Collects the title and the paragraphs of an HTML or Mallard page."""

    def __init__(self) -> None:
        super().__init__()
        self.title, self.paragraphs = "", [""]
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag in {"p", "title", "pre", "script", "style", "table", "nav", "info", "footer"}:
            self._open.append(tag)
            if tag == "p":
                self.paragraphs.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            del self._open[len(self._open) - 1 - self._open[::-1].index(tag) :]

    def handle_data(self, data: str) -> None:
        if not self._open or set(self._open) - {"p", "title"}:
            return
        if self._open[-1] == "p":
            self.paragraphs[-1] += data
        elif not self.title:
            self.title = " ".join(data.split())


def split_into_passages(text: str) -> Iterator[str]:
    """Yield pieces of FEWEST to MOST words that end with a sentence, as far as sentences allow."""
    words: list[str] = []
    for sentence in re.split(r"(?<=[.!?]) +", " ".join(text.split())):
        new = sentence.split()
        if words and len(words) + len(new) > MOST:
            if len(words) >= FEWEST:
                yield " ".join(words)
            words = []
        words += new[:MOST]
    if len(words) >= FEWEST:
        yield " ".join(words)


def read_page(data: bytes) -> Iterator[Passage]:
    """Yield the passages of a page, with its title."""
    page = Paragraphs()
    page.feed(data.decode("utf-8", "replace"))
    title = re.split(r" [-—|] | \(GNU Octave|#|¶", page.title)[0].strip()
    for text in split_into_passages("  ".join(page.paragraphs)):
        yield title, text


def read_dictionary(text: bytes, index: bytes) -> Iterator[Passage]:
    """Yield the first passage of every entry of a dictionary in dictd's format; the headword begins the text."""
    seen: set[int] = set()
    for line in index.decode("utf-8", "replace").splitlines():
        head, start, length = line.split("\t")[:3]
        offset, size = (sum(DIGITS.index(c) * 64**n for n, c in enumerate(reversed(code))) for code in (start, length))
        if offset in seen or head.startswith("00"):
            continue
        seen.add(offset)
        entry = MARKS.sub(" ", text[offset : offset + size].decode("utf-8", "replace"))
        for passage in split_into_passages(entry):
            yield "", passage
            break


def read_source(source: dict[str, Any], packages: Path) -> Iterator[Passage]:
    """Yield the passages of one source."""
    if "package" not in source:
        for doc in open_collection(source["name"]).docs():
            for text in split_into_passages(doc.text):
                yield doc.title, text
        return
    (package,) = packages.glob(f"{source['package']}_*.deb")
    data = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(package)], check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            if not member.isfile() or not fnmatch.fnmatch(member.name.removeprefix("./"), source["files"]):
                continue
            content = archive.extractfile(member).read()  # type: ignore[union-attr]
            if member.name.endswith(".dict.dz"):
                index = archive.extractfile(member.name.replace(".dict.dz", ".index")).read()  # type: ignore[union-attr]
                yield from read_dictionary(gzip.decompress(content), index)
            else:
                yield from read_page(content)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--packages", type=Path, required=True, help="folder with the .deb files")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args()
    chance = random.Random(given.seed)
    sources = tomllib.loads(Path(__file__).with_name("sources.toml").read_text(encoding="utf-8"))["source"]
    given.out.mkdir(parents=True, exist_ok=True)
    counts: dict[str, dict[str, Any]] = {}
    seen: set[str] = set()
    with (given.out / "docs.jsonl").open("w", encoding="utf-8") as file:
        for source in sources:
            passages = [passage for passage in read_source(source, given.packages) if passage[1] not in seen]
            seen.update(text for _, text in passages)
            drawn = chance.sample(passages, min(source["passages"], len(passages)))
            for number, (title, text) in enumerate(drawn):
                row = {"id": f"{source['name']}-{number}", "title": title, "text": text}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            counts[source["name"]] = {"licence": source["licence"], "passages": len(drawn), "of": len(passages)}
            print(source["name"], len(drawn), "of", len(passages), flush=True)
    (given.out / "counts.json").write_text(json.dumps(counts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

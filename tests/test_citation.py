"""The page on citation agrees with CITATION.cff, and has an entry for the paper of every method."""

from __future__ import annotations

import re

import yaml

from rerank.methods import describe_methods
from tests.docs_scripts import DOCS

PAGE = (DOCS / "citation.md").read_text("utf-8")


def test_the_entry_of_the_software_is_that_of_the_citation_file() -> None:
    citation = yaml.safe_load((DOCS.parent / "CITATION.cff").read_text("utf-8"))
    stated = dict(re.findall(r"^  (\w+) +=\s*\{+(.+?)\}+,?$", PAGE.split("```")[1], re.M))
    assert stated["author"] == citation["authors"][0]["name"]
    assert stated["title"] == citation["title"]
    assert stated["version"] == citation["version"]
    assert stated["date"] == str(citation["date-released"])
    assert stated["note"] == citation["license"]


def test_every_method_has_an_entry() -> None:
    papers = {number for method in describe_methods() for number in re.findall(r"arXiv (\d+\.\d+)", method["paper"])}
    assert papers
    assert papers <= set(re.findall(r"eprint = \{(\d+\.\d+)\}", PAGE))

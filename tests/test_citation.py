"""The page on citation agrees with CITATION.cff, and has an entry for the paper of every method."""

from __future__ import annotations

import re
import tomllib

import yaml

from rerank.methods import describe_methods
from tests.docs_scripts import DOCS

PAGE = (DOCS / "citation.md").read_text("utf-8")
CITATION = yaml.safe_load((DOCS.parent / "CITATION.cff").read_text("utf-8"))
#: Key of the Citation File Format 1.2.0 -> pattern of its value: those that its schema requires, and those used here.
_REQUIRED = {"cff-version": r"1\.2\.0", "message": r"\S.*", "title": r"\S.*"}
_OPTIONAL = {"type": "software|dataset", "version": r"\S+", "date-released": r"\d{4}-\d\d-\d\d", "license": r"[\w.+-]+"}


def test_the_citation_file_has_what_its_schema_requires_and_nothing_that_it_does_not_know() -> None:
    texts = {key: value for key, value in CITATION.items() if key not in ("authors", "keywords")}
    assert _REQUIRED.keys() <= texts.keys() <= _REQUIRED.keys() | _OPTIONAL.keys()
    # Also dates are texts in the schema; YAML would read them as dates without quotation marks.
    wrong = [key for key, value in texts.items() if not re.fullmatch((_REQUIRED | _OPTIONAL)[key], value)]
    assert wrong == []
    assert CITATION["authors"]
    assert all(author.keys() <= {"name", "website", "email"} and author["name"] for author in CITATION["authors"])
    assert len(set(CITATION["keywords"])) == len(CITATION["keywords"]) > 0


def test_the_licence_and_the_version_are_those_of_the_package() -> None:
    project = tomllib.loads((DOCS.parent / "pyproject.toml").read_text("utf-8"))["project"]
    assert [CITATION[key] for key in ("license", "version")] == [project[key] for key in ("license", "version")]


def test_the_entry_of_the_software_is_that_of_the_citation_file() -> None:
    stated = dict(re.findall(r"^  (\w+) +=\s*\{+(.+?)\}+,?$", PAGE.split("```")[1], re.M))
    assert stated["author"] == CITATION["authors"][0]["name"]
    assert stated["title"] == CITATION["title"]
    assert stated["version"] == CITATION["version"]
    assert stated["date"] == CITATION["date-released"]
    assert stated["note"] == CITATION["license"]


def test_every_method_has_an_entry() -> None:
    papers = {number for method in describe_methods() for number in re.findall(r"arXiv (\d+\.\d+)", method["paper"])}
    assert papers
    assert papers <= set(re.findall(r"eprint = \{(\d+\.\d+)\}", PAGE))

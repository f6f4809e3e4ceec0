"""Prompts in the form of umbrela's files."""

from __future__ import annotations

from rerank.prompts.loading import prompt_template_from_yaml

#: The form of the files, with another text.
FILE = """\
method: "qrel_zeroshot_other"
system_message: ""
prefix_user: |-
  Grade the passage, 

  Query: {query}
  Passage: {passage}

  Answer with ##final score: score
"""


def test_the_text_is_rendered_as_it_is() -> None:
    template = prompt_template_from_yaml(FILE, "other")
    assert template.method == "pointwise"
    (message,) = template.render("who is [1]", ["a {b} [2]"])
    assert message.content == (
        "Grade the passage, \n\nQuery: who is [1]\nPassage: a {b} [2]\n\nAnswer with ##final score: score"
    )

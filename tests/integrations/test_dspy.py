"""DSPy: programs that contain the module."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = pytest.mark.integrations


def test_passages_may_be_examples_and_texts() -> None:
    import dspy

    from rerank.integrations.dspy import RerankerModule

    passages = [dspy.Example(text="a", url="u"), "b", {"text": "c"}]
    prediction = RerankerModule("fake:reversed")(query="q", passages=passages)
    assert prediction.passages == passages[::-1]
    assert prediction.passages[2] is passages[0]
    assert prediction.indices == [2, 1, 0]


def test_a_program_is_copied_and_its_state_is_stored(tmp_path: Path) -> None:
    import dspy

    from rerank.integrations.dspy import RerankerModule

    class Program(dspy.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rerank = RerankerModule("fake:reversed", top_n=1)
            self.answer = dspy.Predict("context, question -> answer")

    program = Program().deepcopy()
    assert [name for name, _ in program.named_parameters()] == ["answer"]
    program.save(str(tmp_path / "program.json"))
    program.load(str(tmp_path / "program.json"))
    assert program.rerank(query="q", passages=["a", "b"]).passages == ["b"]

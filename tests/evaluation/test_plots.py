"""Pictures: that they are drawn, whole, and what stands in them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from rerank.errors import MissingPrerequisiteError, MissingResourceError, StorageError, UnknownNameError, UsageError
from rerank.evaluation import PairwiseDecisions, ScoreMatrix, compare_all_runs
from rerank.evaluation.plots import plot_comparison, plot_topic_differences
from tests.raising import raises


def decided(systems: int, topics: int = 30) -> PairwiseDecisions:
    values = np.random.default_rng(1).normal(0, 0.1, (topics, systems)) + 0.1 * np.arange(systems)
    names = tuple(f"runs/{'x' * 40}/$a_{n}.trec" for n in range(systems))
    return compare_all_runs(
        ScoreMatrix(measure="AP", topics=tuple(f"t{n}" for n in range(topics)), systems=names, values=values)
    )


@pytest.fixture
def _matplotlib() -> None:
    pytest.importorskip("matplotlib")


@pytest.mark.usefixtures("_matplotlib")
def test_two_systems_topic_by_topic(tmp_path: Path) -> None:
    plot_comparison(decided(2), tmp_path / "two.svg")
    text = (tmp_path / "two.svg").read_text("utf-8")
    for written in ("t29", "difference of AP", "30 topics:", "better", "mean -0.", "$a_0.trec minus"):
        assert f"<!-- {written}" in text or written in text, written


@pytest.mark.usefixtures("_matplotlib")
def test_many_systems_as_a_map(tmp_path: Path) -> None:
    plot_comparison(decided(5), tmp_path / "map.svg")
    text = (tmp_path / "map.svg").read_text("utf-8")
    for written in ("paired t, correction Holm", "the row is significantly better", "p &lt;= 0.001", "p &gt; 0.05"):
        assert written in text, written


@pytest.mark.usefixtures("_matplotlib")
@pytest.mark.parametrize(("ending", "magic"), [("png", b"\x89PNG"), ("PDF", b"%PDF")])
def test_forms(tmp_path: Path, ending: str, magic: bytes) -> None:
    path = tmp_path / f"a.{ending}"
    plot_comparison(decided(14, topics=90), path)
    assert path.read_bytes().startswith(magic)
    found = decided(3, topics=90)
    plot_topic_differences(found, found.matrix.systems[0], found.matrix.systems[1], path)
    assert path.read_bytes().startswith(magic)


@pytest.mark.usefixtures("_matplotlib")
def test_the_same_picture_twice(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        plot_comparison(decided(3), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.usefixtures("_matplotlib")
def test_where_nothing_can_be_drawn(tmp_path: Path) -> None:
    with raises(MissingResourceError, "none"):
        plot_comparison(decided(2), tmp_path / "none" / "a.png")
    with raises(StorageError, "b.png"):
        (tmp_path / "b.png").mkdir()
        plot_comparison(decided(2), tmp_path / "b.png")
    with raises(UnknownNameError, "x"):
        plot_topic_differences(decided(2), "x", "y", tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


def test_another_ending(tmp_path: Path) -> None:
    with raises(UsageError, "a.jpeg", ".png, .svg, .pdf"):
        plot_comparison(decided(2), tmp_path / "a.jpeg")


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("matplotlib", "matplotlib.figure", "matplotlib.colors"):
        monkeypatch.setitem(sys.modules, name, None)
    for systems in (2, 3):
        with raises(MissingPrerequisiteError, "[plots]'"):
            plot_comparison(decided(systems), tmp_path / "a.png")

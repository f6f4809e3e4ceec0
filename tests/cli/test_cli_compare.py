"""`rerank compare` with tests, corrections, matrices and pictures."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.conftest import Cli

RUNS = ("compare", "good.trec", "bad.trec", "--qrels", "qrels.txt")


@pytest.fixture(autouse=True)
def files(tmp_path: Path) -> None:
    """Two runs over thirty queries, and a matrix of three systems on as many topics."""
    rows = {"good": [], "bad": []}  # type: dict[str, list[str]]
    for q in range(30):
        for d in range(3):
            rows["good"].append(f"q{q} Q0 d{d} {d + 1} {9 - d} good")
            place = d if q % 3 else 2 - d
            rows["bad"].append(f"q{q} Q0 d{d} {place + 1} {9 - place} bad")
    for name, lines in rows.items():
        (tmp_path / f"{name}.trec").write_text("\n".join(lines))
    (tmp_path / "qrels.txt").write_text("\n".join(f"q{q} 0 d{d} {2 - d}" for q in range(30) for d in range(3)))
    values = np.random.default_rng(1).normal([0.2, 0.2, 0.5], 0.1, (30, 3))
    np.savetxt(tmp_path / "m.csv", values, "%.4f", ",", header="a,b,c", comments="")


def result(cli: Cli, *arguments: str) -> dict[str, Any]:
    done = cli(*arguments, "--format", "json")
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


TESTS = ("t", "wilcoxon", "sign", "permutation", "bootstrap", "tukey-randomised", "tukey-anova")


@pytest.mark.parametrize("test", TESTS)
def test_a_matrix_by_every_test(cli: Cli, test: str) -> None:
    found = result(cli, "compare", "--matrix", "m.csv", "--test", test)
    assert found.keys() >= {
        "topics",
        "systems",
        "pairs",
        "significant",
        "test",
        "correction",
        "alpha",
        "means",
        "notes",
    }
    assert (found["topics"], found["systems"], found["pairs"], found["significant"]) == (30, 3, 3, 2)
    assert (found["test"], found["correction"]) == (test, "none" if test.startswith("tukey") else "holm")
    assert [entry["beats"] for entry in found["means"]] == [0, 0, 2]


@pytest.mark.parametrize("correction", ["none", "bonferroni", "holm", "hochberg", "bh", "by"])
def test_a_matrix_by_every_correction(cli: Cli, correction: str) -> None:
    found = result(cli, "compare", "--matrix", "m.csv", "--test", "t", "--correction", correction, "--alpha", "0.01")
    assert (found["correction"], found["alpha"], found["significant"]) == (correction, 0.01, 2)


def test_runs_with_another_test(cli: Cli) -> None:
    usual, other = result(cli, *RUNS), result(cli, *RUNS, "--test", "permutation", "--correction", "bh", "--seed", "3")
    assert (usual["test"], usual["correction"], usual["tests"]["p"]) == ("t", "holm", "paired t, two-sided")
    assert (other["test"], other["correction"]) == ("permutation", "bh")
    assert other["tests"]["p"] == "paired randomisation, two-sided"
    assert other["options"] == {"permutations": 10_000, "seed": 3}
    (before,), (after,) = usual["pairs"], other["pairs"]
    assert before.keys() == after.keys()
    assert before["p"] != after["p"] == after["p_adjusted"]
    assert before["p_wilcoxon"] == after["p_wilcoxon"]
    assert usual["effects"][0].keys() == {"a", "b", "d_z", "hedges_g"}
    wilcoxon = result(cli, *RUNS, "--test", "wilcoxon")["pairs"][0]
    assert wilcoxon["p"] == wilcoxon["p_wilcoxon"]


def test_a_terminal_gets_letters_and_fewer_columns(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    text = cli(*RUNS).stdout
    lines = [line.split() for line in text.splitlines()]
    assert lines[1][:3] == ["a", "good.trec", "1.0000ᵇ"]
    assert lines[2][1] == "bad.trec"
    assert "(Wilcoxon)" not in text.splitlines()[4]
    assert max(map(len, text.splitlines())) <= 80
    assert "(Wilcoxon)" in cli(*RUNS, "--wide").stdout


def test_a_baseline(cli: Cli, tmp_path: Path) -> None:
    found = result(cli, *RUNS, "--baseline", "bad.trec", "-m", "nDCG@10", "-m", "RR(rel=2)")
    assert found.keys() >= {"baseline", "family", "rows"}
    assert found["baseline"] == "bad.trec"
    assert [(row["run"], row["measure"]) for row in found["rows"]] == [
        ("good.trec", "nDCG@10"),
        ("good.trec", "RR(rel=2)"),
    ]
    assert found["rows"][0].keys() >= {"run", "measure", "difference", "interval", "p", "adjusted_p", "judged"}
    head, *lines = cli(*RUNS, "--baseline", "bad.trec", "--format", "csv").stdout.splitlines()
    assert head.startswith("run,measure,")
    assert len(lines) == 1
    for test in ("dunnett", "max-t", "wilcoxon", "permutation"):
        flags = ("--baseline", "bad.trec", "--test", test, "--margin", "0.1")
        assert result(cli, *RUNS, *flags)["rows"][0]["equivalent_p"] > 0.5
    # a file that is not among the runs, by its path, and a matrix
    assert result(cli, "compare", "good.trec", "--qrels", "qrels.txt", "--baseline", "./bad.trec")["rows"] != []
    assert len(result(cli, "compare", "--matrix", "m.csv", "--baseline", "c", "--test", "dunnett")["rows"]) == 2
    pytest.importorskip("matplotlib")
    assert cli("compare", "--matrix", "m.csv", "--baseline", "c", "--plot", "b.svg").returncode == 0
    assert "score minus that of" in (tmp_path / "b.svg").read_text() or (tmp_path / "b.svg").stat().st_size > 1000


def test_a_run_without_a_judged_document(cli: Cli, tmp_path: Path) -> None:
    lines = [f"q{q} Q0 other{d} {d + 1} {9 - d} x" for q in range(30) for d in range(3)]
    (tmp_path / "other.trec").write_text("\n".join(lines))
    notes = result(cli, "compare", "good.trec", "other.trec", "--qrels", "qrels.txt")["notes"]
    assert any("'other.trec'" in note for note in notes)


def test_outliers_may_be_left_out(cli: Cli, tmp_path: Path) -> None:
    values = np.random.default_rng(3).normal(np.linspace(0.3, 0.4, 8), 0.02, (30, 8))
    values[:, 7] = 0.0
    np.savetxt(tmp_path / "o.csv", values, "%.4f", ",", header=",".join("abcdefgh"), comments="")
    flags = ("compare", "--matrix", "o.csv", "--test", "tukey-anova")
    assert any("'h'" in note for note in result(cli, *flags)["notes"])
    assert result(cli, *flags, "--omit-outliers")["systems"] == 7


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_pictures(cli: Cli, tmp_path: Path, ending: str) -> None:
    pytest.importorskip("matplotlib")
    for number, flags in enumerate([RUNS, ("compare", "--matrix", "m.csv", "--test", "tukey-anova")]):
        done = cli(*flags, "--plot", f"{number}.{ending}", "--format", "json")
        assert (done.returncode, done.stderr) == (0, f"plot: {number}.{ending}\n")
        assert json.loads(done.stdout)
        assert (tmp_path / f"{number}.{ending}").stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--matrix", "m.csv", "--qrels", "q"), 2, "--qrels"),
        (("--matrix", "m.csv", "-m", "AP"), 2, "--measure"),
        (("--matrix", "m.csv", "--relevant", "2"), 2, "--relevant"),
        (("--matrix", "m.csv", "--test", "sign", "--seed", "9"), 2, "has no option 'seed'"),
        (("--matrix", "m.csv", "--test", "tukey-anova", "--correction", "by"), 2, "'by'"),
        (("--matrix", "m.csv", "--alpha", "0"), 2, "alpha is 0"),
        ((*RUNS[1:], "--test", "tukey-anova", "--baseline", "bad.trec"), 2, "dunnett"),
        ((*RUNS[1:], "--baseline", "nope.trec"), 2, "one of: bad.trec, good.trec. Did"),
        ((*RUNS[1:], "--name", "one"), 2, "--name"),
        ((*RUNS[1:], "-m", "AP", "-m", "RR", "--plot", "x.svg"), 2, "one measure per plot"),
    ],
)
def test_wrong_arguments(cli: Cli, arguments: tuple[str, ...], code: int, message: str) -> None:
    done = cli("compare", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr


def test_all_raised_letters_are_parts_of_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    from rerank.cli.terminal_tables import print_report
    from rerank.io.reports import LETTERS, Cell, Grid, TableReport

    rows: list[list[str | Cell]] = [["a run", Cell("0.5", LETTERS)], ["another", Cell("10.25", "a")]]
    print_report(TableReport([Grid(["run", "mean"], rows)]), wide=None, most_rows=None)
    _, first, second, *_ = capsys.readouterr().out.splitlines()
    assert first.index("ᵃ") == second.index("ᵃ")


def test_a_table_of_long_names_fits_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rerank.cli.terminal_tables import print_report
    from rerank.io.reports import Grid, TableReport

    monkeypatch.setenv("COLUMNS", "40")
    rows = [["smollm2-135m-attention-9a483d528700", "two words", "0.5000", "[0.4718, 0.5469]"]]
    print_report(TableReport([Grid(["run", "note", "mean", "interval"], rows)]), wide=None, most_rows=None)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 49  # numbers are never cut
    parts = [line[:12].strip() for line in lines[1:] if line.strip()]
    assert "".join(parts) == rows[0][0]
    assert [part[-1] for part in parts[:-1]] == ["-"] * (len(parts) - 1)


def test_a_note_is_wrapped_between_words_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rerank.cli.output import print_note

    monkeypatch.setenv("COLUMNS", "30")
    message = "The folder is runs/a-very-long-name/of-a-folder/in-which, and\nit is new"
    print_note(message)
    assert capsys.readouterr().err == f"{message}\n"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    print_note(message)
    lines = capsys.readouterr().err.splitlines()
    assert "runs/a-very-long-name/of-a-folder/in-which," in lines
    assert " ".join(lines) == message.replace("\n", " ")

"""`rerank eval` and `rerank compare`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Cli


@pytest.fixture(autouse=True)
def runs(tmp_path: Path) -> None:
    """Two runs over five judged queries; the second lacks one of them."""
    good = [f"q{q} Q0 d{d} {d + 1} {9 - d} good" for q in range(5) for d in range(3)]
    bad = [f"q{q} Q0 d{d} {3 - d} {d} bad" for q in range(4) for d in range(3)]
    (tmp_path / "good.trec").write_text("\n".join(good))
    (tmp_path / "bad.trec").write_text("\n".join(bad))
    (tmp_path / "qrels.txt").write_text("\n".join(f"q{q} 0 d{d} {2 - d}" for q in range(5) for d in range(3)))


def test_the_lowest_relevant_grade(cli: Cli, data: Path) -> None:
    def precision(*flags: str) -> float:
        done = cli("eval", "good.trec", "--qrels", "qrels.txt", "-m", "P@3", *flags, "--format", "json")
        return float(next(iter(json.loads(done.stdout)["runs"][0]["scores"].values())))

    assert precision() == pytest.approx(2 / 3)
    assert precision("--relevant", "2") == pytest.approx(1 / 3)


def test_which_grade_counted_is_visible(cli: Cli) -> None:
    graded = ("eval", "good.trec", "--qrels", "qrels.txt", "-m", "AP", "-m", "nDCG@10")
    done = cli(*graded)
    assert done.stdout.splitlines()[0].split("\t")[-2:] == ["AP", "nDCG@10"]
    assert done.stderr == (
        "AP: grades from 1 count as relevant, and these judgments have grades up to 2. "
        "TREC Deep Learning counts from 2: AP(rel=2).\n"
    )
    done = cli(*graded, "--relevant", "2")
    assert done.stdout.splitlines()[0].split("\t")[-2:] == ["AP(rel=2)", "nDCG@10"]
    assert done.stderr == cli(*graded, "--relevant", "1").stderr == ""
    compared = cli("compare", "good.trec", "bad.trec", "--qrels", "qrels.txt", "-m", "AP")
    assert "AP: grades from 1 count as relevant" in compared.stderr


def test_a_measure_of_the_whole_run(cli: Cli) -> None:
    flags = ("bad.trec", "--qrels", "qrels.txt", "-m", "T2Ranking_RR@10", "-m", "RR", "-q")
    done = cli("eval", *flags)
    lines = [line.split("\t") for line in done.stderr.splitlines()]
    assert lines[0][3:] == ["RR", "T2Ranking_RR@10"]
    assert lines[1][3:] == ["0.4000", "0.5000"]
    assert done.stdout.splitlines()[0].split("\t") == ["run", "query", "RR"]
    assert "T2Ranking_RR@10" in lines[-1][0]
    report = json.loads(cli("eval", *flags, "--format", "json").stdout)
    assert report["runs"][0]["scores"] == {"RR": pytest.approx(0.4), "T2Ranking_RR@10": pytest.approx(0.5)}
    assert report["runs"][0]["per_query"]["q0"] == {"RR": 0.5}
    alone = cli("eval", *flags[:5], "-q")
    assert alone.stdout == ""
    assert len(alone.stderr.splitlines()) > 2


def test_judgments_of_a_collection(cli: Cli, data: Path) -> None:
    cli("retrieve", "--collection", f"jsonl:{data / 'jsonl'}", "-o", "bm25.trec")
    report = json.loads(cli("eval", "bm25.trec", "--qrels", f"jsonl:{data / 'jsonl'}", "--format", "json").stdout)
    assert report["runs"][0]["queries"] == 3


def test_eval_by_group(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "language.tsv").write_text("q0\ten\nq1\tde\nq4\tde\n")
    flags = ("good.trec", "bad.trec", "--qrels", "qrels.txt", "-m", "RR(rel=2)", "--by", "language.tsv")
    report = json.loads(cli("eval", *flags, "--format", "json").stdout)
    assert report["by"] == "language.tsv"
    assert report["runs"][1]["groups"] == {
        "de": {"queries": 2, "missing": 1, "scores": {"RR(rel=2)": pytest.approx(1 / 6)}},
        "en": {"queries": 1, "missing": 0, "scores": {"RR(rel=2)": pytest.approx(1 / 3)}},
        "(none)": {"queries": 2, "missing": 0, "scores": {"RR(rel=2)": pytest.approx(1 / 3)}},
    }
    lines = [line.split("\t") for line in cli("eval", *flags).stdout.splitlines()]
    assert lines[0] == ["run", "language.tsv", "queries", "missing", "RR(rel=2)"]
    assert lines[4] == ["bad.trec", "de", "2", "1", "0.1667"]


def test_eval_by_a_field_of_the_collection(cli: Cli, tmp_path: Path) -> None:
    row = {"query": "a bird", "relevant": 1, "clip_score": 0.5, "inat24_image_id": 7, "inat24_file_name": "7.jpg"}
    kinds = {"supercategory": "Species", "category": "Species ID", "iconic_group": "Birds"}
    (tmp_path / "rows.jsonl").write_text(json.dumps({**row, **kinds}))
    (tmp_path / "run.trec").write_text("1 Q0 7 1 1.0 x")
    flags = ("run.trec", "--qrels", "inquire-rerank:rows.jsonl", "-m", "INQUIRE_AP@100", "--by", "category")
    (run,) = json.loads(cli("eval", *flags, "--format", "json").stdout)["runs"]
    assert run["groups"] == {"Species ID": {"queries": 1, "missing": 0, "scores": {"INQUIRE_AP@100": 1.0}}}


def test_thin_judgments_are_shown(cli: Cli, tmp_path: Path) -> None:
    few = [line for line in (tmp_path / "qrels.txt").read_text().splitlines() if " d1 " not in line]
    (tmp_path / "few.txt").write_text("\n".join(few))
    done = cli("eval", "good.trec", "bad.trec", "--qrels", "few.txt", "-m", "P@3")
    head, good, _ = (line.split("\t") for line in done.stdout.splitlines())
    assert head == ["run", "queries", "missing", "P@3", "judged@3", "P@3 bounds"]
    assert good == ["good.trec", "5", "0", "0.3333", "0.6667", "[0.3333, 0.6667]"]
    assert "--no-bounds" in done.stderr
    deep = cli("eval", "good.trec", "--qrels", "few.txt", "-m", "P@3", "-m", "AP", "--bounds")
    assert "No bounds are computed for AP" in deep.stderr
    without = cli("eval", "good.trec", "--qrels", "few.txt", "-m", "P@3", "--no-bounds")
    assert without.stdout.splitlines()[0].split("\t") == ["run", "queries", "missing", "P@3"]
    report = json.loads(cli("eval", "good.trec", "--qrels", "few.txt", "-m", "P@3", "--format", "json").stdout)
    assert report["runs"][0]["judged"] == {"P@3": pytest.approx(2 / 3)}
    assert report["runs"][0]["bounds"] == {"P@3": pytest.approx([1 / 3, 2 / 3])}
    csv = cli("eval", "good.trec", "--qrels", "few.txt", "-m", "P@3", "--format", "csv").stdout
    assert csv.splitlines()[0].endswith("P@3,P@3_judged,P@3_low,P@3_high")
    assert "P@3 bounds" in cli("eval", "good.trec", "--qrels", "few.txt", "-m", "P@3", "--format", "markdown").stdout

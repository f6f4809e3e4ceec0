"""Hook of MkDocs: the boards, the study and the plots of quality against cost that are part of the site.

The boards and plots come from the scores per topic in eval/leaderboard, whose topics are numbered here. The study is
about `pydoc`, which is part of the package. So nothing published contains ids, texts or judgments of others.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from jinja2 import Environment

from rerank.adjudication import AdjudicationBudget, StudyDesign, run_study
from rerank.adjudication.study_report import write_study_report
from rerank.collections import open_collection, open_collection_qrels
from rerank.leaderboard.board import Board, make_board
from rerank.leaderboard.board_config import read_board_config
from rerank.leaderboard.cost_plot import BOTTOM, LEFT, RIGHT, TOP, WIDTH, layout_cost_plot
from rerank.leaderboard.entries import COSTS
from rerank.leaderboard.site import render_site
from rerank.retrieval import open_first_stage
from rerank.types import Run

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

DOCS = Path(__file__).parent
BOARDS = DOCS.parent / "eval/leaderboard"
#: What pages may link to, relative to this folder.
LINKED = (
    "published/boards/index.html",
    "published/study/report.html",
    "published/dl19-parameters.svg",
    "published/dl19-tokens.svg",
    "published/dl21-tokens.svg",
)
#: The systems of the study. None is meant to be good; they differ as systems of a shared task do.
STUDIED = (
    "bm25",
    "bm25,k1=2.0,b=0.8",
    "bm25,k1=0.4,b=0.2",
    "bm25,b=0",
    "bm25,fields=text",
    "bm25,stemmer=porter",
    "bm25,query_weights=bm25",
)
STUDY_DEPTH = 30


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the published files to those of the site."""
    from mkdocs.structure.files import File

    for name, text in published_files():
        files.append(File.generated(config, name, content=text))
    return files


def published_files() -> Iterator[tuple[str, str]]:
    """Yield the path below docs/ and the text of every published file."""
    boards = {name: board_without_topic_ids(name) for name in ("dl19", "dl21")}
    for path, text in render_site(list(boards.values()), "TREC Deep Learning, passages").items():
        yield f"published/boards/{path}", text
    for linked in (Path(linked) for linked in LINKED if linked.endswith(".svg")):
        name, _, kind = linked.stem.partition("-")
        yield linked.as_posix(), draw_cost_plot(boards[name], kind)
    yield from study_files()


def board_without_topic_ids(name: str) -> Board:
    """Return a board of recorded scores with numbers from 1 in place of the ids of topics."""
    plan = read_board_config(BOARDS / f"{name}.toml")
    scores = json.loads((BOARDS / plan.scores).read_text("utf-8"))
    numbers = {topic: str(number) for number, topic in enumerate(scores["topics"], 1)}
    scores["topics"] = list(numbers.values())
    for run in scores["runs"]:
        run["missing"] = [numbers[topic] for topic in run.get("missing", ())]
    with TemporaryDirectory() as home:
        (Path(home) / plan.scores).write_text(json.dumps(scores), encoding="utf-8")
        return make_board(plan, home=Path(home))


def draw_cost_plot(board: Board, kind: str) -> str:
    """Return the SVG text of the board's first measure against one type of cost."""
    measure = board.tables[0].measure
    plot = layout_cost_plot(
        [entry.cost(kind) for entry in board.entries],
        [list(scores.by_measure(measure).values()) for scores in board.scores],
        [entry.name for entry in board.entries],
    )
    axis = next(label for key, label, _, _ in COSTS if key == kind)
    source = (DOCS / "cost_plot.svg.j2").read_text("utf-8")
    frame = {"width": WIDTH, "left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM}
    template = Environment(autoescape=True, trim_blocks=True).from_string(source)
    return template.render(plot=plot, measure=measure, axis=axis, **frame)


def study_files() -> Iterator[tuple[str, str]]:
    """Yield the report and the tables of a study of cheaper judgments on `pydoc`."""
    collection = open_collection("pydoc")
    queries = list(collection.queries())
    qrels, lowest = open_collection_qrels("pydoc")
    runs = [
        Run(open_first_stage(selector, collection).search(queries, STUDY_DEPTH).values(), name=selector)
        for selector in STUDIED
    ]
    design = StudyDesign(
        methods=("depth", "mtf", "rbp-c", "rrf", "random"),
        budgets=tuple(AdjudicationBudget.parse(text) for text in ("10%", "20%", "50%")),
        relevant=lowest,
        resamples=200,
    )
    study = run_study(runs, qrels, design)
    with TemporaryDirectory() as folder:
        for path in [*study.write(Path(folder)), write_study_report(study, Path(folder) / "report.html")]:
            yield f"published/study/{path.name}", path.read_text("utf-8")

"""The readers of all inputs, each with the valid files that the fuzz test damages."""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rerank.errors import RerankError

ROOT = Path(__file__).parents[2]
DATA = ROOT / "data"
FIXTURES = ROOT / "tests" / "fixtures" / "v2d4cd24"
INPUTS = FIXTURES / "inputs"


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A reader of a file, or of a folder of which one file is damaged.

    Attributes:
        read: Reads the file or folder completely.
        files: Names and valid contents of the files that are damaged, one at a time.
        folder: Folder that surrounds the files, which is then what ``read`` gets; None to read the file alone.
    """

    read: Callable[[Path], object]
    files: Mapping[str, bytes]
    folder: Path | None = None


def _texts(**texts: str) -> dict[str, bytes]:
    return {name.replace("_", "."): text.encode() for name, text in texts.items()}


def _paths(*paths: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in paths}


def _consume(selector: str) -> None:
    """Read all of a collection."""
    from rerank.collections import open_collection

    collection = open_collection(selector)
    for part in ("queries", "qrels", "query_fields", "candidates", "docs"):
        if read := getattr(collection, part, None):
            with contextlib.suppress(RerankError):  # the other parts are read anyway
                list(itertools.islice(read(), 10_000))


def _collection(name: str, folder: Path, files: list[str], selector: str = "") -> dict[str, Reader]:
    def read(where: Path) -> None:
        _consume((selector or f"{name}:{{}}").format(where))

    contents = {file: (folder / file).read_bytes() for file in files}
    return {f"collection {selector.partition(':')[0] or name}": Reader(read=read, files=contents, folder=folder)}


def _spec(path: Path) -> object:
    from rerank.experiment.spec import RunSpec, read_run_spec

    return RunSpec.make({"collection": "none", **read_run_spec(path)})


def _suite(path: Path) -> object:
    from rerank.leaderboard.suites.suite import read_suite

    return read_suite(path, data="data").expand()


def _recipe(path: Path) -> object:
    from rerank.finetune.component_registry import make_training_components
    from rerank.finetune.recipe import read_recipe

    return make_training_components(read_recipe(path))


def _card(path: Path) -> object:
    from rerank.leaderboard.board_config import read_card

    return read_card(path)


def _board(path: Path) -> object:
    from rerank.leaderboard.board_config import read_board_config

    return [row.paths(path.parent) for row in read_board_config(path).runs]


def _recorded_scores(path: Path) -> object:
    from rerank.leaderboard.entries import read_recorded_scores

    return read_recorded_scores(path)


def _price(path: Path) -> object:
    from rerank.models import prices

    original, prices.model_price_file = prices.model_price_file, lambda: path
    try:
        return prices.find_model_prices("openai:gpt-4o")
    finally:
        prices.model_price_file = original


def _prompt(path: Path) -> object:
    from rerank.prompts import load_prompt

    return load_prompt(path).render("a query", ["one", "two [1]"], scores=[1.0, 0.5])


def _heads(path: Path) -> object:
    from rerank.judges.attention.heads import read_attention_heads

    return read_attention_heads(path).digest


def _adapter_settings(folder: Path) -> object:
    from rerank.models.adapters import read_defaults

    return read_defaults(folder, {})


def read_adapter(folder: Path) -> object:
    from rerank.backends.hf import Hf
    from rerank.tasks import BackendOptions

    return Hf.load(INPUTS / "model", BackendOptions(adapter=str(folder), device="cpu", dtype="float32"))


def _calibration(path: Path) -> object:
    from rerank.calibration.calibration_file import Calibration

    return Calibration.load(path)


def _run_folder(path: Path) -> object:
    from rerank.experiment import replay_and_rescore_run, verify_run_folder
    from rerank.store import RunFolder

    folder = RunFolder.existing(path)
    with contextlib.suppress(RerankError):
        replay_and_rescore_run(folder)
    return verify_run_folder(folder)


def _resumed(path: Path) -> object:
    from rerank.experiment.execute import complete_resumed_spec
    from rerank.experiment.spec import RunSpec

    return RunSpec.make(complete_resumed_spec({}, path))


def _board_entry(path: Path) -> object:
    from rerank.leaderboard.entries import find_runs

    return find_runs([path])


def _labels(path: Path) -> object:
    from rerank.finetune.labels.files import read_labels

    return list(read_labels(path))


def _training_lists(path: Path) -> object:
    from rerank.finetune.labels.files import read_label_lists_of_file

    return list(read_label_lists_of_file(path))


def _matrix(path: Path) -> object:
    from rerank.evaluation.scores import read_score_matrix

    return read_score_matrix(path)


def _benchmark(path: Path) -> object:
    from rerank.downsampling.score_table import read_benchmark_table

    return read_benchmark_table(path).means


def _groups(path: Path) -> object:
    from rerank.evaluation.evaluator import read_query_groups

    return read_query_groups(path)


def _run(path: Path) -> object:
    from rerank.io.run_files import read_run, read_run_lists

    return read_run(path), list(read_run_lists(path))


def _qrels(path: Path) -> object:
    from rerank.io.run_files import read_qrels

    return read_qrels(path)


def _scored(path: Path) -> object:
    """Evaluate a run with damaged judgments, including measures of grades."""
    from rerank.evaluation.evaluator import evaluate_run
    from rerank.io.run_files import read_qrels, read_run

    return evaluate_run(read_qrels(path), read_run(INPUTS / "first.trec"), ("nDCG@10", "ERR@10", "AP", "RBP(p=0.8)"))


def _selector(path: Path) -> object:
    from rerank.collections import open_collection
    from rerank.methods import open_method
    from rerank.retrieval import open_first_stage
    from rerank.selector import Selector

    corpus = open_collection(f"jsonl:{DATA / 'jsonl'}")
    text = path.read_bytes().decode("utf-8", "surrogateescape").partition("\n")[0]
    for parse in (Selector.parse, open_method, lambda text: open_first_stage(text, corpus), _consume):
        with contextlib.suppress(RerankError):
            parse(text)
    return text


def _reply_text(path: Path) -> object:
    from rerank.parsing import parse_permutation

    text = path.read_bytes().decode("utf-8", "surrogateescape")
    return parse_permutation(text, 5), parse_permutation(text, 5, ["A", "B", "C", "D", "E"])


def _server_reply(path: Path) -> object:
    """Read an answer of a server as the backend does."""
    from rerank.backends.base.responses import RequestFailedError, ServerResponse
    from rerank.backends.openai.dialect import ServerRequest, parse_reply
    from rerank.prompts.base import Message
    from rerank.tasks import ContinuationTask, GenerationTask, Request, Sampling

    answer = ServerResponse(path.read_bytes().decode("utf-8", "replace"))
    prompt = (Message("user", "Rank [1] snow [2] rain"),)
    for task in (GenerationTask(), ContinuationTask(continuations=("A", "B"))):
        request = Request(prompt=prompt, sampling=Sampling(max_tokens=10), task=task)
        with contextlib.suppress(RequestFailedError):
            parse_reply(answer, request, ServerRequest(body={}, optional=frozenset()))
    return answer.body


def _mteb(folder: Path) -> object:
    from rerank.downsampling.score_table import read_benchmark_table

    return read_benchmark_table(folder)


def _journal(path: Path) -> object:
    from rerank.adjudication.judging.session import JudgmentJournal

    return JudgmentJournal(path, {"pool": "p"}).lines


_ANSWER = json.dumps(
    {
        "choices": [
            {
                "message": {"content": "[2] > [1]", "reasoning_content": "so"},
                "finish_reason": "stop",
                "logprobs": {
                    "content": [{"token": "A", "logprob": -0.1, "top_logprobs": [{"token": "B", "logprob": -1.5}]}]
                },
            }
        ],
        "usage": {"prompt_tokens": 9, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 3}},
    }
)
_MTEB = '{"task_name": "T", "scores": {"test": [{"hf_subset": "en", "main_score": 0.5}]}}'
_MATRIX = "topic,a,b\n1,0.5,0.25\n2,0.75,0.5\n"
_SELECTORS = (
    "sliding:generate,size=10,stride=5", "full:generate,size=3", "bm25,k1=1.2,b=0.4", "hybrid:(bm25)+(bm25,k1=2)",
    "jsonl:data/jsonl", "multipass:generate,passes=2", "fake:perfect,p=0.5", "icr,heads=heads.json",
)  # fmt: skip
_PRICES = '["openai:gpt-4o"]\ninput = 0.15\noutput = 0.6\n'
_JOURNAL = "".join(
    json.dumps(line) + "\n"
    for line in (
        {"format": "listrank judgments", "version": 1, "pool": "p"},
        {"topic": "t", "doc": "d", "grade": 1},
        {"undo": 1},
    )
)
_FLAG = '{"query": "what is snow", "pos": ["frozen water"], "neg": ["a dog", "a cat"], "pos_scores": [1.5]}\n'
_TALK = json.dumps(
    {
        "id": "1",
        "conversations": [
            {"from": "system", "value": "You rank."},
            {"from": "human", "value": "Rank by: snow\n[1] frozen water\n[2] a dog\nquery: snow"},
            {"from": "gpt", "value": "[1] > [2]"},
        ],
    }
)


def readers(scratch: Path) -> dict[str, Reader]:
    """Return name -> reader; files that must be prepared are written below ``scratch``."""
    run_folder = _extract("fullrank", scratch)
    files = [p.name for p in run_folder.iterdir() if p.suffix in (".json", ".jsonl", ".trec", ".sqlite")]
    contents = {name: (run_folder / name).read_bytes() for name in sorted(files)}
    collections = {
        **_collection("jsonl", DATA / "jsonl", ["docs.jsonl", "queries.jsonl", "qrels.txt"]),
        **_collection("beir", DATA / "beir", ["corpus.jsonl", "queries.jsonl", "qrels/test.tsv"]),
        **_collection("trec", DATA / "trec", ["docs/a.sgml", "docs/b.xml", "topics.txt", "topics.xml", "topics.tsv"],
                      "trec:{0},docs={0}/docs,topics={0}/topics.xml,qrels={0}/qrels.txt"),
        **_collection("cranfield", DATA / "cranfield", ["cran.all.1400", "cran.qry", "cranqrel"]),
    }  # fmt: skip
    requests = {
        f"requests {path.name}": Reader(read=lambda where: _consume(f"requests:{where}"), files=_paths(path))
        for path in sorted((DATA / "requests").iterdir())
    }
    return {
        **collections,
        **requests,
        "run": Reader(read=_run, files={**_paths(INPUTS / "first.trec"), "run.json": b'{"q": {"d": 1.5, "e": 1}}'}),
        "qrels": Reader(read=_qrels, files={**_paths(DATA / "trec" / "qrels.txt"), "q.json": b'{"q": {"d": 1}}'}),
        "evaluation": Reader(read=_scored, files=_paths(INPUTS / "collection" / "qrels.txt")),
        "run spec": Reader(read=_spec, files=_paths(INPUTS / "run.toml")),
        "suite": Reader(read=_suite, files=_paths(*sorted((ROOT / "eval" / "suites").glob("*.toml")))),
        "recipe": Reader(read=_recipe, files=_paths(*sorted((INPUTS / "recipes").glob("*.toml")))),
        "card": Reader(read=_card, files=_paths(*sorted((ROOT / "eval/leaderboard/dl19-cards").glob("*.toml"))[:3])),
        "board": Reader(read=_board, files=_paths(ROOT / "eval/leaderboard/dl19-runs.toml")),
        "recorded scores": Reader(read=_recorded_scores, files=_paths(ROOT / "eval/leaderboard/dl21.scores.json")),
        "prices": Reader(read=_price, files=_texts(prices_toml=_PRICES)),
        "prompt": Reader(read=_prompt, files=_paths(*sorted((ROOT / "rerank" / "prompts").glob("*.yaml")))),
        "heads": Reader(read=_heads, files=_paths(INPUTS / "heads.json")),
        "rerank.json": Reader(
            read=_adapter_settings, files=_paths(INPUTS / "adapter" / "rerank.json"), folder=INPUTS / "adapter"
        ),
        "run folder": Reader(read=_run_folder, files=contents, folder=run_folder),
        "resume": Reader(read=_resumed, files={"spec.json": contents["spec.json"]}, folder=run_folder),
        "board entry": Reader(
            read=_board_entry, files={n: contents[n] for n in ("spec.json", "summary.json")}, folder=run_folder
        ),
        "labels": Reader(read=_labels, files=_paths(INPUTS / "collection" / "labels.jsonl")),
        "training lists": Reader(read=_training_lists, files=_texts(flag_jsonl=_FLAG, talk_jsonl=_TALK)),
        "matrix": Reader(read=_matrix, files=_texts(matrix_csv=_MATRIX, matrix_tsv=_MATRIX.replace(",", "\t"))),
        "benchmark": Reader(
            read=_benchmark,
            files=_texts(
                wide_csv="model,a,b\nx,1,2\ny,0.5,3\n", long_jsonl='{"model": "x", "task": "a", "score": 1}\n' * 2
            ),
        ),
        "groups": Reader(read=_groups, files=_texts(groups_txt="q1 short\nq2 long\n")),
        "selector": Reader(read=_selector, files={f"{i}.txt": text.encode() for i, text in enumerate(_SELECTORS)}),
        "reply": Reader(read=_reply_text, files=_texts(reply_txt="[2] > [1] > [3] > [5] > [4]")),
        "server reply": Reader(read=_server_reply, files=_texts(answer_json=_ANSWER)),
        "mteb results": Reader(
            read=_mteb,
            files={f"{m}/1/{t}.json": _MTEB.encode() for m in "ab" for t in "cd"},
            folder=_mteb_folder(scratch),
        ),
        "journal": Reader(read=_journal, files=_texts(journal_jsonl=_JOURNAL)),
    }


def _mteb_folder(scratch: Path) -> Path:
    for model, task in itertools.product("ab", "cd"):
        path = scratch / "mteb" / model / "1" / f"{task}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_MTEB.replace("T", task))
    return scratch / "mteb"


def _extract(name: str, scratch: Path) -> Path:
    with tarfile.open(FIXTURES / "folders" / f"{name}.tar.gz") as archive:
        archive.extractall(scratch, filter="data")
    (folder,) = (path.parent for path in scratch.rglob("spec.json"))
    return folder


def place(reader: Reader, name: str, content: bytes, scratch: Path) -> Path:
    """Write a damaged file, with the folder around it, and return what the reader reads."""
    if reader.folder is None:
        (scratch / name).write_bytes(content)
        return scratch / name
    shutil.copytree(reader.folder, scratch, dirs_exist_ok=True)
    (scratch / name).write_bytes(content)
    return scratch

"""Commands that are killed (SIGKILL) at random moments and typed again, and commands that are stopped with Ctrl-C.

The results must equal those of an undisturbed command, and nothing else may be left in its folders.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")
pytest.importorskip("sentence_transformers")

from tests.attacks.killed_commands import Ended, Moment, random_moment, read_calls, read_results, start_command
from tests.attacks.scale import scaled_count
from tests.backends.faulty_server import FaultyServer, said
from tests.finetune.small import collection_folder, model_folder
from tests.hub_server import HubServer
from tests.leaderboard import made
from tests.leaderboard.made import write_lists
from tests.retrieval.encoders import save_encoder

pytestmark = pytest.mark.enable_socket

#: Most kills of one command before it is left alone.
_IN_A_ROW = 3
_WINDOWS = "--method sliding --window-size 4 --stride 2"
_RECIPE = """
model = "{model}"
seed = 3
data = {{lists = ["{docs}/labels.jsonl"], collection = "jsonl:{docs}", documents = 5}}
method = {{method = "fullrank", prompt = "listwise", max_passage_tokens = 60, min_passage_tokens = 1}}
losses = [{{name = "importance"}}]
adapter = {{name = "lora", r = 4}}
training = {{steps = 6, save_every = 1, log_every = 1, dtype = "float32"}}
validation = {{collection = "jsonl:{docs}", depth = 4, max_queries = 3, every = 2}}
"""
_SUITE = """
name = "suite"
first_stages = ["candidates"]
models = ["fake:perfect,delay=0.02,batch_size=2", "fake:stutter,delay=0.02,batch_size=2"]
[[collections]]
collection = "{lists}"
"""


@dataclass(frozen=True, kw_only=True)
class Attacked:
    """A command that is killed.

    Attributes:
        words: The words to type; every name in braces is a path in the folder of inputs.
        kills: How often it is killed in the whole attack.
        differ: Patterns of files that may differ: a list of judgments marks torn lines; files of tensorboard,
            hashes of checkpoints and the table of a suite depend on times; the hub's client keeps locks and parts.
        hub: Whether the command downloads from a hub.
    """

    words: str
    kills: int
    differ: tuple[str, ...] = ()
    hub: bool = False


ATTACKED = {
    "run on a server": Attacked(
        words="run --collection {lists} --first-stage candidates --model openai:m --base-url {server} --batch-size 2 "
        "--out out --resume " + _WINDOWS,
        kills=80,
    ),
    "run on a local model, with an index of vectors": Attacked(
        words="run --collection jsonl:{docs} --first-stage dense:{encoder},index=hnsw,batch_size=4 --model {model} "
        "--depth 8 --batch-size 2 --device cpu --out out --resume " + _WINDOWS,
        kills=20,
    ),
    "rerank": Attacked(
        words="rerank --collection {lists} --first-stage candidates --model fake:stutter,delay=0.02,batch_size=2 "
        "--out out --resume --output reranked.trec " + _WINDOWS,
        kills=20,
    ),
    "labels": Attacked(
        words="label make --collection {lists} --first-stage candidates --model fake:stutter,delay=0.02,batch_size=2 "
        "--out out --resume --output labels.jsonl " + _WINDOWS,
        kills=20,
    ),
    "calibration": Attacked(words="calibrate {scored} --out calibration.json", kills=20),
    "models pull": Attacked(words="models pull acme/tiny", kills=20, differ=("*.lock", "*.incomplete"), hub=True),
    "index of words": Attacked(words="retrieve --collection jsonl:{docs} --first-stage bm25 --out run.trec", kills=20),
    "judging": Attacked(
        words="qrels judge {a.trec} {b.trec} --collection jsonl:{docs} --method mtf --budget 5 --judge llm "
        "--model fake:perfect,delay=0.01,batch_size=2 --out judged.jsonl --qrels-out qrels.txt",
        kills=20,
        differ=("judged.jsonl",),
    ),
    "training": Attacked(
        words="train {recipe.toml} --out adapter --device cpu --resume",
        kills=20,
        differ=("events.out.tfevents.*", "checksums.json"),
    ),
    "suite": Attacked(words="bench {suite.toml} --out runs", kills=20, differ=("results.csv",)),
    "site": Attacked(words="leaderboard build {board/runs} --qrels {board/qrels.txt} --out site", kills=20),
}


@dataclass(frozen=True)
class Tried:
    """A signal, its moment, and how the command ended."""

    number: signal.Signals
    moment: Moment
    ended: Ended

    @property
    def is_wrong(self) -> bool:
        """Whether the command ended with a traceback, or neither by the signal nor successfully before it."""
        codes = {signal.SIGKILL: {0, -signal.SIGKILL}, signal.SIGINT: {0, 130, -signal.SIGINT}}[self.number]
        return self.ended.code not in codes or "Traceback" in self.ended.err


class Inputs(dict[str, str]):
    """The words in braces: a folder's paths, and the addresses of a server and a collection."""

    def __init__(self, folder: Path, server: FaultyServer, hub: HubServer) -> None:
        super().__init__(server=server.url, lists=write_lists(folder, queries=6))
        self.folder, self.server, self.hub = folder, server, hub
        made.files(folder / "board")
        hub.commit("acme/tiny", model_folder(folder / "model"))
        collection_folder(folder / "docs")
        (folder / "encoder").symlink_to(save_encoder(folder / "saved"))
        paths = {"model": folder / "model", "docs": folder / "docs"}
        (folder / "recipe.toml").write_text(_RECIPE.format(**paths), encoding="utf-8")
        (folder / "suite.toml").write_text(_SUITE.format(lists=self["lists"]), encoding="utf-8")
        run = "run --collection {lists} --first-stage candidates --model fake:perfect --out scored --method fullrank"
        assert start_command(self.words(run), folder, Moment()).code == 0
        for name, turn in (("a", 0), ("b", 3)):
            rows = [f"q{t} Q0 q{t}d{(n + turn) % 8} {n} {9 - n} {name}" for t in range(6) for n in range(6)]
            (folder / f"{name}.trec").write_text("\n".join(rows), encoding="utf-8")

    def words(self, text: str) -> list[str]:
        """Return the words of a command, with paths instead of names in braces."""
        for name in self:
            text = text.replace(f"{{{name}}}", self[name])
        return text.replace("{", f"{self.folder}/").replace("}", "").split()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inputs]:
    with FaultyServer([said("[3] > [1] > [4] > [2]", tokens=400)]) as server, HubServer() as hub:
        yield Inputs(tmp_path_factory.mktemp("inputs"), server, hub)


@pytest.mark.parametrize("name", ATTACKED)
def test_killed_and_stopped_commands_are_typed_again(inputs: Inputs, tmp_path: Path, name: str) -> None:
    attacked = ATTACKED[name]
    words = inputs.words(attacked.words)
    start = partial(start_command, hub=inputs.hub.environment) if attacked.hub else start_command
    whole = start(words, tmp_path / "whole", Moment())
    assert whole.code == 0, whole.err
    expected = read_results(tmp_path / "whole", attacked.differ)
    chance, left, problems = random.Random(name), scaled_count(attacked.kills), []
    for chain in count():
        if not left:
            break
        folder = tmp_path / f"killed{chain}"
        tried = kill_in_a_row(start, words, folder, whole, chance, most=min(left, _IN_A_ROW))
        left -= sum(each.ended.code == -signal.SIGKILL for each in tried)
        committed, asked = read_calls(folder / "out" / "calls.sqlite"), len(inputs.server.asked)
        last = start(words, folder, Moment())
        results = read_results(folder, attacked.differ)
        found = [key for key in {**expected, **results} if expected.get(key) != results.get(key)]
        found += [each.ended.err for each in tried if each.is_wrong]
        if name == "run on a server":  # every committed call is kept, and is not asked again
            found += [digest for digest in committed if digest not in results["out/calls.sqlite"]]
            missing = len(results["out/calls.sqlite"]) - len(committed)
            found += ["asked again"] * (len(inputs.server.asked) - asked - missing)
        if last.code or found:
            problems.append((tried, last.err, found))
    assert not problems, problems


def kill_in_a_row(
    start: Callable[..., Ended], words: Sequence[str], folder: Path, whole: Ended, chance: random.Random, *, most: int
) -> list[Tried]:
    """Start a command up to ``most`` times and kill it, until it is faster than the kill; then stop it with Ctrl-C."""
    tried: list[Tried] = []
    for number in [signal.SIGKILL] * most + [signal.SIGINT]:
        moment = random_moment(whole, chance)
        ended = start(words, folder, moment, number)
        tried.append(Tried(number, moment, ended))
        if ended.code == 0:
            break
    return tried

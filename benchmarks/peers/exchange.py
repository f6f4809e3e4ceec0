"""What every driver shares: read the order, open one system, time its queries one at a time, write the answer.

    python run_X.py ORDER.json ANSWER.json

Runs in the peer's interpreter, so it needs the standard library alone. Loading the model and one short query to warm
up are not timed.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any


@dataclass
class Order:
    """What a driver is asked to do."""

    system: str
    model: str
    dtype: str
    window: int
    stride: int
    top: int
    lists: list[dict[str, Any]]


@dataclass
class Tally:
    """How a system's replies went: its own counts, or the replies themselves where it keeps none.

    `calls` counts the prompts that the model was asked, where that is not the number of replies; the tokens are those
    of prompts and of replies, as the system itself counts them.
    """

    calls: int = 0
    prompt_tokens: int = 0
    reply_tokens: int = 0
    replies: int = 0
    malformed: int = 0
    counted_by: str = "no replies: scores"
    raw: list[tuple[str, int]] = field(default_factory=list)


#: Query and documents ({"id", "text"}, as given) -> ids, best first.
Rank = Callable[[Mapping[str, Any], Sequence[Mapping[str, str]]], Sequence[str]]


def serve(distribution: str, systems: Mapping[str, Callable[[Order, Tally], Rank]]) -> None:
    """Answer one order; an exception is an answer too."""
    order = Order(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    try:
        answer = _answer(order, systems[order.system])
        answer["version"] = version(distribution)
    except Exception as error:  # noqa: BLE001 - whatever a peer raises is what we came to know
        traceback.print_exc()
        answer = {"error": "{}: {}".format(type(error).__name__, str(error).strip().split("\n")[0])}
    Path(sys.argv[2]).write_text(json.dumps(answer), encoding="utf-8")


def _answer(order: Order, opened: Callable[[Order, Tally], Rank]) -> dict[str, Any]:
    tally = Tally()
    rank = opened(order, tally)
    first = order.lists[0]
    rank(first["query"], first["docs"][:3])
    tally.calls, tally.replies, tally.malformed, tally.raw[:] = 0, 0, 0, []
    tally.prompt_tokens, tally.reply_tokens = 0, 0
    seconds, rankings, cpu = [], {}, cpu_seconds()
    for one in order.lists:
        started = time.perf_counter()
        ids = rank(one["query"], one["docs"])
        seconds.append(time.perf_counter() - started)
        rankings[one["query"]["id"]] = [str(doc_id) for doc_id in ids]
    return {"seconds": seconds, "cpu_seconds": cpu_seconds() - cpu, "rankings": rankings, **vars(tally)}


def cpu_seconds() -> float:
    """CPU time of this process and of all that it started and that still run, such as a server (Linux)."""
    used, parents = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        parents[int(path.parent.name)] = int(fields[1])
        used[int(path.parent.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def belongs(pid: int) -> bool:
        return pid == os.getpid() or (pid in parents and belongs(parents[pid]))

    return sum(seconds for pid, seconds in used.items() if belongs(pid))


def readable(model: str) -> str:
    """The same weights in a folder whose settings transformers 4 reads as 5 does.

    For drivers whose peer needs transformers 4. It does not know the tokenizer's class, and takes another base of the
    rotary embedding, without a word, where the base does not stand by itself.
    """
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    for file in Path(model).iterdir():
        (folder / file.name).symlink_to(file.resolve())
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    rewrite(folder / "config.json", config | {"rope_theta": config["rope_parameters"]["rope_theta"]})
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    known = {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": ["input_ids", "attention_mask"]}
    rewrite(folder / "tokenizer_config.json", tokenizer | known)
    return str(folder)


def rewrite(path: Path, table: dict[str, Any]) -> None:
    path.unlink()
    path.write_text(json.dumps(table), encoding="utf-8")

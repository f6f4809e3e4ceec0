"""Runs of a leaderboard: read from run files and run folders together with their cards, or recorded scores.

A file of recorded scores holds cards and per-topic scores in JSON, without document ids, texts or lists. A board is
published from such a file if its runs cannot be redistributed. `exports.board_as_recorded_scores` writes the file, and
a board built from it has the same tables as the board of the runs.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from rerank.collections.requests import Requests
from rerank.errors import DataError, MissingResourceError, describe_pydantic_error, ensure
from rerank.experiment.spec import RunSpec
from rerank.io.file_hashes import file_hash
from rerank.io.json_records import parse_json
from rerank.io.run_files import read_run
from rerank.io.text_files import open_text_file
from rerank.leaderboard.board_config import Card, CardIndex, read_card, stem_of_run
from rerank.store import RunFolder
from rerank.types import Qrels, Run

#: Types of cost: key, axis label, column header, and factor that multiplies the value.
COSTS = (
    ("cost", "US dollars per 1,000 queries", "$ / 1,000 q.", 1000.0),
    ("tokens", "tokens per query", "tokens / q.", 1.0),
    ("seconds", "seconds per query", "s / q.", 1.0),
    ("parameters", "billions of parameters of the model", "size, 10⁹", 1e-9),
)
FORMAT = "listrank board scores 1"
#: Suffixes of files in folders of runs that are not run files.
_BESIDE = (".toml", ".md", ".jsonl", ".csv", ".html")  # cards, notes, tables of rerank bench, the page of rerank demo
_LISTS = {"candidates", "hits", "ctxs"}
_CARD = "card.toml"  #: File name of the card in a run folder.
_RESULT = "run.trec"  #: File name of the run in a run folder.


class RecordedRun(BaseModel):
    """The card and the scores of one run whose ranked lists are not published."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    card: Card  #: Metadata of the run, with the number of queries to which tokens, seconds and cost refer.
    lists: str  #: Digest of the lists (`digest_ranked_lists`), by which runs with identical lists are recognised.
    missing: tuple[str, ...] = ()  #: Judged topics for which the run has no list; they score 0.
    #: Mapping from measure to the mean fraction of judged documents within the cutoff of the measure.
    judged: dict[str, float]
    #: Mapping from measure to one score per topic, in the order of the topics of the file.
    scores: dict[str, tuple[float, ...]]


class RecordedScores(BaseModel):
    """The recorded scores of a board: the content of its JSON file, with one `RecordedRun` per run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["listrank board scores 1"]  #: Name and version of the format.
    topics: tuple[str, ...]  #: Ids of the judged topics.
    relevant: int  #: Lowest grade that binary measures count as relevant.
    #: Digest of the judgments (`digest_judgments`); runs added to the board need judgments with this digest.
    qrels: str
    notes: tuple[str, ...] = ()  #: Notes on the ranked lists, which cannot be checked without these lists.
    runs: tuple[RecordedRun, ...]  #: The cards and scores of the runs.

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        measures = self.runs[0].scores.keys() if self.runs else set()
        for run in self.runs:
            if run.scores.keys() != measures:
                raise ValueError(f"run {run.card.name!r} has other measures than the first run")
            if any(len(row) != len(self.topics) for row in run.scores.values()):
                raise ValueError(f"run {run.card.name!r} should have {len(self.topics)} scores per measure")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOrigin:
    """Provenance of a run, as recorded in its run folder. A value that is not recorded is empty."""

    collection: str = ""  #: Selector of the collection.
    fingerprint: str = ""  #: Fingerprint of the collection at the time of the run.
    first_stage: str = ""
    qrels: str = ""  #: Source of separately specified judgments; empty if the collection's own were used.
    partly: bool = False  #: True if the run was restricted to some queries of the collection.
    judged: Qrels = field(default_factory=lambda: Qrels({}))  #: The judgments with which the run was evaluated.


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A run on a leaderboard, with its card and what its folder records."""

    card: Card  #: Metadata of the run. The card always has a name.
    run: Run
    source: Path  #: Path of the run file or run folder.
    first: Run | None = None  #: The candidates that were reranked; None if the source is not a run folder.
    queries: Mapping[str, str] = field(default_factory=dict)  #: Texts of queries, if they are in the source.
    origin: RunOrigin | None = None  #: Provenance recorded in the run folder; None for a run file.
    #: Recorded scores of a run whose lists are unknown, so that ``run`` is empty; None for a run with lists.
    recorded: RecordedRun | None = None

    @property
    def name(self) -> str:
        return self.card.name

    @cached_property
    def digest(self) -> str:
        """Digest of the ranked lists (`digest_ranked_lists`), which is equal for runs with identical lists."""
        return self.recorded.lists if self.recorded else digest_ranked_lists(self.run)

    def per_query(self, total: float | None) -> float | None:
        """Return the value per query for a total of tokens, seconds or dollars; None if the total is unknown."""
        many = self.card.queries or len(self.run)
        return None if total is None or not many else total / many

    def cost(self, kind: str) -> float | None:
        """Return one type of cost (`COSTS`) in the unit of the plot axis; None if the cost is unknown."""
        total = getattr(self.card, kind)
        value = total if kind == "parameters" else self.per_query(total)
        factor = next(times for key, _, _, times in COSTS if key == kind)
        return None if value is None else value * factor


def find_runs(
    paths: Iterable[Path], *, defaults: Card | None = None, cards: Path | None = None
) -> tuple[list[Entry], list[str]]:
    """Read runs from run folders, from run files, and from folders that contain them at any depth.

    Return the runs, and one note per unfinished run folder, which is skipped. A card is next to its run file, in the
    run folder (card.toml), or in the separate folder ``cards``; it belongs to the file named in its ``run`` key, or to
    the file with the same stem. Values of ``defaults`` apply to all runs whose cards omit them.
    """
    entries: list[Entry] = []
    notes: list[str] = []
    index = CardIndex(cards)
    for source in dict.fromkeys(run_path.resolve() for path in paths for run_path in _run_paths(Path(path))):
        if source.is_dir():
            folder = RunFolder.existing(source)
            if not folder.finished:
                notes.append(f"The run folder {source.name!r} is unfinished and was skipped.")
                continue
            entries.append(_entry_from_folder(folder, defaults or Card()))
        else:
            card = index.find(source).with_defaults(defaults or Card())
            _check_hash(card, source)
            # from a file of rerank requests, the candidate lists are read as a run
            run = Requests(str(source)).candidates() if _holds_requests(source) else read_run(source)
            texts = {query: ranking.query.text for query, ranking in run.items() if ranking.query.text}
            card = card.with_name(stem_of_run(source))
            entries.append(Entry(card=card, run=run, source=source, queries=texts))
    # equal names get the folder's name as a prefix and, if needed, a number
    names = [entry.name for entry in entries]
    long = [e.name if names.count(e.name) == 1 else f"{e.source.parent.name}/{e.name}" for e in entries]
    unique = [
        name if long.count(name) == 1 else f"{name} ({long[:number].count(name) + 1})"
        for number, name in enumerate(long)
    ]
    updates = zip(entries, unique, strict=True)
    return [replace(entry, card=entry.card.model_copy(update={"name": name})) for entry, name in updates], notes


def runs_of_record(record: RecordedScores, source: Path) -> list[Entry]:
    """Return the runs of a file of recorded scores."""
    return [Entry(card=run.card, run=Run(()), source=source, recorded=run) for run in record.runs]


def _run_paths(path: Path) -> Iterator[Path]:
    ensure(path.exists(), f"The run {str(path)!r} does not exist", remedy="Check the path", error=MissingResourceError)
    if not path.is_dir() or (path / "spec.json").is_file():
        yield path
        return
    inside = [p for p in sorted(path.iterdir()) if not p.name.startswith(".") and p.suffix not in _BESIDE]
    ensure(inside, f"The folder {str(path)!r} contains no runs", expected="run folders or run files", error=DataError)
    for entry in inside:
        yield from _run_paths(entry)


def _entry_from_folder(folder: RunFolder, defaults: Card) -> Entry:
    """Return a run with the metadata and the provenance that its folder records; older folders record fewer values."""
    document, summary = folder.spec(), folder.read_json("summary.json", "tokens_in", "tokens_out", "seconds", "queries")
    spec, dataset = RunSpec.from_record({"collection": "", **document["spec"]}), document.get("dataset")
    try:
        known = Card(
            name=folder.path.name,
            first_stage=spec.first_stage,
            depth=spec.depth,
            model=spec.model + (f" + {Path(spec.adapter).name}" if spec.adapter else ""),
            method=spec.method,
            tokens=summary["tokens_in"] + summary["tokens_out"],
            seconds=summary["seconds"],
            queries=max(1, summary["queries"]),
            **({} if summary.get("cost") is None else {"cost": summary["cost"]}),
        )
    except (TypeError, ValueError) as error:
        raise DataError(
            f"The summary.json of {str(folder.path)!r} contains a value that is not a number", remedy="Repeat the run"
        ) from error
    own = folder.path / _CARD
    declared = read_card(own) if own.is_file() else Card()
    if declared.run not in ("", _RESULT):
        raise DataError(
            f"The card {str(own)!r} names the run {declared.run!r}",
            expected=f"no run key, or {_RESULT}, the run in the folder of the card",
        )
    card = declared.with_defaults(known).with_defaults(defaults)
    _check_hash(card, folder.path / _RESULT)
    first = folder.read_candidates()
    texts = {query: ranking.query.text for query, ranking in first.items() if ranking.query.text}
    origin = RunOrigin(
        collection=spec.collection,
        fingerprint=str(dataset.get("fingerprint") or "") if isinstance(dataset, dict) else "",
        first_stage=spec.first_stage,
        qrels=spec.qrels or "",
        partly=bool(spec.max_queries or spec.queries),
        judged=folder.read_qrels(),
    )
    return Entry(card=card, run=folder.read_run(_RESULT), source=folder.path, first=first, queries=texts, origin=origin)


def _check_hash(card: Card, path: Path) -> None:
    if card.sha256 and card.sha256 != file_hash(path):
        raise DataError(
            f"The run file {str(path)!r} has the SHA-256 {file_hash(path)}",
            expected=f"{card.sha256}, the hash on its card",
            remedy="Use the file that the card describes, or correct the card",
        )


def _holds_requests(path: Path) -> bool:
    with open_text_file(path) as stream:
        first = next((line.strip() for line in stream if line.strip()), "")
    if not first.startswith("{"):
        return first.startswith("[")
    try:
        record = parse_json(first, str(path))
    except DataError:
        return False
    return isinstance(record, dict) and bool(_LISTS & record.keys()) and bool({"query", "question"} & record.keys())


def read_recorded_scores(path: Path) -> RecordedScores:
    """Read a file of recorded scores."""
    remedy = "Create the file again with eval/leaderboard/record_scores.py"
    try:
        return RecordedScores.model_validate_json(path.read_bytes())
    except OSError as error:
        raise MissingResourceError(f"The file of scores {str(path)!r} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        problem = f"{where}: {describe_pydantic_error(fault)}" if where else describe_pydantic_error(fault)
        raise DataError(
            f"The file of scores {str(path)!r} is invalid: {problem}", expected=FORMAT, remedy=remedy
        ) from error


def digest_ranked_lists(run: Run) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of the ordered document ids of all queries."""
    return _digest({query: ranking.doc_ids for query, ranking in run.items() if len(ranking)})


def digest_judgments(qrels: Qrels) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of all judgments."""
    return _digest({query: sorted(grades.items()) for query, grades in qrels.items()})


def _digest(content: Mapping[str, object]) -> str:
    return hashlib.sha256(repr(sorted(content.items())).encode("utf-8", "surrogatepass")).hexdigest()[:16]

"""Runs of a leaderboard, read from run files and run folders together with their cards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from rerank.collections.requests import Requests
from rerank.errors import DataError, MissingResourceError
from rerank.experiment.spec import RunSpec
from rerank.io.file_hashes import file_hash
from rerank.io.json_records import parse_json
from rerank.io.run_files import read_run
from rerank.io.text_files import open_text_file
from rerank.leaderboard.card import Card, CardIndex, read_submission_card, stem_of_submitted_run
from rerank.leaderboard.recorded_scores import RecordedRun, RecordedScores, digest_ranked_lists
from rerank.store import RunFolder
from rerank.types import Qrels, Run

#: Suffixes of files in folders of runs that are not run files.
_BESIDE = (".toml", ".md", ".jsonl", ".csv", ".html")  # cards, notes, tables of rerank bench, the page of rerank demo
_LISTS = {"candidates", "hits", "ctxs"}
#: File name of the card in a run folder.
_CARD = "card.toml"
#: File name of the run in a run folder.
_RESULT = "run.trec"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOrigin:
    """Provenance of a run, as recorded in its run folder.

    Attributes:
        collection: Selector of the collection; empty if it is not recorded.
        fingerprint: Fingerprint of the collection at the time of the run; empty if it is not recorded.
        first_stage: Selector of the first stage.
        qrels: Source of separately specified relevance judgments; empty if the collection's own judgments were used.
        partly: True if the run was restricted to some queries of the collection.
        judged: Relevance judgments with which the run was evaluated; empty if there were no judgments.
    """

    collection: str = ""
    fingerprint: str = ""
    first_stage: str = ""
    qrels: str = ""
    partly: bool = False
    judged: Qrels = field(default_factory=lambda: Qrels({}))


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A run on a leaderboard, with its card and what its folder records.

    Attributes:
        card: Metadata of the run. The card always has a name.
        run: The rankings.
        source: Path of the run file or run folder.
        first: The candidates that were reranked; None if the source is not a run folder.
        queries: Mapping from query id to text, for queries whose text is in the source.
        origin: Provenance recorded in the run folder; None for a run file.
        recorded: Recorded scores of a run whose lists are unknown, so that ``run`` is empty; None for a run with lists.
    """

    card: Card
    run: Run
    source: Path
    first: Run | None = None
    queries: Mapping[str, str] = field(default_factory=dict)
    origin: RunOrigin | None = None
    recorded: RecordedRun | None = None

    @property
    def name(self) -> str:
        """Name of the run on the leaderboard."""
        return self.card.name

    @cached_property
    def digest(self) -> str:
        """Digest of the ranked lists (`digest_ranked_lists`), which is equal for runs with identical lists."""
        return self.recorded.lists if self.recorded else digest_ranked_lists(self.run)

    def per_query(self, total: float | None) -> float | None:
        """Return the value per query for a total of tokens, seconds or dollars; None if the total is unknown."""
        many = self.card.queries or len(self.run)
        return None if total is None or not many else total / many


def find_board_entries(
    paths: Iterable[Path], *, defaults: Card | None = None, cards: Path | None = None
) -> tuple[list[Entry], list[str]]:
    """Read runs from run folders, from run files, and from folders that contain them at any depth.

    Args:
        paths: Paths of the runs. Duplicates are read once.
        defaults: Metadata that apply to all runs; values on cards take priority. None for no metadata.
        cards: Separate folder of cards for runs in other folders. By default, a card is next to its run file, or is the
            file card.toml in a run folder. A card belongs to the file named in its ``run`` key, or to the file with the
            same stem.

    Returns:
        The runs, and one note per unfinished run folder. Unfinished run folders are skipped.
    """
    entries: list[Entry] = []
    notes: list[str] = []
    index = CardIndex(cards)
    for source in dict.fromkeys(run_path.resolve() for path in paths for run_path in _paths_of_board_runs(Path(path))):
        if source.is_dir():
            folder = RunFolder.existing(source)
            if not folder.finished:
                notes.append(f"The run folder {source.name!r} is unfinished and was skipped.")
                continue
            entries.append(_entry_from_run_folder(folder, defaults or Card()))
        else:
            entries.append(_entry_from_run_file(source, index.find(source).with_defaults(defaults or Card())))
    return _entries_with_unique_names(entries), notes


def entries_of_recorded_scores(record: RecordedScores, source: Path) -> list[Entry]:
    """Return the runs of a file of recorded scores."""
    return [Entry(card=run.card, run=Run(()), source=source, recorded=run) for run in record.runs]


def _paths_of_board_runs(path: Path) -> Iterator[Path]:
    """Yield the run folders and run files at or below a path."""
    if not path.exists():
        raise MissingResourceError(f"The run {str(path)!r} does not exist", remedy="Check the path")
    if not path.is_dir() or (path / "spec.json").is_file():
        yield path
        return
    inside = [p for p in sorted(path.iterdir()) if not p.name.startswith(".") and p.suffix not in _BESIDE]
    if not inside:
        raise DataError(f"The folder {str(path)!r} contains no runs", expected="run folders or run files")
    for entry in inside:
        yield from _paths_of_board_runs(entry)


def _entry_from_run_folder(folder: RunFolder, defaults: Card) -> Entry:
    known = _card_of_run_folder(folder)
    own = folder.path / _CARD
    declared = read_submission_card(own) if own.is_file() else Card()
    if declared.run not in ("", _RESULT):
        raise DataError(
            f"The card {str(own)!r} names the run {declared.run!r}",
            expected=f"no run key, or {_RESULT}, the run in the folder of the card",
        )
    card = declared.with_defaults(known).with_defaults(defaults)
    _check_hash_on_card(card, folder.path / _RESULT)
    first = folder.read_candidates()
    texts = {query: ranking.query.text for query, ranking in first.items() if ranking.query.text}
    return Entry(
        card=card,
        run=folder.read_run(_RESULT),
        source=folder.path,
        first=first,
        queries=texts,
        origin=read_origin_of_entry(folder),
    )


def _card_of_run_folder(folder: RunFolder) -> Card:
    """Return a card with the metadata that a run folder records, such as model, method and tokens."""
    spec = RunSpec.from_record({"collection": "", **folder.spec()["spec"]})
    summary = folder.read_json("summary.json", "tokens_in", "tokens_out", "seconds", "queries")
    try:
        return Card(
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


def read_origin_of_entry(folder: RunFolder) -> RunOrigin:
    """Read the provenance from a run folder. Older folders record only some of the values."""
    document = folder.spec()
    spec, dataset = RunSpec.from_record({"collection": "", **document["spec"]}), document.get("dataset")
    return RunOrigin(
        collection=spec.collection,
        fingerprint=str(dataset.get("fingerprint") or "") if isinstance(dataset, dict) else "",
        first_stage=spec.first_stage,
        qrels=spec.qrels or "",
        partly=bool(spec.max_queries or spec.queries),
        judged=folder.read_qrels(),
    )


def _entry_from_run_file(path: Path, card: Card) -> Entry:
    _check_hash_on_card(card, path)
    run = _read_entry_run(path)
    texts = {query: ranking.query.text for query, ranking in run.items() if ranking.query.text}
    return Entry(card=card.with_name(stem_of_submitted_run(path)), run=run, source=path, queries=texts)


def _check_hash_on_card(card: Card, path: Path) -> None:
    """Check that the hash of a run file equals the hash on its card, if the card has one."""
    if card.sha256 and card.sha256 != file_hash(path):
        raise DataError(
            f"The run file {str(path)!r} has the SHA-256 {file_hash(path)}",
            expected=f"{card.sha256}, the hash on its card",
            remedy="Use the file that the card describes, or correct the card",
        )


def _read_entry_run(path: Path) -> Run:
    """Read a run in any supported format. From a file of rerank requests, the candidate lists are read as a run."""
    return Requests(str(path)).candidates() if _entry_holds_requests(path) else read_run(path)


def _entry_holds_requests(path: Path) -> bool:
    with open_text_file(path) as stream:
        first = next((line.strip() for line in stream if line.strip()), "")
    if not first.startswith("{"):
        return first.startswith("[")
    try:
        record = parse_json(first, str(path))
    except DataError:
        return False
    return isinstance(record, dict) and bool(_LISTS & record.keys()) and bool({"query", "question"} & record.keys())


def _entries_with_unique_names(entries: list[Entry]) -> list[Entry]:
    """Return the entries with unique names. Equal names get the folder's name as a prefix and, if needed, a number."""
    names = [entry.name for entry in entries]
    long = [
        entry.name if names.count(entry.name) == 1 else f"{entry.source.parent.name}/{entry.name}" for entry in entries
    ]
    unique = [
        name if long.count(name) == 1 else f"{name} ({long[:index].count(name) + 1})" for index, name in enumerate(long)
    ]
    return [
        replace(entry, card=entry.card.model_copy(update={"name": name}))
        for entry, name in zip(entries, unique, strict=True)
    ]

"""The runs of a board: found in files and folders, each with its card. Knows no measures and no pages."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from rerank.collections.requests import Requests
from rerank.errors import DataError, MissingResourceError
from rerank.io.file_hashes import file_hash
from rerank.io.run_files import read_run
from rerank.io.text_files import open_text
from rerank.leaderboard.card import Card, CardIndex, read_card, run_stem
from rerank.store import RunFolder
from rerank.types import Qrels, Run

#: What may stand beside runs in a folder and is none.
_BESIDE = (".toml", ".md", ".jsonl", ".csv")  # cards, notes, and the tables of rerank bench
_LISTS = {"candidates", "hits", "ctxs"}
#: The card in a run folder, where there is one.
_CARD = "card.toml"
#: And its run.
_RESULT = "run.trec"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOrigin:
    """What a run folder says of the run's making.

    Attributes:
        collection: Selector of the collection; empty where the folder does not say.
        fingerprint: What that collection was at the time; empty where the folder does not say.
        first_stage: Selector of the first stage.
        qrels: Judgments that were named beside the collection; empty where its own were taken.
        partly: Only some queries of the collection were asked for.
        judged: The judgments it was scored with; empty if there were none.
    """

    collection: str = ""
    fingerprint: str = ""
    first_stage: str = ""
    qrels: str = ""
    partly: bool = False
    judged: Qrels = field(default_factory=lambda: Qrels({}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One run of a board.

    Attributes:
        card: What is declared of it; has a name.
        run: Its lists.
        source: Where it was read.
        first: The lists that it reranked, where a run folder keeps them.
        queries: Texts of queries, as far as its source knows them.
        origin: What its run folder says of its making; None for a run file.
    """

    card: Card
    run: Run
    source: Path
    first: Run | None = None
    queries: Mapping[str, str] = field(default_factory=dict)
    origin: RunOrigin | None = None

    @property
    def name(self) -> str:
        """What the board calls it."""
        return self.card.name

    def per_query(self, total: float | None) -> float | None:
        """Tokens, seconds or dollars a query; None where the total is unknown."""
        many = self.card.queries or len(self.run)
        return None if total is None or not many else total / many


def find_entries(
    paths: Iterable[Path], *, defaults: Card | None = None, cards: Path | None = None
) -> tuple[list[Entry], list[str]]:
    """Read runs: run folders, run files, and folders of either, however deep.

    Args:
        paths: Where they are; one that comes twice is read once.
        defaults: What holds for all of them where no card says otherwise.
        cards: A folder of cards, for runs that lie elsewhere; else a card stands beside its file, or in the run folder
            as card.toml. A card is of the file that it names in ``run``, or of the one of its own name.

    Returns:
        The runs, and a sentence for each unfinished run folder, which is left out.

    Raises:
        MissingResourceError: A path is not there.
        DataError: A folder without runs, a file that is none, or a card that is wrong or of another file.
    """
    entries: list[Entry] = []
    notes: list[str] = []
    known = CardIndex(cards)
    for place in dict.fromkeys(found.resolve() for path in paths for found in _places(Path(path))):
        if place.is_dir():
            folder = RunFolder.existing(place)
            if not folder.finished:
                notes.append(f"The run folder {place.name!r} is unfinished and left out.")
                continue
            entries.append(_from_folder(folder, defaults or Card()))
        else:
            entries.append(_from_file(place, known.of(place).over(defaults or Card())))
    return _unlike(entries), notes


def _places(path: Path) -> Iterator[Path]:
    """Run folders and files at or below a path."""
    if not path.exists():
        raise MissingResourceError(f"There is no run {str(path)!r}", remedy="Check the path")
    if not path.is_dir() or (path / "spec.json").is_file():
        yield path
        return
    inside = [p for p in sorted(path.iterdir()) if not p.name.startswith(".") and p.suffix not in _BESIDE]
    if not inside:
        raise DataError(f"The folder {str(path)!r} holds no runs", expected="run folders or run files in it")
    for entry in inside:
        yield from _places(entry)


def _from_folder(folder: RunFolder, defaults: Card) -> Entry:
    spec = folder.spec()["spec"]
    summary = folder.read_json("summary.json", "tokens_in", "tokens_out", "seconds", "queries")
    known = Card(
        name=folder.path.name,
        first_stage=spec["first_stage"],
        depth=spec["depth"],
        model=spec["model"] + (f" + {Path(spec['adapter']).name}" if spec.get("adapter") else ""),
        method=spec["method"],
        tokens=summary["tokens_in"] + summary["tokens_out"],
        seconds=summary["seconds"],
        queries=max(1, summary["queries"]),
        **({} if summary.get("cost") is None else {"cost": summary["cost"]}),
    )
    own = folder.path / _CARD
    declared = read_card(own) if own.is_file() else Card()
    if declared.run not in ("", _RESULT):
        raise DataError(
            f"The card {str(own)!r} names the run {declared.run!r}",
            expected=f"{_RESULT}, the run of the folder that it lies in, or no run",
        )
    card = declared.over(known).over(defaults)
    _check_hash(card, folder.path / _RESULT)
    first = folder.read_candidates()
    texts = {query: ranking.query.text for query, ranking in first.items() if ranking.query.text}
    return Entry(
        card=card,
        run=folder.read_run(_RESULT),
        source=folder.path,
        first=first,
        queries=texts,
        origin=read_origin(folder),
    )


def read_origin(folder: RunFolder) -> RunOrigin:
    """Read it from a run folder; older ones say less."""
    document = folder.spec()
    spec, dataset = document["spec"], document.get("dataset") or {}
    return RunOrigin(
        collection=spec.get("collection") or "",
        fingerprint=dataset.get("fingerprint") or "",
        first_stage=spec.get("first_stage") or "",
        qrels=spec.get("qrels") or "",
        partly=bool(spec.get("max_queries") or spec.get("queries")),
        judged=folder.read_qrels(),
    )


def _from_file(path: Path, card: Card) -> Entry:
    _check_hash(card, path)
    run = _read(path)
    texts = {query: ranking.query.text for query, ranking in run.items() if ranking.query.text}
    return Entry(card=card.named(run_stem(path)), run=run, source=path, queries=texts)


def _check_hash(card: Card, path: Path) -> None:
    """Refuse a file that is not the one that its card was written for."""
    if card.sha256 and card.sha256 != file_hash(path):
        raise DataError(
            f"{str(path)!r} has the SHA-256 {file_hash(path)}",
            expected=f"{card.sha256}, as its card says",
            remedy="Take the file that the card was written for, or correct the card",
        )


def _read(path: Path) -> Run:
    """A run in any of our forms; a file of rerank requests is the run that its lists are."""
    return Requests(str(path)).candidates() if _holds_requests(path) else read_run(path)


def _holds_requests(path: Path) -> bool:
    with open_text(path) as stream:
        first = next((line.strip() for line in stream if line.strip()), "")
    if not first.startswith("{"):
        return first.startswith("[")
    try:
        found = json.loads(first)
    except ValueError:
        return False
    return isinstance(found, dict) and bool(_LISTS & found.keys()) and bool({"query", "question"} & found.keys())


def _unlike(entries: list[Entry]) -> list[Entry]:
    """The same with different names: where some are equal, the folders they lie in are added."""
    names = [entry.name for entry in entries]
    long = [
        entry.name if names.count(entry.name) == 1 else f"{entry.source.parent.name}/{entry.name}" for entry in entries
    ]
    unlike = [
        name if long.count(name) == 1 else f"{name} ({long[:at].count(name) + 1})" for at, name in enumerate(long)
    ]
    return [
        replace(entry, card=entry.card.model_copy(update={"name": name}))
        for entry, name in zip(entries, unlike, strict=True)
    ]

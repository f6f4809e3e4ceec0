"""Where a run folder's run comes from, by its own account: collection, first stage, judgments. Knows no board."""

from __future__ import annotations

from dataclasses import dataclass, field

from rerank.store import RunFolder
from rerank.types import Qrels


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
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


def origin_of(folder: RunFolder) -> Origin:
    """Read it from a run folder; older ones say less."""
    document = folder.spec()
    spec, dataset = document["spec"], document.get("dataset") or {}
    return Origin(
        collection=spec.get("collection") or "",
        fingerprint=dataset.get("fingerprint") or "",
        first_stage=spec.get("first_stage") or "",
        qrels=spec.get("qrels") or "",
        partly=bool(spec.get("max_queries") or spec.get("queries")),
        judged=folder.read_qrels(),
    )

"""A fake whose process dies or hangs at the calls for some queries; workers find it as a plug-in."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rerank.backends.fake import Fake
from rerank.errors import BackendError
from rerank.tasks import Reply, Request


@dataclass(slots=True, eq=False, kw_only=True)
class Hazard(Fake):
    """``fake`` with queries that end the process, are never answered, or break the backend; ids are joined by ``+``.

    Attributes:
        kills: Queries at which the process gets SIGKILL.
        hangs: Queries at which the backend hangs, the first time only.
        breaks: Queries at which the backend cannot answer at all.
        folder: Folder in which the hangs are noted.
    """

    kills: str = ""
    hangs: str = ""
    breaks: str = ""
    folder: Path = Path()

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        queries = {request.window.query.id for request in requests}
        if queries & {*self.kills.split("+")}:
            os.kill(os.getpid(), signal.SIGKILL)
        for query in queries & {*self.hangs.split("+")}:
            if not (note := self.folder / query).exists():
                note.touch()
                time.sleep(1000)
        if queries & {*self.breaks.split("+")}:
            raise BackendError("the model is gone", remedy="start it again")
        return Fake.generate(self, requests)

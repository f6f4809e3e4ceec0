"""Systems that are compared, by name.

A system is NAME[+NAME]@WEIGHT: adapters in work/adapters (or `untrained`, or `smollm2-135m-attention`), whose z-scores
are averaged, and the weight of the first stage's z-score. With /DEPTH, only as many candidates are ranked.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from scores import compute_scores, order_by_scores
from search import SHIPPED, UNTRAINED, adapter_of

from rerank.types import Run

#: Number of candidates, unless a system names another.
DEPTH = 100
FORM = "NAME[+NAME]@WEIGHT[/DEPTH]"


@dataclass(frozen=True)
class System:
    """Adapters whose z-scores are averaged, the weight of the first stage's z-score, and the number of candidates.

    Attributes:
        names: Names of the adapters; empty for the order of the first stage.
        weight: Weight of the first stage's z-score.
        depth: Number of candidates that are ranked.
    """

    names: tuple[str, ...] = ()
    weight: float = 0.0
    depth: int = DEPTH

    @classmethod
    def parse(cls, text: str) -> System:
        """Read NAME[+NAME]@WEIGHT[/DEPTH]."""
        names, _, numbers = text.partition("@")
        weight, _, depth = numbers.partition("/")
        try:
            return cls(tuple(names.split("+")), float(weight), int(depth or DEPTH))
        except ValueError:
            message = f"{text!r}; expected {FORM}, such as untrained@.5 or untrained@.5/20"
            raise argparse.ArgumentTypeError(message) from None

    def rank(self, run: Run, collection: str, stage: str, work: Path) -> Run:
        """Order the first candidates of each list; scores that are not stored in the folder are computed."""
        if not self.names:
            return run
        head = run.top(self.depth)
        judges = [
            compute_scores(
                work / "scores" / name / f"{collection}.sqlite", f"{stage}-{self.depth}", head, adapter_of(name, work)
            )
            for name in self.names
        ]
        return order_by_scores(head, judges, self.weight)

    @classmethod
    def add_option(cls, parser: argparse.ArgumentParser) -> None:
        """Add the option --system, which may be repeated."""
        parser.add_argument("--system", action="append", required=True, type=cls.parse, metavar=FORM)

    @staticmethod
    def check(systems: Iterable[System], work: Path, parser: argparse.ArgumentParser) -> None:
        """End with a message if the folder has no adapter of a name."""
        known = {UNTRAINED, SHIPPED} | {path.name for path in (work / "adapters").glob("*")}
        for name in (name for system in systems for name in system.names):
            if name not in known:
                parser.error(
                    f"--system {name!r} is no folder in {work / 'adapters'}; there are {', '.join(sorted(known))}"
                )

    def __str__(self) -> str:
        """Return the system in one form, which is its key in the file of values."""
        depth = "" if self.depth == DEPTH else f"/{self.depth}"
        return f"{'+'.join(self.names)}@{self.weight:g}{depth}" if self.names else "first stage"


#: The order of the first stage.
FIRST_STAGE = System()

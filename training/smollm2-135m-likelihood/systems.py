"""Systems that are compared, by name.

A system is NAME[+NAME]@WEIGHT: adapters in work/adapters (or `untrained`, or `smollm2-135m-attention`), whose z-scores
are averaged, and the weight of the first stage's z-score. With /DEPTH, only the first candidates are ranked, and the
others are left out.
"""

from __future__ import annotations

import argparse
import contextlib
import math
from dataclasses import dataclass
from pathlib import Path

from scores import compute_scores, order_by_scores
from search import adapter_of

from rerank.types import Run

#: Number of candidates, unless a system names another.
DEPTH = 100
#: Fewer candidates cannot fill the ten ranks that are measured.
LEAST_DEPTH = 10
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
        with contextlib.suppress(ValueError):
            system = cls(tuple(names.split("+")), float(weight), int(depth or DEPTH))
            if all(system.names) and math.isfinite(system.weight) and LEAST_DEPTH <= system.depth <= DEPTH:
                return system
        expected = f"{FORM} with a depth of {LEAST_DEPTH} to {DEPTH}, such as untrained@.5 or untrained@.5/20"
        raise argparse.ArgumentTypeError(f"{text!r}; expected {expected}")

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

    def __str__(self) -> str:
        """Return the system in one form, which is its key in the file of values."""
        depth = "" if self.depth == DEPTH else f"/{self.depth}"
        return f"{'+'.join(self.names)}@{self.weight:g}{depth}" if self.names else "first stage"


#: The order of the first stage.
FIRST_STAGE = System()

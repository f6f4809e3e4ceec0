"""What cheaper judgments make of every pair of systems: agreement about which differ, and in which direction.

With d the difference of two systems' means and `significant` a test's verdict, by gold judgments and by cheap ones:

    |                  | both significant      | one of them          | none                  |
    | same sign of d   | AA active agreement   | MA mixed agreement   | PA passive agreement  |
    | opposite sign    | AD active disagreement| MD mixed disagreement| PD passive disagreement|

Signs are equal if both are 0, and opposite if one of them is. Source: Moffat, Scholer and Thomas, ADCS 2012; Otero,
Parapar and Ferro, How discriminative are your qrels?, CIKM 2023. Knows arrays only.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from rerank.adjudication.pools import Bools, Floats, Ints

#: (pairs,) a place in `NAMES` each; a study keeps very many.
Codes = npt.NDArray[np.int8]

#: The categories of a pair; its place here is its code.
NAMES = ("AA", "AD", "MA_missed", "MA_spurious", "MD_missed", "MD_spurious", "PA", "PD")
_WRONG = {"missed": ("MA_missed", "MD_missed"), "spurious": ("MA_spurious", "MD_spurious"), "turned": ("AD",)}
_AGREE = np.array([[6, 3], [2, 0]], dtype=np.int8)  # by gold's verdict, then the cheap one's
_DISAGREE = np.array([[7, 5], [4, 1]], dtype=np.int8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Categories:
    """How many pairs fall where. Mixed ones are split: gold alone is significant (missed) or the cheap (spurious).

    All rates are None where they would be 0 / 0.
    """

    AA: int
    AD: int
    MA_missed: int
    MA_spurious: int
    MD_missed: int
    MD_spurious: int
    PA: int
    PD: int

    @classmethod
    def of(cls, codes: Codes) -> Categories:
        """Count (pairs,) codes, see `categorise`."""
        return cls(**dict(zip(NAMES, np.bincount(codes, minlength=len(NAMES)).tolist(), strict=True)))

    @property
    def MA(self) -> int:
        """Mixed agreement."""
        return self.MA_missed + self.MA_spurious

    @property
    def MD(self) -> int:
        """Mixed disagreement."""
        return self.MD_missed + self.MD_spurious

    @property
    def pairs(self) -> int:
        """All of them."""
        return self.AA + self.AD + self.MA + self.MD + self.PA + self.PD

    @property
    def gold(self) -> int:
        """Pairs that gold calls significant."""
        return self.AA + self.AD + self.MA_missed + self.MD_missed

    @property
    def cheap(self) -> int:
        """Pairs that the cheap judgments call significant."""
        return self.AA + self.AD + self.MA_spurious + self.MD_spurious

    @property
    def precision(self) -> float | None:
        """AA / (AA + AD + spurious): the share of cheap findings that gold confirms, direction included."""
        return _ratio(self.AA, self.cheap)

    @property
    def recall(self) -> float | None:
        """AA / (AA + AD + missed): the share of gold's findings that are kept, direction included."""
        return _ratio(self.AA, self.gold)

    @property
    def f1(self) -> float | None:
        """The harmonic mean of precision and recall, 2 AA / (gold + cheap)."""
        return _ratio(2 * self.AA, self.gold + self.cheap)

    @property
    def publication_bias(self) -> float | None:
        """1 - precision: the share of what would be published that gold does not confirm. Ferro and Sanderson 2022."""
        return None if self.precision is None else 1 - self.precision

    @property
    def type_1(self) -> float | None:
        """Spurious / pairs that gold calls not significant."""
        return _ratio(self.MA_spurious + self.MD_spurious, self.pairs - self.gold)

    @property
    def type_2(self) -> float | None:
        """Missed / pairs that gold calls significant."""
        return _ratio(self.MA_missed + self.MD_missed, self.gold)

    @property
    def type_3(self) -> float | None:
        """AD / pairs that gold calls significant: both find a difference, in opposite directions."""
        return _ratio(self.AD, self.gold)

    @property
    def balanced_accuracy(self) -> float | None:
        """(TPR + TNR) / 2 with gold significance as the positive class, directions ignored. McKechnie et al. 2025."""
        if self.type_1 is None or self.type_2 is None:
            return None
        return (2 - self.type_1 - self.type_2) / 2

    @property
    def mcc(self) -> float | None:
        """Matthews' correlation of the two verdicts, directions ignored."""
        both, missed = self.AA + self.AD, self.MA_missed + self.MD_missed
        spurious, neither = self.MA_spurious + self.MD_spurious, self.PA + self.PD
        product = float(self.gold) * self.cheap * (self.pairs - self.gold) * (self.pairs - self.cheap)
        return (both * neither - missed * spurious) / product**0.5 if product else None

    @property
    def discriminative_power(self) -> float:
        """The share of pairs that the cheap judgments call significant. Sakai, SIGIR 2006."""
        return self.cheap / self.pairs

    def to_dict(self) -> dict[str, float | None]:
        """The counts, then the rates."""
        counts = {"AA": self.AA, "AD": self.AD, "MA": self.MA, "MD": self.MD, "PA": self.PA, "PD": self.PD}
        return {**counts, **asdict(self), **{name: getattr(self, name) for name in RATES}}


#: Names of the rates.
RATES = (
    "precision",
    "recall",
    "f1",
    "publication_bias",
    "type_1",
    "type_2",
    "type_3",
    "balanced_accuracy",
    "mcc",
    "discriminative_power",
)


def categorise(gold: Floats, gold_significant: Bools, cheap: Floats, cheap_significant: Bools) -> Codes:
    """The code of every pair, a place in `NAMES`.

    Args:
        gold: (pairs,) differences of means by gold judgments.
        gold_significant: (pairs,) whether the test calls them significant.
        cheap: (pairs,) by cheap ones.
        cheap_significant: (pairs,) likewise.
    """
    verdicts = gold_significant.astype(np.intp), cheap_significant.astype(np.intp)
    return np.asarray(np.where(np.sign(gold) == np.sign(cheap), _AGREE[verdicts], _DISAGREE[verdicts]))


def by_system(codes: Codes, systems: int) -> dict[str, Ints]:
    """For every system, how many of its pairs are missed, spurious, or turned round (AD).

    A study is fair if these do not pile up on few systems. Source: Otero, Parapar and Barreiro, SIGIR 2025.

    Args:
        codes: (pairs,) in the order of ``itertools.combinations``.
        systems: How many there are.
    """
    first, second = np.triu_indices(systems, 1)
    counts = {}
    for wrong, kinds in _WRONG.items():
        found = np.isin(codes, [NAMES.index(kind) for kind in kinds])
        counts[wrong] = np.bincount(np.concatenate((first[found], second[found])), minlength=systems)
    return counts


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None

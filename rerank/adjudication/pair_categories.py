"""Categories of system pairs by the significance and direction of their difference under gold and cheaper judgments.

Let d be the difference between two systems' means. It is computed and tested with gold and with cheap judgments:

    |                  | both significant      | one significant      | none significant      |
    | same sign of d   | AA active agreement   | MA mixed agreement   | PA passive agreement  |
    | opposite sign    | AD active disagreement| MD mixed disagreement| PD passive disagreement|

If both differences are 0, the signs count as the same; if only one of them is 0, they count as opposite. Source:
Moffat, Scholer and Thomas, ADCS 2012; Otero, Parapar and Ferro, How discriminative are your qrels?, CIKM 2023.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from rerank.adjudication.pools import Bools, Floats, Ints

#: (pairs,) indices into `NAMES`, stored as 8-bit integers because a study holds very many of them.
Codes = npt.NDArray[np.int8]

#: Categories of a pair of systems. The code of a category is its index in this tuple.
NAMES = ("AA", "AD", "MA_missed", "MA_spurious", "MD_missed", "MD_spurious", "PA", "PD")
_WRONG = {"missed": ("MA_missed", "MD_missed"), "spurious": ("MA_spurious", "MD_spurious"), "turned": ("AD",)}
# codes for the same sign and for opposite signs; row: whether significant under gold, column: under cheap judgments
_AGREE = np.array([[6, 3], [2, 0]], dtype=np.int8)
_DISAGREE = np.array([[7, 5], [4, 1]], dtype=np.int8)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairCategories:
    """Number of system pairs per category of (dis)agreement between gold and cheap judgments, and rates of them.

    A mixed pair is ``missed`` if it is significant only with gold judgments, and ``spurious`` if it is significant only
    with cheap judgments. A rate is None if it would be 0 / 0.
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
    def from_codes(cls, codes: Codes) -> PairCategories:
        """Count how many pairs have each category code of `categorise_pairs_under_cheaper_judgments`."""
        return cls(**dict(zip(NAMES, np.bincount(codes, minlength=len(NAMES)).tolist(), strict=True)))

    @property
    def MA(self) -> int:
        """Number of mixed agreements: same sign, significant with only one kind of judgments."""
        return self.MA_missed + self.MA_spurious

    @property
    def MD(self) -> int:
        """Number of mixed disagreements: opposite signs, significant with only one kind of judgments."""
        return self.MD_missed + self.MD_spurious

    @property
    def pairs(self) -> int:
        """Number of all pairs."""
        return self.AA + self.AD + self.MA + self.MD + self.PA + self.PD

    @property
    def gold(self) -> int:
        """Number of pairs that are significant with gold judgments."""
        return self.AA + self.AD + self.MA_missed + self.MD_missed

    @property
    def cheap(self) -> int:
        """Number of pairs that are significant with cheap judgments."""
        return self.AA + self.AD + self.MA_spurious + self.MD_spurious

    @property
    def precision(self) -> float | None:
        """Precision of the significant pairs, AA / (AA + AD + spurious).

        Fraction of the pairs significant with cheap judgments that gold judgments confirm in the same direction.
        """
        return _ratio_of_judging_study_pairs(self.AA, self.cheap)

    @property
    def recall(self) -> float | None:
        """Recall of the significant pairs, AA / (AA + AD + missed).

        Fraction of the pairs significant with gold judgments that cheap judgments retain in the same direction.
        """
        return _ratio_of_judging_study_pairs(self.AA, self.gold)

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall, 2 AA / (gold + cheap)."""
        return _ratio_of_judging_study_pairs(2 * self.AA, self.gold + self.cheap)

    @property
    def publication_bias(self) -> float | None:
        """Fraction of pairs significant with cheap judgments that gold judgments do not confirm: 1 - precision.

        Source: Ferro and Sanderson 2022.
        """
        return None if self.precision is None else 1 - self.precision

    @property
    def type_1(self) -> float | None:
        """Type I error rate: spurious pairs divided by pairs that are not significant with gold judgments."""
        return _ratio_of_judging_study_pairs(self.MA_spurious + self.MD_spurious, self.pairs - self.gold)

    @property
    def type_2(self) -> float | None:
        """Type II error rate: missed pairs divided by pairs that are significant with gold judgments."""
        return _ratio_of_judging_study_pairs(self.MA_missed + self.MD_missed, self.gold)

    @property
    def type_3(self) -> float | None:
        """Type III error rate: AD pairs (opposite directions) divided by pairs significant with gold judgments."""
        return _ratio_of_judging_study_pairs(self.AD, self.gold)

    @property
    def balanced_accuracy(self) -> float | None:
        """(TPR + TNR) / 2 of the significance decisions, ignoring direction. Source: McKechnie et al. 2025.

        Pairs that are significant with gold judgments are the positive class.
        """
        if self.type_1 is None or self.type_2 is None:
            return None
        return (2 - self.type_1 - self.type_2) / 2

    @property
    def mcc(self) -> float | None:
        """Matthews correlation coefficient of the two significance decisions, ignoring direction."""
        both, missed = self.AA + self.AD, self.MA_missed + self.MD_missed
        spurious, neither = self.MA_spurious + self.MD_spurious, self.PA + self.PD
        product = float(self.gold) * self.cheap * (self.pairs - self.gold) * (self.pairs - self.cheap)
        return (both * neither - missed * spurious) / product**0.5 if product else None

    @property
    def discriminative_power(self) -> float:
        """Fraction of pairs that are significant with cheap judgments. Source: Sakai, SIGIR 2006."""
        return self.cheap / self.pairs

    def to_dict(self) -> dict[str, float | None]:
        """Return the counts of the categories followed by the rates, by name."""
        counts = {"AA": self.AA, "AD": self.AD, "MA": self.MA, "MD": self.MD, "PA": self.PA, "PD": self.PD}
        return {**counts, **asdict(self), **{name: getattr(self, name) for name in RATES}}


#: Names of the rates of `PairCategories`.
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


def categorise_pairs_under_cheaper_judgments(
    gold: Floats, gold_significant: Bools, cheap: Floats, cheap_significant: Bools
) -> Codes:
    """Return an array of shape (pairs,): the category code of every pair, which is an index into `NAMES`.

    Args:
        gold: (pairs,) differences of means with gold judgments.
        gold_significant: (pairs,) whether the differences in ``gold`` are significant.
        cheap: (pairs,) differences of means with cheap judgments.
        cheap_significant: (pairs,) whether the differences in ``cheap`` are significant.
    """
    # row and column of the code tables
    verdicts = gold_significant.astype(np.intp), cheap_significant.astype(np.intp)
    return np.asarray(np.where(np.sign(gold) == np.sign(cheap), _AGREE[verdicts], _DISAGREE[verdicts]))


def count_cheaper_judgment_errors(codes: Codes, systems: int) -> dict[str, Ints]:
    """Count, for every system, its pairs that are missed, spurious or turned into the opposite (category AD).

    The counts show whether the judgments are fair to all systems, or whether errors are concentrated on a few systems.
    Source: Otero, Parapar and Barreiro, SIGIR 2025.

    Args:
        codes: (pairs,) codes in the order of ``itertools.combinations``.
        systems: Number of systems.
    """
    # systems of each pair, in the order of itertools.combinations
    first, second = np.triu_indices(systems, 1)
    counts = {}
    for error, kinds in _WRONG.items():
        is_wrong = np.isin(codes, [NAMES.index(kind) for kind in kinds])
        counts[error] = np.bincount(np.concatenate((first[is_wrong], second[is_wrong])), minlength=systems)
    return counts


def _ratio_of_judging_study_pairs(part: float, whole: float) -> float | None:
    return part / whole if whole else None

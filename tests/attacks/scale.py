"""How many attacks are tried: all of them by hand, a share of them in each run of .ci/run."""

from __future__ import annotations

import math
import os


def attack_share() -> float:
    """Return the share of all attacks that is tried."""
    return float(os.environ.get("ATTACKS", "0.1"))


def scaled_count(whole: int) -> int:
    """Return the share of ``whole`` that the environment variable ATTACKS states (default 0.1), at least 1."""
    return max(1, math.ceil(whole * attack_share()))

"""GPUs with their peaks, for times by the roofline model.

Work takes as long as its operations at the peak of the GPU, or as the bytes that it moves at a bandwidth, whichever is
longer (Williams, Waterman and Patterson 2009, doi 10.1145/1498765.1498785). Real kernels reach a part of it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU, with its peaks."""

    name: str
    memory: int  # in GiB
    peak: float  # operations per second in bfloat16, without sparsity
    bandwidth: float  # bytes per second of its memory
    link: float = 0  # bytes per second to other GPUs of the machine, in one direction


#: Peaks and bandwidths of NVIDIA's data sheets (nvidia.com/en-us/data-center/: l4, l40s, h100; half of the peak "with
#: sparsity"; half of the bandwidth of PCIe 4 x16 and NVLink in both directions), and the bandwidth that Apple states
#: (apple.com/mac-studio/specs). Apple states no peak: 28.4e12 assumes that each of 80 cores does 256 operations of 32
#: bits per cycle at 1.38 GHz.
CARDS = (
    Card("L4, 24 GB", 24, 121e12, 300e9, 32e9),
    Card("L40S, 48 GB", 48, 362e12, 864e9, 32e9),
    Card("H100 SXM, 80 GB", 80, 989e12, 3350e9, 450e9),
    Card("M3 Ultra, 96 GB (MPS)", 72, 28.4e12, 819e9),
)

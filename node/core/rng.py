"""Named random streams from one seed.

Each purpose and node has a stream of its own, so that drawing more for one purpose (a retry, an
extra peer) leaves all others as they were. Streams: data, init, peers, fragments, link, faults.
"""

from __future__ import annotations

import hashlib

import numpy as np


def derive_seed(seed: int, *names: str | int) -> int:
    """A 64-bit seed for the stream that `names` name, the same on every platform."""
    text = "/".join([str(seed), *(str(name) for name in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """The generator of the stream that `names` name, for example ``stream(7, "peers", "n3")``."""
    return np.random.Generator(np.random.PCG64(derive_seed(seed, *names)))

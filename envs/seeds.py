"""Seeds for simulators that draw with NumPy's older generators."""

import numpy as np

WORD = 2**32
"""Those generators take smaller numbers only."""


def word(seed: int) -> int:
    """Return a number below 2**32: the seed itself, or one that a larger seed is hashed to.

    Args:
        seed: any whole number from 0.

    Example:
        >>> word(100000), word(2**32) != word(0)
        (100000, True)
    """
    return seed if seed < WORD else int(np.random.SeedSequence(seed).generate_state(1)[0])

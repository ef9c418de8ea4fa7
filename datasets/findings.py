"""What is seen in demonstrations when they are examined."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
"""One signal: ``(n_steps, columns)``, finite."""


@dataclass(frozen=True)
class Finding:
    """One thing seen: an error spoils training, a warning may; a note needs no ``fix`` ("")."""

    level: Literal["error", "warning", "note"]
    check: str
    message: str
    fix: str

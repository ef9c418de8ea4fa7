"""The solver loop before it was taken apart, kept to compare the present one with."""

from tests.oracle.adaptive import adaptive
from tests.oracle.anderson import anderson
from tests.oracle.coarse import coarse
from tests.oracle.newton import QuasiNewton, newton
from tests.oracle.paradigms import paradigms
from tests.oracle.picard import picard
from tests.oracle.sequential import sequential

__all__ = [
    "QuasiNewton",
    "adaptive",
    "anderson",
    "coarse",
    "newton",
    "paradigms",
    "picard",
    "sequential",
]

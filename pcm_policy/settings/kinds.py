"""What a setting may be: ranges of numbers, and sections that depend on a choice."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any


@dataclass(frozen=True)
class Range:
    """Which numbers a setting takes; NaN is in no range.

    Attributes:
        least: smallest number.
        most: largest number.
        above: the number is larger than this.
        below: the number is smaller than this.
        infinite: whether infinity counts as a number.
    """

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    infinite: bool = False

    def __contains__(self, value: float) -> bool:
        if value in (math.inf, -math.inf) and not self.infinite:
            return False
        over = self.least <= value and (self.above < value or self.above == -math.inf)
        return over and value <= self.most and (value < self.below or self.below == math.inf)

    def __str__(self) -> str:
        lower = f"above {self.above:g}" if self.above > -math.inf else f"from {self.least:.10g}"
        upper = f"below {self.below:g}" if self.below < math.inf else f"to {self.most:.10g}"
        parts = [lower] if max(self.above, self.least) > -math.inf else []
        parts += [upper] if min(self.below, self.most) < math.inf else []
        return " ".join(parts)


@dataclass(frozen=True)
class Options:
    """A section whose settings depend on what is chosen: the options of a network, a solver's.

    Attributes:
        read: checks the section; takes its plain values and its name.
        known: settings that are known before anything is chosen, by name: what each takes, and
            what it is for.
    """

    read: Callable[[Mapping[str, Any], str], Any]
    known: Callable[[], Mapping[str, tuple[Any, str]]] = dict


# Numbers that settings are made of; 2**31 - 1 is what every library's random generator takes.
Count = Annotated[int, Range(least=1, most=2**31 - 1)]
Natural = Annotated[int, Range(least=0, most=2**31 - 1)]
Seed = Annotated[int, Range(least=0, most=2**31 - 1)]
Width = Annotated[int, Range(least=1, most=65_536)]
"""Of a layer of a network."""
Depth = Annotated[int, Range(least=1, most=1024)]
"""Layers, blocks or heads of a network."""
Rows = Annotated[int, Range(least=1, most=65_536)]
"""That are computed at once, in memory."""
Threads = Annotated[int, Range(least=1, most=4096)]
Positive = Annotated[float, Range(above=0)]
NonNegative = Annotated[float, Range(least=0)]
Share = Annotated[float, Range(least=0, most=1)]
Level = Annotated[float, Range(infinite=True)]

"""What goes to the process that solves: requests, and each frame once, when it is first needed.

Frames are dropped there when nobody on this side keeps them any more, as the features of a planner
in the same process are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from weakref import WeakKeyDictionary

from pcm_policy.control.plan import Frame, PlanRequest


@dataclass(frozen=True)
class Asked:
    """A message.

    Attributes:
        frames: ids of the frames that it is about, oldest first.
        new: those of them that the process does not have.
        gone: ids of frames that it may forget.
        request: to solve, without its frames; None to encode the frames alone.
    """

    frames: tuple[int, ...]
    new: Mapping[int, Frame]
    gone: tuple[int, ...]
    request: PlanRequest | None = None


class Sender:
    """This side: which frames the process has."""

    def __init__(self) -> None:
        self._ids: WeakKeyDictionary[Frame, int] = WeakKeyDictionary()
        self._there: set[int] = set()
        self._count = count()

    def ask(self, frames: Sequence[Frame], request: PlanRequest | None = None) -> Asked:
        """Return the message about frames, which counts as sent."""
        new: dict[int, Frame] = {}
        for frame in frames:
            if frame not in self._ids:
                self._ids[frame] = next(self._count)
                new[self._ids[frame]] = frame
        kept = set(self._ids.values())
        gone, self._there = tuple(self._there - kept), kept
        bare = None if request is None else replace(request, frames=())
        return Asked(tuple(self._ids[frame] for frame in frames), new, gone, bare)


class Receiver:
    """The other side: the frames that came and are not forgotten."""

    def __init__(self) -> None:
        self._frames: dict[int, Frame] = {}

    def __len__(self) -> int:
        """Frames that are kept."""
        return len(self._frames)

    def frames(self, asked: Asked) -> tuple[Frame, ...]:
        """Return the frames that a message is about, each the same object every time."""
        for one in asked.gone:
            self._frames.pop(one, None)
        self._frames.update(asked.new)
        return tuple(self._frames[one] for one in asked.frames)

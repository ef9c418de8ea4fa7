"""What was seen, by the tick of the control loop; and what is left of a chunk."""

from collections import deque
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import pad

from pcm_policy import PcmError


class Seen:
    """The observations of an episode that a policy still looks at, where they came from.

    A policy looks at ``To`` ticks. For a tick without an observation the nearest in time stands,
    the newer of two: the first of an episode for those before it, and the newest for the tick
    before it where the driver of the policy left observations out.

    Args:
        steps: ``To``.
    """

    def __init__(self, steps: int) -> None:
        self._steps, self._now = steps, 0
        self._kept: deque[tuple[int, dict[str, Tensor]]] = deque()

    def add(self, frame: Mapping[str, Tensor], ticks: int = 1) -> None:
        """Take the newest observation; a copy is kept on its device.

        Args:
            frame: ``(B, ...)`` by name.
            ticks: since the one before; 0 takes its place.

        Raises:
            PcmError: another ``B`` than before.
        """
        rows = len(next(iter(frame.values())))
        before = len(next(iter(self._kept[-1][1].values()))) if self._kept else rows
        if rows != before:
            raise PcmError(
                f"{rows} observations after {before} in the same episode: call reset() when another"
                " number of environments begins"
            )
        if ticks == 0 and self._kept:
            self._kept.pop()
        self._now += ticks
        self._kept.append((self._now, {name: value.clone() for name, value in frame.items()}))
        while len(self._kept) > 1 and self._kept[1][0] <= self._now - self._steps + 1:
            self._kept.popleft()

    def stacked(self) -> dict[str, Tensor]:
        """Return ``(B, To, ...)`` by name, oldest first."""
        ticks = range(self._now - self._steps + 1, self._now + 1)
        frames = [min(reversed(self._kept), key=lambda kept: abs(kept[0] - t))[1] for t in ticks]
        return {name: torch.stack([f[name] for f in frames], 1) for name in frames[-1]}


def left_over(given: Tensor, last: Tensor | None) -> tuple[Tensor, int]:
    """Tell what is left of the last chunk from the zeros that LeRobot's engine appends to it.

    The engine hands back the actions of the last chunk that are not executed yet, cut or padded
    with zeros to a fixed length, and does not say how many there are. They are looked up in that
    chunk. What is not part of it ends with the last row that is not zero.

    Args:
        given: ``(B, h, A)`` as it was handed back.
        last: ``(B, n, A)`` the last chunk, from its observation on, if there is one.

    Returns:
        ``(B, m, A)`` and the ticks since the last chunk's observation, 1 if they are unknown.
    """
    steps = given.shape[1]
    if last is not None and given.shape[::2] == last.shape[::2]:
        windows = pad(last, (0, 0, 0, steps)).unfold(1, steps, 1)  # (B, n + 1, A, h)
        same = (windows == given.to(last).transpose(1, 2)[:, None]).flatten(2).all(2).all(0)
        found = same.nonzero()
        if len(found):
            passed = int(found[0])
            return given[:, : min(steps, last.shape[1] - passed)], passed
    filled = given.ne(0).any(2).any(0).nonzero()
    return given[:, : int(filled[-1]) + 1 if len(filled) else 0], 1

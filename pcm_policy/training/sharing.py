"""How a batch is divided: over the processes of a run, and in each of them over parts of a step."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pcm_policy.errors import PcmError


@dataclass(frozen=True)
class Share:
    """The rows of a batch that are worked on at once: one of equal parts.

    Attributes:
        rank: number of the part.
        world: of how many.
    """

    rank: int
    world: int

    def __call__(self, rows: Tensor, dim: int = 0) -> Tensor:
        """Return every ``world``-th row, starting at ``rank``.

        Raises:
            PcmError: the parts would not be of one size, and a mean over them not that of all rows.
        """
        if rows.shape[dim] % self.world:
            raise PcmError(f"a batch of {rows.shape[dim]} does not divide into {self.world} parts")
        index = torch.arange(self.rank, rows.shape[dim], self.world, device=rows.device)
        return rows.index_select(dim, index)


@dataclass(frozen=True)
class Team:
    """The processes of a run, as one of them sees them.

    Attributes:
        rank: number of this process.
        world: how many there are.
        gather: puts the rows ``(n, ...)`` of all processes end to end, in each of them.
    """

    rank: int
    world: int
    gather: Callable[[Tensor], Tensor]

    def share(self, part: int, parts: int) -> Share:
        """Return what this process works on in one of the parts of a step."""
        return Share(self.rank + self.world * part, self.world * parts)

    def rows(self, count: int) -> Tensor:
        """Return which of ``count`` rows this process makes for all: as many as every other.

        Where they do not divide, some are made twice.
        """
        each = -(-count // self.world)
        return (torch.arange(each) * self.world + self.rank) % count

    def whole(self, made: Tensor, count: int, dim: int = 0) -> Tensor:
        """Put what all processes made of their :meth:`rows` together, in the order of the rows.

        Args:
            made: this process's rows, along ``dim``.
            count: rows of the whole.
            dim: where the rows are.
        """
        if self.world == 1:
            return made
        found = self.gather(made.movedim(dim, 0).contiguous())
        found = found.view(self.world, -1, *found.shape[1:]).transpose(0, 1).flatten(0, 1)[:count]
        return found.movedim(0, dim).contiguous()


ALONE = Team(0, 1, lambda rows: rows)


def check_divides(name: str, rows: int, world: int, parts: int) -> None:
    """Refuse a batch that processes and parts cannot share evenly.

    Args:
        name: of the setting.
        rows: its value.
        world: number of processes.
        parts: ``train.accumulate``.

    Raises:
        PcmError: it does not divide.
    """
    if rows % (world * parts):
        each = "" if parts == 1 else f" of train.accumulate={parts} parts each"
        raise PcmError(
            f"{name}={rows} does not divide over {world} processes{each}: give a multiple of "
            f"{world * parts}"
        )

"""How long an evaluation takes on many processes: a formula, and a simulation with trouble.

Times are in seconds. Nothing here measures or reads a clock; all randomness is an argument.
"""

import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

BEHIND_S = 5.0
"""How far the file of a shard may be behind its process (``pcm_policy.rollout.sheet.EVERY_S``)."""


@dataclass(frozen=True)
class Cost:
    """What the parts of an evaluation cost.

    Attributes:
        start_s: of a process, until its first episode begins.
        episode_s: mean of an episode.
        spread: standard deviation of an episode, as a share of its mean.
        merge_s: of reading and merging, however little there is.
        merge_episode_s: of each episode besides.
        merge_shard_s: of each shard besides.
        write_s: of a shard's file, by whoever writes it.
    """

    start_s: float
    episode_s: float
    spread: float
    merge_s: float
    merge_episode_s: float
    merge_shard_s: float
    write_s: float

    def merging(self, episodes: int, shards: int) -> float:
        """Return how long merging takes."""
        return self.merge_s + episodes * self.merge_episode_s + shards * self.merge_shard_s


@dataclass(frozen=True)
class Trouble:
    """What goes wrong, and how often.

    Attributes:
        slow_share: share of the processes that are slow for the whole run.
        slow_factor: how many times longer they take.
        failures_per_hour: of each process: it dies in the middle of what it does.
        restart_s: until a dead process runs again, without its start.
    """

    slow_share: float = 0.0
    slow_factor: float = 1.0
    failures_per_hour: float = 0.0
    restart_s: float = 0.0


def predicted(cost: Cost, episodes: int, processes: int) -> float:
    """Return the wall time of an evaluation in as many shards as processes, without trouble.

    The longest shard decides: ``k = ceil(E / n)`` episodes take ``k m + z s sqrt(k)``, where ``z``
    is the expected largest of ``n`` normal numbers (Blom 1958).

    Args:
        cost: of its parts.
        episodes: how many, ``E``.
        processes: how many, ``n``; those beyond the episodes have nothing to do.
    """
    shards = min(processes, episodes)
    longest = math.ceil(episodes / shards)
    quantile = (shards - 0.375) / (shards + 0.25)
    z = NormalDist().inv_cdf(quantile) if shards > 1 else 0.0
    work = longest * cost.episode_s * (1 + z * cost.spread / math.sqrt(longest))
    return cost.start_s + work + cost.write_s + cost.merging(episodes, shards)


def half_efficient(cost: Cost, episodes: int) -> int:
    """Return the largest number of processes that together waste less than half of their time."""
    alone, n = episodes * cost.episode_s, 1
    while n < episodes and alone / (2 * n * predicted(cost, episodes, 2 * n)) >= 0.5:
        n *= 2
    while n < episodes and alone / ((n + 1) * predicted(cost, episodes, n + 1)) >= 0.5:
        n += 1
    return n


@dataclass(frozen=True)
class Simulated:
    """What a simulated evaluation took.

    Attributes:
        wall_s: until ``eval.json`` is there.
        failures: processes that died.
        repeated: episodes that were run again.
    """

    wall_s: float
    failures: int
    repeated: float


def simulate(
    cost: Cost,
    trouble: Trouble,
    episodes: int,
    processes: int,
    rng: np.random.Generator,
    task: int | None = None,
) -> Simulated:
    """Simulate an evaluation.

    Args:
        cost: of its parts.
        trouble: what goes wrong.
        episodes: how many.
        processes: how many; those beyond the shards have nothing to do.
        rng: draws durations, slow processes and failures.
        task: episodes of a task that any process takes when it is free, and begins again where its
            process dies (Ray); None: one shard a process, which goes on where it was (Slurm).
    """
    shards = min(processes, episodes) if task is None else -(-episodes // task)
    sizes = [episodes * (i + 1) // shards - episodes * i // shards for i in range(shards)]
    run = _Run(cost, trouble, sizes, min(processes, shards), rng, pulled=task is not None)
    arrivals = run.arrivals()
    if task is not None:  # the driver writes one file after another
        end = 0.0
        for arrival in sorted(arrivals):
            end = max(end, arrival) + cost.write_s
    else:
        end = max(arrivals) + cost.write_s
    return Simulated(end + cost.merging(episodes, shards), run.failures, run.repeated)


class _Run:
    """Processes that take shards, finish them or die.

    Args:
        cost: of the parts.
        trouble: what goes wrong.
        sizes: episodes of every shard.
        processes: how many.
        rng: draws all that is random.
        pulled: whether a lost shard begins again at any process; otherwise its own goes on.
    """

    def __init__(
        self,
        cost: Cost,
        trouble: Trouble,
        sizes: Sequence[int],
        processes: int,
        rng: np.random.Generator,
        *,
        pulled: bool,
    ) -> None:
        self.cost, self.trouble, self.rng, self.pulled = cost, trouble, rng, pulled
        self.failures, self.repeated = 0, 0.0
        slow = rng.random(processes) < trouble.slow_share
        self._pace = np.where(slow, trouble.slow_factor, 1.0).tolist()
        self._left = [float(size) for size in sizes]
        self._waiting = deque(range(len(sizes)))
        self._idle: list[int] = []
        self._events: list[tuple[float, int, int | None, int | None]] = []
        self._number = 0
        for process in range(processes):
            self._at(cost.start_s * self._pace[process], process, None)

    def arrivals(self) -> list[float]:
        """Return when each shard was finished."""
        found = []
        while self._events:
            now, _, process, shard = heapq.heappop(self._events)
            if process is None:  # a lost shard is noticed
                assert shard is not None
                self._waiting.append(shard)
                if self._idle:
                    self._at(now, self._idle.pop(), None)
                continue
            if shard is None:
                if not self._waiting:
                    self._idle.append(process)
                    continue
                shard = self._waiting.popleft()
            end = self._work(now, process, shard)
            if end is not None:
                found.append(end)
        return found

    def _work(self, now: float, process: int, shard: int) -> float | None:
        """Let a process begin a shard; returns when it is finished, None if it dies before."""
        size, factor, trouble = self._left[shard], self._pace[process], self.trouble
        length = _length(self.cost, size, self.rng) * factor
        rate = trouble.failures_per_hour / 3600
        death = float(self.rng.exponential(1 / rate)) if rate else math.inf
        if death >= length:
            if self.pulled:
                self._at(now + length, process, None)
            return now + length
        self.failures += 1
        kept = 0.0 if self.pulled else size * max(0.0, death - BEHIND_S * factor) / length
        self.repeated += size * death / length - kept
        self._left[shard] -= kept
        back = now + death + trouble.restart_s + self.cost.start_s * factor
        self._at(back, process, None if self.pulled else shard)
        if self.pulled:
            self._at(now + death, None, shard)
        return None

    def _at(self, when: float, process: int | None, shard: int | None) -> None:
        self._number += 1
        heapq.heappush(self._events, (when, self._number, process, shard))


def _length(cost: Cost, episodes: float, rng: np.random.Generator) -> float:
    """Draw how long some episodes take one after another: a sum of gamma-distributed times."""
    if cost.spread == 0 or episodes <= 0:
        return episodes * cost.episode_s
    return float(rng.gamma(episodes / cost.spread**2, cost.episode_s * cost.spread**2))

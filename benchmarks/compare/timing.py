"""How the comparison checks, counts and times its sides."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from benchmarks.compare.floor import operations
from benchmarks.compare.sides import Side, ours
from pcm_policy.adopt.originals.memory import peak_memory
from pcm_policy.errors import PcmError
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.runtime.timing import take_turns
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.solvers.registry import Solver

WARMUP = 2


@dataclass
class Checked:
    """What the untimed calls of a side gave.

    Attributes:
        side: the side.
        samples: chunks ``(B, T, Da)`` of seeds 0, 1, ...
        nfe: evaluated states per chunk, call by call.
        operations: of the first call; None where they cannot be counted.
        memory: bytes a call needs.
    """

    side: Side
    samples: list[Tensor] = field(default_factory=list)
    nfe: list[int] = field(default_factory=list)
    operations: float | None = None
    memory: float | None = None


def batches(observations: Tensor, batch: int) -> Tensor:
    """Cut ``(n, To, Do)`` observations into ``(n // B, B, To, Do)``, at most 16 of them."""
    count = min(16, len(observations) // batch)
    if count == 0:
        raise PcmError(f"batch={batch}: the policy has {len(observations)} observations")
    return observations[: count * batch].unflatten(0, (count, batch))


def check(side: Side, obs: Tensor, calls: int) -> Checked:
    """Make a side's untimed calls, at least two: they warm it up and are all that is looked into.

    The first counts the operations, the second measures the memory; a CUDA graph's memory is taken
    when it is made, in the first.
    """
    found = Checked(side)

    def run(seed: int) -> Callable[[], None]:
        def call() -> None:
            solved = side.run(obs[seed % len(obs)], seed)
            found.samples.append(solved.sample.cpu())
            found.nfe.append(solved.nfe)

        return call

    if side.mode == "graph":
        found.memory = peak_memory(run(0), obs.device)
        run(1)()
    elif side.memory is not None:
        run(0)()
        run(1)()
        found.memory = side.memory()
    else:
        found.operations = operations(run(0)) if side.mode == "eager" else run(0)()
        found.memory = peak_memory(run(1), obs.device)
    for seed in range(2, calls):
        run(seed)()
    return found


def timed_turns(
    sides: Sequence[Side], obs: Tensor, calls: int, seconds: float, least: int
) -> list[list[tuple[float, int, int]]]:
    """Time all sides, one call of each after the other.

    Args:
        sides: what is timed.
        obs: ``(n, B, To, Do)``; call ``k`` of every side takes row ``k % n`` and seed ``k``.
        calls: the most calls a side, the warm-up not counted.
        seconds: no further turn starts after this long.
        least: calls a side has whatever the time.

    Returns:
        For every side its calls' milliseconds, rounds and NFE.
    """
    counted: list[list[tuple[int, int]]] = [[] for _ in sides]

    def call(side: Side, found: list[tuple[int, int]]) -> Callable[[int], float | None]:
        def run(number: int) -> float | None:
            solved = side.run(obs[number % len(obs)], number)
            found.append((solved.rounds, solved.nfe))
            return solved.ms

        return run

    spent = take_turns(
        [call(side, found) for side, found in zip(sides, counted, strict=True)],
        calls,
        device=obs.device,
        warmup=WARMUP,
        seconds=seconds,
        least=least,
    )
    return [
        [(ms, *numbers) for ms, numbers in zip(times, found[-len(times) :], strict=True)]
        for times, found in zip(spent, counted, strict=True)
    ]


class Exact:
    """The sequential chunks that errors are taken to, each solved once."""

    def __init__(self, policy: DiffusionPolicy, obs: Tensor) -> None:
        self.policy, self.obs = policy, obs
        self._kept: dict[tuple[SamplerConfig, int], Tensor] = {}

    def __call__(self, sampler: SamplerConfig, seed: int) -> Tensor:
        """Return the chunk ``(B, T, Da)`` of one seed."""
        if (sampler, seed) not in self._kept:
            side = ours(self.policy, Solver.of("sequential", sampler))
            found = side.run(self.obs[seed % len(self.obs)], seed)
            self._kept[sampler, seed] = found.sample.cpu()
        return self._kept[sampler, seed]

    def errors(self, checked: Checked) -> dict[str, float]:
        """Return a row's distance to its reference's chunks, in normalised units."""
        reference = checked.side.reference
        off = [found - self(reference, seed) for seed, found in enumerate(checked.samples)]
        difference = torch.cat(off)
        return {
            "max_abs_error": float(difference.abs().max()),
            "rmse": float(difference.square().mean().sqrt()),
        }

"""What solves the base for a head's targets: torch, or an inference engine that is faster."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pcm_policy.runtime.inputs import Execute, Inputs, eager
from pcm_policy.sampling.denoise import Denoiser, Network, Prefix
from pcm_policy.sampling.noise import Noise
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.solvers.loop import start
from pcm_policy.solvers.registry import Solver
from pcm_policy.solvers.sequential import Sequential
from pcm_policy.solvers.system import Iterate, System
from pcm_policy.training.taught import Taught

AT_ONCE = 250
"""Rows of a solve; an engine records one for this many, and one for what is left over."""


@dataclass(frozen=True)
class Solving:
    """The sequential sampler on many observations, in parts of the same size.

    Attributes:
        policy: whose base is solved.
        execute: what executes a part, a :class:`~pcm_policy.runtime.execute.Runtime` of the policy
            for example.
    """

    policy: Taught
    execute: Execute = eager

    def __call__(
        self, cond: Tensor, prefix: Prefix | None, noise: Noise, sampler: SamplerConfig
    ) -> Tensor:
        """Return all states ``(N + 1, B, T, Da)``.

        Args:
            cond: ``(B, C)``.
            prefix: actions that are known.
            noise: of the sampler, or of one with more noise.
            sampler: what is solved.
        """
        if not self.policy.denoiser(cond[:1], sampler).sampler.stochastic:
            noise = replace(noise, steps=None)
        solver, parts = Solver(Sequential(), sampler=sampler), []
        for rows in torch.split(torch.arange(len(cond), device=cond.device), AT_ONCE):
            given = Inputs(cond[rows], noise.pick(rows), None, prefix and prefix.pick(rows))
            parts.append(self.execute(self._assemble, given, solver).trajectory)
        return torch.cat(parts, dim=1)

    def _assemble(
        self, given: Inputs, solver: Solver, network: Network | None = None
    ) -> tuple[System, Iterate]:
        """Return the system of conditions in place of observations, and where it starts."""
        denoise: Denoiser = self.policy.denoiser(given.obs, solver.sampler, given.prefix)
        return start(denoise if network is None else denoise.with_network(network), given.noise)

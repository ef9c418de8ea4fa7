"""What ``gpu.py`` times: solves in CUDA graphs, and the usual eager loop.

A call is what a controller waits for: observations from the host to the device, fresh noise, the
solve, the chunk back on the host. Noise is drawn on the device, outside the graph.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pcm_policy.noise import Noise
from pcm_policy.policy import DiffusionPolicy, HeadConfig, PolicyConfig
from pcm_policy.samplers import SamplerConfig
from pcm_policy.solve import SolverConfig

WARMUP = 3


def build(down_dims: tuple[int, ...], device: torch.device) -> DiffusionPolicy:
    """Build a U-Net policy of Push-T's sizes with random weights and a PCM head for DDIM-16."""
    torch.manual_seed(0)
    head = HeadConfig("window", {}, SamplerConfig("ddim", 16), base="")
    config = PolicyConfig(
        20, 2, network="unet1d", network_options={"down_dims": list(down_dims)}, head=head
    )
    return DiffusionPolicy(config).to(device)


class Solve:
    """One solver at one batch size with fixed memory for inputs, noise and output.

    Args:
        policy: the policy.
        solver: a solver that reads nothing back: no tolerance.
        batch: chunks a call.
        graph: replay a CUDA graph; else run eagerly.
    """

    def __init__(
        self, policy: DiffusionPolicy, solver: SolverConfig, batch: int, graph: bool
    ) -> None:
        config, device = policy.config, policy.device
        self.policy, self.solver = policy, solver
        size = (batch, config.horizon, config.action_dim)
        steps = solver.sampler.steps if policy.sampler(solver.sampler).stochastic else 0
        self.obs = torch.zeros(batch, config.obs_steps, config.obs_dim, device=device)
        self.initial = torch.zeros(size, device=device)
        self.kicks = torch.zeros(steps, *size, device=device) if steps else None
        self.graph: torch.cuda.CUDAGraph | None = None
        self.out = self.initial
        self.rounds = self.nfe = 0
        if graph:
            self._capture()

    def _solve(self) -> Tensor:
        found = self.policy.solve(self.obs, self.solver, Noise(self.initial, self.kicks))
        self.rounds, self.nfe = found.rounds, found.nfe
        return found.sample

    def _capture(self) -> None:
        # libraries choose their kernels and allocate work space in the first calls, which a
        # capture must not see; they run on a side stream because the capture does
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARMUP):
                self._solve()
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.out = self._solve()

    def draw(self, generator: torch.Generator | None = None) -> None:
        """Fill the noise."""
        self.initial.normal_(generator=generator)
        if self.kicks is not None:
            self.kicks.normal_(generator=generator)

    def replay(self) -> Tensor:
        """Solve with what the inputs hold and return the chunk on the device."""
        if self.graph is None:
            self.out = self._solve()
        else:
            self.graph.replay()
        return self.out

    def __call__(self, obs: Tensor) -> Tensor:
        """Answer ``(B, To, Do)`` observations on the host with ``(B, T, Da)`` on the host."""
        self.obs.copy_(obs, non_blocking=True)
        self.draw()
        return self.replay().cpu()

    def sequential(self) -> Tensor:
        """Return the eager sequential chunk for the same inputs and noise."""
        solver = SolverConfig("sequential", self.solver.sampler)
        return self.policy.solve(self.obs, solver, Noise(self.initial, self.kicks)).sample


@dataclass(frozen=True)
class EagerLoop:
    """The usual loop of published policies: network call, scalar coefficients, step, repeat.

    Attributes:
        policy: the policy.
        sampler: DDPM or DDIM.
    """

    policy: DiffusionPolicy
    sampler: SamplerConfig

    @torch.inference_mode()
    def __call__(self, obs: Tensor) -> Tensor:
        """Answer ``(B, To, Do)`` observations on the host with ``(B, T, Da)`` on the host."""
        policy, device = self.policy, self.policy.device
        table = policy.sampler(self.sampler)
        size = (len(obs), policy.config.horizon, policy.config.action_dim)
        return self.run(obs, torch.randn(size, device=device), table.stochastic).cpu()

    @torch.inference_mode()
    def run(self, obs: Tensor, x: Tensor, stochastic: bool = False) -> Tensor:
        """Return the chunk on the device, from the initial noise ``x``."""
        policy = self.policy
        cond = policy.condition(obs.to(policy.device))
        table = policy.sampler(self.sampler).to("cpu", torch.float32)
        for j, t in enumerate(table.timesteps.tolist()):
            steps = torch.full((len(x),), t, dtype=torch.int64, device=x.device)
            output = policy.network(x, steps, cond)
            clean = (x - float(table.sigma[j]) * output) / float(table.alpha[j])
            clean = clean.clamp(-1, 1)
            x = float(table.decay[j]) * x + float(table.gain[j]) * clean
            if stochastic and t > 0:
                x = x + float(table.noise[j]) * torch.randn_like(x)
        return x


def worst_rounds(policy: DiffusionPolicy, sampler: SamplerConfig, error: float, tries: int) -> int:
    """Return the most rounds that certified Picard needs on these weights.

    A graph has a fixed number of rounds; with this number it is as exact as the adaptive solve was
    on all the tries. Random weights need more rounds than trained ones.
    """
    probe = Solve(policy, SolverConfig("picard", sampler, tolerance=error), 1, graph=False)
    generator = torch.Generator(policy.device).manual_seed(0)
    most = 0
    for _ in range(tries):
        probe.obs.uniform_(-1, 1, generator=generator)
        probe.draw(generator)
        probe.replay()
        most = max(most, probe.rounds)
    return most


Call = Callable[[Tensor], Tensor]

"""What ``benchmarks.gpu.main`` times: solves by the package's runtime, and the usual eager loop.

A call is what a controller waits for: observations from the host to the device, fresh noise drawn
on the device, the solve, the chunk back on the host.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.runtime.config import Precision, RuntimeConfig
from pcm_policy.runtime.execute import Runtime
from pcm_policy.runtime.inputs import eager as plain
from pcm_policy.runtime.timing import Side, take_turns
from pcm_policy.sampling.denoise import Network
from pcm_policy.sampling.noise import Noise
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.solvers.registry import Solver

PRECISIONS = ("float32", "tf32", "bf16", "fp16")
Call = Callable[[Tensor], Tensor]
WARMUP, LEAST = 10, 3
RELEASED = "released/pusht"
"""The policy whose sampler and head are timed, on a larger network."""


def build(down_dims: Sequence[int], device: torch.device) -> DiffusionPolicy:
    """Build the released U-Net policy at another width, with random weights and an untrained head.

    Its head has the released one's nodes, first guess and Newton step, so that a round costs what
    a trained one does.

    Args:
        down_dims: widths of the U-Net.
        device: where it runs.
    """
    released = DiffusionPolicy.from_pretrained(RELEASED).config
    torch.manual_seed(0)
    options = {"down_dims": list(down_dims), "step_embed_dim": 256}  # as published
    return DiffusionPolicy(replace(released, network_options=options)).to(device)


def runtime(policy: DiffusionPolicy, mode: str, precision: str) -> Runtime:
    """Return a runtime; TF32 is on for the whole process unless ``precision`` is float32."""
    own: Precision = "float32"
    if precision in ("bf16", "fp16"):
        own = precision  # type: ignore[assignment]
    config = RuntimeConfig(mode, own, tf32=precision != "float32")  # type: ignore[arg-type]
    return Runtime(policy, config)


class Solve:
    """One solver at one batch size.

    Args:
        policy: the policy.
        solver: how to solve.
        batch: chunks a call.
        run: how the solve is executed.
    """

    def __init__(self, policy: DiffusionPolicy, solver: Solver, batch: int, run: Runtime) -> None:
        config, device = policy.config, policy.device
        self.policy, self.solver, self.runtime = policy, solver, run
        size = (batch, config.horizon, config.action_dim)
        steps = policy.sampler(solver.sampler).noise_steps
        self.obs = torch.zeros(batch, config.obs_steps, config.obs_dim, device=device)
        initial = torch.zeros(size, device=device)
        self.noise = Noise(initial, torch.zeros(steps, *size, device=device) if steps else None)
        self.rounds: list[int] = []
        self.nfe: list[int] = []

    def draw(self, generator: torch.Generator | None = None) -> None:
        """Fill the noise."""
        for part in (self.noise.initial, self.noise.steps):
            if part is not None:
                part.normal_(generator=generator)

    def solve(self) -> Tensor:
        """Solve with what the inputs hold and return the chunk on the device."""
        found = self.policy.solve(self.obs, self.solver, self.noise, execute=self.runtime)
        self.rounds.append(found.rounds)
        self.nfe.append(found.nfe)
        return found.sample

    @torch.inference_mode()
    def __call__(self, obs: Tensor) -> Tensor:
        """Answer ``(B, To, Do)`` observations on the host with ``(B, T, Da)`` on the host."""
        self.obs.copy_(obs, non_blocking=True)
        self.draw()
        return self.solve().cpu()

    @torch.inference_mode()
    def errors(self, eager: Runtime) -> dict[str, float]:
        """Return the distance to the eager sequential chunk, same noise, after a call.

        Args:
            eager: of the same precision; full float32 is compared with as well.
        """
        self.draw(torch.Generator(self.obs.device).manual_seed(1))
        found = self.solve()
        same = Solver.of("sequential", self.solver.sampler)
        off = found - self.policy.solve(self.obs, same, self.noise, execute=eager).sample
        flags = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        full = found - self.policy.solve(self.obs, same, self.noise, execute=plain).sample
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = flags
        return {
            "max_abs_error": float(off.abs().max()),
            "rmse": float(off.square().mean().sqrt()),
            "max_abs_error_to_float32": float(full.abs().max()),
        }


class EagerLoop:
    """The usual loop of published policies: network call, scalar coefficients, step, repeat.

    Args:
        policy: the policy.
        sampler: DDPM or DDIM.
        network: the policy's network, in the precision of the run.
    """

    def __init__(self, policy: DiffusionPolicy, sampler: SamplerConfig, network: Network) -> None:
        self.policy, self.network = policy, network
        table = policy.sampler(sampler).to("cpu", torch.float32)
        columns = (table.alpha, table.sigma, table.decay, table.gain, table.noise)
        # plain numbers, once: reading them off the device in the loop would be our fault
        self.steps = list(
            zip(
                table.timesteps.tolist(), *(c.tolist()[: table.steps] for c in columns), strict=True
            )
        )
        self.stochastic = table.stochastic

    @torch.inference_mode()
    def __call__(self, obs: Tensor) -> Tensor:
        """Answer ``(B, To, Do)`` observations on the host with ``(B, T, Da)`` on the host."""
        config, device = self.policy.config, self.policy.device
        size = (len(obs), config.horizon, config.action_dim)
        return self.run(obs, torch.randn(size, device=device)).cpu()

    @torch.inference_mode()
    def run(self, obs: Tensor, x: Tensor) -> Tensor:
        """Return the chunk on the device, from the initial noise ``x``."""
        cond = self.policy.condition(obs.to(self.policy.device, non_blocking=True))
        for t, alpha, sigma, decay, gain, noise in self.steps:
            steps = torch.full((len(x),), t, dtype=torch.int64, device=x.device)
            output = self.network(x, steps, cond)
            clean = ((x - sigma * output) / alpha).clamp(-1, 1)
            x = decay * x + gain * clean
            if self.stochastic and t > 0:
                x = x + noise * torch.randn_like(x)
        return x


def time_turns(
    calls: Mapping[str, Call], obs: torch.Tensor, count: int, seconds: float
) -> dict[str, list[float]]:
    """Time end-to-end calls that take turns.

    Args:
        calls: by name.
        obs: ``(n, B, To, Do)`` on the host, pinned on CUDA.
        count: timed calls each.
        seconds: no turn starts after this long, but for the first three.

    Returns:
        Milliseconds of every call; its end is the chunk's arrival on the host.
    """

    def side(call: Call) -> Side:
        def run(number: int) -> None:
            call(obs[number % len(obs)])

        return run

    sides, warmup = [side(call) for call in calls.values()], min(WARMUP, count)
    spent = take_turns(sides, count, warmup=warmup, seconds=seconds, least=LEAST)
    return dict(zip(calls, spent, strict=True))


@torch.inference_mode()
def worst_rounds(
    policy: DiffusionPolicy, sampler: SamplerConfig, error: float, tries: int, eager: Runtime
) -> int:
    """Return the most rounds that certified Picard needs on these weights.

    With this number a fixed number of rounds, one graph, is as exact as the adaptive solve was on
    all the tries. Random weights need more rounds than trained ones.
    """
    probe = Solve(policy, Solver.of("picard", sampler, tolerance=error), 1, eager)
    generator = torch.Generator(policy.device).manual_seed(0)
    for _ in range(tries):
        probe.obs.uniform_(-1, 1, generator=generator)
        probe.draw(generator)
        probe.solve()
    return max(probe.rounds)

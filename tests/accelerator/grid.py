"""What must run on a GPU without a stall: solves, training steps, moves, other precisions.

A check is a function that raises. They are run by ``python -m tests.accelerator.grid``, which
prints a line of JSON for each, in a process of its own.
"""

import itertools
import json
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch

from pcm_policy import DiffusionPolicy
from pcm_policy.sampling.noise import generator_noise
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.solvers import (
    PCM,
    Adaptive,
    Anderson,
    Coarse,
    Iterate,
    Newton,
    Paradigms,
    Picard,
    Rounds,
    Sequential,
    Settle,
    Step,
    Stop,
    Subspace,
    System,
    Tolerance,
    advance,
    start,
)
from pcm_policy.solvers.jacobian import Jacobian
from pcm_policy.training.batches import Windows
from pcm_policy.training.cloning import Cloning
from pcm_policy.training.consistency import Consistency
from pcm_policy.training.distillation import Distillation
from pcm_policy.training.sharing import Share
from tests.accelerator.device import DEVICE, accelerator, places
from tests.builders import ACTION_DIM, HORIZON, NETWORKS, OBS_DIM, STEPS, small_policy

B = 2
SAMPLERS = {
    "ddim": SamplerConfig("ddim", STEPS),
    "ddpm": SamplerConfig("ddpm", STEPS, temperature=0.5),
    "dpmpp": SamplerConfig("dpmpp_2m", STEPS),
}
SOLVERS: dict[str, tuple[Step, int]] = {
    "sequential": (Sequential(), 1),
    "picard": (Picard(), 3),
    "window": (Picard(window=3), 5),
    "exact": (Picard(), STEPS),
    "anderson": (Anderson(), 4),
    "coarse": (Coarse(), 3),
    "newton": (Newton(), 3),
    "newton-coarse": (Coarse((0.5,), then=Anderson(inner=Newton())), 4),
    "subspace": (Subspace(2, 3), 2),
    "paradigms": (Paradigms(), 4),
}
"""Every solver that needs no head, and a number of rounds."""
WITH_HEAD: dict[str, tuple[Step, int]] = {
    "pcm": (PCM(), 2),
    "pcm-one": (PCM(), 1),
    "pcm-then": (PCM(then=Anderson()), 4),
    "pcm-ramp": (PCM((1.0, 0.5, 0.0, 0.5), then=Picard()), 4),
    "pcm-subspace": (PCM((1.0,), then=Subspace(2, 3)), 3),
    "pcm-newton": (PCM(then=Anderson(inner=Newton())), 4),
    "adaptive": (Adaptive(), 3),
}
HEADS: dict[str, tuple[str | None, dict[str, Any] | None]] = {
    "none": (None, None),
    "window": ("window", None),
    "nodes": ("window", {"width": 12, "nodes": 3, "newton": True, "guess_width": 8}),
    "noises": (
        "window",
        {"width": 12, "nodes": 3, "newton": True, "guess_width": 8, "guess_noises": 3},
    ),
    "lora": ("lora", None),
    "copy": ("copy", None),
}
PREFIXES = ("none", "shown", "replaced", "overwritten")
"""No prefix; one that the network is shown; the replacement sampler; its input overwritten too."""
GUESSES = ("none", "chunk", "trajectory")
STOPS: dict[str, Callable[[int], Stop]] = {
    "rounds": Rounds,
    "tolerance": lambda count: Tolerance(count, error=1e-3),
    "settle": lambda count: Settle(count, level=0.01),
}
Check = Callable[[], None]


@cache
def policy_of(network: str, head: str, sampler: str, prefix: bool, dtype: str) -> DiffusionPolicy:
    """A policy on the device; in float32 it has solved on the host before."""
    name, options = HEADS[head]
    more = {"prefix_steps": 4} if prefix else {}
    policy = small_policy(
        network, name, head_options=options, sampler=SAMPLERS[sampler], **more
    ).to(getattr(torch, dtype))
    if dtype == "float32":
        policy.solve(torch.zeros(B, 2, OBS_DIM))
    return policy.to(DEVICE)


def system(
    policy: DiffusionPolicy, prefix: str, guess: str, newton: bool
) -> tuple[System, Iterate]:
    """Put a solve together on the device."""
    config, sampler = policy.config, policy.sampler(policy.config.sampler)
    steps = STEPS if sampler.stochastic else 0
    noise = generator_noise(torch.Generator(), B, config.chunk_shape, steps)
    noise, known = noise.to(DEVICE, policy.dtype), None
    if prefix != "none":
        known = policy.known_prefix(torch.zeros(B, 2, ACTION_DIM).numpy(), prefix == "overwritten")
    obs = gpu.empty((B, 2, OBS_DIM), policy.dtype)
    start_from = None if guess == "none" else gpu.empty((B, *config.chunk_shape), policy.dtype)
    if guess == "trajectory":
        start_from = gpu.empty((STEPS, B, *config.chunk_shape), policy.dtype)
    denoise = policy.denoiser(policy.condition(obs, known), config.sampler, known)
    jacobian = None
    if newton:
        diagonal = gpu.empty((STEPS, *config.chunk_shape), policy.dtype)
        jacobian = Jacobian.of(sampler, diagonal)
    return start(denoise, noise, start_from, policy.head, jacobian)


def solves(
    network: str,
    head: str,
    sampler: str,
    solver: str,
    stop: str,
    prefix: str,
    guess: str,
    dtype: str,
) -> None:
    """Walk through a solve; the stop's ``look`` alone may read the device.

    Before the last round all rows but one are taken out of the batch, where rows end by themselves.
    """
    policy = policy_of(network, head, sampler, prefix == "shown", dtype)
    step, count = (SOLVERS | WITH_HEAD)[solver]
    ends = STOPS[stop](count)
    with torch.inference_mode(), gpu.allow():
        with gpu.allow(copies=True):
            s, x = system(policy, prefix, guess, "newton" in solver)
        s = step.ready(s, ends)
        x, memory = ends.begin(x), step.init(s)
        while not ends.ended(x):
            if stop != "rounds" and x.k == count - 1:
                x = replace(x, rows=torch.arange(1, device=DEVICE))
            _, x, residual, memory = advance(s, step, ends, x, memory)
            with gpu.allow(reads=stop != "rounds", copies=stop != "rounds"):
                x = ends.look(x)
        made = (x.X, x.P, ends.bound(x), residual)
    assert all(value.device.type == "gpu" and value.dtype == policy.dtype for value in made)


def trains(kind: str, **options: Any) -> None:
    """Make training steps; a loss is computed and its gradients, without reading anything."""
    base = small_policy(**options)
    torch.manual_seed(0)
    data = Windows(torch.randn(12, 2 * OBS_DIM), torch.rand(12, HORIZON, ACTION_DIM) * 2 - 1)
    objective: Any
    if kind == "cloning":
        objective = Cloning(base, data, data, 4, 0)
    elif kind == "consistency":
        objective = Consistency(base, {}, data, data, 4, 0)
    else:
        objective = Distillation(base, data, data, 4, 0, pool=8, own=0.5)
    objective.policy.to(DEVICE)
    objective.module.to(DEVICE)
    objective.to(DEVICE)
    objective.module.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(objective.module.parameters(), foreach=False, fused=False)
    for step in range(2):  # the first one solves a pool
        with gpu.allow(copies=True, reads=step == 0):
            loss = objective.loss(objective.module, step, Share(0, 1))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    objective.validate(objective.module)


def sees() -> None:
    """Encode images on the device."""
    from pcm_policy.policy.vision import Vision, VisionConfig

    config = VisionConfig.from_dict(
        {"layout": [2, "front"], "cameras": {"front": [32, 32]}, "crop": [28, 28]}
    )
    vision = Vision(config).eval().to(DEVICE)
    state = gpu.empty((B, 2, 2), torch.float32)
    images = {"front": gpu.empty((B, 2, 32, 32, 3), torch.uint8)}
    with torch.inference_mode(), gpu.allow():
        assert vision(state, images).shape == (B, 2, config.obs_dim)


def policies(policy: DiffusionPolicy) -> None:
    """A policy that was moved consists of nothing on the host, and solves with its default."""
    assert places(policy) == {"gpu"}
    assert policy.sampler(policy.config.sampler).p.device.type == "gpu"
    solver = policy.default_solver()
    noise = policy.draw_noise(B, solver.sampler).to(DEVICE, policy.dtype)
    obs = gpu.empty((B, policy.config.obs_steps, policy.config.obs_dim), policy.dtype)
    with gpu.allow():
        found = policy.solve(obs, solver, noise)
    assert {v.device.type for v in vars(found).values() if isinstance(v, torch.Tensor)} == {"gpu"}


def released(name: str) -> None:
    """A released policy."""
    policies(DiffusionPolicy.from_pretrained(name).to(DEVICE))


def small(network: str, head: str) -> None:
    """A policy that was used on the host before it was moved, its Jacobian measured there."""
    name, options = HEADS[head]
    policy = small_policy(network, name, head_options=options)
    policy.calibrate(torch.zeros(4, 2, OBS_DIM), policy.config.sampler)
    solver = policy.solver({"method": "newton", "rounds": 2})
    policy.solve(torch.zeros(B, 2, OBS_DIM), solver)
    policy.to(DEVICE)
    policies(policy)
    noise = policy.draw_noise(B, solver.sampler).to(DEVICE, policy.dtype)
    with gpu.allow():
        policy.solve(gpu.empty((B, 2, OBS_DIM), policy.dtype), solver, noise)


def able(head: str, solver: str) -> bool:
    """Whether this head goes with this solver."""
    return solver != "adaptive" or HEADS[head][0] == "window"


def float32() -> Iterator[tuple[str, ...]]:
    """Yield every solver, head and prefix on the MLP; of larger networks one prefix each."""
    for (i, network), (j, head) in itertools.product(enumerate(NETWORKS), enumerate(HEADS)):
        own = [name for name in (SOLVERS if head == "none" else WITH_HEAD) if able(head, name)]
        for (k, solver), (m, prefix) in itertools.product(enumerate(own), enumerate(PREFIXES)):
            if network == "mlp" or (i + j + k) % len(PREFIXES) == m:
                guess = GUESSES[(j + k + m) % len(GUESSES)]
                yield network, head, "ddim", solver, "rounds", prefix, guess, "float32"


def others() -> Iterator[tuple[str, ...]]:
    """Yield other stops and samplers, and copies of less precision."""
    pairs = [("none", s) for s in SOLVERS] + [("nodes", s) for s in WITH_HEAD]
    for stop, (head, solver) in itertools.product(("tolerance", "settle"), pairs):
        if solver != "sequential":  # which ends by itself
            yield "mlp", head, "ddim", solver, stop, "replaced", "chunk", "float32"
    for sampler, dtype in (("ddpm", "float32"), ("dpmpp", "float32"), ("ddpm", "bfloat16")):
        for head, solver in pairs:
            if (sampler, solver) != ("dpmpp", "paradigms"):  # which it refuses
                yield "mlp", head, sampler, solver, "rounds", "shown", "chunk", dtype
    for network, dtype in (("unet1d", "float16"), ("transformer", "bfloat16")):
        for head, solver in (("none", "anderson"), ("nodes", "pcm-then"), ("lora", "pcm")):
            yield network, head, "ddim", solver, "rounds", "none", "none", dtype


def checks() -> Iterator[tuple[str, Check]]:
    """Yield every check and its name."""
    for case in (*float32(), *others()):
        yield "solve " + " ".join(case), partial(solves, *case)
    for network in NETWORKS:
        yield f"train cloning {network}", partial(trains, "cloning", network=network)
        yield f"train consistency {network}", partial(trains, "consistency", network=network)
    yield "train cloning prefix", partial(trains, "cloning", prefix_steps=4)
    for head, (name, options) in list(HEADS.items())[1:]:
        built = {"head": name, "head_options": options}
        yield f"train distillation {head}", partial(trains, "distillation", **built)
    yield "cameras", sees
    for network, head in itertools.product(NETWORKS, HEADS):
        if network == "mlp" or head == "nodes":
            yield f"policy {network} {head}", partial(small, network, head)
    for name in ("pusht", "pusht_mlp"):
        yield f"policy released {name}", partial(released, f"released/{name}")


def main() -> None:
    """Run the checks whose names contain all words of the command line."""
    for name, check in checks():
        if not all(word in name for word in sys.argv[1:]):
            continue
        said = ""
        try:
            check()
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            ours = [f for f in frames if "pcm_policy" in f.filename or "/tests/" in f.filename]
            at = [f for f in ours if "accelerator/device" not in f.filename][-1]
            place = "/".join(at.filename.split("/")[-2:])
            said = f"{type(error).__name__} at {place}:{at.lineno}: {str(error)[:200]}"
        print(json.dumps([name, said]), flush=True)


if __name__ == "__main__":
    with accelerator() as gpu:
        main()

"""What a solve must cost on this device, and what it costs in memory.

The floor of a solve is ``max(bytes / bandwidth, operations / peak)``: every weight is read once a
round, every layer's input and output crosses memory once an evaluation. Both ceilings are measured
here, in the same process, dtype and number of threads as the rows. A network that stays in a cache
would undercut a floor made with main memory's bandwidth, so the copy is also timed at the working
set's own size and the faster of the two counts: the floor stays a floor.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.solvers.deadline import synchronize

LARGE_BYTES = 256 * 2**20
GEMM = {"cpu": 1536, "cuda": 8192}
SECONDS = 0.3


@dataclass(frozen=True)
class Ceilings:
    """What the device reaches.

    Attributes:
        bandwidth: bytes a second, read and written together, of a large copy.
        peak: floating-point operations a second of a large square matrix product.
        gemm: side of that product.
        copy_bytes: size of the copied block.
    """

    bandwidth: float
    peak: float
    gemm: int
    copy_bytes: int


def _best(run: Callable[[], Any], device: torch.device, seconds: float) -> float:
    """Return the shortest time of one call, in seconds: a ceiling is what was ever reached."""
    best, end = float("inf"), time.perf_counter() + seconds
    run()
    while time.perf_counter() < end:
        synchronize(device)
        start = time.perf_counter()
        run()
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return best


def copy_bandwidth(device: torch.device, size: int, seconds: float = SECONDS) -> float:
    """Measure bytes a second, read plus written, of copying blocks of ``size`` bytes."""
    source = torch.ones(max(size, 4096), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    # one call on a small block is mostly launch: many calls between two looks at the clock
    repeats = max(1, int(2**22 // source.numel()))

    def run() -> None:
        for _ in range(repeats):
            target.copy_(source)

    return 2.0 * source.numel() * repeats / _best(run, device, seconds)


def ceilings(device: torch.device, dtype: torch.dtype, *, small: bool = False) -> Ceilings:
    """Measure the device's bandwidth and peak; ``small`` takes a fraction of a second."""
    size = LARGE_BYTES // 16 if small else LARGE_BYTES * (8 if device.type == "cuda" else 1)
    n = 256 if small else GEMM[device.type]
    seconds = 0.05 if small else 2.0
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    spent = _best(lambda: a @ b, device, seconds)
    return Ceilings(copy_bandwidth(device, size, seconds), 2.0 * n**3 / spent, n, size)


def operations(run: Callable[[], Any]) -> float:
    """Count the floating-point operations of a call: products and convolutions."""
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())


def weight_bytes(module: nn.Module) -> int:
    """Return the size of a module's parameters in bytes."""
    return sum(p.numel() * p.element_size() for p in module.parameters())


@torch.inference_mode()
def network_cost(
    policy: DiffusionPolicy, batch: int, network: nn.Module | None = None
) -> dict[str, float]:
    """Return bytes and operations of one state's evaluation at a batch size.

    Args:
        policy: the policy.
        batch: chunks a call.
        network: what runs in place of the policy's own network, such as a copy in bfloat16.

    Returns:
        ``weight_bytes``; ``activation_bytes``, inputs and outputs of all layers; ``operations``.
    """
    config, moved = policy.config, 0
    network = policy.network if network is None else network

    def note(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal moved
        moved += sum(x.numel() * x.element_size() for x in (*inputs, output))

    leaves = [m for m in network.modules() if not list(m.children())]
    hooks = [m.register_forward_hook(note) for m in leaves if not isinstance(m, nn.Identity)]
    kind = {"device": policy.device, "dtype": policy.dtype}
    x = torch.zeros(batch, config.horizon, config.action_dim, **kind)
    t = torch.zeros(batch, dtype=torch.int64, device=policy.device)
    cond = torch.zeros(batch, config.obs_steps * config.obs_dim, **kind)
    count = operations(lambda: network(x, t, cond))
    for hook in hooks:
        hook.remove()
    return {
        "weight_bytes": float(weight_bytes(network)),
        "activation_bytes": float(moved),
        "operations": count,
    }


def floor(
    cost: dict[str, float], limits: Ceilings, near: float, rounds: float, nfe: float, count: float
) -> dict[str, float]:
    """Return the least time of a solve and which ceiling sets it.

    Args:
        cost: of one state, from :func:`network_cost`.
        limits: the device's ceilings.
        near: bytes a second of a copy as large as one round's working set.
        rounds: network calls, one after another.
        nfe: evaluated states per chunk.
        count: operations of the whole solve.

    Returns:
        ``floor_ms`` and its two sides, ``floor_bytes`` and ``floor_operations`` of the solve.
    """
    moved = cost["weight_bytes"] * rounds + cost["activation_bytes"] * nfe
    memory = 1e3 * moved / max(limits.bandwidth, near)
    arithmetic = 1e3 * count / limits.peak
    return {
        "floor_ms": max(memory, arithmetic),
        "floor_memory_ms": memory,
        "floor_arithmetic_ms": arithmetic,
        "floor_bytes": moved,
        "floor_operations": count,
    }

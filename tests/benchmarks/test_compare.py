"""The comparison scripts in their small form, and the equalities that their rows rest on."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import diffusers
import pytest
import torch

from benchmarks.compare import floor as compare_floor
from benchmarks.compare import main as compare
from benchmarks.compare import timing
from benchmarks.compare.diffusers import (
    clipping,
    diffusers_loop,
    diffusers_parallel,
    scheduler_settings,
)
from benchmarks.compare.measure import checked_sides
from benchmarks.compare.parallel import paradigms_diffusers
from benchmarks.compare.policies import load
from benchmarks.compare.sides import Solved, ours
from benchmarks.compare.timing import batches
from benchmarks.gpu import main as gpu
from benchmarks.gpu.sides import EagerLoop, build
from benchmarks.lerobot import side as lerobot_side
from pcm_policy.adopt.lerobot_peer import EQUAL, LeRobotPeer
from pcm_policy.adopt.lerobot_sampling import common_sampler, draw_noise, unsupported
from pcm_policy.errors import PcmError
from pcm_policy.policy.config import PolicyConfig
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.solvers.registry import Solver

ROOT = Path(__file__).parents[2]

DDIM = SamplerConfig("ddim", 16)
SAMPLERS = [("ddpm", 100), ("ddim", 16), ("ddim", 32)]
ROW_KEYS = {
    "policy", "weights", "package", "method", "solver", "mode", "batch", "calls", "rounds", "nfe",
    "p50_ms", "p95_ms", "p99_ms", "max_ms", "p99_over_p50", "max_abs_error", "rmse", "times_floor",
    "speedup_over_ours_ddpm", "speedup_over_own_ddpm", "memory_bytes", "floor_ms",
    "floor_memory_ms", "floor_arithmetic_ms", "reference",
}  # fmt: skip
GPU_ROWS = ["ddim-10", "ddim-32 eta 1 at 0.1", "pcm 2 (ddim-32 eta 1 at 0.1)"]
FILE_KEYS = {"command", "commit", "hardware", "dtype", "ceilings", "rows", "refused"}


@pytest.fixture(scope="module", params=["released/pusht_mlp", "unet-tiny"])
def case(request: pytest.FixtureRequest) -> tuple[DiffusionPolicy, torch.Tensor]:
    policy, observations, _ = load(request.param, torch.device("cpu"))
    return policy, batches(observations, 3)


@pytest.mark.parametrize(("name", "steps"), SAMPLERS)
def test_our_rows_equal_diffusers(
    case: tuple[DiffusionPolicy, torch.Tensor], name: str, steps: int
) -> None:
    policy, obs = case
    sampler = common_sampler(name, steps)
    kind = getattr(diffusers, f"{name.upper()}Scheduler")
    scheduler = kind(**scheduler_settings(policy), **clipping(policy))
    theirs = diffusers_loop(policy, scheduler, f"{name}-{steps}", steps, sampler).run(obs[0], 5)
    mine = ours(policy, Solver.of("sequential", sampler)).run(obs[0], 5)
    assert (theirs.rounds, theirs.nfe) == (mine.rounds, mine.nfe) == (steps, steps)
    torch.testing.assert_close(theirs.sample, mine.sample, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("name", "steps"), SAMPLERS)
def test_the_published_loop_is_exact_at_tolerance_zero(
    case: tuple[DiffusionPolicy, torch.Tensor], name: str, steps: int
) -> None:
    policy, obs = case
    sampler = common_sampler(name, steps)
    kind = getattr(diffusers, f"{name.upper()}ParallelScheduler")
    scheduler = kind(**scheduler_settings(policy), **clipping(policy))
    scheduler.set_timesteps(steps)
    noise = draw_noise(policy, sampler, len(obs[0]), 2)
    exact = ours(policy, Solver.of("sequential", sampler)).run(obs[0], 2).sample
    for window in (steps, 5):
        found = paradigms_diffusers(
            scheduler,
            policy.network,
            policy.condition(obs[0]),
            noise.initial,
            noise.steps,
            tolerance=0.0,
            window=window,
        )
        assert found.rounds <= steps
        torch.testing.assert_close(found.sample, exact, atol=1e-4, rtol=0)
    loose = diffusers_parallel(policy, sampler).run(obs[0], 2)
    assert loose.rounds < steps
    assert float((loose.sample - exact).abs().max()) < 0.1


def test_diffusers_parallel_ddim_misses_the_last_step_without_alpha_one() -> None:
    """Its last step lands on 1 whatever ``set_alpha_to_one`` says; ``step`` and ours do not."""
    policy, observations, _ = load("unet-tiny", torch.device("cpu"))
    obs, steps = observations[:2], 16
    settings = scheduler_settings(policy) | clipping(policy)
    cond = policy.condition(obs)
    differences = {}
    for one in (True, False):
        sampler = common_sampler("ddim", steps)
        usual = diffusers.DDIMScheduler(**settings, set_alpha_to_one=one)
        exact = diffusers_loop(policy, usual, f"ddim-{steps}", steps, sampler).run(obs, 4).sample
        scheduler = diffusers.DDIMParallelScheduler(**settings, set_alpha_to_one=one)
        scheduler.set_timesteps(steps)
        noise = draw_noise(policy, sampler, 2, 4)
        found = paradigms_diffusers(
            scheduler, policy.network, cond, noise.initial, None, tolerance=0.0
        )
        differences[one] = float((found.sample - exact).abs().max())
    assert differences[True] <= 1e-4
    assert differences[False] > 1e-3


def few(name: str, device: torch.device) -> tuple[DiffusionPolicy, torch.Tensor, str]:
    """A policy with few of its observations: the slopes of quasi-Newton rounds are over them."""
    policy, observations, weights = load(name, device)
    return policy, observations[-8:], weights


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The file of the small form, made by its command line."""
    folder = tmp_path_factory.mktemp("compare")
    file = folder / "small.json"
    words = "run --small --threads 1 --policies released/pusht_mlp --batches 1 --calls 1"
    words += " --seconds 0.1 --least 1 --checked 1"
    given, threads = [*words.split(), "--output", str(file)], torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PCM_LEROBOT_PYTHON", raising=False)
        name = ["python", "-m", "benchmarks.compare.main"]
        patch.setattr(sys, "orig_argv", [*name, *given])
        patch.setattr(compare, "load", few)
        for module in (compare, timing):
            patch.setattr(module, "WARMUP", 1)
        compare.main(given)
    torch.set_num_threads(threads)
    compare.main(["picture", str(file)])
    assert file.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    return json.loads(file.read_text())


def test_compare_file(report: dict) -> None:
    assert set(report) >= FILE_KEYS
    assert report["command"].startswith("python -m benchmarks.compare.main run --small")
    rows = {(r["package"], r["solver"], r["group"]): r for r in report["rows"]}
    assert len(rows) == len(report["rows"])
    for row in report["rows"]:
        assert set(row) >= ROW_KEYS
        assert 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"] <= row["max_ms"]
        assert row["floor_ms"] == max(row["floor_memory_ms"], row["floor_arithmetic_ms"]) > 0
        assert row["mode"] == "eager"
    base = rows["pcm_policy", "ddpm-100", "ddpm-100"]
    assert base["speedup_over_ours_ddpm"] == base["speedup_over_own_ddpm"] == 1
    assert base["rounds"] == base["nfe"] == 100
    assert base["max_abs_error"] == 0
    assert rows["diffusers", "ddim-16", "ddim-16"]["max_abs_error"] <= 1e-5
    assert rows["pcm_policy", "dpmpp_2m-16", "ddim-16"]["rounds"] == 16
    assert {"dpmsolver++-32", "paradigms tol 0.1 (ddpm-100)"} <= {s for _, s, _ in rows}
    assert rows["pcm_policy", "newton tol 0.001 (ddpm-100)", "ddpm-100"]["rounds"] < 100
    assert rows["pcm_policy", "pcm 2 (ddim-16)", "head"]["rounds"] == 2
    reasons = {r["reason"] for r in report["refused"]}
    assert reasons == {"LeRobot's diffusion policy is a U-Net, not mlp"}


def test_the_gpu_times_the_released_head() -> None:
    policy = build((16, 32), torch.device("cpu"))
    released = DiffusionPolicy.from_pretrained("released/pusht")
    assert policy.config.head == released.config.head
    assert policy.head is not None
    assert released.head is not None
    assert policy.head.evaluations == released.head.evaluations < policy.config.sampler.steps


def test_gpu_small(tmp_path: Path) -> None:
    file = tmp_path / "gpu.json"
    words = ["--small", "--only", *GPU_ROWS, "--picard-rounds", "20"]
    report = gpu.main([*words, "--output", str(file)])
    assert json.loads(file.read_text()) == report
    assert {r["solver"] for r in report["rows"]} == set(GPU_ROWS)
    exact = {r["solver"]: r.get("max_abs_error") for r in report["rows"][:2]}
    assert exact == dict.fromkeys(GPU_ROWS[:2], 0)
    for row in report["rows"]:
        assert 0 < row["p50_ms"] <= row["p99_ms"]
        assert row["floor_per_round_ms"] > 0
    assert {f"graph: {GPU_ROWS[-1]}", "graph: batch 64", "CUDA memory"} <= set(report["missing"])
    assert {r["batch"] for r in report["throughput"]} == {1, 2}
    assert FILE_KEYS - {"dtype", "refused"} | {"precision"} <= set(report)


def test_gpu_needs_nothing_but_torch_numpy_safetensors(tmp_path: Path) -> None:
    """In a process that refuses all other third-party packages, with one figure that fails."""
    script = """
import runpy, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name in {"gymnasium", "zarr", "hydra", "omegaconf", "h5py", "diffusers", "matplotlib"}:
            raise ImportError(name + " is not on a bare machine")
sys.meta_path.insert(0, Refuse())
sys.argv[0] = "benchmarks/gpu/main.py"
from benchmarks.gpu import figures as gpu_figures
broken = gpu_figures.Figures.throughput
def throughput(self, name, solver, batch):
    if batch == 2:
        raise RuntimeError("out of something")
    broken(self, name, solver, batch)
gpu_figures.Figures.throughput = throughput
runpy.run_module("benchmarks.gpu.main", run_name="__main__")
"""
    file = tmp_path / "gpu.json"
    words = ["--small", "--only", "ddim-10", "--picard-rounds", "9", "--output", str(file)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script, *words]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    report = json.loads(file.read_text())
    assert [r["batch"] for r in report["throughput"]] == [1]
    reason = "RuntimeError: out of something"
    assert report["failed"] == [{"figure": "throughput ddim-10 batch 2", "reason": reason}]


@pytest.mark.parametrize("sampler", [DDIM, SamplerConfig("ddpm", 100)], ids=["ddim", "ddpm"])
def test_the_eager_loop_is_the_sampler(sampler: SamplerConfig) -> None:
    policy, observations, _ = load("unet-tiny", torch.device("cpu"))
    noise = draw_noise(policy, sampler, 2, 1)
    if noise.steps is not None:  # the loop draws from the global generator, a chunk a step
        torch.manual_seed(3)
        noise = replace(noise, steps=torch.stack([torch.randn(2, 16, 2) for _ in noise.steps]))
        torch.manual_seed(3)
    found = EagerLoop(policy, sampler, policy.network).run(observations[:2], noise.initial)
    exact = policy.solve(observations[:2], Solver.of("sequential", sampler), noise).sample
    torch.testing.assert_close(found, exact, atol=1e-5, rtol=0)


def test_costs_of_a_known_network() -> None:
    """A network of one linear layer by hand: 2 operations a weight and row."""

    class Line(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.map = torch.nn.Linear(16, 16, bias=False)

        def forward(self, x: torch.Tensor, t: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
            return self.map(x.flatten(1)).view_as(x)

    policy = DiffusionPolicy(PolicyConfig(3, 2, horizon=8, action_steps=4))
    policy.network = Line()
    cost = compare_floor.network_cost(policy, 4)
    assert cost == {
        "weight_bytes": 16 * 16 * 4,
        "activation_bytes": 2 * 4 * 16 * 4,
        "operations": 2 * 16 * 16 * 4,
    }
    limits = compare_floor.Ceilings(bandwidth=1e6, peak=1e6, gemm=1, copy_bytes=1)
    found = compare_floor.floor(cost, limits, near=0.0, rounds=2, nfe=6, count=12288.0)
    assert found["floor_memory_ms"] == pytest.approx((2 * 1024 + 6 * 512) / 1e3)
    assert found["floor_ms"] == pytest.approx(12.288)


def test_a_side_that_refuses_is_listed_with_why() -> None:
    policy, observations, _ = load("unet-tiny", torch.device("cpu"))
    good = ours(policy, Solver.of("sequential", DDIM))

    def refuse(obs: torch.Tensor, seed: int) -> Solved:
        raise PcmError("not like this")

    sides = iter([replace(good, run=refuse, mode="graph"), good])
    checked, refused = checked_sides(sides, "ddim-16", batches(observations, 2), 3)
    assert refused == [{"row": "pcm_policy ddim-16 graph", "reason": "not like this"}]
    assert [len(c.samples) for c in checked] == [3]


def test_a_batch_larger_than_the_observations_is_refused() -> None:
    with pytest.raises(PcmError, match="batch=9: the policy has 8"):
        batches(torch.zeros(8, 2, 3), 9)


def test_lerobot_refuses_what_it_cannot_run() -> None:
    policy, observations, _ = load("unet-tiny", torch.device("cpu"))
    mlp = DiffusionPolicy.from_pretrained("released/pusht_mlp")
    assert "mlp" in str(unsupported(mlp, common_sampler("ddim", 16)))
    assert "spacing" in str(unsupported(policy, DDIM))
    for python in (None, "/no/python"):
        with pytest.raises(PcmError, match=r"no Python of .*benchmarks\.lerobot\.env"):
            LeRobotPeer(python, policy, common_sampler("ddim", 16), observations[None, :2], [0])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "steps"), SAMPLERS[:2])
def test_lerobot_equals_ours(lerobot_python: str, name: str, steps: int) -> None:
    policy, observations, _ = load("unet-tiny", torch.device("cpu"))
    obs = batches(observations, 2)
    sampler = common_sampler(name, steps)
    with LeRobotPeer(lerobot_python, policy, sampler, obs, [0, 1, 2]) as peer:
        assert 0 <= peer.difference <= EQUAL
        assert peer.name.startswith("lerobot 0.")
        found = lerobot_side.lerobot_side(peer).run(obs[0], 7)
        assert found.ms is not None
        assert found.ms > 0
        assert found.sample.shape == (2, 16, 2)
        memory = peer.memory()
        assert memory is None or memory >= 0

"""Every way of executing a solve gives what the eager solve gives."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from pcm_policy.errors import PcmError
from pcm_policy.policy.held_out import held_out_observations
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.runtime.config import RuntimeConfig
from pcm_policy.runtime.dispatch import Program
from pcm_policy.runtime.execute import Runtime
from pcm_policy.runtime.inputs import Inputs
from pcm_policy.runtime.inputs import eager as run_eagerly
from pcm_policy.runtime.precision import LowPrecision
from pcm_policy.runtime.recorded import Function
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.solvers import SolveResult
from pcm_policy.solvers.registry import Solver

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DDIM = SamplerConfig("ddim", 16)
FIXED = [
    Solver.of("sequential", DDIM),
    Solver.of("picard", DDIM, rounds=3),
    Solver.of("picard", SamplerConfig("ddpm", 100), rounds=4),
    Solver.of("anderson", DDIM, rounds=4),
    Solver.of("coarse", DDIM, rounds=4),
    Solver.of("pcm", rounds=2),
    Solver.of("pcm", rounds=3, shares=(1.0, 1.0)),
]
CHECKED = [
    Solver.of("picard", DDIM, tolerance=1e-3),
    Solver.of("picard", DDIM, tolerance=1e-3, rounds=4),
    Solver.of("pcm", then="picard", tolerance=1e-3),
    Solver.of("pcm", shares=(1.0,), then="picard", tolerance=1e-2, rounds=3),
]


@pytest.fixture(scope="module")
def policy() -> DiffusionPolicy:
    return DiffusionPolicy.from_pretrained("released/pusht_mlp")


def bound_to(policy: DiffusionPolicy, solver: Solver) -> Solver:
    head = policy.config.head
    assert head is not None
    return replace(solver, sampler=head.sampler) if solver.method == "pcm" else solver


def inputs(policy: DiffusionPolicy, solver: Solver, batch: int, extras: bool) -> Inputs:
    obs = held_out_observations("released/pusht_mlp")[:batch].to(policy.device)
    policy._generator.manual_seed(1)
    noise = policy.draw_noise(batch, solver.sampler).to(policy.device, policy.dtype)
    if not extras:
        return Inputs(obs, noise, None, None)
    guess = torch.full((batch, 16, 2), 0.3, device=policy.device)
    prefix = policy.known_prefix([[[200.0, 300.0], [210.0, 290.0]]] * batch)
    return Inputs(obs, noise, guess, prefix)


def eager(policy: DiffusionPolicy, solver: Solver, i: Inputs) -> SolveResult:
    with torch.inference_mode():
        return policy.solve(i.obs, solver, i.noise, i.guess, i.prefix, execute=run_eagerly)


def as_it_is(function: Function, _: Sequence[torch.Tensor]) -> Function:
    """A recording that is the function."""
    return function


def program_of(policy: DiffusionPolicy, solver: Solver, first: Inputs) -> Program:
    return Program(policy.assemble, policy.network, solver, first, as_it_is)


def off(a: SolveResult, b: SolveResult) -> float:
    return float((a.sample - b.sample).abs().max())


@pytest.mark.parametrize("extras", [False, True])
@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("solver", FIXED, ids=lambda s: s.label)
def test_a_program_is_the_eager_solve(
    policy: DiffusionPolicy, solver: Solver, batch: int, extras: bool
) -> None:
    solver = bound_to(policy, solver)
    first, second = (inputs(policy, solver, batch, extras) for _ in range(2))
    second = replace(second, obs=second.obs.flip(0) + 3.0)
    with torch.inference_mode():
        program = program_of(policy, solver, first)
        kept = program(first)
        before = kept.sample.clone()
        other = program(second)
    for found, i in ((kept, first), (other, second)):
        want = eager(policy, solver, i)
        assert off(found, want) <= 1e-5
        chunk = policy.raw_chunk(found.sample)
        torch.testing.assert_close(chunk, want.chunk, rtol=0, atol=3e-3)  # pixels
        assert (found.rounds, found.nfe) == (want.rounds, want.nfe)
        torch.testing.assert_close(found.residuals, want.residuals, rtol=0, atol=1e-5)
    assert torch.equal(kept.sample, before)  # the caller's own


@pytest.mark.parametrize("extras", [False, True])
@pytest.mark.parametrize("solver", CHECKED, ids=lambda s: s.label)
def test_checks_between_replays_certify_what_the_eager_solve_certifies(
    policy: DiffusionPolicy, solver: Solver, extras: bool
) -> None:
    solver = bound_to(policy, solver)
    i = inputs(policy, solver, 4, extras)
    exact = eager(policy, Solver.of("sequential", solver.sampler), i)
    with torch.inference_mode():
        found = program_of(policy, solver, i)(i)
    want = eager(policy, solver, i)
    error = (found.sample - exact.sample).abs().amax(dim=(1, 2))
    assert (error <= found.bound).all()
    assert (error[found.certified] <= (solver.tolerance or 0.0)).all()
    assert found.rounds == want.rounds
    if solver.stop.rounds is None:
        assert found.certified.all()


def test_a_deadline_is_looked_at_between_replays(policy: DiffusionPolicy) -> None:
    solver = Solver.of("picard", DDIM, tolerance=1e-9, deadline_ms=1e-6)
    i = inputs(policy, solver, 1, False)
    with torch.inference_mode():
        found = program_of(policy, solver, i)(i)
    assert found.rounds == 1
    assert not found.certified.any()


ENGINES = [
    (Solver.of("sequential", SamplerConfig("ddpm", 100)), 1, False),
    (Solver.of("sequential", SamplerConfig("dpmpp_2m", 8)), 3, True),
    (Solver.of("pcm", rounds=2), 3, True),
    (Solver.of("pcm", shares=(1.0,), then="picard", tolerance=1e-2), 2, False),
]


@pytest.mark.parametrize(
    ("solver", "batch", "extras", "mode"),
    [*((*one, "onnx") for one in ENGINES), *((*one, "openvino") for one in ENGINES[1:3])],
    ids=lambda v: getattr(v, "label", v),
)
def test_engines_give_the_eager_solve(
    policy: DiffusionPolicy, solver: Solver, batch: int, extras: bool, mode: Any
) -> None:
    pytest.importorskip({"onnx": "onnxruntime"}.get(mode, mode))
    solver = bound_to(policy, solver)
    first = inputs(policy, solver, batch, extras)
    runtime = Runtime(policy, RuntimeConfig(mode=mode))
    noise = first.noise
    # a head divides what it sees by the residual, and rounding with it
    rounding = 3e-5 if solver.method == "pcm" else 1e-5
    second = replace(
        first, obs=first.obs.flip(0) + 3.0, noise=replace(noise, initial=-noise.initial)
    )
    for i in (first, second):  # the second one by what was recorded for the first
        with torch.inference_mode():
            found = runtime(policy.assemble, i, solver)
            want = program_of(policy, solver, i)(i)
        assert off(found, want) <= rounding
        chunk = policy.raw_chunk(found.sample)
        torch.testing.assert_close(
            chunk, policy.raw_chunk(want.sample), rtol=0, atol=3e-3
        )  # pixels
        assert (found.rounds, found.nfe) == (want.rounds, want.nfe)
        torch.testing.assert_close(found.residuals, want.residuals, rtol=0, atol=rounding)
        assert torch.equal(found.certified, want.certified)
        if solver.tolerance is not None:
            exact = eager(policy, Solver.of("sequential", solver.sampler), i)
            assert found.certified.all()
            assert off(found, exact) <= solver.tolerance


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_stays_close_and_returns_float32(
    policy: DiffusionPolicy, precision: Any
) -> None:
    solver = policy.default_solver()
    i = inputs(policy, solver, 8, False)
    with torch.inference_mode():
        runtime = Runtime(policy, RuntimeConfig(precision=precision))
        found = runtime(policy.assemble, i, solver)
    assert found.sample.dtype == torch.float32
    difference = (found.sample - eager(policy, solver, i).sample).square().mean().sqrt()
    assert 0 < float(difference) < 0.05


def test_compiled_solves_agree_and_repeat_bitwise(policy: DiffusionPolicy) -> None:
    solver = Solver.of("picard", DDIM, rounds=2)
    i = inputs(policy, solver, 1, False)
    runtime = Runtime(policy, RuntimeConfig(mode="compile"))
    with torch.inference_mode():
        first = runtime(policy.assemble, i, solver)
        assert torch.equal(first.sample, runtime(policy.assemble, i, solver).sample)
    assert off(first, eager(policy, solver, i)) <= 1e-5


@pytest.mark.parametrize("solver", FIXED, ids=lambda s: s.label)
def test_same_inputs_give_the_same_bits(policy: DiffusionPolicy, solver: Solver) -> None:
    solver = bound_to(policy, solver)
    i = inputs(policy, solver, 3, False)
    assert torch.equal(eager(policy, solver, i).trajectory, eager(policy, solver, i).trajectory)


def test_threads_and_policies_do_not_disturb_each_other() -> None:
    policies = [DiffusionPolicy.from_pretrained("released/pusht_mlp") for _ in range(2)]
    solvers = [bound_to(policies[0], s) for s in (FIXED[1], FIXED[5])]
    for policy in policies:
        policy.use(Runtime(policy, RuntimeConfig(precision="bf16")))
    jobs = [(p, s, inputs(p, s, b, False)) for p in policies for s in solvers for b in (1, 3)]

    def run(job: tuple[DiffusionPolicy, Solver, Inputs]) -> torch.Tensor:
        policy, solver, i = job
        return policy.solve(i.obs, solver, i.noise).sample

    want = [run(job) for job in jobs]
    found: dict[int, list[torch.Tensor]] = {}

    def worker(n: int) -> None:
        found[n] = [run(jobs[n]) for _ in range(10)]

    threads = [threading.Thread(target=worker, args=(n,)) for n in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n, expected in enumerate(want):
        assert all(torch.equal(sample, expected) for sample in found[n])


def test_what_cannot_be_executed_is_refused(policy: DiffusionPolicy) -> None:
    if not torch.cuda.is_available():
        with pytest.raises(PcmError, match="needs a CUDA device"):
            policy.use(Runtime(policy, RuntimeConfig(mode="graph")))
    with pytest.raises(PcmError, match=r"mode=onnx runs on a CPU, in float32"):
        policy.use(Runtime(policy, RuntimeConfig(mode="onnx", precision="bf16")))
    with pytest.raises(PcmError, match=r"runtime\.mode='fast': use one of"):
        RuntimeConfig(mode="fast")  # type: ignore[arg-type]
    with pytest.raises(PcmError, match=r"runtime\.precision='int8': use one of"):
        RuntimeConfig(precision="int8")  # type: ignore[arg-type]


def test_low_precision_takes_a_copy_of_the_weights(policy: DiffusionPolicy) -> None:
    LowPrecision(policy.network, torch.bfloat16)
    assert policy.dtype == torch.float32


@needs_cuda
@pytest.mark.parametrize("extras", [False, True])
@pytest.mark.parametrize("solver", FIXED + CHECKED, ids=lambda s: s.label)
def test_graphs_are_the_eager_solve(solver: Solver, extras: bool) -> None:
    policy = DiffusionPolicy.from_pretrained("released/pusht_mlp", "cuda")
    solver = bound_to(policy, solver)
    i = inputs(policy, solver, 2, extras)
    want = eager(policy, solver, i)
    policy.use(Runtime(policy, RuntimeConfig(mode="graph")))
    for _ in range(2):
        found = policy.solve(i.obs, solver, i.noise, i.guess, i.prefix)
        assert off(found, want) <= (1e-4 if solver.tolerance is None else 2 * solver.tolerance)


@needs_cuda
def test_a_fixed_round_graph_neither_waits_nor_allocates() -> None:
    policy = DiffusionPolicy.from_pretrained("released/pusht_mlp", "cuda")
    policy.use(Runtime(policy, RuntimeConfig(mode="graph")))
    solver = policy.default_solver()
    i = inputs(policy, solver, 1, False)
    for _ in range(3):
        policy.solve(i.obs, solver, i.noise)
    torch.cuda.synchronize()
    held = torch.cuda.memory_reserved()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(20):
            policy.solve(i.obs, solver, i.noise)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.cuda.memory_reserved() == held


@needs_cuda
def test_graphs_of_two_policies_in_threads() -> None:
    policies = [DiffusionPolicy.from_pretrained("released/pusht_mlp", "cuda") for _ in range(2)]
    solver = policies[0].default_solver()
    wanted, found = [], {}
    for policy in policies:
        i = inputs(policy, solver, 2, False)
        wanted.append((i, eager(policy, solver, i)))
        policy.use(Runtime(policy, RuntimeConfig(mode="graph")))
        policy.solve(i.obs, solver, i.noise)

    def worker(n: int) -> None:
        i = wanted[n][0]
        found[n] = [policies[n].solve(i.obs, solver, i.noise) for _ in range(20)]

    threads = [threading.Thread(target=worker, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n, (_, want) in enumerate(wanted):
        assert all(off(result, want) <= 1e-4 for result in found[n])

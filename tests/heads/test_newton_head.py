"""A head on quasi-Newton rounds: without its share they are the solver's, and so they end."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pcm_policy.errors import PcmError
from pcm_policy.heads.few_nodes import FLOOR
from pcm_policy.heads.window import WindowHead
from pcm_policy.policy.config import PolicyConfig
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.sampling.denoise import Denoiser
from pcm_policy.sampling.noise import Noise
from pcm_policy.solvers.coarse import between_nodes
from pcm_policy.solvers.jacobian import DAMPING, Jacobian
from pcm_policy.solvers.loop import clipped_start, start
from pcm_policy.solvers.newton import mean_jacobian
from pcm_policy.solvers.registry import Solver
from pcm_policy.solvers.result import SolveResult
from pcm_policy.solvers.system import combine, forcing
from pcm_policy.training.batches import Windows
from pcm_policy.training.distillation import Distillation
from pcm_policy.training.headed import with_head
from pcm_policy.training.sharing import Share
from tests.solving import call, newton, picard, sequential, solve

B, T, DA, STEPS = 3, 8, 2, 6


Nodes = int | list[int] | None


def policy(nodes: Nodes, trained: bool, sampler: str = "ddim") -> DiffusionPolicy:
    torch.manual_seed(0)
    network = {"width": 16, "depth": 1, "step_embed_dim": 8}
    base = DiffusionPolicy(PolicyConfig(3, DA, horizon=T, action_steps=4, network_options=network))
    with torch.no_grad():
        for p in base.network.parameters():
            p.add_(0.1 * torch.randn_like(p))
    options = {"width": 12, "nodes": nodes, "guess_width": 10, "newton": True}
    chosen = {"name": sampler, "steps": STEPS}
    made = with_head(base, {"name": "window", "options": options}, chosen, seed=0)
    assert isinstance(made.head, WindowHead)
    with torch.no_grad():
        if trained:
            for p in made.head.parameters():
                p.add_(0.1 * torch.randn_like(p))
        denoise, many = parts(made, 32)
        made.head.calibrate(denoise, many)
    return made.eval()


def parts(made: DiffusionPolicy, batch: int = B) -> tuple[Denoiser, Noise]:
    assert made.config.head is not None
    gen = torch.Generator().manual_seed(2)
    cond = torch.randn(batch, 6, generator=gen)
    denoise = made.denoiser(cond, made.config.head.sampler)
    steps = torch.randn(STEPS, batch, T, DA, generator=gen)
    first = torch.randn(batch, T, DA, generator=gen)
    return denoise, Noise(first, steps if denoise.sampler.stochastic else None)


def largest(a: SolveResult, b: SolveResult) -> float:
    return float((a.sample - b.sample).abs().max())


def by_hand(head: WindowHead, denoise: Denoiser, forced: Tensor, x: Tensor) -> Tensor:
    """Solve ``P = D + C (F + M P - X)`` entry by entry of the chunk, in float64."""
    index, between = head.nodes(denoise.sampler)
    base = denoise(x[:-1][index], index)
    if between is not None:
        base = combine(between, base)
    assert head.diagonal is not None
    found = torch.zeros_like(base)
    eye = torch.eye(STEPS, dtype=torch.float64)
    for t in range(T):
        for a in range(DA):
            c = torch.diag(DAMPING * head.diagonal[:, t, a].double())
            right = base[:, :, t, a] + c.float() @ (forced - x)[:-1, :, t, a]
            matrix = eye - c @ denoise.sampler.M[:-1].double()
            found[:, :, t, a] = torch.linalg.solve(matrix, right.double()).float()
    return found


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
@pytest.mark.parametrize("nodes", [3, [2, 4], [4], None])
@torch.no_grad()
def test_a_round_is_the_linearised_solution_and_the_correction(nodes: Nodes, sampler: str) -> None:
    made = policy(nodes, trained=True, sampler=sampler)
    head = made.head
    assert isinstance(head, WindowHead)
    denoise, noise = parts(made)
    forced = forcing(denoise.sampler, noise)
    x = picard(denoise, noise, rounds=2).trajectory
    expected = by_hand(head, denoise, forced, x)
    k = torch.ones(B, dtype=torch.int64)
    none = call(head, denoise, forced[:-1], x[:-1], k, 0.0)
    torch.testing.assert_close(none, expected, rtol=0, atol=2e-5)
    index, between = head.nodes(denoise.sampler)
    residual = (forced + combine(denoise.sampler.M, expected) - x)[:-1][index]
    correction = head._correct(denoise, x[:-1][index], expected[index], residual, k)
    correction = correction if between is None else combine(between, correction)
    half = call(head, denoise, forced[:-1], x[:-1], k, 0.5)
    torch.testing.assert_close(half, expected + 0.5 * correction, rtol=0, atol=2e-5)
    assert float(correction.abs().max()) > 0.01


@torch.no_grad()
def test_an_untrained_head_is_the_quasi_newton_solver() -> None:
    made = policy(None, trained=False)
    assert isinstance(made.head, WindowHead)
    assert made.config.head is not None
    denoise, noise = parts(made)
    jacobian = made.head.jacobian(denoise.sampler)
    assert jacobian is not None
    given = clipped_start(start(denoise, noise, head=made.head)[0])
    for rounds, headed in ((2, None), (4, 2), (4, 1)):
        words = {"rounds": rounds, "shares": [1.0] * (headed or rounds)}
        config = made.solver({"method": "pcm", **words})
        found = solve(config, denoise, noise, made.head)
        same = newton(denoise, noise, jacobian=jacobian, memory=0, rounds=rounds, guess=given)
        torch.testing.assert_close(found.sample, same.sample, rtol=0, atol=1e-5)
    # and that is another thing than Picard rounds
    plain = picard(denoise, noise, rounds=2, guess=given)
    config = made.solver({"method": "pcm", "rounds": 2, "shares": [1.0]})
    assert largest(solve(config, denoise, noise, made.head), plain) > 1e-4


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("nodes", [3, [2, 4], [4], None])
@torch.no_grad()
def test_switched_off_it_ends_at_the_sequential_chunk(
    nodes: Nodes, adaptive: bool, sampler: str
) -> None:
    made = policy(nodes, trained=True, sampler=sampler)
    assert made.config.head is not None
    denoise, noise = parts(made)
    config = made.solver({"method": "adaptive" if adaptive else "pcm", "tolerance": 1e-6})
    found = solve(config, denoise, noise, made.head)
    exact = sequential(denoise, noise)
    torch.testing.assert_close(found.sample, exact.sample, rtol=0, atol=1e-5)
    assert found.certified.all()


@pytest.mark.parametrize("nodes", [3, [2, 4]])
@torch.no_grad()
def test_the_jacobian_travels_with_the_head(nodes: Nodes, tmp_path: Path) -> None:
    made = policy(nodes, trained=True)
    made.save_pretrained(tmp_path / "policy")
    again = DiffusionPolicy.from_pretrained(tmp_path / "policy")
    assert isinstance(made.head, WindowHead)
    assert isinstance(again.head, WindowHead)
    assert made.head.diagonal is not None
    assert again.head.diagonal is not None
    assert torch.equal(made.head.diagonal, again.head.diagonal)
    assert float(made.head.diagonal.abs().max()) > 0.01
    denoise, noise = parts(made)
    assert made.config.head is not None
    config = Solver.of("pcm", made.config.head.sampler, rounds=2)
    found, same = (solve(config, denoise, noise, p.head).sample for p in (made, again))
    assert torch.equal(found, same)
    again.head.load_state_dict({k: 0 * v for k, v in made.head.state_dict().items()})
    nothing = again.head.jacobian(denoise.sampler)  # the former one is forgotten
    assert nothing is not None
    assert float(nothing.diagonal.abs().max()) == 0.0


def test_distillation_measures_it_on_training_observations_alone() -> None:
    torch.manual_seed(1)
    train = Windows(torch.randn(40, 6), torch.rand(40, T, DA) * 2 - 1)
    other = Windows(torch.randn(40, 6), torch.rand(40, T, DA) * 2 - 1)
    found = []
    for held_out in (train, other):
        made = policy(3, trained=False)
        assert isinstance(made.head, WindowHead)
        assert made.head.diagonal is not None
        made.head.diagonal.zero_()
        objective = Distillation(made, train, held_out, 6, 0, pool=12)
        found.append(made.head.diagonal.clone())
        objective.loss(made.head.train(), 0, Share(0, 1)).backward()
        assert made.head.out.weight.grad is not None
        assert float(made.head.out.weight.grad.abs().max()) > 0
        assert torch.equal(made.head.diagonal, found[-1])
    assert torch.equal(*found)
    assert float(found[0].abs().max()) > 0.01


@torch.no_grad()
def test_what_training_records_are_the_base_s_own_quasi_newton_rounds() -> None:
    torch.manual_seed(1)
    train = Windows(torch.randn(40, 6), torch.rand(40, T, DA) * 2 - 1)
    made = policy(None, trained=False)
    assert isinstance(made.head, WindowHead)
    pool = Distillation(made, train, train, 6, 0, pool=12, warm=0.0, prefix=0.0).targets(0)
    assert made.config.head is not None
    denoise = made.denoiser(pool.cond, made.config.head.sampler)
    jacobian = made.head.jacobian(denoise.sampler)
    assert jacobian is not None
    noise = Noise(pool.forced[0] / denoise.sampler.p[0])
    for k in range(1, len(pool.states)):
        found = newton(denoise, noise, jacobian=jacobian, memory=0, rounds=k)
        torch.testing.assert_close(found.trajectory, pool.states[k], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("steps", "nodes"), [(4, 4), (16, 6), (32, 8), (100, 25)])
def test_the_number_of_nodes_follows_the_sampler(steps: int, nodes: int) -> None:
    base = policy(None, trained=False)
    chosen = {"name": "window", "options": {"nodes": "auto"}}
    made = with_head(base, chosen, {"steps": steps}, seed=0)
    assert isinstance(made.head, WindowHead)
    assert made.head.evaluations == nodes
    assert made.config.head is not None
    assert made.config.head.options["nodes"] == max(6, nodes)  # a number, in the file


@pytest.mark.parametrize("nodes", [[], [4, 2], [2, 2], [0, 6], [-1, 3]])
def test_nodes_that_the_sampler_lacks_are_refused(nodes: list[int]) -> None:
    with pytest.raises(PcmError, match=r"nodes=.*: name states from 0 to 5, ascending"):
        WindowHead(nn.Identity(), STEPS, DA, T, 6, nodes=tuple(nodes))


def test_a_jacobian_of_zero_changes_nothing() -> None:
    made = policy(None, trained=False)
    denoise, noise = parts(made)
    nothing = Jacobian.of(denoise.sampler, torch.zeros(STEPS, T, DA))
    found = newton(denoise, noise, jacobian=nothing, memory=0, rounds=3)
    same = picard(denoise, noise, rounds=3)
    torch.testing.assert_close(found.sample, same.sample, rtol=0, atol=1e-6)
    assert float(mean_jacobian(denoise, noise).abs().max()) > 0


@pytest.mark.parametrize(("dims", "width", "guess"), [(2, 96, 128), (10, 160, 160), (20, 256, 256)])
def test_the_widths_follow_the_chunk(dims: int, width: int, guess: int) -> None:
    base = DiffusionPolicy(PolicyConfig(3, dims, horizon=8, action_steps=4))
    chosen = {"name": "window", "options": {"width": "auto", "guess_width": "auto"}}
    made = with_head(base, chosen, {"steps": 4}, seed=0)
    assert isinstance(made.head, WindowHead)
    assert made.head.guess is not None
    assert made.head.inp.out_features == width
    assert made.head.guess.inp.out_features == guess


@torch.no_grad()
def test_a_correction_row_by_row() -> None:
    """``s A(X, P, obs, k, s) R / s`` by hand, ``s`` the row's residual; interpolated between."""
    made = policy(3, trained=True)
    head = made.head
    assert isinstance(head, WindowHead)
    denoise, noise = parts(made)
    forced = forcing(denoise.sampler, noise)
    x = picard(denoise, noise, rounds=1).trajectory
    k = torch.zeros(B, dtype=torch.int64)
    plain, full = (call(head, denoise, forced[:-1], x[:-1], k, share) for share in (0.0, 1.0))
    index, between = head.nodes(denoise.sampler)
    assert between is not None
    residual = (forced + combine(denoise.sampler.M, plain) - x)[:-1][index]
    for b in range(B):
        s = residual[:, b].square().mean().sqrt() + FLOOR
        level = head.level(s.log()[None, None])
        c = head.cond(denoise.cond[b : b + 1]) + head.round.weight[0] + level
        h = head.inp(torch.cat([*x[index, b].flatten(1), *plain[index, b].flatten(1)])[None])
        for block in head.blocks:
            h = block(h, c)
        outer = head.out.weight @ torch.diag(head.factors(h)[0])
        found = outer @ (head.residual.weight @ (residual[:, b] / s).flatten() + head.residual.bias)
        correction = combine(between, s * (found + head.out.bias).view(3, 1, T, DA))
        torch.testing.assert_close(full[:, b], (plain[:, b] + correction[:, 0]), rtol=0, atol=2e-5)
        assert float(correction.abs().max()) > 1e-3


@pytest.mark.parametrize("nodes", [3, [1, 4], [4]])
@torch.no_grad()
def test_what_lies_between_the_nodes_is_fitted_to_the_base(nodes: Nodes) -> None:
    made = policy(nodes, trained=False)
    head = made.head
    assert isinstance(head, WindowHead)
    denoise, many = parts(made, 32)
    index, between = head.nodes(denoise.sampler)
    assert isinstance(index, Tensor)
    assert between is not None
    clean = denoise(sequential(denoise, many).trajectory[:-1], slice(0, STEPS)).flatten(1).double()
    best = torch.linalg.lstsq(clean[index].T, clean.T).solution.T
    torch.testing.assert_close(between.double(), best, rtol=0, atol=1e-3)
    torch.testing.assert_close(between[index], torch.eye(len(index)), rtol=0, atol=1e-4)
    linear = between_nodes(denoise.sampler, index, 0).double()
    off, before = (float((w @ clean[index] - clean).norm()) for w in (between.double(), linear))
    assert off < before

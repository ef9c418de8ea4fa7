"""The chunk a PCM solve starts from: predicted by the head, and without a say in where it ends."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pcm_policy.denoise import Denoiser, Prefix
from pcm_policy.heads.window import WindowHead
from pcm_policy.noise import Noise
from pcm_policy.policy import DiffusionPolicy
from pcm_policy.policy_config import PolicyConfig
from pcm_policy.solve import SolverConfig, as_predictor, first_guess, solve
from pcm_policy.solvers import picard, sequential
from pcm_policy.solvers.base import combine, forcing
from pcm_policy.training.cloning import Windows
from pcm_policy.training.distillation import Distillation, with_head
from pcm_policy.training.loop import Share

B, T, DA, STEPS = 3, 8, 2, 6


def policy(guess: bool = True, nodes: int | None = 3) -> DiffusionPolicy:
    torch.manual_seed(0)
    network = {"width": 16, "depth": 1, "step_embed_dim": 8}
    base = DiffusionPolicy(PolicyConfig(3, DA, horizon=T, action_steps=4, network_options=network))
    options = {"width": 12, "nodes": nodes, "guess": guess}
    made = with_head(base, {"name": "window", "options": options}, {"steps": STEPS}, seed=0)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return made


def noise(seed: int = 1) -> Noise:
    return Noise(torch.randn(B, T, DA, generator=torch.Generator().manual_seed(seed)))


def parts(made: DiffusionPolicy, prefix: Prefix | None = None) -> tuple[Denoiser, WindowHead]:
    assert made.config.head is not None
    assert isinstance(made.head, WindowHead)
    cond = torch.randn(B, 6, generator=torch.Generator().manual_seed(2))
    return made.denoiser(cond, made.config.head.sampler, prefix), made.head


@torch.no_grad()
def test_it_is_the_head_on_the_noise_alone() -> None:
    """By hand: nodes of F and zeros in, log-SNR interpolation of what comes out."""
    denoise, head = parts(policy())
    forced = forcing(denoise.sampler, noise())
    found = head.first(denoise, forced)
    index, between = head.nodes(denoise)
    assert isinstance(index, Tensor)
    assert between is not None
    for b in range(B):
        states = forced[index, b].flatten()
        h = head.inp(torch.cat([states, torch.zeros_like(states)])[None])
        c = head.cond(denoise.cond[b : b + 1]) + head.round.weight[-1]
        for block in head.blocks:
            h = block(h, c)
        clean = combine(between, head.out(h).view(len(index), 1, T, DA))
        torch.testing.assert_close(found[:, b : b + 1], clean, rtol=0, atol=1e-5)


@pytest.mark.parametrize("nodes", [3, None])
@torch.no_grad()
def test_a_pcm_solve_starts_from_it_and_others_do_not(nodes: int | None) -> None:
    made = policy(nodes=nodes)
    denoise, head = parts(made)
    given = first_guess(head, denoise, noise())
    assert given is not None
    assert given.shape == (STEPS, B, T, DA)
    assert made.config.head is not None
    pcm = SolverConfig("pcm", made.config.head.sampler, rounds=2)
    found = solve(pcm, denoise, noise(), head)
    same = picard(
        denoise, noise(), rounds=2, head=as_predictor(head), strengths=(1.0, 1.0), guess=given
    )
    assert torch.equal(found.trajectory, same.trajectory)
    warm = torch.full((B, T, DA), 0.3)
    mine = solve(pcm, denoise, noise(), head, warm)
    half = warm.clone()
    half[1] = torch.nan  # this row has no guess of its own
    mixed = solve(pcm, denoise, noise(), head, half).trajectory
    torch.testing.assert_close(mixed[:, 1], found.trajectory[:, 1], rtol=0, atol=1e-5)
    torch.testing.assert_close(mixed[:, ::2], mine.trajectory[:, ::2], rtol=0, atol=1e-5)
    assert not torch.allclose(mine.sample, found.sample, atol=1e-3)
    base = replace(pcm, method="picard")
    plain = picard(denoise, noise(), rounds=2)
    nobody = torch.full((B, T, DA), torch.nan)
    assert torch.equal(solve(base, denoise, noise(), head, nobody).sample, plain.sample)
    assert torch.equal(solve(base, denoise, noise(), head).sample, plain.sample)
    assert first_guess(policy(guess=False).head, denoise, noise()) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("adaptive", [False, True])
@torch.no_grad()
def test_the_fixed_point_does_not_depend_on_it(adaptive: bool) -> None:
    made = policy()
    denoise, head = parts(made)
    assert made.config.head is not None
    solver = SolverConfig("pcm", made.config.head.sampler, tolerance=1e-6, adaptive=adaptive)
    found = solve(solver, denoise, noise(), head)
    exact = sequential(denoise, noise())
    torch.testing.assert_close(found.sample, exact.sample, rtol=0, atol=1e-5)
    assert found.certified.all()


@torch.no_grad()
def test_what_is_known_already_is_in_it() -> None:
    known = (torch.arange(T) < 3)[None, :, None]
    prefix = Prefix(torch.full((B, T, DA), 0.7), known)
    denoise, head = parts(policy(), prefix)
    found = head.first(denoise, forcing(denoise.sampler, noise()))
    assert (found[:, :, :3] == 0.7).all()
    assert (found[:, :, 3:] != 0.7).all()


def test_it_is_trained_beside_the_rounds() -> None:
    torch.manual_seed(1)
    data = Windows(torch.randn(12, 6), torch.rand(12, T, DA) * 2 - 1)
    losses = {}
    for warm in (0.0, 1.0):  # warm rows bring a guess of their own
        made = policy()
        objective = Distillation(made, data, data, 6, 0, pool=12, warm=warm, prefix=0.0)
        assert isinstance(made.head, WindowHead)
        loss = objective.loss(made.head.train(), 0, Share(0, 1))
        loss.backward()
        losses[warm] = made.head.round.weight.grad
    assert losses[0.0] is not None
    assert losses[1.0] is not None
    assert losses[0.0][-1].abs().max() > 0
    assert losses[1.0][-1].abs().max() == 0

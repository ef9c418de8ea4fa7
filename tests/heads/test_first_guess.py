"""The chunk a PCM solve starts from: predicted by the head, and without a say in where it ends."""

from dataclasses import replace

import pytest
import torch

from pcm_policy.heads.window import WindowHead
from pcm_policy.policy.config import PolicyConfig
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.sampling.denoise import Denoiser, Prefix
from pcm_policy.sampling.noise import Noise
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.solvers import Picard
from pcm_policy.solvers.loop import clipped_start, start
from pcm_policy.solvers.registry import Solver
from pcm_policy.solvers.system import System, forcing
from pcm_policy.training.batches import Windows
from pcm_policy.training.distillation import Distillation
from pcm_policy.training.guessing import FLOOR, near_sampler
from pcm_policy.training.headed import with_head
from pcm_policy.training.sharing import Share
from tests.solving import picard, sequential, solve

B, T, DA, STEPS = 3, 8, 2, 6


def policy(
    guess: bool = True, nodes: int | None = 3, sampler: str = "ddim", prefix_steps: int = 0
) -> DiffusionPolicy:
    torch.manual_seed(0)
    network = {"width": 16, "depth": 1, "step_embed_dim": 8}
    base = DiffusionPolicy(
        PolicyConfig(
            3, DA, horizon=T, action_steps=4, network_options=network, prefix_steps=prefix_steps
        )
    )
    options = {"width": 12, "nodes": nodes, "guess_width": 10 * guess, "guess_noises": "auto"}
    chosen = {"name": sampler, "steps": STEPS}
    made = with_head(base, {"name": "window", "options": options}, chosen, seed=0)
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


@pytest.mark.parametrize(("sampler", "noises"), [("ddim", [0]), ("ddpm", list(range(STEPS)))])
@torch.no_grad()
def test_it_sees_noise_observation_and_what_is_known(sampler: str, noises: list[int]) -> None:
    """Row by row by hand: the noise, of a stochastic sampler of every step, known actions, obs."""
    known = (torch.arange(T) < 3)[None, :, None]
    denoise, head = parts(
        policy(nodes=None, sampler=sampler), Prefix(torch.full((B, T, DA), 0.7), known)
    )
    assert head.guess_noises == len(noises)
    steps = torch.randn(STEPS, B, T, DA, generator=torch.Generator().manual_seed(3))
    drawn = Noise(noise().initial, steps if sampler == "ddpm" else None)
    forced = forcing(denoise.sampler, drawn)
    found = head.start(System(denoise, drawn, forced))
    assert found is not None
    guess = head.guess
    assert guess is not None
    shown = torch.where(known[0], 0.7, 0.0).expand(T, DA).flatten()
    mask = known[0].expand(T, DA).flatten().float()
    for b in range(B):
        seen = torch.cat([*(forced[i, b].flatten() for i in noises), shown, mask, denoise.cond[b]])
        h, c = guess.inp(seen[None]), guess.cond(denoise.cond[b : b + 1])
        for block in guess.blocks:
            h = block(h, c)
        clean = torch.where(known[0], 0.7, guess.out(h).view(T, DA))
        torch.testing.assert_close(found[b], clean, rtol=0, atol=1e-5)


@pytest.mark.parametrize("nodes", [3, None])
@torch.no_grad()
def test_a_pcm_solve_starts_from_it_and_others_do_not(nodes: int | None) -> None:
    made = policy(nodes=nodes)
    denoise, head = parts(made)
    given = clipped_start(start(denoise, noise(), head=head)[0])
    assert given is not None
    assert given.shape == (B, T, DA)
    assert made.config.head is not None
    pcm = Solver.of("pcm", made.config.head.sampler, rounds=2)
    found = solve(pcm, denoise, noise(), head)
    same = picard(denoise, noise(), rounds=2, head=head, shares=(1.0, 1.0))
    assert torch.equal(found.trajectory, same.trajectory)
    warm = torch.full((B, T, DA), 0.3)
    mine = solve(pcm, denoise, noise(), head, warm)
    half = warm.clone()
    half[1] = torch.nan  # this row has no guess of its own
    mixed = solve(pcm, denoise, noise(), head, half).trajectory
    torch.testing.assert_close(mixed[:, 1], found.trajectory[:, 1], rtol=0, atol=1e-5)
    torch.testing.assert_close(mixed[:, ::2], mine.trajectory[:, ::2], rtol=0, atol=1e-5)
    assert not torch.allclose(mine.sample, found.sample, atol=1e-3)
    base = replace(pcm, step=Picard())
    plain = picard(denoise, noise(), rounds=2)
    nobody = torch.full((B, T, DA), torch.nan)
    assert torch.equal(solve(base, denoise, noise(), head, nobody).sample, plain.sample)
    assert torch.equal(solve(base, denoise, noise(), head).sample, plain.sample)
    assert clipped_start(start(denoise, noise(), head=policy(guess=False).head)[0]) is None


@pytest.mark.parametrize("adaptive", [False, True])
@torch.no_grad()
def test_the_fixed_point_does_not_depend_on_it(adaptive: bool) -> None:
    made = policy()
    denoise, head = parts(made)
    assert made.config.head is not None
    solver = made.solver({"method": "adaptive" if adaptive else "pcm", "tolerance": 1e-6})
    found = solve(solver, denoise, noise(), head)
    exact = sequential(denoise, noise())
    torch.testing.assert_close(found.sample, exact.sample, rtol=0, atol=1e-5)
    assert found.certified.all()


@torch.no_grad()
def test_what_is_known_already_is_in_it() -> None:
    known = (torch.arange(T) < 3)[None, :, None]
    prefix = Prefix(torch.full((B, T, DA), 0.7), known)
    denoise, head = parts(policy(), prefix)
    found = head.start(start(denoise, noise())[0])
    assert found is not None
    assert (found[:, :3] == 0.7).all()
    assert (found[:, 3:] != 0.7).all()


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_it_is_trained_beside_the_rounds_and_apart_from_them(sampler: str) -> None:
    torch.manual_seed(1)
    data = Windows(torch.randn(12, 6), torch.rand(12, T, DA) * 2 - 1)
    made = policy(sampler=sampler)
    head = made.head
    assert isinstance(head, WindowHead)
    assert head.guess is not None
    objective = Distillation(made, data, data, 6, 0, pool=12, guess_batch=24, prefix=0.0)
    assert objective.guessing is not None
    near = objective.guessing.targets
    assert (near.near is None) == (sampler == "ddpm")  # no other sampler has its noise
    pool = near(0)
    error = []
    for b in range(12):
        row = pool.pick(torch.tensor([b]))
        denoise = made.denoiser(row.cond, made.config.head.sampler, row.prefix)  # type: ignore[union-attr]
        first = head.start(System(denoise, Noise(row.forced[0]), row.forced))
        assert first is not None
        off = first - row.exact[-1]
        error.append((off.square().mean() + FLOOR**2).sqrt())
    alone = torch.stack(error).mean()  # 24 rows are every row of the pool, twice
    both = objective.loss(head.train(), 0, Share(0, 1))
    objective.guessing = None
    rounds = objective.loss(head, 0, Share(0, 1))
    torch.testing.assert_close(both, rounds + alone, rtol=1e-5, atol=1e-6)
    rounds.backward()
    assert all(p.grad is None for p in head.guess.parameters())
    both.backward()
    assert head.guess.inp.weight.grad is not None


@torch.no_grad()
def test_its_targets_are_a_few_steps_that_end_near_the_samplers_chunk() -> None:
    made = policy()
    assert made.config.head is not None
    cond = torch.randn(16, 6, generator=torch.Generator().manual_seed(4))
    drawn = Noise(torch.randn(16, T, DA, generator=torch.Generator().manual_seed(5)))
    few = near_sampler(made, cond, drawn, 3)
    assert few is not None
    assert (few.name, few.steps) == ("dpmpp_2m", 3)
    exact = sequential(made.denoiser(cond, made.config.head.sampler), drawn).sample

    def error(sampler: SamplerConfig) -> float:
        return float((sequential(made.denoiser(cond, sampler), drawn).sample - exact).abs().mean())

    assert error(few) < error(SamplerConfig("dpmpp_2m", 3))

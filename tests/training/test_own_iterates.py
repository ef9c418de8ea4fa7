"""Rows that follow the head's own iterates: with or without the base's beside them, the same."""

import pytest
import torch

from pcm_policy.heads.window import WindowHead
from pcm_policy.policy.config import PolicyConfig
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.sampling.noise import Noise
from pcm_policy.solvers import rounds, start
from pcm_policy.solvers.registry import Solver
from pcm_policy.training.batches import Windows
from pcm_policy.training.distillation import Distillation
from pcm_policy.training.headed import with_head
from pcm_policy.training.sharing import Share

T, DA, STEPS, POOL = 8, 2, 6, 10


def policy(guess_width: int) -> DiffusionPolicy:
    torch.manual_seed(0)
    network = {"width": 16, "depth": 1, "step_embed_dim": 8}
    base = DiffusionPolicy(PolicyConfig(3, DA, horizon=T, action_steps=4, network_options=network))
    options = {"width": 12, "nodes": None, "newton": True, "guess_width": guess_width}
    chosen = {"name": "window", "options": options}
    made = with_head(base, chosen, {"steps": STEPS}, seed=0, rounds=3)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return made


def distillation(made: DiffusionPolicy, own: float, **options: object) -> Distillation:
    torch.manual_seed(1)
    data = Windows(torch.randn(POOL, 6), torch.rand(POOL, T, DA) * 2 - 1)
    cold = {"pool": POOL, "warm": 0.0, "prefix": 0.0}
    return Distillation(made, data, data, 4, 0, own=own, **cold | options)  # type: ignore[arg-type]


@pytest.mark.parametrize("guess_width", [0, 10])
@torch.no_grad()
def test_they_are_what_the_solver_goes_through(guess_width: int) -> None:
    made = policy(guess_width)
    objective = distillation(made, own=1.0)
    assert made.config.head is not None
    pool = objective.targets.solve(0)
    assert len(pool.states) == 0  # the base's own iterates are not computed for nothing
    follow = torch.ones(POOL, dtype=torch.bool)
    states, bases = objective._iterates(pool, follow)
    denoise = made.denoiser(pool.cond, made.config.head.sampler)
    noise = Noise(pool.forced[0] / denoise.sampler.p[0])
    seen: list[torch.Tensor] = []
    config = Solver.of("pcm", made.config.head.sampler, rounds=3)
    for _, x, _ in rounds(*start(denoise, noise, head=made.head), config.step, config.stop):
        seen.append(x.X)
    for k in (1, 2):
        torch.testing.assert_close(states[k], seen[k - 1], rtol=0, atol=1e-4)
    for k in range(3):
        there = denoise(states[k][:-1], slice(0, STEPS))
        torch.testing.assert_close(bases[k], there, rtol=0, atol=1e-5)


@pytest.mark.parametrize("weight", ["root", "row", "variance", "none"])
def test_every_weight_goes_with_every_share(weight: str) -> None:
    found = {}
    for own in (0.0, 0.5, 1.0):
        made = policy(0)
        assert isinstance(made.head, WindowHead)
        found[own] = distillation(made, own, weight=weight).loss(made.head, 0, Share(0, 1))
        assert found[own].isfinite()
    assert float(found[0.0].detach()) != float(found[1.0].detach())


@torch.no_grad()
def test_they_are_those_of_the_head_when_its_pool_began() -> None:
    """So a run that is resumed where a pool begins goes on as if it had not stopped."""
    made, again = policy(10), policy(10)
    objective = distillation(made, own=1.0)
    began = objective.targets(0)
    for one in (made, again):
        assert isinstance(one.head, WindowHead)
        for p in one.head.parameters():
            p.mul_(1.1)
    assert objective.targets(0) is began
    states, fresh = objective.targets(1).states, distillation(again, own=1.0).targets(1).states
    assert torch.equal(states, fresh)
    assert not torch.equal(distillation(again, own=1.0).targets(0).states, began.states)


@torch.no_grad()
def test_a_pool_in_parts_is_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for rows in (POOL, 3):
        monkeypatch.setattr("pcm_policy.training.distillation.AT_ONCE", rows)
        pool = distillation(policy(10), own=0.5).targets(0)
        found.append((pool.states, pool.bases))
    for whole, parts in zip(*found, strict=True):
        torch.testing.assert_close(whole, parts, rtol=0, atol=1e-5)
